"""Runs in MLflow: journals in, runs out. It and ``registry`` alone know MLflow.

Replaying is idempotent. A run is found again by a tag that holds its identity; a metric is
written with the time of its event, and MLflow's stores hold a (run, name, step, time, value)
once. So it does not matter how often a journal is sent, or where sending broke off.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

# Before the import: MLflow reports usage by default, and waits minutes for a server that is gone.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")

from filelock import FileLock
from google.protobuf.json_format import ParseError
from mlflow.entities import Dataset, DatasetInput, Experiment, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException, RestException
from mlflow.tracking import MlflowClient
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError

from sparse_sam.errors import RefusedError, SparseSamError, TrackingError
from sparse_sam.journal import PIPELINE, artifact_path, read_events
from sparse_sam.pipelines import pipeline_content, started_at, state_folder
from sparse_sam.redaction import redacted

EXPERIMENT = "sparse-sam"
_RUN, _CONTENT = "sparse_sam.run", "sparse_sam.content"
# What MLflow answers when it is there, and does not take what it was sent.
_REFUSALS = {
    "INVALID_PARAMETER_VALUE",
    "INVALID_STATE",
    "PERMISSION_DENIED",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",
}
_METRICS_A_BATCH, _PARAMS_A_BATCH, _RUNS_A_PAGE = 1000, 100, 1000


def tracking_uri(root: Path) -> str:
    """``MLFLOW_TRACKING_URI``, or the SQLite store at the repository's root.

    A relative SQLite path is relative to ``root``: experiments of DVC run elsewhere.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    file = uri.removeprefix("sqlite:///")
    if file == uri or Path(file).is_absolute() or file == ":memory:":
        return uri
    return f"sqlite:///{root / file}"


@contextmanager
def as_tracking_error(uri: str) -> Iterator[None]:
    """Everything that MLflow and its store raise, as TrackingError; what they refuse, as its kind.

    A server or database that is not there, hangs, is locked, broken, or wants another password
    refuses nothing: it may take the same tomorrow.
    """
    try:
        yield
    except (
        MlflowException,
        SQLAlchemyError,
        OSError,
        ImportError,
        ParseError,
        ValueError,
    ) as error:
        kind = RefusedError if _is_refusal(error) else TrackingError
        # Redacted before it is cut: half a secret is not recognised.
        reason = " ".join(redacted(str(error)).split())
        raise kind(f"MLflow at {uri}: {reason[:300]}") from error


def _is_refusal(error: Exception) -> bool:
    code = error.error_code if isinstance(error, MlflowException) else None
    if isinstance(error.__cause__ or error.__context__, UnicodeError):
        return True  # text that no store takes
    if code == "PERMISSION_DENIED" and not isinstance(error, RestException):
        return False  # a proxy's page, and not MLflow's answer
    if code == "BAD_REQUEST":  # a proxy's, too, or that of a database which lacks a table
        return isinstance(error, RestException) or isinstance(
            error.__cause__, DataError | IntegrityError
        )
    return code in _REFUSALS


