"""Weight normalisation divides by the norm of a row: a row keeps a weight, or it is an error."""

import warnings
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.optim import SGD

from sparse_sam.errors import MaskError
from sparse_sam.pruning.masks import attached_masks, masks_of
from sparse_sam.pruning.pruner import Pruner
from sparse_sam.pruning.schedules import Gradual
from sparse_sam.pruning.sparsifier import Sparsifier


def normed(kind: str, dim: int | None = 0) -> nn.Sequential:
    torch.manual_seed(0)
    by: Any = parametrizations.weight_norm if kind == "parametrization" else nn.utils.weight_norm
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        first = by(nn.Linear(16, 64), dim=dim)
    with torch.no_grad():  # in one row, and one column, all weights are among the smallest
        v = [one for name, one in first.named_parameters() if name.endswith(("original1", "_v"))]
        v[0][5] *= 1e-4
        v[0][:, 3] *= 1e-4
    last = nn.Linear(64, 3)
    with torch.no_grad():  # so that no scope takes it whole
        last.weight.mul_(10)
    return nn.Sequential(first, nn.ReLU(), last)


KINDS = ("parametrization", "hook")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dim", [0, 1, None])
@pytest.mark.parametrize("scope", ["layerwise", "global", "erk"])
def test_each_direction_keeps_its_largest_weight(kind: str, dim: int | None, scope: str) -> None:
    model = normed(kind, dim)
    inputs = torch.randn(8, 16)
    direction = next(one for one in Pruner().masks(model, 0.1))
    largest = model.get_parameter(direction).detach().abs()
    schedule = Gradual(initial=0.2, end=0.8, updates=3)
    sparsifier = Sparsifier(model, 0.9, scope=scope, schedule=schedule)
    optimizer = SGD(model.parameters(), lr=1e-6)
    sparsifier.prepare(optimizer, steps=6)
    for _ in range(6):
        optimizer.zero_grad()
        model(inputs).square().sum().backward()
        optimizer.step()
        sparsifier.step()
        sparsifier.verify()
    masks = masks_of(model)
    assert masks is not None
    mask = masks[direction]
    if dim is not None:
        assert mask.any(dim=1 - dim).all()
        kept = largest.argmax(dim=1 - dim, keepdim=True)
        assert mask.gather(1 - dim, kept).all()
    if scope == "layerwise":
        assert int((~mask).sum()) == round(0.9 * mask.numel())
    assert sum(int((~one).sum()) for one in masks.values()) == pytest.approx(0.9 * 1216, abs=1)
    sparsifier.finalize()
    assert not attached_masks(model)
    assert model(inputs).isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scope", ["layerwise", "global"])
def test_a_sparsity_that_leaves_a_row_empty_names_the_tensor(kind: str, scope: str) -> None:
    model = normed(kind)
    name = "0.parametrizations.weight.original1" if kind == "parametrization" else "0.weight_v"
    with pytest.raises(
        MaskError, match=rf"an output of {name} without weights, .* at most [0-9]+ \("
    ):
        Pruner(scope=scope).masks(model, 0.96)
    Pruner().masks(model, 0.9375, overrides={"2.weight": 0.5})  # one weight a row
    assert not attached_masks(model)
