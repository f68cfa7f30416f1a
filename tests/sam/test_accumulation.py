"""Micro-batches outside the closure are not lost without a word, and ordinary loops go on."""

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from sam_cases import (
    VARIANT_CASES,
    Batch,
    batches,
    closure_of,
    perceptron,
    run,
    same,
    weights,
    with_batchnorm,
)
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from sparse_sam.sam.build import build_sam
from sparse_sam.sam.optimizer import SAM

OPTIONS: dict[str, Any] = {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3}
LOST = r"parameters already hold a gradient .* would be lost"


def lightning(
    model: nn.Module, optimizer: SAM, data: list[Batch], accumulate: int, set_to_none: bool = True
) -> None:
    """The automatic optimization of Lightning.

    Its closure goes forward, zeroes gradients if its micro-batch is the first, and then backward.
    It is called by itself for every micro-batch but the last, and that one's by ``step``.
    """
    for number, (inputs, labels) in enumerate(data):

        def closure(inputs: Tensor = inputs, labels: Tensor = labels, number: int = number) -> Any:
            loss = cross_entropy(model(inputs), labels) / accumulate
            if number % accumulate == 0:
                optimizer.zero_grad(set_to_none)
            loss.backward()
            return loss

        if (number + 1) % accumulate == 0:
            optimizer.step(closure)
        else:
            closure()


def accelerate(model: nn.Module, optimizer: SAM, data: list[Batch], accumulate: int) -> None:
    """``with accelerator.accumulate(model)``: steps and zeroing act at every so many-th batch."""
    for number, (inputs, labels) in enumerate(data):
        synchronises = (number + 1) % accumulate == 0

        def closure(inputs: Tensor = inputs, labels: Tensor = labels) -> Tensor:
            loss = cross_entropy(model(inputs), labels) / accumulate
            loss.backward()
            return loss

        if synchronises:
            optimizer.step(closure)
            optimizer.zero_grad()
        else:
            closure()


Loop = Callable[[nn.Module, SAM, list[Batch], int], None]


@pytest.mark.parametrize(("variant", "own"), VARIANT_CASES)
@pytest.mark.parametrize("loop", [lightning, accelerate])
def test_earlier_micro_batches_are_not_dropped_without_a_word(
    loop: Loop, variant: str, own: dict[str, Any]
) -> None:
    model, data = perceptron(), batches(4)
    optimizer = build_sam(variant, model, SGD, 0.3, settings=own, **OPTIONS)
    before = weights(model)
    with pytest.raises(RuntimeError, match=LOST) as refused:
        loop(model, optimizer, data, 2)
    for cure in ("inside the closure", "first_step and second_step", "zero_grad()"):
        assert cure in str(refused.value)
    # What was accumulated is still there, for who wants to go on with it.
    assert same(weights(model), before)
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("set_to_none", [True, False])
def test_they_are_found_after_a_step_that_left_gradients_too(set_to_none: bool) -> None:
    model, data = perceptron(), batches(4)
    optimizer = SAM(model.parameters(), SGD, **OPTIONS)
    run(model, optimizer, data[:1])
    with pytest.raises(RuntimeError, match=LOST):
        lightning(model, optimizer, data, 2, set_to_none)


def test_what_is_added_to_the_gradients_that_a_step_left_is_found() -> None:
    model, data = perceptron(), batches(2)
    optimizer = SAM(model.parameters(), SGD, **OPTIONS)
    run(model, optimizer, data)
    cross_entropy(model(data[0][0]), data[0][1]).backward()  # adds, in the same tensors
    with pytest.raises(RuntimeError, match=LOST):
        run(model, optimizer, data)


def test_a_parameter_alone_that_has_one_is_enough() -> None:
    model, data = perceptron(), batches(2)
    optimizer = SAM(model.parameters(), SGD, **OPTIONS)
    run(model, optimizer, data)
    model[2].bias.grad = torch.tensor([0.0, 0.0, 0.0, 1e-30])
    with pytest.raises(RuntimeError, match=r"1 of 4 parameters already hold"):
        run(model, optimizer, data)
    optimizer.zero_grad()
    run(model, optimizer, data)


