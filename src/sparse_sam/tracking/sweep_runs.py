"""A sweep in MLflow: a run, and its cells as nested runs."""

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparse_sam.tracking.mlflow_store import (
    RUN,
    Metric,
    Param,
    Tracker,
    as_shown,
    as_tracking_error,
)

_RUNS_A_PAGE = 1000


class SweepRuns:
    """A sweep as a run, and each of its cells as a nested run, written in one batch each.

    Args:
        tracker: where they go.
        identity: of the sweep: what was sent before, by whoever, is found by it.
        name: the sweep's.
        launcher: the experiment and run that started it, if MLflow did.
    """

    def __init__(
        self, tracker: Tracker, identity: str, name: str, launcher: Mapping[str, str]
    ) -> None:
        self._tracker, self._identity = tracker, f"sweep/{identity}"
        self._experiment = tracker.experiment(launcher)
        with as_tracking_error(tracker.shown):
            self._parent, _ = tracker.find_or_create(
                self._experiment,
                self._identity,
                name=f"sweep {name}",
                parent=launcher.get("mlflow_run_id"),
                time=time.time_ns() // 1_000_000,
                tags={"sparse_sam.kind": "sweep"},
            )
            self._begun, self._sent = self._children()

    def has(self, cell: Mapping[str, Any]) -> bool:
        """Whether a cell was sent whole."""
        return self._of(cell) in self._sent

    def send(
        self,
        cell: Mapping[str, Any],
        measures: Mapping[str, float],
        *,
        seconds: float,
        ended: float,
    ) -> None:
        """Send a cell. Raises TrackingError.

        Args:
            cell: ``purpose``, ``arm``, ``seed``, and under ``params`` its place on every axis.
            measures: what it found.
            seconds: what it took.
            ended: when, in seconds since 1970.
        """
        identity, end = self._of(cell), int(1000 * ended)
        values = {**cell["params"], **{name: cell[name] for name in ("purpose", "arm", "seed")}}
        params = [Param(name, str(value)) for name, value in values.items()]
        metrics = [Metric(name, as_shown(value), end, 0) for name, value in measures.items()]
        client = self._tracker.client
        with as_tracking_error(self._tracker.shown):
            run = self._begun.get(identity)
            if run is None:
                tags = {
                    RUN: identity,
                    "mlflow.parentRunId": self._parent,
                    "sparse_sam.kind": "cell",
                    "sparse_sam.cell": cell["key"],
                }
                name, start = f"{cell['arm']} seed {cell['seed']}", end - int(1000 * seconds)
                made = client.create_run(self._experiment, start, tags=tags, run_name=name)
                run = self._begun[identity] = str(made.info.run_id)
            client.log_batch(run, metrics=metrics, params=params)
            client.set_terminated(run, "FINISHED", end)
        self._sent.add(identity)

    def close(self, table: Path) -> None:
        """Say that the sweep is complete, and keep its table if it is there.

        Raises TrackingError.
        """
        with as_tracking_error(self._tracker.shown):
            if table.is_file():
                self._tracker.client.log_artifact(self._parent, str(table))
            self._tracker.client.set_terminated(self._parent, "FINISHED")

    def _of(self, cell: Mapping[str, Any]) -> str:
        text = json.dumps(cell, sort_keys=True).encode()
        return f"{self._identity}/{hashlib.sha256(text).hexdigest()}"

    def _children(self) -> tuple[dict[str, str], set[str]]:
        """The runs of the cells that were begun, and which of the cells were sent whole."""
        begun: dict[str, str] = {}
        sent: set[str] = set()
        page: str | None = None
        query = f"tags.`mlflow.parentRunId` = '{self._parent}'"
        while True:
            found = self._tracker.client.search_runs(
                [self._experiment], query, max_results=_RUNS_A_PAGE, page_token=page
            )
            for run in found:
                if RUN not in run.data.tags:  # a person's own, below the sweep's
                    continue
                begun[run.data.tags[RUN]] = str(run.info.run_id)
                if run.info.status == "FINISHED":
                    sent.add(run.data.tags[RUN])
            page = found.token
            if not page:
                return begun, sent
