"""The way from w to w + ε, and back to exactly the same w."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sparse_sam.pruning import drop_gathered
from sparse_sam.sam import shards, vectors
from sparse_sam.sam.shards import Vector

# ruff: noqa: SLF001 - torch's own optimizers are built of the _foreach functions


_SMALLEST_NORM = 1e-12
_HALF = (torch.float16, torch.bfloat16)


class Ascent(NamedTuple):
    """What one param group does: ``weights`` go along ``directions``, as far as ``rho`` says.

    ``adaptive`` measures the distance relative to the weights' sizes, as ASAM does. A negative
    ``rho`` goes the other way.
    """

    weights: list[Tensor]
    directions: list[Tensor]
    rho: float
    adaptive: bool

    @classmethod
    def along_gradients(cls, group: dict[str, Any], rho: float) -> "Ascent":
        """A group's weights that have a gradient, along it."""
        weights = [p for p in group["params"] if p.grad is not None]
        return cls(weights, [p.grad for p in weights], rho, group["adaptive"])


class Perturbation:
    """Perturbs weights, and restores them bit for bit and in place.

    (w + ε) − ε is not w in floating point, so w is copied. The copies are kept from step to step:
    taking fresh memory costs more than filling it, and at its peak, in the second backward pass,
    a step needs them anyway.

    ``begin`` and ``end`` are to be called where gradients are not recorded.

    Of sharded weights each process moves and copies what it holds. Nothing but the norm is
    communicated, so a process that fails gets back to w by itself.

    Args:
        model: whose weights they are; needed for weights that are sharded.
    """

    def __init__(self, model: nn.Module | None = None) -> None:
        self._model = model
        self._copies: dict[Tensor, Tensor] = {}
        self._away: list[Tensor] = []

    def __getstate__(self) -> dict[str, Any]:
        """For a copy: the way back to w, if the weights are away, and no scratch memory."""
        needed = {weight: self._copies[weight] for weight in self._away}
        return {"_model": self._model, "_copies": needed, "_away": self._away}

    def begin(self, ascents: list[Ascent], eta: float = 0.0) -> Tensor:
        """Move to w + ρ T² d / ‖T d‖₂, for directions d, the norm being over all groups together.

        T is 1, or |w| + η in adaptive groups.

        Returns:
            ‖T d‖₂, a tensor of no dimension.

        Raises:
            RuntimeError: the weights are perturbed already; or a direction is not sharded as its
                weight is.
        """
        if self._away:
            raise RuntimeError(
                "the weights are already perturbed: call second_step() or restore() before the "
                "next first_step()"
            )
        weights = [weight for ascent in ascents for weight in ascent.weights]
        directions = [direction for ascent in ascents for direction in ascent.directions]
        if shards.any_sharded(weights) or shards.any_sharded(directions):
            shards.check_lie_alike(weights, directions)
        sizes = [_sizes(ascent, eta) for ascent in ascents]
        scaled = [
            torch._foreach_mul(shards.local_parts(ascent.directions), size)
            if size
            else ascent.directions
            for ascent, size in zip(ascents, sizes, strict=True)
        ]
        norm = vectors.vector_norm([part for parts in scaled for part in parts], weights)
        self._remember(weights)
        # norm − norm is NaN when the norm is infinite. All weights become NaN then, and with them
        # the gradient of every worker: none takes a step that another does not.
        inverse = norm.clamp_min(_SMALLEST_NORM).reciprocal() + (norm - norm)
        for ascent, size, direction in zip(ascents, sizes, scaled, strict=True):
            if size:
                torch._foreach_mul_(direction, size)
            vectors.add_scaled_(ascent.weights, direction, inverse, ascent.rho)
        return norm

    def end(self) -> None:
        """Return to w; nothing happens when the weights are there."""
        if self._away:
            copies = [self._copies[weight] for weight in self._away]
            torch._foreach_copy_(shards.local_parts(self._away), copies)
            self._forget_stale(self._away)
            self._away = []

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Be at w for a block, and at w + ε again after it."""
        away = self._away
        if not away:
            yield
            return
        with torch.no_grad():
            perturbed = [part.clone() for part in shards.local_parts(away)]
            self.end()
        try:
            yield
        finally:
            with torch.no_grad():
                self._remember(away)
                torch._foreach_copy_(shards.local_parts(away), perturbed)

    def _remember(self, weights: list[Tensor]) -> None:
        parts = shards.local_parts(weights)
        copies = [self._copy_of(*pair) for pair in zip(weights, parts, strict=True)]
        torch._foreach_copy_(copies, parts)
        self._away = weights
        self._forget_stale(weights)

    def _forget_stale(self, weights: list[Tensor]) -> None:
        """Drop what is made of the weights and kept, whatever happens to them: it is stale.

        These are autocast's half-precision copies, kept as long as an autocast block lasts (in a
        block around a whole step, the second pass would use the copies of w instead of w + ε), and
        what layers under ``fully_shard`` have gathered.
        """
        torch.clear_autocast_cache()
        if self._model is not None and shards.any_sharded(weights):
            drop_gathered(self._model)

    def _copy_of(self, key: Tensor, weight: Tensor) -> Tensor:
        """Memory for a copy of ``weight``, the local part of ``key``."""
        copy = self._copies.get(key)
        # A module that is moved or cast keeps its parameters and changes what they hold.
        if (
            copy is None
            or copy.shape != weight.shape
            or copy.dtype != weight.dtype
            or copy.device != weight.device
        ):
            copy = self._copies[key] = torch.empty_like(weight)
        return copy


def _sizes(ascent: Ascent, eta: float) -> Vector:
    """T = |w| + η; empty where T is 1."""
    if not ascent.adaptive:
        return ()
    # In half precision T d would overflow, and T² d be rounded to 0: float32 holds them.
    parts = shards.local_parts(ascent.weights)
    weights = [part.float() if part.dtype in _HALF else part for part in parts]
    sizes = torch._foreach_abs(weights)
    if eta:
        torch._foreach_add_(sizes, eta)
    return sizes
