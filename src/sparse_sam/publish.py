"""``python -m sparse_sam.publish``: everything that MLflow has not been told yet, told once.

Sends the journals of stages that could not reach MLflow, then makes sure that the results in this
workspace are there, whoever made them: stages that DVC restored or pulled are entered as cached.
With ``--serve FOLDER`` it sends what running stages ask for (``sender``).
"""

import argparse
import os
import sys
from pathlib import Path

from sparse_sam.config import load_params
from sparse_sam.errors import SparseSamError
from sparse_sam.live import patience
from sparse_sam.pipelines import (
    enter_all,
    journals,
    launcher,
    repository_root,
    state_folder,
    workspace_content,
)
from sparse_sam.sender import is_pending, send_whole, serve, settle


def publish(root: Path, workspace: Path) -> str:
    """Send what is missing and say what was done. Raises TrackingError, ConfigError."""
    settle(root, patience())
    params = load_params(workspace / "params.yaml").model_dump(mode="json")
    waiting = [journal for folder in _pipelines(root) for journal in journals(folder)]
    waiting = [journal for journal in waiting if is_pending(journal)]
    results = workspace_content(workspace)
    if not waiting and results is None:
        return "There is nothing to send to MLflow yet: `dvc repro` makes results."
    from sparse_sam.tracking import Tracker

    tracker = Tracker(root)
    for journal in waiting:
        send_whole(tracker, journal)
    said = f"sent {len(waiting)} runs that were waiting" if waiting else ""
    made_by = launcher()
    if results and not tracker.has_content(made_by, results):
        entered = journals(enter_all(root, params, workspace, made_by))
        for journal in entered:
            send_whole(tracker, journal)
        said = f"{said + ', and ' if said else ''}entered {len(entered)} stages from the cache"
    return f"MLflow at {tracker.uri}: {said or 'every run of this workspace is there'}."


def _pipelines(root: Path) -> list[Path]:
    return sorted((state_folder(root) / "pipelines").glob("*/"))


def main() -> int:
    """Run the command; 0 when all is sent."""
    parser = argparse.ArgumentParser(prog="python -m sparse_sam.publish", description=__doc__)
    parser.add_argument("--serve", type=Path, metavar="FOLDER", help="used by the stages")
    arguments = parser.parse_args()
    root = repository_root()
    try:
        if arguments.serve:
            os.nice(10)  # the training beside it goes first
            serve(root, arguments.serve)
        else:
            sys.stdout.write(publish(root, Path.cwd()) + "\n")
    except SparseSamError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
