"""Measure what SAM minimises: how much the loss rises within a distance ρ."""

from dataclasses import dataclass

import torch
from torch import nn

from sparse_sam.data import Split
from sparse_sam.evaluation.flatness.loss import (
    Vector,
    finite,
    gradient,
    loss,
    move,
    norm,
    undisturbed,
    weights,
)


@dataclass(frozen=True)
class Sharpness:
    """max over ‖ε‖₂ ≤ ρ of L(w + ε) − L(w), as found by an ascent of ``steps`` steps."""

    rho: float
    steps: int
    value: float


def sharpness(model: nn.Module, split: Split, rho: float, steps: int = 1) -> Sharpness:
    """Measure sharpness (Foret et al. 2021, arXiv:2010.01412, equation 1), ε = 0 on pruned weights.

    With one step, ε is that of SAM, ρ ∇L / ‖∇L‖₂. With more, projected gradient ascent continues
    from there, with length ρ / n in the n-th step, and the largest rise counts. Both are lower
    bounds of the true maximum, and close to it if the loss is nearly quadratic.

    Args:
        model: a network, dense or with masks; it is not changed.
        split: images to measure on, of the training part, on the model's device.
        rho: the radius, above 0.
        steps: the number of gradients to compute, at least 1.

    Raises:
        ValueError: ``rho`` or ``steps`` is out of range.
        DivergenceError: a loss or a gradient on the way is infinite or NaN.
    """
    return ascent(model, split, rho, steps)[-1]


def ascent(model: nn.Module, split: Split, rho: float, steps: int) -> list[Sharpness]:
    """The one ascent of ``sharpness``, with what it had found after 1, 2, ... ``steps`` gradients.

    Takes and raises what ``sharpness`` does.
    """
    if not rho > 0 or steps < 1:
        raise ValueError(f"rho = {rho}, steps = {steps}: rho must be above 0, steps at least 1")
    with undisturbed(model):
        origin = [weight.detach().clone() for weight in weights(model)]
        offset: Vector = [torch.zeros_like(weight) for weight in origin]
        with torch.no_grad():
            base = finite(loss(model, split), "the loss")
        rises = [0.0]
        for step in range(steps):
            direction = gradient(model, split)
            length = norm(direction)
            finite(length, f"the length of the gradient at step {step + 1} of {steps}")
            if not float(length) > 0:  # nowhere to climb
                rises += rises[-1:] * (steps - step)
                break
            torch._foreach_add_(offset, direction, alpha=float(rho / (step + 1) / length))
            torch._foreach_mul_(offset, float((rho / norm(offset)).clamp(max=1.0)))
            move(model, origin, (1.0, offset))
            with torch.no_grad():
                there = finite(loss(model, split), f"the loss at a distance of {rho:g}")
                rises.append(max(rises[-1], there - base))
    return [Sharpness(rho, step, rise) for step, rise in enumerate(rises[1:], start=1)]
