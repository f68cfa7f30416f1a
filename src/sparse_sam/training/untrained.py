"""No training goes on with a weight that it does not train.

A tensor that the forward pass does not use, whose gradient is taken away, or that something puts
back after every step costs an arm what it would have learnt, and no loss shows it. So an epoch
begins with a copy of the weights, and a tensor is watched until it had a gradient that is not 0
and the network computed with other values of it than at first: for nearly all until their second
step, when the copies go. Those that are still watched at the epoch's end are judged.

Two things are no fault. A gradient can be so small that lr times it is lost in the rounding of
every weight: that of a bias before BatchNorm is rounding only. And masks can cut a tensor off from
the loss, so that its gradient is 0: with other values in place of the pruned weights it has one.
If it has one with other values in place of all weights only, then units died on the way, which is
a kind of divergence.
"""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Literal, TypedDict

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparse_sam.errors import DeadWeightError, FrozenWeightError
from sparse_sam.networks import in_evaluation_mode
from sparse_sam.pruning import attached_masks, plain_parameters
from sparse_sam.sam import MaskProjection

# A gradient is sizeable if a step so many times smaller than lr · gradient would change a weight.
# At a few roundings' size, momentum may well cancel it.
_BEYOND_ROUNDING = 1000
_FEW = 1024
_PROBES, _ENOUGH_STEPS = 8, 3
"""A gradient that every step lacked and every one of so many probes has is taken away; after fewer
steps it may have come with the last of them."""
_CODE = (
    "Check that the forward pass uses each of them without detaching it, and that no hook "
    "removes or replaces its gradient. To keep a tensor fixed on purpose, call "
    "requires_grad_(False) on it. To keep it within bounds, bound the values that the forward "
    "pass computes with, not the parameter."
)
_DEAD = (
    "Units between these tensors and the loss are dead for all images. Lower lr or rho in "
    "params.yaml."
)


class UntrainedTensor(TypedDict):
    """What is known of a tensor that is still watched; flags are bool tensors of no dimension.

    Attributes:
        start: a copy of it as the epoch began.
        reached: whether a step left a gradient.
        graded: whether a gradient was not 0 everywhere.
        moved: whether the network computed with other values than ``start``.
        pulled: whether the last step's gradient was large enough to change it.
        stuck: whether such a step changed nothing.
    """

    start: Tensor
    reached: bool
    graded: Tensor
    moved: Tensor
    pulled: Tensor
    stuck: Tensor


