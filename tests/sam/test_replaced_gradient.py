"""A step without a closure: passes of the loop's own, ``replace_gradient``, ``step()``."""

from typing import Any

import pytest
import torch
from sam_cases import (
    BASES,
    VARIANT_CASES,
    batches,
    closure_of,
    flat,
    perceptron,
    run,
    same,
    weights,
    with_batchnorm,
)
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD
from torch.optim.optimizer import Optimizer

from sparse_sam.sam.build import build_sam
from sparse_sam.sam.optimizer import SAM

RHO, CLIP = 0.3, 0.1


def loss_of(model: nn.Module, inputs: Tensor, labels: Tensor) -> None:
    cross_entropy(model(inputs), labels).backward()


def replaced(model: nn.Module, optimizer: SAM, inputs: Tensor, labels: Tensor) -> None:
    """The first two parts of a step."""
    optimizer.zero_grad()
    with optimizer.first_pass():
        loss_of(model, inputs, labels)
    optimizer.replace_gradient(lambda: loss_of(model, inputs, labels))


@pytest.mark.parametrize(("variant", "own"), VARIANT_CASES)
@pytest.mark.parametrize(("base", "settings"), BASES)
def test_the_step_is_that_of_the_closure(
    variant: str, own: dict[str, Any], base: type[Optimizer], settings: dict[str, Any]
) -> None:
    one, other = perceptron(), perceptron()
    closed = build_sam(variant, one, base, RHO, settings=own, **settings)
    parted = build_sam(variant, other, base, RHO, settings=own, **settings)
    run(one, closed, batches(7))
    for inputs, labels in batches(7):
        replaced(other, parted, inputs, labels)
        parted.step()
    assert same(weights(one), weights(other))


def test_clipping_between_the_two_bounds_the_gradient_that_moves_the_weights() -> None:
    one, other = with_batchnorm(), with_batchnorm()
    options: dict[str, Any] = {"lr": 0.1, "momentum": 0.9}
    run(one, SAM(one.parameters(), SGD, RHO, model=one, max_grad_norm=CLIP, **options), batches(5))
    optimizer = SAM(other.parameters(), SGD, RHO, model=other, **options)
    for inputs, labels in batches(5):
        replaced(other, optimizer, inputs, labels)
        clip_grad_norm_(other.parameters(), CLIP)
        optimizer.step()
    assert same(weights(one), weights(other))
    assert one[1].running_mean.equal(other[1].running_mean)


@pytest.mark.parametrize("variant", ["sam", "gsam", "looksam"])
@pytest.mark.parametrize("scale", [2.0**10, 2.0**127])
def test_a_scaler_unscales_what_was_replaced(variant: str, scale: float) -> None:
    """As frameworks do: unscaled before clipping, and stepped by the scaler without a closure."""
    one, other = perceptron(), perceptron()
    scalers = [torch.amp.GradScaler("cpu", init_scale=scale) for _ in range(2)]
    closed = build_sam(variant, one, SGD, RHO, lr=0.1)
    parted = build_sam(variant, other, SGD, RHO, lr=0.1)
    start = flat(weights(one))
    for inputs, labels in batches(4):

        def closure(inputs: Tensor = inputs, labels: Tensor = labels) -> None:
            scalers[0].scale(cross_entropy(one(inputs), labels)).backward()

        def backward(inputs: Tensor = inputs, labels: Tensor = labels) -> None:
            scalers[1].scale(cross_entropy(other(inputs), labels)).backward()

        closed.step(closure, scaler=scalers[0])
        scalers[0].update()
        parted.zero_grad()
        backward()
        parted.replace_gradient(backward)
        scalers[1].unscale_(parted)
        clip_grad_norm_(other.parameters(), 1e9)
        scalers[1].step(parted)
        scalers[1].update()
        assert scalers[0].get_scale() == scalers[1].get_scale()
    assert same(weights(one), weights(other))
    assert (scalers[0].get_scale() < scale) == (scale > 2.0**100)  # overflows, which are skipped
    assert float((flat(weights(other)) - start).norm()) > 0 or scale > 2.0**100


