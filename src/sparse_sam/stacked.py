"""Networks of one kind as stacked tensors, and their gradients in one pass; see ``batched``."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.functional import cross_entropy

from sparse_sam.batchnorm import frozen_batchnorm_statistics
from sparse_sam.checkpoint import Checkpoint
from sparse_sam.config import TrainingParams
from sparse_sam.dataset import Split
from sparse_sam.errors import DivergenceError, MaskError
from sparse_sam.models import build_model
from sparse_sam.training import EVALUATION_BATCH

_SMALLEST_NORM = 1e-12

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Member:
    """One of the networks that are trained together.

    Attributes:
        start: the weights and masks that it starts from; its seed gives the batch order.
        arm: what the trained checkpoint is called.
        rho: the radius ρ of SAM; 0 is SGD.
    """

    start: Checkpoint
    arm: str
    rho: float = 0.0


class Stack:
    """The networks as stacked tensors: weights, buffers and masks, by plain names, (S, …).

    A tensor that layers share is stacked once, under the first of its names.
    """

    def __init__(self, members: Sequence[Member], device: torch.device) -> None:
        self.members = members
        origin = members[0].start.origin
        with torch.random.fork_rng(devices=[]):
            model = build_model(origin.model, origin.image_shape, origin.num_classes)
        self.names = _first_names(model)
        # Where a tensor is read: a layer that is used twice counts once, and a tensor that layers
        # share once in each. (functional_call, left to tie them, loses the layer's own tensors.)
        modules = dict(model.named_modules())
        saved = model.state_dict()
        self.places = [
            name for name in self.names if name in saved and name.rpartition(".")[0] in modules
        ]
        self.model = model.to("meta")  # a form for the tensors below
        starts = [member.start for member in members]
        state = {
            name: torch.stack([start.state[name] for start in starts]).to(device)
            for name in self.model.state_dict()
            if self.names[name] == name
        }
        self.weights = {
            name: state.pop(name).requires_grad_()
            for name, _ in self.model.named_parameters()
            if name in state
        }
        self.buffers = state
        self.masks = {name: mask.to(device) for name, mask in _stacked_masks(starts).items()}
        self.rhos = torch.tensor([one.rho for one in members if one.rho], device=device)

    def logits(self, weights: Mapping[str, Tensor], images: Tensor, *, shared: bool) -> Tensor:
        """Logits (S, N, classes) of the first S networks, as many as ``weights`` hold.

        Args:
            weights: before the masks.
            images: (N, …) if they are ``shared`` by all networks, else (S, N, …).
            shared: whether all networks see the same images.
        """
        count = len(next(iter(weights.values())))
        masked = {
            name: weight * self.masks[name][:count] if name in self.masks else weight
            for name, weight in weights.items()
        }
        buffers = {name: buffer[:count] for name, buffer in self.buffers.items()}

        def one(weights: Tensors, buffers: Tensors, images: Tensor) -> Tensor:
            tensors = {**weights, **buffers}
            read = {name: tensors[self.names[name]] for name in self.places}
            out: Tensor = functional_call(self.model, read, (images,), tie_weights=False)
            return out

        in_dims = (0, 0, None if shared else 0)
        out: Tensor = vmap(one, in_dims=in_dims)(masked, buffers, images)
        return out

    def gradients(
        self,
        weights: Tensors,
        images: Tensor,
        labels: Tensor,
        smoothing: float,
        *,
        remember: bool,
    ) -> tuple[Tensor, Tensors]:
        """The loss (S,) and its gradient for the first networks; ``remember`` the statistics."""
        with nullcontext() if remember else frozen_batchnorm_statistics(self.model):
            logits = self.logits(weights, images, shared=False)
        each = cross_entropy(
            logits.flatten(0, 1), labels.flatten(), label_smoothing=smoothing, reduction="none"
        )
        losses = each.view(labels.shape).mean(1)
        found = torch.autograd.grad(losses.sum(), list(weights.values()))
        return losses.detach(), dict(zip(weights, found, strict=True))

    def step_gradients(self, images: Tensor, labels: Tensor, smoothing: float) -> Tensor:
        """Leave in ``grad`` what each network's optimizer steps with; the losses at w, (S,)."""
        losses, final = self.gradients(self.weights, images, labels, smoothing, remember=True)
        count = len(self.rhos)
        if count:
            perturbed = self._ascended({name: one[:count] for name, one in final.items()})
            _, second = self.gradients(
                perturbed, images[:count], labels[:count], smoothing, remember=False
            )
            final = {name: torch.cat([second[name], one[count:]]) for name, one in final.items()}
        for name, weight in self.weights.items():
            weight.grad = final[name]
        return losses

    @torch.no_grad()
    def _ascended(self, gradients: Tensors) -> Tensors:
        """Return w + ρ g / ‖g‖₂, the norm being over all weights of a network together."""
        count = len(self.rhos)
        norms = [
            torch.linalg.vector_norm(one.reshape(len(one), -1), dim=1) for one in gradients.values()
        ]
        norm = torch.linalg.vector_norm(torch.stack(norms), dim=0)
        # As in a single SAM step: NaN, not a wrong number, when the norm is infinite.
        scale = self.rhos * (norm.clamp_min(_SMALLEST_NORM).reciprocal() + (norm - norm))
        return {
            name: torch.addcmul(
                self.weights[name][:count], one, scale.view(-1, *[1] * (one.dim() - 1))
            ).requires_grad_()
            for name, one in gradients.items()
        }

    @torch.no_grad()
    def evaluate(self, split: Split) -> tuple[list[float], list[float]]:
        """Loss and accuracy of every network, as ``training.evaluate`` gives them."""
        self.model.eval()
        parts = torch.split(split.images, EVALUATION_BATCH)
        logits = torch.cat([self.logits(self.weights, part, shared=True) for part in parts], dim=1)
        self.model.train()
        losses = [cross_entropy(one, split.labels) for one in logits]
        right = (logits.argmax(dim=2) == split.labels).double().mean(1)
        return torch.stack(losses).tolist(), right.tolist()

    @torch.no_grad()
    def check(self, when: str, recipe: TrainingParams) -> None:
        """Raise DivergenceError or MaskError if a network is not as it has to be."""
        for name, tensor in {**self.weights, **self.buffers}.items():
            finite = tensor.reshape(len(tensor), -1).isfinite().all(1)
            if not finite.all():
                raise divergence(
                    f"{name} {when}", self.members[int((~finite).nonzero()[0])], recipe
                )
        for name, mask in self.masks.items():
            revived = int(self.weights[name][mask == 0].count_nonzero())
            if revived:
                raise MaskError(f"{revived} pruned weights of {name} are not 0")

    def checkpoint(self, index: int) -> Checkpoint:
        """One network, on the CPU."""
        member = self.members[index]
        stacked = {**self.weights, **self.buffers}
        state = {
            name: stacked[self.names[name]][index].detach().to("cpu", copy=True)
            for name in self.model.state_dict()
        }
        return Checkpoint(replace(member.start.origin, arm=member.arm), state, member.start.masks)


