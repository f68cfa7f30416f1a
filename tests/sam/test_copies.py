"""A deep copy of an optimizer, alone or with its model, is another one and trains on."""

import copy
import io
from typing import Any

import pytest
import torch
from sam_cases import (
    VARIANT_CASES,
    batches,
    closure_of,
    perceptron,
    run,
    same,
    weights,
    with_batchnorm,
)
from torch import nn
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.optim.optimizer import Optimizer

from sparse_sam.pruning.magnitude import magnitude_masks
from sparse_sam.pruning.masks import attach, check_pruned_weights_are_zero
from sparse_sam.sam.build import build_sam
from sparse_sam.sam.optimizer import SAM

DATA = batches(9)
BASES: list[tuple[type[Optimizer], dict[str, Any]]] = [
    (SGD, {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3}),
    (AdamW, {"lr": 1e-3}),
]


def masked() -> nn.Sequential:
    model = with_batchnorm()
    attach(model, magnitude_masks(model, 0.5))
    return model


def check_is_another(model: nn.Module, optimizer: SAM, twin: nn.Module, other: SAM) -> None:
    """Nothing of the copy is the original's, and its parts belong together."""
    mine, theirs = list(model.parameters()), list(twin.parameters())
    held = [p for group in other.param_groups for p in group["params"]]
    assert all(a is b for a, b in zip(theirs, held, strict=True))
    assert not {id(p) for p in mine} & {id(p) for p in theirs}
    assert other.model is twin
    assert other.param_groups is other.base_optimizer.param_groups
    assert other.state is other.base_optimizer.state
    assert set(other.state) <= set(theirs)
    storages = {t.data_ptr() for s in optimizer.state.values() for t in s.values()}
    assert not storages & {t.data_ptr() for s in other.state.values() for t in s.values()}


# torch says so of a copied scheduler, with every optimizer: it looks for the step it has put there.
@pytest.mark.filterwarnings("ignore:Seems like `optimizer.step:UserWarning")
@pytest.mark.parametrize("steps", [0, 2, 4])
@pytest.mark.parametrize(("base", "options"), BASES, ids=["sgd", "adamw"])
@pytest.mark.parametrize(("variant", "own"), VARIANT_CASES)
def test_a_copy_trains_on_to_the_same_bits(
    variant: str, own: dict[str, Any], base: type[Optimizer], options: dict[str, Any], steps: int
) -> None:
    model = masked()
    optimizer = build_sam(variant, model, base, 0.1, settings=own, **options)
    # A scheduler puts a step of its own into the optimizer, bound to that one.
    schedule = CosineAnnealingLR(optimizer, T_max=9)
    for batch in DATA[:steps]:
        run(model, optimizer, [batch])
        schedule.step()
    before = weights(model)
    twin, other, its = copy.deepcopy((model, optimizer, schedule))
    check_is_another(model, optimizer, twin, other)
    for batch in DATA[steps:]:
        run(twin, other, [batch])
        its.step()
        check_pruned_weights_are_zero(twin)
    assert same(weights(model), before)
    for batch in DATA[steps:]:
        run(model, optimizer, [batch])
        schedule.step()
    assert not same(weights(model), before)
    assert same(weights(model), weights(twin))


def test_a_copy_of_the_optimizer_alone_has_parameters_of_its_own() -> None:
    model = masked()
    optimizer = build_sam("sam", model, SGD, 0.1, lr=0.05, momentum=0.9)
    run(model, optimizer, DATA[:2])
    other = copy.deepcopy(optimizer)
    assert isinstance(other.model, nn.Module)
    check_is_another(model, optimizer, other.model, other)
    run(model, optimizer, DATA[2:])
    run(other.model, other, DATA[2:])
    assert same(weights(model), weights(other.model))


def test_masks_that_were_given_are_those_of_the_copys_parameters() -> None:
    model = perceptron()
    masks = magnitude_masks(model, 0.5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in masks:
                parameter.mul_(masks[name])
    optimizer = SAM(model.parameters(), SGD, 0.1, model=model, masks=masks, lr=0.05, momentum=0.9)
    run(model, optimizer, DATA[:2])
    twin, other = copy.deepcopy((model, optimizer))
    run(twin, other, DATA[2:])
    for name, parameter in twin.named_parameters():
        if name in masks:
            assert not parameter[~masks[name]].any()
    run(model, optimizer, DATA[2:])
    assert same(weights(model), weights(twin))


@pytest.mark.parametrize(("variant", "own"), VARIANT_CASES)
def test_a_copy_between_the_two_passes_finds_its_way_back(
    variant: str, own: dict[str, Any]
) -> None:
    model = perceptron()
    optimizer = build_sam(variant, model, SGD, 0.5, settings=own, lr=0.05, momentum=0.9)
    run(model, optimizer, DATA[: 3 * (variant in {"momentum", "late"})])  # others ascend at once
    before = weights(model)
    closure_of(model, optimizer, *DATA[5])()
    optimizer.first_step(zero_grad=True)
    twin, other = copy.deepcopy((model, optimizer))
    assert same(weights(twin), weights(model))
    assert not same(weights(twin), before)
    for one, its in ((model, optimizer), (twin, other)):
        closure_of(one, its, *DATA[5])()
        its.second_step(zero_grad=True)
    assert same(weights(twin), weights(model))
    again = weights(twin)
    closure_of(twin, other, *DATA[6])()
    other.first_step()
    other.restore()
    assert same(weights(twin), again)


@pytest.mark.parametrize(("variant", "own"), VARIANT_CASES)
def test_an_optimizer_survives_the_disk_whole(variant: str, own: dict[str, Any]) -> None:
    model = perceptron()  # torch does not pickle networks with masks of ``attach``
    optimizer = build_sam(variant, model, SGD, 0.1, settings=own, lr=0.05, momentum=0.9)
    CosineAnnealingLR(optimizer, T_max=9)
    run(model, optimizer, DATA[:2])
    file = io.BytesIO()
    torch.save(optimizer, file)
    file.seek(0)
    other = torch.load(file, weights_only=False)
    assert isinstance(other.model, nn.Module)
    run(model, optimizer, DATA[2:])
    run(other.model, other, DATA[2:])
    assert same(weights(model), weights(other.model))
