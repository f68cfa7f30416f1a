"""A connection to one MLflow store: its experiments, its runs, and what it refuses.

A run is found again by a tag that holds its identity, so that nothing is sent twice.

Alone imports MLflow, which is told some things before; its types are taken from here.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
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
from mlflow.models import ModelSignature
from mlflow.tracking import MlflowClient
from mlflow.types import ColSpec, Schema, TensorSpec
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError

from sparse_sam.errors import RefusedError, TrackingError
from sparse_sam.redaction import redacted
from sparse_sam.tracking.pipelines import state_folder

__all__ = [
    "CONTENT",
    "EXPERIMENT",
    "NOTE",
    "RUN",
    "ColSpec",
    "Dataset",
    "DatasetInput",
    "InputTag",
    "Metric",
    "MlflowException",
    "ModelSignature",
    "Param",
    "RunTag",
    "Schema",
    "TensorSpec",
    "Tracker",
    "as_shown",
    "as_tracking_error",
    "batches",
    "onnx_models",
]

EXPERIMENT = "sparse-sam"
RUN, CONTENT = "sparse_sam.run", "sparse_sam.content"
NOTE = "mlflow.note.content"
"""The tag that MLflow shows as the description of a run or an experiment."""
# What MLflow answers when it is there, and does not take what it was sent.
_REFUSALS = {
    "INVALID_PARAMETER_VALUE",
    "INVALID_STATE",
    "PERMISSION_DENIED",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",
}


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
            return self.find(experiment, CONTENT, content) is not None

    def _alone(self) -> FileLock:
        # Several processes that create one SQLite store at once break each other's migration.
        return FileLock(state_folder(self.root) / "store.lock")

    def find(self, experiment: str, tag: str, value: str) -> Run | None:
        """The run of an experiment that has a tag of this value."""
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
            found = self.find(experiment, RUN, identity)
            if found:
                return str(found.info.run_id), False
            all_tags = {**tags, RUN: identity}
            if parent:
                all_tags["mlflow.parentRunId"] = parent
            run = self.client.create_run(experiment, start_time=time, tags=all_tags, run_name=name)
            return str(run.info.run_id), True


def as_shown(value: float) -> float:
    """A metric for MLflow, which shows every digit: 0.9428, not 0.9427999999999999 or −0.0."""
    return value if float(value).is_integer() and value else float(f"{value:.10g}") + 0.0


def batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """The items in lists of up to ``size``."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def onnx_models() -> Any:
    """MLflow's module for ONNX models; here, for its import takes as long as all others."""
    import mlflow.onnx

    return mlflow.onnx
