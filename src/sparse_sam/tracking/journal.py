"""A stage's run as a file: what MLflow will be told, written down before it is told.

A journal is a list of JSON lines, appended as the stage goes. ``mlflow_runs`` sends it to MLflow,
while it grows or long after, any number of times with the same result: every event carries its own
time, and every run its own identity. So a server that is down costs nothing, and a stage that DVC
restored from its cache can be shown from its journal alone.
"""

import json
import os
import shutil
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sparse_sam.errors import DataError
from sparse_sam.files import file_hash
from sparse_sam.redaction import redacted, redacted_values
from sparse_sam.tracking import events

Status = events.Status
PIPELINE = events.PIPELINE


def _now() -> int:
    return time.time_ns() // 1_000_000


class Journal:
    """The journal of a stage that is running. While it is open, its lock is held.

    Args:
        path: where to write; its folder also gets ``artifacts/``.
        stage: the stage's name.
        params: the parameters that the stage depends on, flat.
        tags: what else identifies the run: commit, environment.
        launcher: MLflow's run and experiment, when ``mlflow run`` started the pipeline.

    Attributes:
        path: where it is.
        run: the identity of this run of the stage.
    """

    def __init__(
        self,
        path: Path,
        *,
        stage: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        launcher: Mapping[str, str],
    ) -> None:
        self.path = path
        self._lock = FileLock(_lock_path(path))
        self._lock.acquire()
        self._file = path.open("a", encoding="utf-8")
        self._began = _now()
        self.run = uuid.uuid4().hex
        self._write(
            "start",
            run=self.run,
            stage=stage,
            params=redacted_values(params),
            tags=redacted_values(tags),
            launcher=dict(launcher),
        )

    def dataset(self, *, name: str, fingerprint: str, context: str) -> None:
        """Name the data set that the stage read or made; ``context`` is training or evaluation."""
        self._write("dataset", name=name, fingerprint=fingerprint, context=context)

    def child(self, name: str, params: Mapping[str, Any]) -> None:
        """Begin a nested run, which later events name."""
        self._write("child", child=name, params=redacted_values(params))

    def child_end(self, name: str) -> None:
        """End a nested run well."""
        self._write("child_end", child=name)

    def metrics(
        self,
        values: Mapping[str, float | None],
        *,
        step: int = 0,
        child: str | None = None,
        seconds: float | None = None,
    ) -> None:
        """Record numbers at a step (an epoch); None values are left out.

        They count as measured now, or ``seconds`` after the journal began: that is how curves
        that are known only at the end get a time axis.
        """
        present = {name: value for name, value in values.items() if value is not None}
        when = {} if seconds is None else {"time": self._began + round(1000 * seconds)}
        self._write("metrics", child=child, step=step, values=present, **when)

    def tags(self, values: Mapping[str, str], *, child: str | None = None) -> None:
        """Add tags to a run."""
        self._write("tags", child=child, values=redacted_values(values))

    def note(self, text: str, *, child: str | None = None) -> None:
        """Describe a run in Markdown, as MLflow shows it above everything else."""
        self._write("note", child=child, text=redacted(text))

    def artifact(self, file: Path, *, child: str | None = None) -> None:
        """Keep a file for MLflow: a link beside the journal, since workspaces may go away.

        The file is named from the working directory, below which it must lie.
        """
        digest = file_hash(file)
        keep_artifact(self.path.parent, file, digest)
        self._write("artifact", child=child, path=file.as_posix(), md5=digest)

    def end(self, status: Status) -> None:
        """Write the last line and let the lock go."""
        self._write("end", status=status)
        self._file.close()
        self._lock.release()

    def _write(self, event: str, **fields: Any) -> None:
        self._file.write(json.dumps({"event": event, "time": _now()} | fields) + "\n")
        self._file.flush()


def read_events(path: Path, skip: int = 0) -> list[dict[str, Any]]:
    """The whole lines of a journal after the first ``skip``; a line half written is not there.

    Raises:
        DataError: a line is not what a stage writes; the message names the journal and the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except ValueError as error:
        raise DataError(f"{path} is damaged ({error}). Delete it, or `dvc checkout`.") from None
    return events.parse_events(path, text, skip)


def is_running(path: Path) -> bool:
    """Whether the stage that writes this journal still lives: it holds the lock until it dies."""
    lock = FileLock(_lock_path(path))
    try:
        with lock.acquire(timeout=0):
            return False
    except Timeout:
        return True


def artifact_path(folder: Path, file: Path, digest: str) -> Path:
    """Where an artifact is kept beside its journal: under its own name, as MLflow will show it."""
    return folder / "artifacts" / digest / file.name


def keep_artifact(folder: Path, file: Path, digest: str) -> None:
    """Link (or copy) ``file`` to its place beside the journals in ``folder``, once."""
    kept = artifact_path(folder, file, digest)
    if kept.exists():
        return
    kept.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(file.resolve(), kept)
    except OSError:
        shutil.copyfile(file, kept)


def _lock_path(path: Path) -> Path:
    return path.with_suffix(".lock")
