"""``python -m sparse_sam.tracking.publish``: what MLflow has not been told yet, told once.

Sends the journals of stages that could not reach MLflow, then makes sure that the results in this
workspace are there, whoever made them: stages that DVC restored or pulled are entered as cached.
A run that MLflow refuses is set aside, and no other waits for it; it is tried again each time, or
sent to another experiment. With ``--serve FOLDER`` it sends what running stages ask for
(``sender``).
"""

import argparse
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparse_sam.config import load_params
from sparse_sam.errors import RefusedError, SparseSamError
from sparse_sam.redaction import guard_output
from sparse_sam.tracking.pipelines import (
    enter_all,
    journals,
    launcher,
    pipeline_content,
    refusal,
    repository_root,
    state_folder,
    workspace_content,
)
from sparse_sam.tracking.provenance import provenance
from sparse_sam.tracking.sender import is_left, send_whole, serve, settle
from sparse_sam.tracking.stage_run import patience

if TYPE_CHECKING:
    from sparse_sam.tracking.mlflow_store import Tracker

SET_ASIDE = 3
"""How the command ends when MLflow was reached and does not take every run."""


@dataclass(frozen=True)
class Published:
    """What came of publishing.

    Attributes:
        said: what was done, for the person who asked.
        refused: what MLflow does not take, and why.
    """

    said: str
    refused: Mapping[str, str]


def publish(root: Path, workspace: Path, elsewhere: str | None = None) -> Published:
    """Send what is missing.

    Args:
        root: the clone.
        workspace: whose results are to be there.
        elsewhere: the experiment for what was set aside, made if there is none.

    Raises:
        TrackingError: MLflow is not reached; what was not sent still waits.
        ConfigError: the workspace's parameters cannot be read.
    """
    settle(root, patience())
    params = load_params(workspace / "params.yaml").model_dump(mode="json")
    waiting, results = _left(root), workspace_content(workspace)
    if not waiting and results is None:
        return Published("There is nothing to send to MLflow yet: `dvc repro` makes results.", {})
    from sparse_sam.tracking.mlflow_store import Tracker

    tracker = Tracker(root)
    if elsewhere:  # what was set aside has been tried where it belongs
        waiting = [journal for journal in waiting if refusal(journal) is None]
    sent = sum(send_whole(tracker, journal) for journal in waiting)
    if elsewhere:
        sent += sum(send_whole(tracker, journal, elsewhere) for journal in _set_aside(root))
    said, refused = [f"sent {sent} runs that were waiting"] if sent else [], {}
    if results and all(pipeline_content(journal.parent) != results for journal in _set_aside(root)):
        try:
            entered = _enter(tracker, params, workspace, results, elsewhere)
        except RefusedError as error:
            entered = 0
            refused["the results of this workspace"] = str(error)
        if entered:
            said.append(f"entered {entered} stages from the cache")
    refused |= {str(journal.relative_to(root)): why for journal, why in _set_aside(root).items()}
    nothing = "nothing else is waiting" if refused else "every run of this workspace is there"
    return Published(f"MLflow at {tracker.shown}: {', and '.join(said) or nothing}.", refused)


def _enter(
    tracker: "Tracker",
    params: Mapping[str, Any],
    workspace: Path,
    results: str,
    elsewhere: str | None,
) -> int:
    """Send the workspace's results, if MLflow lacks them; how many stages it took."""
    home = launcher()
    try:
        known = tracker.has_content(home, results)
    except RefusedError:
        if not elsewhere:
            raise
        home = {"mlflow_experiment_name": elsewhere}
        known = tracker.has_content(home, results)
    if known:
        return 0
    entered = journals(enter_all(tracker.root, params, workspace, home, provenance()))
    return sum(send_whole(tracker, journal) for journal in entered)


def _left(root: Path) -> list[Path]:
    """The journals that MLflow does not have, of stages that have ended, oldest first."""
    pipelines = sorted((state_folder(root) / "pipelines").glob("*/"))
    return [journal for folder in pipelines for journal in journals(folder) if is_left(journal)]


def _set_aside(root: Path) -> dict[Path, str]:
    """Those among them that MLflow refused, and why."""
    reasons = {journal: refusal(journal) for journal in _left(root)}
    return {journal: why for journal, why in reasons.items() if why is not None}


def _complain(refused: Mapping[str, str]) -> None:
    lines = "".join(f"  {what}: {why}\n" for what, why in refused.items())
    sys.stderr.write(
        f"error: MLflow does not take these, which are set aside:\n{lines}"
        "Another experiment may: make publish EXPERIMENT=name. `make publish` tries them again "
        "where they belong; what is to be forgotten is deleted.\n"
    )


def main() -> int:
    """Run the command; 0 when all is sent, 1 if MLflow is not reached, 3 if it refused a run."""
    parser = argparse.ArgumentParser(
        prog="python -m sparse_sam.tracking.publish", description=__doc__
    )
    parser.add_argument("--experiment", metavar="NAME", help="that takes what was set aside")
    parser.add_argument("--serve", type=Path, metavar="FOLDER", help="used by the stages")
    arguments = parser.parse_args()
    root = repository_root()
    try:
        if arguments.serve:
            os.nice(10)  # the training beside it goes first
            serve(root, arguments.serve)
            return 0
        published = publish(root, Path.cwd(), arguments.experiment)
    except SparseSamError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(published.said + "\n")
    if published.refused:
        _complain(published.refused)
    return SET_ASIDE if published.refused else 0


if __name__ == "__main__":
    guard_output()
    sys.exit(main())
