"""What every stage does around its work: arguments, parameters, the journal, MLflow, errors."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stages import layout

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from sparse_sam.config import Params
    from sparse_sam.journal import Journal, Status


@dataclass(frozen=True)
class Stage:
    """What a stage's work is given: its name, the parameters, and the journal to report to."""

    name: str
    params: Params
    journal: Journal

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


_STOPS = (signal.SIGINT, signal.SIGTERM)


def _stop(number: int, _: object) -> None:
    for again in _STOPS:  # a second one stops at once
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

    for number in _STOPS:
        signal.signal(number, _stop)
    try:
        _run(name, load_params(layout.PARAMS), outputs, work)
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


def _run(name: str, params: Params, outputs: Sequence[Path], work: Callable[[Stage], None]) -> None:
    from sparse_sam.files import atomic_path, dvc_hash
    from sparse_sam.live import open_journal

    journal, publisher = open_journal(name, params, layout.STAGE_PARAMS[name])
    status: Status = "FAILED"
    try:
        work(Stage(name, params, journal))
        journal.tags({f"dvc.out.{path.as_posix()}": dvc_hash(path) for path in outputs})
        status = "FINISHED"
    except _Stopped:
        status = "KILLED"
        raise
    finally:
        journal.end(status)
        if status == "FINISHED":
            with atomic_path(layout.run(name)) as temporary:
                shutil.copyfile(journal.path, temporary)
        if status == "FINISHED" and name in layout.BEFORE_EVALUATE and "DVC_STAGE" in os.environ:
            publisher.leave()  # DVC goes on to the stage that waits
        elif status != "KILLED":  # who stops a stage does not want to wait; the sender goes on
            publisher.wait()
