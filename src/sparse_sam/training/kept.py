"""Trainings in a store: the network, its history, and who trained it.

What is read back is checked as strictly as what anybody sends: the store may be a colleague's.
"""

import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from sparse_sam.errors import CheckpointError, SparseSamError
from sparse_sam.files import Store, first_fault
from sparse_sam.training.checkpoint import Checkpoint, load_expected, save_checkpoint
from sparse_sam.training.diverged import Diverged
from sparse_sam.training.engines import Cost
from sparse_sam.training.experiment import Trained
from sparse_sam.training.loop import Epoch
from sparse_sam.training.origin import Origin

KIND = "training"
_FILE = "checkpoint"


@dataclass(frozen=True)
class Kept:
    """A training that is not done again.

    Attributes:
        checkpoint: the network.
        history: its rows.
        cost: what it took.
        run: the identity of the stage's run that did it; "" of a sweep.
    """

    checkpoint: Checkpoint
    history: list[Epoch]
    cost: Cost
    run: str


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


_Text = Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]
_Measure = Annotated[float, Field()] | None


class _Row(_Strict):
    epoch: Annotated[int, Field(ge=0, lt=2**31)]
    gradient_evaluations: Annotated[int, Field(ge=0, lt=2**53)]
    seconds: Annotated[float, Field(ge=0)]
    learning_rate: _Measure
    train_loss: _Measure
    validation_loss: _Measure
    validation_accuracy: _Measure


class KeptCost(_Strict):
    """What a store says that something took."""

    seconds: Annotated[float, Field(ge=0)]
    worker: _Text
    # Up to the year 9999.
    ended: Annotated[float, Field(ge=0, lt=253_402_300_800)]


class _About(_Strict):
    task: dict[str, Any]  # what made it, for who looks; never read back
    run: Annotated[str, StringConstraints(pattern="^([0-9a-f]{32})?$")]
    cost: KeptCost
    history: Annotated[list[_Row], Field(min_length=1)] | None
    diverged: Annotated[str, StringConstraints(max_length=5000)] | None


def keep_training(
    store: Store,
    key: str,
    content: Mapping[str, Any],
    found: list[Epoch] | Diverged,
    checkpoint: Path | None,
    cost: Cost,
    run: str = "",
) -> None:
    """Keep what a training came to: its history and the file of its network, or that it diverged.

    ``content`` is what made it, for who looks (``Made.content``). Raises OSError if the store
    cannot be written.
    """
    rows = None if isinstance(found, Diverged) else [asdict(row) for row in found]
    about = {
        "task": dict(content),
        "run": run,
        "cost": asdict(cost),
        "history": rows,
        "diverged": found.why if isinstance(found, Diverged) else None,
    }
    store.keep(KIND, key, about, {_FILE: checkpoint} if checkpoint else {})


def keep_trained(
    store: Store, key: str, content: Mapping[str, Any], trained: Trained, cost: Cost
) -> None:
    """``keep_training`` of a network that is in no file. Raises OSError."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.safetensors"
        save_checkpoint(path, trained.checkpoint)
        keep_training(store, key, content, trained.history, path, cost)


def take_training(
    store: Store, key: str, place: Path, expected: Origin, epochs: int
) -> Kept | Diverged | None:
    """Copy a training's network to a place, checked, and say how it was trained.

    Args:
        store: where to look.
        key: of the training.
        place: where the network goes; nothing is written there if the answer is no ``Kept``.
        expected: the origin that it must have.
        epochs: how many the training has.

    Returns:
        None if it is not there or not sound, which is said.

    Raises:
        OSError: the place cannot be written.
    """
    read = store.about(KIND, key)
    if read is None:
        return None
    try:
        about = _About.model_validate(read)
        if about.diverged is not None:
            return Diverged(about.diverged)
        if [row.epoch for row in about.history or ()] != list(range(epochs + 1)):
            raise ValueError("its history is of other epochs")
        if store.take(KIND, key, {_FILE: place}) is None:
            return None
        checkpoint = load_expected(place, expected, stage="train_dense")
    except (ValidationError, ValueError, SparseSamError) as error:
        place.unlink(missing_ok=True)
        _refuse(store, key, error)
        return None
    history = [Epoch(**row.model_dump()) for row in about.history or ()]
    return Kept(checkpoint, history, Cost(**about.cost.model_dump()), about.run)


def _refuse(store: Store, key: str, error: Exception) -> None:
    why = first_fault(error) if isinstance(error, ValidationError) else str(error)
    if isinstance(error, CheckpointError):
        why = why.partition(". Run `dvc")[0]
    sys.stderr.write(
        f"warning: {store.entry_path(KIND, key)} does not hold a valid result ({why}); it is "
        "ignored and trained again\n"
    )
    store.drop(KIND, key)