@pytest.mark.parametrize(("variant", "own"), VARIANT_CASES)
def test_loops_without_accumulation_train_as_ever(variant: str, own: dict[str, Any]) -> None:
    data = batches(6)

    def trained(loop: Callable[[nn.Module, SAM], None]) -> list[Tensor]:
        model = with_batchnorm()
        loop(model, build_sam(variant, model, SGD, 0.3, settings=own, **OPTIONS))
        return weights(model)

    def zeroing(model: nn.Module, optimizer: SAM) -> None:
        for batch in data:
            optimizer.zero_grad(set_to_none=False)
            optimizer.step(closure_of(model, optimizer, *batch))

    def resuming(model: nn.Module, optimizer: SAM) -> None:
        for batch in data:
            optimizer.step(closure_of(model, optimizer, *batch))
            optimizer.load_state_dict(optimizer.state_dict())

    def scaled(model: nn.Module, optimizer: SAM) -> None:
        scaler = GradScaler("cpu", enabled=False)
        for batch in data:
            optimizer.step(closure_of(model, optimizer, *batch), scaler=scaler)
            scaler.update()

    expected = trained(lambda model, optimizer: run(model, optimizer, data))
    assert same(trained(lambda model, optimizer: lightning(model, optimizer, data, 1)), expected)
    assert same(trained(lambda model, optimizer: accelerate(model, optimizer, data, 1)), expected)
    for loop in (zeroing, resuming, scaled):
        assert same(trained(loop), expected)


@pytest.mark.parametrize(("variant", "own"), VARIANT_CASES)
def test_a_step_that_the_scaler_skips_leaves_nothing_in_the_way(
    variant: str, own: dict[str, Any]
) -> None:
    model, data = perceptron(), batches(4)
    optimizer = build_sam(variant, model, SGD, 0.3, settings=own, **OPTIONS)
    scaler = GradScaler("cpu", init_scale=8.0)
    before = weights(model)
    for number, (inputs, labels) in enumerate(data):

        def closure(inputs: Tensor = inputs, labels: Tensor = labels, number: int = number) -> Any:
            loss = cross_entropy(model(inputs), labels) * (float("inf") if number == 0 else 1.0)
            scaler.scale(loss).backward()
            return loss

        optimizer.step(closure, scaler=scaler)
        scaler.update()
        assert same(weights(model), before) == (number == 0)
    assert scaler.get_scale() == 4.0


@pytest.mark.parametrize(("variant", "own"), VARIANT_CASES)
def test_the_step_after_a_closure_that_failed_goes_on(variant: str, own: dict[str, Any]) -> None:
    model, (inputs, labels) = perceptron(), batches(1)[0]
    optimizer = build_sam(variant, model, SGD, 0.3, settings=own, **OPTIONS)

    def failing() -> Tensor:
        cross_entropy(model(inputs), labels).backward()
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            optimizer.step(failing)
        assert all(parameter.grad is None for parameter in model.parameters())
    run(model, optimizer, batches(2))


def test_frozen_parameters_and_those_that_join_later_go_on() -> None:
    model, data = perceptron(), batches(6)
    model[2].requires_grad_(False)
    optimizer = SAM(model.parameters(), SGD, **OPTIONS)
    run(model, optimizer, data[:2])
    model[0].requires_grad_(False)  # keeps what the last step left
    model[2].requires_grad_()
    lightning(model, optimizer, data[2:4], 1)
    model[0].requires_grad_()
    lightning(model, optimizer, data[4:], 1)


def test_what_lay_there_before_the_optimizer_is_no_micro_batch() -> None:
    # Lightning fits a model anew without zeroing what the training before left.
    model, data = perceptron(), batches(4)
    run(model, SGD(model.parameters(), **OPTIONS), data)
    optimizer = SAM(model[0].parameters(), SGD, **OPTIONS)
    lightning(model, optimizer, data[:2], 1)
    optimizer.add_param_group({"params": model[2].parameters()})  # gradients of all these closures
    lightning(model, optimizer, data[2:], 1)


def test_the_two_calls_may_be_mixed_with_closures() -> None:
    model, data = perceptron(), batches(3)
    optimizer = SAM(model.parameters(), SGD, **OPTIONS)
    for batch in data:
        closure = closure_of(model, optimizer, *batch)
        closure()
        optimizer.first_step(zero_grad=True)
        closure()
        optimizer.second_step()  # leaves its gradients
        run(model, optimizer, [batch])


def test_the_two_calls_take_micro_batches_in_both_passes() -> None:
    whole, split = perceptron().double(), perceptron().double()
    data = [(inputs.double(), labels) for inputs, labels in batches(4)]
    run(whole, SAM(whole.parameters(), SGD, rho=0.3, **OPTIONS), data)
    optimizer = SAM(split.parameters(), SGD, rho=0.3, **OPTIONS)
    for inputs, labels in data:
        micro = list(zip(inputs.chunk(3), labels.chunk(3), strict=True))
        for step in (optimizer.first_step, optimizer.second_step):
            for x, y in micro:
                (cross_entropy(split(x), y) / 3).backward()
            step(zero_grad=True)
    for one, other in zip(weights(split), weights(whole), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_what_a_step_left_is_not_kept_alive() -> None:
    model = perceptron()
    optimizer = SAM(model.parameters(), SGD, **OPTIONS)
    run(model, optimizer, batches(1))
    left = weakref.ref(model[0].weight.grad)
    assert left() is not None
    model.zero_grad()
    assert left() is None
