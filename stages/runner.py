"""What every stage does around its work: arguments, parameters, the journal, MLflow, errors."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stages import layout

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from sparse_sam.config import Params
    from sparse_sam.journal import Journal, Status


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
        """The parameters that the stage depends on, as dvc.yaml lists them, flat."""
        from sparse_sam.live import select

        return select(self.params, layout.STAGE_PARAMS[self.name])


class _Stopped(BaseException):
    """Somebody wants the stage to end: Ctrl-C, or a scheduler."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class _Signals:
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
        raise _Stopped(number)


def main(
    name: str, description: str, outputs: Sequence[Path], work: Callable[[Stage], None]
) -> None:
    """Run a stage and exit: 0 when its outputs are written, whether MLflow was reached or not."""
    argparse.ArgumentParser(prog=f"python -m stages.{name}", description=description).parse_args()
    # From here on, for `--help` answers at once.
    from sparse_sam.config import load_params
    from sparse_sam.errors import SparseSamError
    from sparse_sam.redaction import guard_output

    guard_output()
    try:
        signals = _Signals()
        _run(name, load_params(layout.PARAMS), outputs, work, signals)
        signals.ignore()
        _flush()
    except SparseSamError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        sys.exit(
            f"error: {where}{error.strerror or error}. Results that were there are as they were. "
            "Make room or give access there, and run it again."
        )
    except _Stopped as stopped:
        sys.stderr.write(
            f"{name} was stopped. Run it again, and it goes on from its last whole epoch.\n"
        )
        sys.exit(128 + stopped.number)


def _run(
    name: str,
    params: Params,
    outputs: Sequence[Path],
    work: Callable[[Stage], None],
    signals: _Signals,
) -> None:
    from sparse_sam.files import atomic_path, dvc_hash
    from sparse_sam.live import open_journal

    journal, publisher = open_journal(name, params, layout.STAGE_PARAMS[name])
    stage = Stage(name, params, journal)
    status: Status = "FAILED"
    try:
        work(stage)
        signals.work_ended()
        journal.tags({f"dvc.out.{path.as_posix()}": dvc_hash(path) for path in outputs})
        status = "FINISHED"
    except _Stopped:
        status = "KILLED"
        raise
    finally:
        signals.work_ended()
        journal.end(status)
        if status == "FINISHED":
            with atomic_path(layout.run(name)) as temporary:
                shutil.copyfile(journal.path, temporary)
            _tidy(stage)
        if status == "FINISHED" and name in layout.BEFORE_EVALUATE and "DVC_STAGE" in os.environ:
            _tell(publisher.leave, signals)  # DVC goes on to the stage that waits
        elif status != "KILLED":  # who stops a stage does not want to wait; the sender goes on
            _tell(publisher.wait, signals)


def _tell(act: Callable[[Callable[[], bool]], None], signals: _Signals) -> None:
    """See that MLflow is told; whatever fails there, the stage ends as its work did."""
    try:
        act(signals.came)
    except Exception as error:  # noqa: BLE001 - a sender that cannot start, a terminal that is gone
        with suppress(Exception):
            sys.stderr.write(f"warning: MLflow was not told of this run: {error}\n")


def _flush() -> None:
    """Let nothing that cannot be written any more change the exit code."""
    for name in ("stdout", "stderr"):
        try:
            getattr(sys, name).flush()
        except Exception:  # noqa: BLE001 - a broken pipe, a full disk, a closed descriptor
            setattr(sys, name, None)


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
