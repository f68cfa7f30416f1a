"""What DVC restored or pulled, put into the store: its trainings need not be done again either.

DVC brings back the outputs of whole stages; a stage that then runs for one seed more would find
none of the others in the store. Their journals hold all that the store keeps of a training: its
key, its history, the run that did it, and the hash of its network.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from sparse_sam.files import Store, file_hash
from sparse_sam.tracking.events import artifact_file
from sparse_sam.tracking.journal import read_events
from sparse_sam.tracking.stages import STAGES

_KIND = "training"
_MEASURES = (
    *("gradient_evaluations", "seconds", "learning_rate", "train_loss"),
    *("validation_loss", "validation_accuracy"),
)


class _Training(NamedTuple):
    key: str
    rows: list[dict[str, Any]]
    network: Path
    md5: str
    ended: float


def keep_restored(workspace: Path, store: Store) -> int:
    """Put trainings whose networks lie in a workspace into a store that lacks them; how many.

    A network is taken only if it is the one that its journal names.

    Raises:
        DataError: a journal is damaged, or leads out of the workspace.
        OSError: the store cannot be written.
    """
    count = 0
    for stage in STAGES.values():
        path = workspace / stage.journal
        events = read_events(path) if stage.arms and path.is_file() else []
        if not events or events[-1].get("status") != "FINISHED":
            continue
        run = str(events[0].get("source_run") or events[0]["run"]).partition("@")[0]
        for one in _trainings(path, workspace, events):
            is_there = store.entry_path(_KIND, one.key).is_file()
            if is_there or not one.network.is_file() or file_hash(one.network) != one.md5:
                continue
            # Here, for it imports torch, which who restored nothing need not wait for.
            from sparse_sam.training import Cost, Epoch, keep_training

            history = [Epoch(**row) for row in one.rows]
            cost = Cost(history[-1].seconds, "restored", one.ended)
            keep_training(store, one.key, {}, history, one.network, cost, run)
            count += 1
    return count


def _trainings(journal: Path, workspace: Path, events: list[dict[str, Any]]) -> Iterator[_Training]:
    """What a journal tells of its trainings, where it tells all of it."""
    keys: dict[str, str] = {}
    rows: dict[str, list[dict[str, Any]]] = {}
    networks: dict[str, tuple[Path, str]] = {}
    for event in events:
        child = str(event.get("child"))
        match event["event"]:
            case "child" if isinstance(event["params"].get("training"), str):
                keys[child] = event["params"]["training"]
            case "metrics" if child in keys:
                measured = {name: event["values"].get(name) for name in _MEASURES}
                rows.setdefault(child, []).append({"epoch": event["step"], **measured})
            case "artifact" if child in keys:
                networks[child] = artifact_file(journal, workspace, event), event["md5"]
    for child, key in keys.items():
        if rows.get(child) and child in networks:
            network, md5 = networks[child]
            yield _Training(key, rows[child], network, md5, events[-1]["time"] / 1000)
