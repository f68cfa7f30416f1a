"""A dense network that was trained elsewhere, taken over: ``model.checkpoint``."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from sparse_sam.data import TrainingData, outer_path, seeded
from sparse_sam.errors import CheckpointError
from sparse_sam.files import load_weights
from sparse_sam.networks import build_model
from sparse_sam.pruning import prunable_parameters
from sparse_sam.training.checkpoint import Checkpoint
from sparse_sam.training.experiment import Trained
from sparse_sam.training.loop import Epoch, evaluate
from sparse_sam.training.origin import Origin

_PREFIXES = ("module.", "_orig_mod.", "model.", "network.", "net.", "backbone.")
_SHOWN = 4


def given_path(checkpoint: str, seed: int) -> Path:
    """The file of a seed: ``{seed}`` in its name stands for the number.

    Raises:
        CheckpointError: there is none.
    """
    path = outer_path(checkpoint.replace("{seed}", str(seed)))
    if not path.is_file():
        raise CheckpointError(
            f"model.checkpoint = {checkpoint!r}: {path} is no file. Put it there, or set "
            "model.checkpoint to null: the dense networks are trained then."
        )
    return path


def take_over(path: Path, origin: Origin) -> Checkpoint:
    """The network in a file of somebody's, as a dense network here.

    Names may have the prefixes that wrappers give them, as ``module.`` of DataParallel and
    ``_orig_mod.`` of ``torch.compile``. Weights of half or double precision become those of the
    network.

    Args:
        path: a state dict (``files.load_weights``).
        origin: what it is to be.

    Raises:
        CheckpointError: it is no state dict, of another network, or not finite. The message names
            the tensors.
    """
    cure = "Name its network in model.name, or another file in model.checkpoint."
    try:
        found = load_weights(path)
    except CheckpointError as error:
        raise CheckpointError(f"model.checkpoint: {error}.") from None
    with seeded(origin.seed, "initialisation"):
        model = build_model(origin.model, origin.image_shape, origin.num_classes)
    own = model.state_dict()
    state = _stripped(found, own)
    # Files of before 2018 lack these; they start at 0.
    lacking = [name for name in own if name not in state and not name.endswith("batches_tracked")]
    unknown = [name for name in state if name not in own]
    if lacking or unknown:
        said = [f"lacks {_listed(lacking)}"] if lacking else []
        said += [f"has the unknown {_listed(unknown)}"] if unknown else []
        raise CheckpointError(
            f"model.checkpoint: {path} is of another network than {origin.model}: it "
            f"{' and '.join(said)}. {cure}"
        )
    for name, tensor in state.items():
        if tensor.shape != own[name].shape:
            raise CheckpointError(
                f"model.checkpoint: {path}: {name} is of shape {tuple(tensor.shape)}, and in "
                f"{origin.model} for images {origin.image_shape} and {origin.num_classes} classes "
                f"of {tuple(own[name].shape)}. {cure}"
            )
        if tensor.is_floating_point() != own[name].is_floating_point() or tensor.is_complex():
            raise CheckpointError(
                f"model.checkpoint: {path}: {name} is {tensor.dtype}, not {own[name].dtype}. {cure}"
            )
        if not tensor.to(own[name].dtype).isfinite().all():
            raise CheckpointError(
                f"model.checkpoint: {path}: {name} is not finite: that training diverged."
            )
    with torch.no_grad():
        model.load_state_dict(state, strict=False)
    return Checkpoint.of(model, origin)


def as_trained(taken: Checkpoint, data: TrainingData) -> Trained:
    """A network that was taken over as a training of no epoch: how good it is."""
    model = taken.build().to(data.train.labels.device)
    found = evaluate(model, data.validation) if data.validation else None
    row = Epoch(
        epoch=0,
        gradient_evaluations=0,
        seconds=0.0,
        learning_rate=None,
        train_loss=None,
        validation_loss=found.loss if found else None,
        validation_accuracy=found.accuracy if found else None,
    )
    return Trained(taken, [row])


def share_of_zeros(checkpoint: Checkpoint) -> float:
    """The share of the weights that can be pruned that are 0, in [0, 1]."""
    weights = prunable_parameters(checkpoint.build()).values()
    total = sum(one.numel() for one in weights)
    return 1 - sum(int(one.count_nonzero()) for one in weights) / total if total else 0.0


def _stripped(found: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the prefixes that all names have, and the network's have not."""
    state = dict(found)
    while not state.keys() & own.keys():
        prefix = next((one for one in _PREFIXES if all(key.startswith(one) for key in state)), None)
        if prefix is None:
            break
        state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    return state


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(name[:80] for name in names[:_SHOWN]) + more
