"""What every stage does around its work: arguments, parameters, errors, exit codes."""

import argparse
import os
import sys
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sparse_sam.config import Params
    from sparse_sam.tracking import Stage
else:
    Stage = Any  # whose import takes time, and `--help` none

__all__ = ["Stage", "command", "explained", "main"]


def main(name: str, description: str, work: "Callable[[Stage], None]") -> None:
    """Run a stage and exit: 0 when its outputs are written, whether MLflow was reached or not."""
    argparse.ArgumentParser(prog=command(name), description=description).parse_args()
    # From here on, for `--help` answers at once.
    from sparse_sam.config import load_params
    from sparse_sam.redaction import guard_output
    from sparse_sam.terminal import display
    from sparse_sam.tracking import STAGES, Signals, Stopped, layout, run_stage

    guard_output()
    try:
        with explained():
            signals = Signals()
            params = load_params(layout.params)
            with display(f"[{list(STAGES).index(name) + 1}/{len(STAGES)}] {name}"):
                run_stage(name, params, partial(_unchanged, work, params), signals)
            signals.ignore()
            _flush()
    except Stopped as stopped:
        sys.stderr.write(
            f"{name} was stopped. Run it again, and it goes on from its last whole epoch.\n"
        )
        sys.exit(128 + stopped.number)


def command(name: str) -> str:
    """How this process was started: a repository may have its own way to a stage, as ours has."""
    spec = sys.modules["__main__"].__spec__
    return f"python -m {spec.name if spec else f'sparse_sam.stages.{name}'}"


@contextmanager
def explained() -> "Iterator[None]":
    """Within it, what goes wrong ends the process with a line for who must act."""
    from sparse_sam.errors import SparseSamError

    try:
        yield
    except SparseSamError as error:
        sys.exit(f"error: {error}")
    except FileNotFoundError as error:
        sys.exit(
            f"error: {error.filename or error} is not there. If a network or a source of your own "
            "reads it, put it there, and name it in model.files or data.folder of params.yaml."
        )
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        sys.exit(
            f"error: {where}{error.strerror or error}. Results that were there are as they were. "
            "Make room or give access there, and run it again."
        )


def _unchanged(work: "Callable[[Stage], None]", params: "Params", stage: Stage) -> None:
    """Do a stage's work; under DVC, only as what DVC will say that made it."""
    from sparse_sam.stages.inputs import check_unchanged

    is_recorded = "DVC_STAGE" in os.environ
    if is_recorded:
        check_unchanged(stage.name, params)
    work(stage)
    if is_recorded:
        check_unchanged(stage.name, params)


def _flush() -> None:
    """Let nothing that cannot be written any more change the exit code."""
    for name in ("stdout", "stderr"):
        try:
            getattr(sys, name).flush()
        except Exception:  # noqa: BLE001 - a broken pipe, a full disk, a closed descriptor
            setattr(sys, name, None)
