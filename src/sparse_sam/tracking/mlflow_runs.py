"""Journals in, runs out.

Replaying is idempotent: runs are found again, a metric is written with the time of its event, and
MLflow's stores hold a (run, name, step, time, value) once. So it does not matter how often a
journal is sent, or where sending broke off.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sparse_sam.errors import RefusedError, SparseSamError, TrackingError
from sparse_sam.evaluation import ARM_COLOURS
from sparse_sam.tracking.events import PIPELINE
from sparse_sam.tracking.experiment_page import present
from sparse_sam.tracking.journal import artifact_path, read_events
from sparse_sam.tracking.mlflow_store import (
    CONTENT,
    NOTE,
    RUN,
    Dataset,
    DatasetInput,
    InputTag,
    Metric,
    Param,
    RunTag,
    Tracker,
    as_shown,
    as_tracking_error,
    batches,
)
from sparse_sam.tracking.naming import CHANGED, in_effect
from sparse_sam.tracking.pipelines import pipeline_content, started_at
from sparse_sam.tracking.provenance import source_tags
from sparse_sam.tracking.stages import STAGES

_METRICS_A_BATCH, _PARAMS_A_BATCH = 1000, 100
_FIRST = "sam_vs_sgd_2x.points"
# MLflow's charts show shares such as −0.0022 as −0.00; the same is there in points.
_AS_SHARES = ("sam_vs_sgd", "sam_vs_sgd_2x")


def pipeline_run_name(tags: Mapping[str, str], launcher: Mapping[str, str]) -> str:
    """What a pipeline's run is called: what differs from the committed parameters.

    The experiment of DVC that it belongs to, if there is one, stands behind.
    """
    changed = tags.get(CHANGED, "pipeline")
    return f"{changed} ({launcher['experiment']})" if "experiment" in launcher else changed


def stage_run_name(stage: str, *, cached: bool) -> str:
    """What a stage's run is called."""
    return f"{stage} (cached)" if cached else stage


def seed_run_name(stage: str, child: str) -> str:
    """What the run of an arm and a seed is called."""
    return f"{stage} {child}"


