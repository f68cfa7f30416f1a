"""Masks go to the tensors that they are of: in copies, in resumed runs, after other loads."""

import copy

import pytest
import torch
from torch import nn
from torch.optim import SGD
from torch.optim.swa_utils import AveragedModel

from sparse_sam.errors import MaskError, StaleOptimizerError
from sparse_sam.pruning.masks import plain_parameters
from sparse_sam.pruning.sparsifier import Sparsifier


def nested() -> nn.Module:
    """Its tensor 2.weight is ranked, and 0.2.weight, of the same shape, is ignored."""
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    return nn.Sequential(inner, nn.ReLU(), nn.Linear(8, 8))


def prepared(model: nn.Module) -> Sparsifier:
    sparsifier = Sparsifier(model, 0.5, ignore=["0.*"])
    sparsifier.prepare(SGD(model.parameters(), lr=0.1))
    return sparsifier


@pytest.mark.parametrize("within", ["plain", "average", "compiled", "two wrappers", "a holder"])
@pytest.mark.parametrize("verb", ["hold", "finalize"])
def test_a_copy_has_the_masks_where_the_network_has_them(within: str, verb: str) -> None:
    model = nested()
    sparsifier = prepared(model)
    inputs = torch.randn(4, 8)
    twin = copy.deepcopy(model)
    with torch.no_grad():  # as in an average made over other masks
        twin[2].parametrizations.weight.original.add_(1.0)
    wrap = {
        "plain": lambda one: one,
        "average": AveragedModel,
        "compiled": lambda one: torch.compile(one, backend="eager"),
        "two wrappers": lambda one: AveragedModel(torch.compile(one, backend="eager")),
        "a holder": lambda one: nn.ModuleDict({"net": one, "more": nn.Linear(8, 8)}),
    }
    getattr(sparsifier, verb)(wrapped := wrap[within](twin))
    plain = twin if within not in {"average", "two wrappers"} else wrapped.module
    plain = getattr(plain, "_orig_mod", plain)
    assert plain[0][2].weight.count_nonzero() == 64
    assert torch.equal(plain[2].weight != 0, model[2].weight != 0)
    assert torch.equal(plain[0](inputs), model[0](inputs))


def test_a_copy_of_a_part_or_several_copies_are_refused() -> None:
    model = nested()
    sparsifier = prepared(model)
    with pytest.raises(
        MaskError, match=r"this is not a copy of the pruned network: .* 0\.0\.weight"
    ):
        sparsifier.hold(copy.deepcopy(model[0]))  # it has a 2.weight, too
    with pytest.raises(MaskError, match=r"several copies .* under 0\., 1\.: pass one"):
        sparsifier.hold(nn.ModuleList([copy.deepcopy(model), copy.deepcopy(model)]))


@pytest.mark.parametrize("order", ["prepared first", "loaded first"])
def test_a_resumed_run_has_the_masks_where_they_were(order: str) -> None:
    first = nested()
    saved = {"model": first, "sparsifier": prepared(first)}
    states = {name: copy.deepcopy(one.state_dict()) for name, one in saved.items()}
    again = nested()
    sparsifier = Sparsifier(again, 0.5, ignore=["0.*"])
    if order == "loaded first":
        sparsifier.load_state_dict(states["sparsifier"])
    sparsifier.prepare(SGD(again.parameters(), lr=0.1))
    again.load_state_dict(states["model"])
    if order == "prepared first":
        sparsifier.load_state_dict(states["sparsifier"])
    assert again[0][2].weight.count_nonzero() == 64
    inputs = torch.randn(4, 8)
    assert torch.equal(again(inputs), first(inputs))
    sparsifier.verify()


def test_parameters_that_were_exchanged_are_held_too() -> None:
    model = nested()
    sparsifier = Sparsifier(model, 0.5)
    sparsifier.prepare()
    model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(4, 8)).square().sum().backward()
        optimizer.step()
        weight = plain_parameters(model)["2.weight"]
        with torch.no_grad():  # as an optimizer does that moves weights without a gradient
            weight.add_(1.0)
            optimizer.state[weight]["momentum_buffer"].add_(1.0)
        sparsifier.step(optimizer)
        sparsifier.verify()
        assert int((optimizer.state[weight]["momentum_buffer"] == 0).sum()) == 32


def test_an_optimizer_of_the_exchanged_parameters_is_refused() -> None:
    model = nested()
    sparsifier = prepared(model)
    sparsifier.step()
    model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
    with pytest.raises(StaleOptimizerError, match="holds no parameter of this network"):
        sparsifier.step()
