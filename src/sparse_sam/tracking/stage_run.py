"""A stage's run: its work, its journal, the signals that stop it, and that MLflow be told.

MLflow lives in a process of its own (``sender``). Its import and its requests take place beside
the training and not in front of it, and a server that hangs or dies can do nothing to a stage but
be waited for, a little, at its end.
"""

import math
import os
import shutil
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparse_sam.config import Params
from sparse_sam.errors import ConfigError
from sparse_sam.files import atomic_path, dvc_hash
from sparse_sam.terminal import activity
from sparse_sam.tracking.events import Status
from sparse_sam.tracking.journal import Journal
from sparse_sam.tracking.pipelines import launcher, place, refusal, repository_root
from sparse_sam.tracking.provenance import provenance
from sparse_sam.tracking.sender import Request
from sparse_sam.tracking.stages import STAGES

_PATIENCE_SECONDS = 30.0


def patience() -> float:
    """For how many seconds MLflow is waited for: ``SPARSE_SAM_PUBLISH_PATIENCE``, or 30.

    Raises:
        ConfigError: the variable is no finite number of at least 0.
    """
    text = os.environ.get("SPARSE_SAM_PUBLISH_PATIENCE") or str(_PATIENCE_SECONDS)
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ConfigError(
            f"SPARSE_SAM_PUBLISH_PATIENCE = {text!r}: must be a number of seconds, at least 0"
        )
    return seconds


class Publisher:
    """What makes MLflow know a growing journal. ``SPARSE_SAM_PUBLISH=later`` makes it idle."""

    def __init__(self, journal: Path, root: Path) -> None:
        self._journal = journal
        later = os.environ.get("SPARSE_SAM_PUBLISH") == "later"
        self._request = None if later else Request(journal, root)

    def leave(self, stopped: Callable[[], bool]) -> None:
        """Do not wait for a sender that gets through: a later stage does. Else as ``wait``."""
        if self._request is not None and not self._request.leave():
            self.wait(stopped)

    def wait(self, stopped: Callable[[], bool]) -> None:
        """Wait until MLflow knows the whole journal; when it cannot be told, say so and go on.

        Args:
            stopped: asked again and again; True ends the wait at once.
        """
        if self._request is None:
            return
        reason = self._request.wait(patience(), stopped)
        if refusal(self._journal):
            sys.stderr.write(
                f"warning: MLflow refuses this run ({reason}). The results are safe in files; "
                "`make publish EXPERIMENT=name` sends it to another experiment.\n"
            )
        elif reason:
            sys.stderr.write(
                f"warning: MLflow does not have this run yet ({reason}). "
                "The results are safe in files; `make publish` sends what is missing.\n"
            )


def open_journal(stage: str, params: Params) -> tuple[Journal, Publisher]:
    """Begin a stage's journal, and sending it.

    Args:
        stage: the stage's name.
        params: all parameters: stages of equal parameters belong to one pipeline run.
    """
    patience()  # a fault in it is said before the work, and not after
    root = repository_root()
    made_by = launcher()
    # `mlflow run` names its own run here; a stage that resumed it would collide with the others.
    os.environ.pop("MLFLOW_RUN_ID", None)
    values = params.model_dump(mode="json")
    tags = provenance()
    with place(root, stage, values, Path.cwd(), made_by, tags) as path:
        journal = Journal(
            path,
            stage=stage,
            params=params.flat(STAGES[stage].params),
            tags=tags,
            launcher=made_by,
        )
    return journal, Publisher(path, root)


@dataclass(frozen=True)
class Stage:
    """What a stage's work is given.

    Attributes:
        name: of the stage.
        params: all of them.
        journal: to report to.
        afterwards: what to do when every output is in place: the work adds to it.
    """

    name: str
    params: Params
    journal: Journal
    afterwards: list[Callable[[], None]] = field(default_factory=list)

    @property
    def own_params(self) -> dict[str, Any]:
        """The parameters that the stage's numbers depend on, flat."""
        return self.params.flat(STAGES[self.name].params)


class Stopped(BaseException):
    """Somebody wants the stage to end: Ctrl-C, or a scheduler."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Signals:
    """What SIGINT and SIGTERM do: stop the work; once that has ended, only the wait for MLflow."""

    NUMBERS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self._working, self._came = True, False
        for number in self.NUMBERS:
            signal.signal(number, self._take)

    def work_ended(self) -> None:
        """From here on the stage ends as its work did, whatever is sent to it."""
        self._working = False

    def came(self) -> bool:
        """Whether somebody wants a stage to end whose work has ended."""
        return self._came

    def ignore(self) -> None:
        """Python gives signals their default action back while it ends, and that is to kill."""
        for number in self.NUMBERS:
            signal.signal(number, signal.SIG_IGN)

    def _take(self, number: int, _: object) -> None:
        if not self._working:
            self._came = True
            return
        for again in self.NUMBERS:  # a second one stops at once
            signal.signal(again, signal.SIG_DFL)
        raise Stopped(number)


def run_stage(name: str, params: Params, work: Callable[[Stage], None], signals: Signals) -> None:
    """Do a stage's work and keep its journal, of which MLflow is told.

    Args:
        name: of the stage.
        params: all of them.
        work: writes every output of the stage but its journal.
        signals: what SIGINT and SIGTERM do meanwhile.

    Raises:
        SparseSamError: what ``work`` raises; so does OSError.
        Stopped: somebody wants the stage to end.
    """
    row = STAGES[name]
    journal, publisher = open_journal(name, params)
    stage = Stage(name, params, journal)
    status: Status = "FAILED"
    try:
        work(stage)
        signals.work_ended()
        journal.tags({f"dvc.out.{path}": dvc_hash(Path(path)) for path in row.outputs})
        status = "FINISHED"
    except Stopped:
        status = "KILLED"
        raise
    finally:
        signals.work_ended()
        journal.end(status)
        if status == "FINISHED":
            with atomic_path(row.journal) as temporary:
                shutil.copyfile(journal.path, temporary)
            _tidy(stage)
        is_awaited = any(name in other.after for other in STAGES.values())
        if status == "FINISHED" and is_awaited and "DVC_STAGE" in os.environ:
            _tell(publisher.leave, signals)  # DVC goes on to the stage that waits
        elif status != "KILLED":  # who stops a stage does not want to wait; the sender goes on
            _tell(publisher.wait, signals)


def _tell(act: Callable[[Callable[[], bool]], None], signals: Signals) -> None:
    """See that MLflow is told; whatever fails there, the stage ends as its work did."""
    try:
        with activity("telling MLflow", brief=True):
            act(signals.came)
    except Exception as error:  # noqa: BLE001 - a sender that cannot start, a terminal that is gone
        with suppress(Exception):
            sys.stderr.write(f"warning: MLflow was not told of this run: {error}\n")


def _tidy(stage: Stage) -> None:
    """Do what is left to do when all is in place; what fails of it takes no result away."""
    for act in stage.afterwards:
        try:
            act()
        except OSError as error:
            with suppress(Exception):
                sys.stderr.write(
                    f"warning: {error.filename}: {error.strerror}; it was left there\n"
                )