class UntrainedTensors:
    """The tensors of a model that an epoch has yet to train.

    Args:
        model: what is trained; those of its parameters that require a gradient are watched.
        optimizer: over them.
        watched: by plain name, changed in place: empty for an epoch that begins, and what was
            saved of it for one that is gone on with.
    """

    def __init__(
        self, model: nn.Module, optimizer: Optimizer, watched: dict[str, UntrainedTensor]
    ) -> None:
        self._model, self._optimizer, self._watched = model, optimizer, watched
        trained = plain_parameters(model).items()
        self._weights = {
            name: weight for name, weight in trained if weight.requires_grad and weight.numel()
        }
        # The buffers themselves, which shrink in place and are another's while SAM opens masks.
        self._masks: dict[Tensor, Tensor] = {
            one.original: one.mask for one in attached_masks(model)
        }
        self._looks = self._steps = 0
        self._moved_before: dict[str, Tensor] = {}
        for name, one in watched.items():
            watched[name] = _on(self._weights[name].device, one)

    def begin(self) -> None:
        """Watch every tensor, from where it is: an epoch's first step comes next."""
        for name, weight in self._weights.items():
            no = torch.zeros((), dtype=torch.bool, device=weight.device)
            start = weight.detach().clone()
            self._watched[name] = {
                "start": start,
                "reached": False,
                "graded": no,
                "moved": no,
                "pulled": no,
                "stuck": no,
            }

    def begin_again(self) -> None:
        """Weights were put back on purpose: what is still watched has to move from there."""
        self._let_go()
        for name, one in self._watched.items():
            one["start"] = self._weights[name].detach().clone()
            one["moved"] = one["pulled"] = one["stuck"] = torch.zeros_like(one["graded"])

    def beside(self, gradient: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """The closure of a step, with a look at the weights that its first call computes with.

        Both are looked at, the weights before the step and those in it: some variants of SAM
        compute no gradient at the weights themselves, and a hook of the forward pass may write
        to them.
        """
        if not self._watched or not any(one["reached"] for one in self._watched.values()):
            return gradient
        self._moved_before = {name: self._differs(name) for name in self._watched}

        def closure() -> Tensor:
            loss = gradient()
            if self._moved_before:
                self._look()
            return loss

        return closure

    @torch.no_grad()
    def after_step(self) -> None:
        """Take note of the gradients that the optimizer stepped with."""
        self._steps += 1
        if not self._watched:
            return
        groups = self._optimizer.param_groups
        lr = {weight: float(group["lr"]) for group in groups for weight in group["params"]}
        for name, one in self._watched.items():
            weight = self._weights[name]
            gradient = weight.grad
            one["pulled"] = torch.zeros_like(one["pulled"])
            if gradient is None:
                continue
            gradient = gradient.to_dense()
            one["reached"] = True
            little = -lr[weight] / _BEYOND_ROUNDING
            one["graded"] = one["graded"] | _somewhere(_is_not_0, gradient)
            one["pulled"] = _somewhere(partial(_is_moved, by=little), weight, gradient)

    def check(self, epoch: int, loss: Callable[[], Tensor]) -> None:
        """Judge what is still watched, after an epoch's last step.

        Args:
            epoch: which, from 1.
            loss: of some of its images, with the model as it is trained.

        Raises:
            FrozenWeightError: a tensor was not trained.
            DeadWeightError: nor could it be, since the units behind it are dead.
        """
        untrained: dict[str, str] = {}
        without_gradient: dict[str, nn.Parameter] = {}
        for name, one in self._watched.items():
            stuck = one["stuck"] | (one["pulled"] & ~self._differs(name))
            if not one["reached"] or not one["graded"]:
                without_gradient[name] = self._weights[name]
            elif stuck and not one["moved"]:
                untrained[name] = (
                    "it did not change, although its gradient is large enough to move it"
                )
        dead = set()
        if without_gradient:
            taken, at_random = self._as_it_is(loss)
            untrained |= dict.fromkeys(without_gradient.keys() & taken, "its gradient was removed")
            rest = without_gradient.keys() - taken - at_random
            rest -= self._reached(loss, noise="pruned")
            dead = rest & self._reached(loss, noise="all")
            for name in rest - dead:
                reached = self._watched[name]["reached"]
                never = "its gradient was exactly 0 in every step"
                untrained[name] = never if reached else "no step left a gradient"
        if untrained:
            raise FrozenWeightError(self._message(epoch, untrained, _CODE))
        if dead:
            died = dict.fromkeys(dead, "its gradient was exactly 0 in every step")
            raise DeadWeightError(self._message(epoch, died, _DEAD))

    def _look(self) -> None:
        for name, one in self._watched.items():
            moved = self._moved_before[name] & self._differs(name)
            one["moved"] = one["moved"] | moved
            one["stuck"] = one["stuck"] | (one["pulled"] & ~moved)
        self._moved_before = {}
        self._looks += 1
        # Now and then only, since reading makes the host wait for a GPU.
        if self._looks & (self._looks - 1) == 0:
            self._let_go()

    def _let_go(self) -> None:
        """Watch no longer what was trained."""
        for name, one in list(self._watched.items()):
            if one["graded"] & one["moved"]:
                del self._watched[name]

    def _differs(self, name: str) -> Tensor:
        """Whether a weight that is kept is another than at the start."""
        weight, start = self._weights[name].detach(), self._watched[name]["start"]
        if (mask := self._masks.get(self._weights[name])) is not None:
            return _somewhere(_is_another_where_kept, weight, start, mask)
        return _somewhere(torch.ne, weight, start)

    def _as_it_is(self, loss: Callable[[], Tensor]) -> tuple[set[str], set[str]]:
        """What has a gradient that the steps had not: it is taken away, or there at random only.

        Layers that are left out at random (stochastic depth) are in the network's evaluation.
        """
        found = [self._reached(loss, noise="none") for _ in range(_PROBES)]
        always = set.intersection(*found) if self._steps >= _ENOUGH_STEPS else set()
        with in_evaluation_mode(self._model):
            evaluated = self._reached(loss, noise="none")
        return always, evaluated.union(*found) - always

    def _reached(
        self, loss: Callable[[], Tensor], *, noise: Literal["none", "pruned", "all"]
    ) -> set[str]:
        """What has a gradient, with noise for these weights. All stays as it is."""
        model, generator = self._model, torch.Generator().manual_seed(0)
        pruned = {one.original: one.mask == 0 for one in attached_masks(model)}
        parameters = list(model.parameters())
        gradients = [parameter.grad for parameter in parameters]
        changed = [*parameters, *model.buffers()]
        before = [tensor.detach().clone() for tensor in changed]
        try:
            for parameter in parameters:
                parameter.grad = None
                size = max(1, parameter[:1].numel()) ** -0.5 if parameter.dim() > 1 else 1.0
                drawn = size * torch.randn(parameter.shape, generator=generator).to(parameter)
                if noise == "all":
                    parameter.data.copy_(drawn)
                elif noise == "pruned" and parameter in pruned:
                    parameter.data.copy_(torch.where(pruned[parameter], drawn, parameter))
            with nullcontext() if noise == "none" else MaskProjection(model).opened():
                loss().backward()  # type: ignore[no-untyped-call]
            found = {name: weight.grad for name, weight in self._weights.items()}
            return {name for name, g in found.items() if g is not None and g.to_dense().any()}
        finally:
            with torch.no_grad():
                for tensor, old in zip(changed, before, strict=True):
                    tensor.copy_(old)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient

    def _message(self, epoch: int, untrained: dict[str, str], cure: str) -> str:
        names = [name for name in self._weights if name in untrained]
        reasons = "; ".join(f"{name}: {untrained[name]}" for name in names[:3])
        more = f"; and {len(names) - 3} more" if len(names) > 3 else ""
        return (
            f"epoch {epoch} did not train {len(names)} of {len(self._weights)} tensors "
            f"({reasons}{more}). {cure}"
        )


def _somewhere(test: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """Whether an elementwise test is true anywhere.

    On a CPU it is tried on a few rows first, which nearly always settles it.
    """
    rows = 1 + _FEW // max(1, tensors[0][:1].numel()) if tensors[0].dim() else 0
    if rows and tensors[0].device.type == "cpu":
        found = test(*(tensor[:rows] for tensor in tensors)).any()
        if found:
            return found
    return test(*tensors).any()


def _is_not_0(gradient: Tensor) -> Tensor:
    return gradient != 0


def _is_moved(weight: Tensor, gradient: Tensor, by: float) -> Tensor:
    return weight.add(gradient, alpha=by) != weight


def _is_another_where_kept(weight: Tensor, start: Tensor, mask: Tensor) -> Tensor:
    return (weight != start) & (mask != 0)


def _on(device: torch.device, one: UntrainedTensor) -> UntrainedTensor:
    return {
        "start": one["start"].to(device),
        "reached": one["reached"],
        "graded": one["graded"].to(device),
        "moved": one["moved"].to(device),
        "pulled": one["pulled"].to(device),
        "stuck": one["stuck"].to(device),
    }
