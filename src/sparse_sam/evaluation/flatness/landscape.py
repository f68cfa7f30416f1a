"""The loss along random directions through a network, for plots.

Directions are filter-normalised (Li et al. 2018, arXiv:1712.09913, section 4): each filter of a
direction has the norm of the network's filter, so plots of different networks have the same scale.
Biases and normalisation parameters do not move. Directions are 0 on pruned weights.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sparse_sam.data import Split
from sparse_sam.evaluation.flatness.loss import (
    Vector,
    finite,
    loss,
    masks,
    move,
    undisturbed,
    weights,
)
from sparse_sam.training import seconds_of


def filter_normalised_direction(model: nn.Module, seed: int) -> Vector:
    """Return a random direction, one tensor per trainable parameter."""
    generator = torch.Generator().manual_seed(seed)
    direction = []
    for weight, mask in zip(weights(model), masks(model), strict=True):
        drawn = torch.randn(weight.shape, generator=generator).to(weight)
        if weight.dim() < 2:
            direction.append(torch.zeros_like(weight))
            continue
        own, random = (weight.detach() * mask).flatten(1), (drawn * mask).flatten(1)
        lengths = random.norm(dim=1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
        scaled = random / lengths * own.norm(dim=1, keepdim=True)
        direction.append(scaled.view_as(weight))
    return direction


def loss_slice(
    model: nn.Module, split: Split, positions: Sequence[float], seed: int = 0
) -> list[float]:
    """Return L(w + x d) for each x of ``positions``. Raises DivergenceError if not finite."""
    (values,) = _losses(model, split, positions, [0.0], seed).unbind(1)
    return [float(value) for value in values]


def loss_surface(
    model: nn.Module, split: Split, positions: Sequence[float], seed: int = 0
) -> Tensor:
    """Return L(w + x d₁ + y d₂) for each pair of ``positions``: float64, (x, y).

    Raises:
        DivergenceError: a loss is infinite or NaN.
    """
    return _losses(model, split, positions, positions, seed)


def _losses(
    model: nn.Module, split: Split, xs: Sequence[float], ys: Sequence[float], seed: int
) -> Tensor:
    values = torch.empty(len(xs), len(ys), dtype=torch.float64)
    with undisturbed(model), torch.no_grad():
        origin = [weight.detach().clone() for weight in weights(model)]
        across = filter_normalised_direction(model, 2 * seed)
        along = filter_normalised_direction(model, 2 * seed + 1)
        for row, x in enumerate(xs):
            for column, y in enumerate(ys):
                move(model, origin, (x, across), (y, along))
                values[row, column] = finite(loss(model, split), f"the loss at ({x:g}, {y:g})")
    return values


def loss_seconds(model: nn.Module, split: Split) -> float:
    """How long it takes to compute the loss once."""
    with undisturbed(model), torch.no_grad():
        return seconds_of(lambda: loss(model, split))