class Replay:
    """One journal on its way into MLflow; ``send`` takes what has come since the last time.

    Args:
        tracker: where it goes.
        journal: what is sent.
        elsewhere: the experiment that takes it, in place of the one that the journal names.
    """

    def __init__(self, tracker: Tracker, journal: Path, elsewhere: str | None = None) -> None:
        self.tracker = tracker
        self.journal = journal
        self._elsewhere = elsewhere
        self.sent = 0
        self.ended = False
        self.missing: list[str] = []
        self._runs: dict[str | None, str] = {}
        self._open: set[str] = set()
        self._start: dict[str, Any] = {}
        self._experiment = ""
        self._upload = True

    def send(self) -> None:
        """Send the events that are new; what was sent stays sent.

        Raises:
            RefusedError: this run cannot be sent, or its journal is damaged.
            TrackingError: MLflow is not reached, or does not work.
        """
        with self._sending():
            events = self._read(self.sent)
            metrics: dict[str, list[Metric]] = {}
            for event in events:
                if event["event"] == "metrics":
                    metrics.setdefault(self._runs[event["child"]], []).extend(_metrics(event))
                else:
                    self._handle(event)
            for run, values in metrics.items():
                # MLflow's comparison of runs opens on the metric that was logged first.
                values.sort(key=lambda metric: metric.key != _FIRST)
                for batch in batches(values, _METRICS_A_BATCH):
                    self.tracker.client.log_batch(run, metrics=batch)
            self.sent += len(events)
            if events and events[-1]["event"] == "end":
                self._end(events[-1]["status"], events[-1]["time"])

    def abandon(self) -> None:
        """Close the runs of a stage that died without a word."""
        if self._start:
            with self._sending():
                self._end("KILLED", self._read()[-1]["time"])

    def give_up(self) -> None:
        """Close what was begun of a run that was refused, as far as MLflow lets it."""
        with suppress(TrackingError), as_tracking_error(self.tracker.shown):
            for run in reversed(self._runs.values()):
                self.tracker.client.set_terminated(run, "FAILED")

    def _read(self, skip: int = 0) -> list[dict[str, Any]]:
        try:
            return read_events(self.journal, skip)
        except OSError as error:
            raise RefusedError(f"{self.journal} cannot be read: {error.strerror}") from error

    @contextmanager
    def _sending(self) -> Iterator[None]:
        """What is wrong with the journal is RefusedError, too: no other has to wait for it."""
        try:
            with as_tracking_error(self.tracker.shown):
                yield
        except TrackingError:
            raise
        except (SparseSamError, KeyError, TypeError, ValueError) as error:
            reason = str(error) if isinstance(error, SparseSamError) else repr(error)
            raise RefusedError(f"{self.journal.name} is damaged: {reason}") from error

    def _handle(self, event: dict[str, Any]) -> None:
        client = self.tracker.client
        match event["event"]:
            case "start":
                self._begin(event)
            case "child":
                self._child(event)
            case "child_end":
                client.set_terminated(self._runs[event["child"]], "FINISHED", event["time"])
                self._open.discard(event["child"])
            case "tags":
                self._log(self._runs[event.get("child")], tags=event["values"])
            case "note":
                self._note(event["child"], event["text"])
            case "dataset":
                self._dataset(event)
            case "artifact":
                self._artifact(event)
            case _:
                pass

    def _begin(self, event: dict[str, Any]) -> None:
        self._start = event
        launcher, pipeline = self._launcher(event["launcher"]), self.journal.parent.name
        self._experiment = self.tracker.experiment(launcher)
        # A stage that was run for another pipeline says where that one came from.
        of_pipeline = event.get("pipeline_tags") or event["tags"]
        self._runs[PIPELINE], _ = self.tracker.find_or_create(
            self._experiment,
            pipeline,
            name=pipeline_run_name(of_pipeline, launcher),
            parent=launcher.get("mlflow_run_id"),
            time=started_at(self.journal.parent),
            tags={**of_pipeline, **source_tags("dvc.yaml"), "sparse_sam.kind": "pipeline"},
        )
        cached = {"sparse_sam.cached": "true"} if event.get("cached") else {}
        stage = event["stage"]
        self._runs[None], _ = self.tracker.find_or_create(
            self._experiment,
            event["run"],
            name=stage_run_name(stage, cached=bool(cached)),
            parent=self._runs[PIPELINE],
            time=event["time"],
            tags={
                **event["tags"],
                **source_tags(f"stages/{stage}.py"),
                **cached,
                **_colour(*STAGES[stage].arms[:1]),
                "sparse_sam.kind": "stage",
                "dvc.stage": stage,
            },
        )
        if cached:
            source = self.tracker.find(self._experiment, RUN, event["source_run"])
            if source:
                # The checkpoints lie under the run that made them; a second copy helps nobody.
                self._upload = False
                self._log(self._runs[None], tags={"sparse_sam.cached_from": source.info.run_id})
        else:
            self.tracker.client.update_run(self._runs[PIPELINE], "RUNNING")
        self._log(self._runs[None], params=event["params"])
        self._log(self._runs[PIPELINE], params=event["params"])

    def _launcher(self, named: Mapping[str, str]) -> dict[str, str]:
        if self._elsewhere is None:
            return dict(named)
        # A run of MLflow's own that stands above stays with its experiment.
        kept = {key: value for key, value in named.items() if not key.startswith("mlflow_")}
        return {**kept, "mlflow_experiment_name": self._elsewhere}

    def _child(self, event: dict[str, Any]) -> None:
        name, stage = event["child"], self._start["stage"]
        self._runs[name], _ = self.tracker.find_or_create(
            self._experiment,
            f"{self._start['run']}/{name}",
            name=seed_run_name(stage, name),
            parent=self._runs[None],
            time=event["time"],
            tags={
                **source_tags(f"stages/{stage}.py"),
                **_colour(event["params"].get("arm")),
                "sparse_sam.kind": "seed",
                "dvc.stage": stage,
            },
        )
        self._open.add(name)
        self._log(self._runs[name], params=event["params"])

    def _note(self, child: str | None, text: str) -> None:
        run = self._runs[child]
        self.tracker.client.set_tag(run, NOTE, text)
        if child == PIPELINE:
            present(self.tracker, self._experiment, run, started_at(self.journal.parent))

    def _dataset(self, event: dict[str, Any]) -> None:
        # The digest names the data; MLflow keeps at most 36 characters of it.
        entity = Dataset(
            name=event["name"],
            digest=event["fingerprint"][:36],
            source_type="sparse-sam",
            source=json.dumps({"data.source": event["name"], "sha256": event["fingerprint"]}),
        )
        tag = InputTag("mlflow.data.context", event["context"])
        for run in (self._runs[None], self._runs[PIPELINE]):
            self.tracker.client.log_inputs(run, datasets=[DatasetInput(entity, [tag])])

    def _artifact(self, event: dict[str, Any]) -> None:
        if not self._upload:
            return
        kept = artifact_path(self.journal.parent, Path(event["path"]), event["md5"])
        if not kept.is_file():
            self.missing.append(event["path"])
            return
        self.tracker.client.log_artifact(self._runs[event["child"]], str(kept))

    def _end(self, status: str, time: int) -> None:
        for key in (*self._open, None):
            self.tracker.client.set_terminated(self._runs[key], status, time)
        # A cached stage ended long before the pipeline that it now belongs to began.
        time = max(time, started_at(self.journal.parent))
        self.tracker.client.set_terminated(self._runs[PIPELINE], status, time)
        results = pipeline_content(self.journal.parent)
        if results:
            self.tracker.client.set_tag(self._runs[PIPELINE], CONTENT, results)
        self.ended = True

    def _log(
        self,
        run: str,
        *,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        items = [Param(key, str(value)) for key, value in in_effect(params or {}).items()]
        labels = [RunTag(key, str(value)) for key, value in (tags or {}).items()]
        self.tracker.client.log_batch(run, tags=labels)
        for batch in batches(items, _PARAMS_A_BATCH):
            self.tracker.client.log_batch(run, params=batch)


def _colour(arm: Any = None) -> dict[str, str]:
    """The tag by which MLflow's charts draw a run in the colour of its arm."""
    return {"mlflow.runColor": ARM_COLOURS[arm]} if arm in ARM_COLOURS else {}


def _metrics(event: dict[str, Any]) -> list[Metric]:
    return [
        Metric(name, as_shown(value), event["time"], event["step"])
        for name, value in event["values"].items()
        if name not in _AS_SHARES
    ]
