"""``python -m sparse_sam.tracking.trainings``: how many trainings the last `dvc repro` did.

Read from the journals of the stages: those that began since a moment ran, and say how many of their
trainings were done then and how many were taken from the store; of the others nothing ran.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sparse_sam.errors import SparseSamError
from sparse_sam.files import needed_by
from sparse_sam.redaction import guard_output
from sparse_sam.tracking.stages import STAGES

with needed_by("python -m sparse_sam.tracking.trainings", "pipeline"):
    from sparse_sam.tracking.journal import read_events

RUN, TAKEN = "trainings.run", "trainings.taken"
"""Metrics of a stage's run."""


def counted(workspace: Path, since: float) -> dict[str, int]:
    """How many trainings were ``run``, ``taken``, and how many are ``kept`` as they were.

    Args:
        workspace: where ``runs/`` is.
        since: seconds since 1970.

    Raises:
        DataError: a journal is damaged.
    """
    found = {"run": 0, "taken": 0, "kept": 0}
    for stage in STAGES.values():
        path = workspace / stage.journal
        events = read_events(path) if path.is_file() else []
        values = _values(events)
        run, taken = int(values.get(RUN, 0)), int(values.get(TAKEN, 0))
        if events and events[0]["time"] >= 1000 * since:
            found["run"] += run
            found["taken"] += taken
        else:
            found["kept"] += run + taken
    return found


def _values(events: list[dict[str, Any]]) -> dict[str, float]:
    own = (one for one in events if one["event"] == "metrics" and one["child"] is None)
    return {name: value for one in own for name, value in one["values"].items()}


def keys_in(events: list[dict[str, Any]]) -> Iterator[str]:
    """The keys of the trainings that a journal tells of."""
    for event in events:
        if event["event"] == "child" and isinstance(event["params"].get("training"), str):
            yield event["params"]["training"]


def main() -> int:
    """Say it."""
    parser = argparse.ArgumentParser(
        prog="python -m sparse_sam.tracking.trainings", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--since", type=float, required=True, help="seconds since 1970")
    asked = parser.parse_args()
    try:
        found = counted(Path(), asked.since)
    except (SparseSamError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    total = sum(found.values())
    sys.stdout.write(
        f"\n{found['run']} of {total} trainings run, {found['taken']} taken from the store, "
        f"{found['kept']} of stages that did not change\n"
    )
    return 0


if __name__ == "__main__":
    guard_output()
    sys.exit(main())