class Tracker:
    """A connection to one MLflow store. Every method raises TrackingError if it is not reached.

    Attributes:
        uri: where it is, with what logs in there.
        shown: the same for people to read.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.uri = tracking_uri(root)
        self.shown = redacted(self.uri)
        try:
            with as_tracking_error(self.shown), self._alone():
                self.client = MlflowClient(self.uri)
        except RefusedError as error:  # a URI that it does not understand, and no run
            raise TrackingError(str(error)) from error

    def experiment(self, launcher: Mapping[str, str]) -> str:
        """The id of the experiment that the launcher chose, or of ours, made if need be.

        Raises:
            RefusedError: it was deleted, or there is none of this id.
        """
        with as_tracking_error(self.shown), self._alone():
            if "mlflow_experiment_id" in launcher:
                return self._open(self.client.get_experiment(launcher["mlflow_experiment_id"]))
            name = launcher.get("mlflow_experiment_name", EXPERIMENT)
            found = self.client.get_experiment_by_name(name)
            if found:
                return self._open(found)
            location = None
            if self.uri.startswith("sqlite:///"):
                folder = Path(self.uri.removeprefix("sqlite:///")).parent / "mlartifacts"
                location = folder.as_uri()
            try:
                return str(self.client.create_experiment(name, artifact_location=location))
            except MlflowException:
                # Another clone has made it in this moment: the lock is this clone's alone.
                found = self.client.get_experiment_by_name(name)
                if not found:
                    raise
                return self._open(found)

    def _open(self, found: Experiment) -> str:
        if not found.experiment_id:
            raise TrackingError(f"MLflow at {self.shown}: its answer is none of MLflow's")
        if found.lifecycle_stage != "active":
            raise RefusedError(
                f"MLflow at {self.shown}: the experiment {found.name!r} was deleted "
                f"(`mlflow experiments restore -x {found.experiment_id}` brings it back)"
            )
        return str(found.experiment_id)

    def has_content(self, launcher: Mapping[str, str], content: str) -> bool:
        """Whether a pipeline run with these results is there already, whoever sent it."""
        experiment = self.experiment(launcher)
        with as_tracking_error(self.shown):
            return self._find(experiment, _CONTENT, content) is not None

    def _alone(self) -> FileLock:
        # Several processes that create one SQLite store at once break each other's migration.
        return FileLock(state_folder(self.root) / "store.lock")

    def _find(self, experiment: str, tag: str, value: str) -> Run | None:
        runs = self.client.search_runs([experiment], f"tags.`{tag}` = '{value}'", max_results=1)
        return runs[0] if runs else None

    def find_or_create(
        self,
        experiment: str,
        identity: str,
        *,
        name: str,
        parent: str | None,
        time: int,
        tags: Mapping[str, str],
    ) -> tuple[str, bool]:
        """The id of the run with this identity, and whether it had to be created."""
        with self._alone():
            found = self._find(experiment, _RUN, identity)
            if found:
                return str(found.info.run_id), False
            all_tags = {**tags, _RUN: identity}
            if parent:
                all_tags["mlflow.parentRunId"] = parent
            run = self.client.create_run(experiment, start_time=time, tags=all_tags, run_name=name)
            return str(run.info.run_id), True


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
                for batch in _batches(values, _METRICS_A_BATCH):
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
                self._log(self._runs[None], tags=event["values"])
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
        name = launcher.get("experiment", pipeline.split(".")[0])
        self._runs[PIPELINE], _ = self.tracker.find_or_create(
            self._experiment,
            pipeline,
            name=f"pipeline {name}",
            parent=launcher.get("mlflow_run_id"),
            time=started_at(self.journal.parent),
            tags={**event["tags"], "sparse_sam.kind": "pipeline"},
        )
        cached = {"sparse_sam.cached": "true"} if event.get("cached") else {}
        stage = event["stage"]
        self._runs[None], _ = self.tracker.find_or_create(
            self._experiment,
            event["run"],
            name=f"{stage} (cached)" if cached else stage,
            parent=self._runs[PIPELINE],
            time=event["time"],
            tags={**event["tags"], **cached, "sparse_sam.kind": "stage", "dvc.stage": stage},
        )
        if cached:
            source = self.tracker._find(self._experiment, _RUN, event["source_run"])  # noqa: SLF001
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
            name=f"{stage} {name}",
            parent=self._runs[None],
            time=event["time"],
            tags={"sparse_sam.kind": "seed", "dvc.stage": stage},
        )
        self._open.add(name)
        self._log(self._runs[name], params=event["params"])

    def _dataset(self, event: dict[str, Any]) -> None:
        # The digest names the data; MLflow keeps at most 36 characters of it.
        entity = Dataset(
            name=event["name"],
            digest=event["fingerprint"][:36],
            source_type="sparse-sam",
            source=json.dumps({"data.source": event["name"], "sha256": event["fingerprint"]}),
        )
        tag = InputTag("mlflow.data.context", event["context"])
        self.tracker.client.log_inputs(self._runs[None], datasets=[DatasetInput(entity, [tag])])

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
            self.tracker.client.set_tag(self._runs[PIPELINE], _CONTENT, results)
        self.ended = True

    def _log(
        self,
        run: str,
        *,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        items = [Param(key, str(value)) for key, value in (params or {}).items()]
        labels = [RunTag(key, str(value)) for key, value in (tags or {}).items()]
        self.tracker.client.log_batch(run, tags=labels)
        for batch in _batches(items, _PARAMS_A_BATCH):
            self.tracker.client.log_batch(run, params=batch)


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
        metrics = [Metric(name, value, end, 0) for name, value in measures.items()]
        client = self._tracker.client
        with as_tracking_error(self._tracker.shown):
            run = self._begun.get(identity)
            if run is None:
                tags = {
                    _RUN: identity,
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
                if _RUN not in run.data.tags:  # a person's own, below the sweep's
                    continue
                begun[run.data.tags[_RUN]] = str(run.info.run_id)
                if run.info.status == "FINISHED":
                    sent.add(run.data.tags[_RUN])
            page = found.token
            if not page:
                return begun, sent


def _metrics(event: dict[str, Any]) -> list[Metric]:
    return [
        Metric(name, value, event["time"], event["step"]) for name, value in event["values"].items()
    ]


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