def test_a_closure_of_a_framework_is_called_once() -> None:
    model, calls = perceptron(), []
    optimizer = SAM(model.parameters(), SGD, RHO, lr=0.1)
    ((inputs, labels),) = batches(1)
    replaced(model, optimizer, inputs, labels)
    assert optimizer.step(lambda: calls.append(1) or 7.0) == 7.0
    assert calls == [1]


def test_the_weights_are_w_after_it_and_ones_own_gradients_are_not_taken_for_it() -> None:
    model = perceptron()
    before = weights(model)
    optimizer = SAM(model.parameters(), SGD, RHO, lr=0.1)
    ((inputs, labels),) = batches(1)
    replaced(model, optimizer, inputs, labels)
    assert same(weights(model), before)
    optimizer.zero_grad()  # it is given up, as a scaler does that skips a step
    with pytest.raises(ValueError, match="needs a closure"):
        optimizer.step()
    replaced(model, optimizer, inputs, labels)
    optimizer.zero_grad()
    loss_of(model, inputs, labels)
    with pytest.raises(RuntimeError, match=r"sparse_sam\.frameworks"):
        optimizer.step(closure_of(model, optimizer, inputs, labels))
    assert same(weights(model), before)


def test_one_replaced_gradient_makes_one_step() -> None:
    model = perceptron()
    optimizer = SAM(model.parameters(), SGD, RHO, lr=0.1)
    ((inputs, labels),) = batches(1)
    replaced(model, optimizer, inputs, labels)
    optimizer.step()
    with pytest.raises(ValueError, match="needs a closure"):
        optimizer.step()


def test_a_second_pass_that_fails_leaves_w_and_no_gradients() -> None:
    model = perceptron()
    before = weights(model)
    optimizer = SAM(model.parameters(), SGD, RHO, lr=0.1)
    ((inputs, labels),) = batches(1)
    loss_of(model, inputs, labels)

    def fails() -> None:
        loss_of(model, inputs, labels)
        raise MemoryError

    with pytest.raises(MemoryError):
        optimizer.replace_gradient(fails)
    assert same(weights(model), before)
    assert all(parameter.grad is None for parameter in model.parameters())
    with pytest.raises(ValueError, match="needs a closure"):
        optimizer.step()


def test_a_step_that_does_not_ascend_makes_no_second_pass() -> None:
    model, calls = perceptron(), []
    optimizer = SAM(model.parameters(), SGD, 0.0, lr=0.1)
    other = perceptron()
    ((inputs, labels),) = batches(1)
    loss_of(model, inputs, labels)
    optimizer.replace_gradient(lambda: calls.append(1))
    optimizer.step()
    loss_of(other, inputs, labels)
    SGD(other.parameters(), lr=0.1).step()
    assert not calls
    assert same(weights(model), weights(other))


@pytest.mark.parametrize(("variant", "own"), VARIANT_CASES)
@pytest.mark.parametrize("rho", [0.0, RHO])
def test_passes_that_leave_no_gradient_are_told_and_nothing_changes(
    variant: str, own: dict[str, Any], rho: float
) -> None:
    model, ((inputs, labels),) = perceptron(), batches(1)
    at_once = own | {"after": 0} if variant == "late" else own
    optimizer = build_sam(variant, model, SGD, rho, settings=at_once, lr=0.1, momentum=0.9)
    before = weights(model)
    with pytest.raises(RuntimeError, match="left no gradient"):
        optimizer.replace_gradient(lambda: None)
    if rho:
        loss_of(model, inputs, labels)
        with pytest.raises(RuntimeError, match="at w \\+ ε left no gradient"):
            optimizer.replace_gradient(lambda: cross_entropy(model(inputs), labels))
    assert same(weights(model), before)
    assert not any(optimizer.state.values())
    with pytest.raises(ValueError, match="needs a closure"):
        optimizer.step()