def _first_names(model: nn.Module) -> dict[str, str]:
    """Every name of a parameter or buffer, with the first name of the same tensor."""
    first: dict[Tensor, str] = {}
    tensors = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    return {name: first.setdefault(tensor, name) for name, tensor in tensors}


def _stacked_masks(starts: Sequence[Checkpoint]) -> Tensors:
    """1.0 where a weight is kept; the whole of a tensor that only others prune."""
    masks: list[Mapping[str, Tensor]] = [start.masks or {} for start in starts]
    states = [start.state for start in starts]
    return {
        name: torch.stack(
            [
                mask[name].to(state[name].dtype) if name in mask else torch.ones_like(state[name])
                for mask, state in zip(masks, states, strict=True)
            ]
        )
        for name in dict.fromkeys(name for mask in masks for name in mask)
    }


def divergence(what: str, member: Member, recipe: TrainingParams) -> DivergenceError:
    """The error that says which network failed, with what, and what helps."""
    rho = f" and rho {member.rho:g}" if member.rho else ""
    cure = "lr or rho" if member.rho else "lr"
    return DivergenceError(
        f"{member.arm}, seed {member.start.origin.seed}: {what} became infinite or NaN, with lr "
        f"{recipe.lr:g}{rho}. Lower {cure} in params.yaml."
    )
