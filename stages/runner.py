"""What every stage does around its work: arguments, parameters, errors, exit codes."""

import argparse
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from sparse_sam.tracking import Stage
else:
    Stage = Any  # whose import takes time, and `--help` none

__all__ = ["Stage", "main"]


def main(name: str, description: str, work: "Callable[[Stage], None]") -> None:
    """Run a stage and exit: 0 when its outputs are written, whether MLflow was reached or not."""
    argparse.ArgumentParser(prog=f"python -m stages.{name}", description=description).parse_args()
    # From here on, for `--help` answers at once.
    from sparse_sam.config import load_params
    from sparse_sam.errors import SparseSamError
    from sparse_sam.redaction import guard_output
    from sparse_sam.tracking import Signals, Stopped, layout, run_stage

    guard_output()
    try:
        signals = Signals()
        run_stage(name, load_params(layout.params), work, signals)
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
    except Stopped as stopped:
        sys.stderr.write(
            f"{name} was stopped. Run it again, and it goes on from its last whole epoch.\n"
        )
        sys.exit(128 + stopped.number)


def _flush() -> None:
    """Let nothing that cannot be written any more change the exit code."""
    for name in ("stdout", "stderr"):
        try:
            getattr(sys, name).flush()
        except Exception:  # noqa: BLE001 - a broken pipe, a full disk, a closed descriptor
            setattr(sys, name, None)
