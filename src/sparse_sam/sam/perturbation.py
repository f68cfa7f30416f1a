"""The way from w to w + ε, and back to exactly the same w."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparse_sam.sam import vectors
from sparse_sam.sam.vectors import Vector

# ruff: noqa: SLF001 - torch's own optimizers are built of the _foreach functions


_SMALLEST_NORM = 1e-12


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
    """

    def __init__(self) -> None:
        self._copies: dict[Tensor, Tensor] = {}
        self._away: list[Tensor] = []

    def begin(self, ascents: list[Ascent], eta: float = 0.0) -> Tensor:
        """Move to w + ρ T² d / ‖T d‖₂, for directions d, the norm being over all groups together.

        T is 1, or |w| + η in adaptive groups.

        Returns:
            ‖T d‖₂, a tensor of no dimension.

        Raises:
            RuntimeError: the weights are perturbed already.
        """
        if self._away:
            raise RuntimeError(
                "the weights are perturbed already: call second_step() or restore() before the "
                "next first_step()"
            )
        sizes = [_sizes(ascent, eta) for ascent in ascents]
        scaled = [
            torch._foreach_mul(ascent.directions, size) if size else ascent.directions
            for ascent, size in zip(ascents, sizes, strict=True)
        ]
        norm = vectors.vector_norm([part for parts in scaled for part in parts])
        self._remember([weight for ascent in ascents for weight in ascent.weights])
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
            torch._foreach_copy_(self._away, [self._copies[weight] for weight in self._away])
            self._away = []
            _forget_casts()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Be at w for a block, and at w + ε again after it."""
        away = self._away
        if not away:
            yield
            return
        with torch.no_grad():
            perturbed = [weight.clone() for weight in away]
            self.end()
        try:
            yield
        finally:
            with torch.no_grad():
                self._remember(away)
                torch._foreach_copy_(away, perturbed)

    def _remember(self, weights: list[Tensor]) -> None:
        torch._foreach_copy_([self._copy_of(weight) for weight in weights], weights)
        self._away = weights
        _forget_casts()

    def _copy_of(self, weight: Tensor) -> Tensor:
        copy = self._copies.get(weight)
        # A module that is moved or cast keeps its parameters and changes what they hold.
        if (
            copy is None
            or copy.shape != weight.shape
            or copy.dtype != weight.dtype
            or copy.device != weight.device
        ):
            copy = self._copies[weight] = torch.empty_like(weight)
        return copy


def _sizes(ascent: Ascent, eta: float) -> Vector:
    """T = |w| + η; empty where T is 1."""
    if not ascent.adaptive:
        return ()
    sizes = torch._foreach_abs(ascent.weights)
    if eta:
        torch._foreach_add_(sizes, eta)
    return sizes


def _forget_casts() -> None:
    """Drop autocast's half-precision copies of the weights.

    They are kept as long as an autocast block lasts, whatever happens to the weights meanwhile: in
    a block around a whole step, the second pass would use the copies of w instead of w + ε.
    """
    torch.clear_autocast_cache()
