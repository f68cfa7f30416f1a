"""A trained network on disk: weights, mask, what made it, and how its inputs were normalised.

One safetensors file a seed. Weights stand under their plain names with zeros where pruned, so
any tool can read them; masks stand beside them. Times, hosts and commits are left out: the same
parameters give the same bytes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from sparse_sam.errors import CheckpointError, SparseSamError
from sparse_sam.files import load_tensors, save_tensors
from sparse_sam.networks import Network, build_model
from sparse_sam.pruning import Masks, attach, check_pruned_weights_are_zero, masks_of, plain_state
from sparse_sam.training.origin import Origin, check_state, read_origin

_KIND, _VERSION = "checkpoint", 2


@dataclass(frozen=True)
class Checkpoint:
    """Weights under plain names, the masks that hold on them, and their origin."""

    origin: Origin
    state: dict[str, Tensor]
    masks: Masks | None

    @classmethod
    def of(cls, model: nn.Module, origin: Origin) -> "Checkpoint":
        """Take a copy of ``model``. Raises MaskError if a pruned weight is not 0."""
        check_pruned_weights_are_zero(model)
        return cls(origin, plain_state(model), masks_of(model))

    def build(self) -> nn.Module:
        """The network, on the CPU, masks attached. Raises CheckpointError if it does not fit."""
        origin = self.origin
        with _fitting(origin):
            check_state(origin, self.state)
        with torch.random.fork_rng(devices=[]):
            model = build_model(origin.model, origin.image_shape, origin.num_classes)
        with _fitting(origin):
            model.load_state_dict(self.state)
            if self.masks:
                attach(model, self.masks)
        return model


def is_made_so(name: str, tensor: Tensor, origin: Origin) -> bool:
    """Whether a network has just this buffer from the beginning, as the −inf of a mask."""
    with torch.random.fork_rng(devices=[]):
        model = build_model(origin.model, origin.image_shape, origin.num_classes)
    own = dict(model.named_buffers()).get(name)
    return own is not None and own.dtype == tensor.dtype and torch.equal(own, tensor)


@contextmanager
def _fitting(origin: Origin) -> Iterator[None]:
    """Say whose weights do not fit, and what to do, when they do not."""
    try:
        yield
    except (RuntimeError, SparseSamError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"the weights of {origin.arm}, seed {origin.seed}, do not fit the current model "
            f"{origin.model}: {reason}. Train it again: `dvc repro --force train_dense`, then "
            "`dvc repro`."
        ) from None


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint atomically; equal checkpoints give equal bytes."""
    tensors = {f"state/{name}": tensor for name, tensor in checkpoint.state.items()}
    for name, mask in (checkpoint.masks or {}).items():
        tensors[f"mask/{name}"] = mask
    header = {"origin": checkpoint.origin.content()}
    save_tensors(path, tensors, kind=_KIND, version=_VERSION, header=header)


def load_checkpoint(
    path: Path,
    *,
    arm: str,
    seed: int,
    dataset: str,
    stage: str,
    model: str | Network | None = None,
) -> Checkpoint:
    """Read a checkpoint and check that it is the one that is expected there.

    Args:
        path: the file.
        arm: the arm it must belong to.
        seed: the seed it must belong to.
        dataset: fingerprint of the data set it must have been trained on.
        stage: the pipeline stage that writes it, named in the cure.
        model: the network that it must be of; None allows the registered ones, and a network of
            your own must be named here (``read_origin``).

    Raises:
        CheckpointError: missing, damaged, another arm's, seed's, data set's or network's, not
            finite, or with a pruned weight that is not 0.
    """
    cure = f"Run `dvc repro {stage}`, or `dvc checkout` to restore it."
    tensors, header = load_tensors(path, kind=_KIND, version=_VERSION, cure=cure)
    origin = read_origin(path, header, model=model, cure=cure)
    try:
        masks = {n.removeprefix("mask/"): t for n, t in tensors.items() if n.startswith("mask/")}
        state = {n.removeprefix("state/"): t for n, t in tensors.items() if n.startswith("state/")}
        checkpoint = Checkpoint(origin, state, Masks(masks) if masks else None)
    except SparseSamError as error:
        raise CheckpointError(f"{path} is damaged ({error}). {cure}") from None
    for what, found, expected in (
        ("arm", origin.arm, arm),
        ("seed", origin.seed, seed),
        ("data set", origin.dataset, dataset),
    ):
        if found != expected:
            raise CheckpointError(f"{path} is of {what} {found}, not {expected}. {cure}")
    for name, tensor in state.items():
        try:
            fault = _fault(name, tensor, masks.get(name), origin)
        except RuntimeError as error:  # of a type that torch keeps and does not compute with
            fault = f"{name} cannot be read: {error}"
        if fault:
            raise CheckpointError(f"{path}: {fault}. {cure}")
    return checkpoint


def load_expected(path: Path, expected: Origin, *, stage: str) -> Checkpoint:
    """Read a checkpoint whose whole origin must be the expected one.

    Raises:
        CheckpointError: as ``load_checkpoint``, or it is of images of another shape or scale, or of
            another number of classes.
    """
    found = load_checkpoint(
        path,
        arm=expected.arm,
        seed=expected.seed,
        dataset=expected.dataset,
        stage=stage,
        model=expected.model,
    )
    if found.origin != expected:
        raise CheckpointError(
            f"{path} was trained on images of another shape or scale, or with another number of "
            f"classes, than the data set has. Run `dvc repro {stage}`, or `dvc checkout` to "
            "restore it."
        )
    return found


def _fault(name: str, tensor: Tensor, mask: Tensor | None, origin: Origin) -> str:
    """What no tensor of a network may be; "" if it is sound."""
    if (
        tensor.is_floating_point()
        and not tensor.isfinite().all()
        and not is_made_so(name, tensor, origin)
    ):
        return f"{name} is not finite"
    if mask is not None and (mask.shape != tensor.shape or tensor[~mask].count_nonzero()):
        return f"pruned weights of {name} are not 0"
    return ""
