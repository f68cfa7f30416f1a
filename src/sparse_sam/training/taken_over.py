"""A dense network that was trained elsewhere, taken over: ``model.checkpoint``."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from sparse_sam.data import TrainingData, outer_path, seeded
from sparse_sam.errors import CheckpointError
from sparse_sam.files import load_weights
from sparse_sam.networks import build_model
from sparse_sam.training.checkpoint import Checkpoint
from sparse_sam.training.experiment import Trained
from sparse_sam.training.loop import Epoch, evaluate
from sparse_sam.training.origin import Origin

_PREFIXES = ("module.", "_orig_mod.", "model.", "network.", "net.", "backbone.")
_SHOWN = 4
_PRUNED = (
    (r"(^|.*\.)parametrizations\.([^.]+)\.original$", r"\1parametrizations.\2.0.mask", r"\1\2"),
    (r"_orig$", "_mask", ""),
)
"""How a weight is called that is pruned, its mask, and both together in a dense network."""


def given_path(checkpoint: str, seed: int) -> Path:
    """The file of a seed: ``{seed}`` in its name stands for the number.

    Raises:
        CheckpointError: there is none.
    """
    path = outer_path(checkpoint.replace("{seed}", str(seed)))
    if not path.is_file():
        raise CheckpointError(
            f"model.checkpoint = {checkpoint!r}: {path} is not a file. Put the checkpoint there, "
            "or set model.checkpoint to null to train the dense networks."
        )
    return path


def take_over(path: Path, origin: Origin) -> Checkpoint:
    """The network in a file of somebody's, as a dense network here.

    Names may have the prefixes that wrappers give them, as ``module.`` of DataParallel and
    ``_orig_mod.`` of ``torch.compile``. Weights of half or double precision become those of the
    network; masks that are still attached become zeros; a tensor that layers share may stand under
    one of its names.

    Args:
        path: a state dict (``files.load_weights``).
        origin: what it is to be.

    Raises:
        CheckpointError: it is no state dict, of another network, or not finite. The message names
            the tensors.
    """
    cure = "Set model.name to its network, or model.checkpoint to another file."
    try:
        found = load_weights(path)
    except CheckpointError as error:
        raise CheckpointError(f"model.checkpoint: {error}.") from None
    with seeded(origin.seed, "initialisation"):
        model = build_model(origin.model, origin.image_shape, origin.num_classes)
    own = model.state_dict()
    state = _with_shared(_stripped(_without_masks(found), own), own)
    # Files of before 2018 lack these; they start at 0.
    lacking = [name for name in own if name not in state and not name.endswith("batches_tracked")]
    unknown = [name for name in state if name not in own]
    if lacking or unknown:
        said = [f"lacks {_listed(lacking)}"] if lacking else []
        said += [f"has the unknown tensors {_listed(unknown)}"] if unknown else []
        what = "is of another network than" if lacking else "holds more than the network"
        raise CheckpointError(
            f"model.checkpoint: {path} {what} {origin.model}: it {' and '.join(said)}. "
            + (cure if lacking else "Save the state dict of the network only.")
        )
    for name, tensor in state.items():
        if tensor.shape != own[name].shape:
            raise CheckpointError(
                f"model.checkpoint: {path}: {name} has shape {tuple(tensor.shape)}, but "
                f"{origin.model} for images {origin.image_shape} and {origin.num_classes} "
                f"classes has {tuple(own[name].shape)}. {cure}"
            )
        if tensor.is_floating_point() != own[name].is_floating_point() or tensor.is_complex():
            raise CheckpointError(
                f"model.checkpoint: {path}: {name} is {tensor.dtype}, not {own[name].dtype}. {cure}"
            )
        given = tensor.to(own[name].dtype)
        if not given.isfinite().all() and not torch.equal(given, own[name]):
            raise CheckpointError(
                f"model.checkpoint: {path}: {name} is not finite, so its training diverged. Use "
                "another file."
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


def _without_masks(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Pruned weights under their plain names, with zeros.

    Masks are those of ``pruning.attach``, of torch.nn.utils.prune, and of our own checkpoints.
    """
    state = dict(found)
    if all(name.startswith(("state/", "mask/")) for name in state):
        state = {n.removeprefix("state/"): t for n, t in state.items() if n.startswith("state/")}
    for name in list(state):
        for original, mask, plain in _PRUNED:
            key = re.sub(original, mask, name)
            if key != name and key in state and state[key].shape == state[name].shape:
                weight, kept = state.pop(name), state.pop(key)
                state[re.sub(original, plain, name)] = weight.masked_fill(kept == 0, 0.0)
                break
    return state


def _with_shared(state: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """With the further names of tensors that several layers share, which some files leave out."""
    given = {(own[name].data_ptr(), own[name].shape): name for name in state if name in own}
    for name, tensor in own.items():
        other = given.get((tensor.data_ptr(), tensor.shape))
        if name not in state and other is not None and tensor.numel():
            state[name] = state[other]
    return state


def _stripped(found: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the prefixes that the network's names have in the file, and not in the network."""
    state = dict(found)
    if all(name.startswith("module.") for name in state.keys() - {"n_averaged"}):
        state.pop("n_averaged", None)  # torch.optim.swa_utils.AveragedModel counts there
    while not state.keys() & own.keys():
        # Beside the network's there may be others: they stay, and are unknown.
        whole = [one for one in _PREFIXES if all(f"{one}{name}" in state for name in own)]
        every = [one for one in _PREFIXES if all(name.startswith(one) for name in state)]
        prefix = next(iter(whole + every), None)
        if prefix is None:
            break
        state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    return state


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(name[:80] for name in names[:_SHOWN]) + more
