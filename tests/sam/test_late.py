"""SAM that begins late: the base optimizer's bits before, and SAM's from there on."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sam_cases import (
    BASES,
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
from torch.optim import SGD, Optimizer

from sparse_sam.errors import ConfigError, DivergenceError
from sparse_sam.pruning.magnitude import magnitude_masks
from sparse_sam.pruning.masks import attach, check_pruned_weights_are_zero
from sparse_sam.sam.build import build_sam
from sparse_sam.sam.late import LateSAM
from sparse_sam.sam.optimizer import SAM

STEPS, RHO = 7, 0.3
MOMENTUM: dict[str, Any] = {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3}


def network(masked: bool) -> nn.Sequential:
    model = with_batchnorm()
    if masked:
        attach(model, magnitude_masks(model, 0.6))
    return model


def everything(model: nn.Module, optimizer: Optimizer) -> list[Tensor]:
    """Weights, buffers, and what the base optimizer remembers."""
    state = [optimizer.state[one] for one in model.parameters()]
    remembered = [one for of in state for one in of.values() if isinstance(one, Tensor)]
    return [one.clone() for one in [*model.state_dict().values(), *remembered]]


def step_by_hand(model: nn.Module, sam: LateSAM, batch: Batch) -> None:
    """The two calls, with both backward passes in every step, as its loops make them."""
    closure = closure_of(model, sam, *batch)
    with sam.first_pass():
        closure()
    sam.first_step(zero_grad=True)
    with sam.second_pass():
        closure()
    sam.second_step(zero_grad=True)


def step_with_replaced(model: nn.Module, sam: LateSAM, batch: Batch) -> None:
    closure = closure_of(model, sam, *batch)
    closure()
    sam.replace_gradient(closure)
    sam.step()


def step_by_closure(model: nn.Module, sam: LateSAM, batch: Batch) -> None:
    sam.step(closure_of(model, sam, *batch))


@settings(max_examples=60)
@given(
    after=st.integers(0, STEPS + 1),
    base=st.sampled_from(BASES),
    masked=st.booleans(),
    take=st.sampled_from([step_by_closure, step_with_replaced]),
)
def test_it_is_the_base_optimizer_and_then_a_sam_made_around_it(
    after: int,
    base: tuple[type[Optimizer], dict[str, Any]],
    masked: bool,
    take: Callable[[nn.Module, LateSAM, Batch], None],
) -> None:
    (kind, options), data = base, batches(STEPS)
    ours, theirs = network(masked), network(masked)
    late = LateSAM(ours.parameters(), kind, RHO, after=after, model=ours, **options)
    plain = kind(theirs.parameters(), **options)
    seen = []
    for batch in data:
        take(ours, late, batch)
        seen.append(everything(ours, late))
        check_pruned_weights_are_zero(ours)
    for step, batch in enumerate(data):
        if step < after:
            run(theirs, plain, [batch])
        else:
            if step == after:
                sam = SAM(theirs.parameters(), plain, RHO, model=theirs)
            run(theirs, sam, [batch])
        assert same(everything(theirs, plain), seen[step]), step


def test_by_hand_too() -> None:
    # (The second pass of a step that does not ascend leaves BatchNorm's statistics alone.)
    one, other = network(masked=True), network(masked=True)
    by_hand, by_closure = (
        LateSAM(model.parameters(), SGD, RHO, after=2, model=model, **MOMENTUM)
        for model in (one, other)
    )
    for batch in batches(5):
        step_by_hand(one, by_hand, batch)
        step_by_closure(other, by_closure, batch)
        assert same(everything(one, by_hand), everything(other, by_closure))


@pytest.mark.parametrize("stop", range(STEPS + 1))
def test_a_state_dict_holds_on_which_side_of_the_switch_it_was_taken(stop: int) -> None:
    data, after = batches(STEPS), 3

    def begin() -> tuple[nn.Module, LateSAM]:
        model = perceptron()
        return model, LateSAM(model.parameters(), SGD, RHO, after=after, **MOMENTUM)

    whole, optimizer = begin()
    run(whole, optimizer, data)
    first, its = begin()
    run(first, its, data[:stop])
    saved = copy.deepcopy((first.state_dict(), its.state_dict()))
    assert all(one["sam_all_steps"] == stop for one in saved[1]["state"].values())
    second, resumed = begin()
    second.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    assert (resumed.steps, resumed.ascends) == (stop, stop >= after)
    run(second, resumed, data[stop:])
    assert same(everything(second, resumed), everything(whole, optimizer))


def test_the_state_of_the_base_optimizer_alone_begins_afresh() -> None:
    model = perceptron()
    base = SGD(model.parameters(), **MOMENTUM)
    run(model, base, batches(3))
    late = LateSAM(model.parameters(), SGD, RHO, after=2, **MOMENTUM)
    run(model, late, batches(2))
    assert late.ascends
    late.load_state_dict(base.state_dict())
    assert (late.steps, late.ascends) == (0, False)


def test_a_skipped_step_counts_and_one_that_raises_does_not() -> None:
    (inputs, labels), *rest = batches(3)
    spoiled = torch.full_like(inputs, torch.inf)
    for nonfinite, counted in (("skip", 1), ("raise", 0)):
        model = perceptron()
        late = LateSAM(model.parameters(), SGD, RHO, after=1, nonfinite=nonfinite, **MOMENTUM)
        before = weights(model)
        if nonfinite == "raise":
            with pytest.raises(DivergenceError):
                late.step(closure_of(model, late, spoiled, labels))
        else:
            late.step(closure_of(model, late, spoiled, labels))
        assert same(weights(model), before)
        assert (late.steps, late.ascends) == (counted, bool(counted))
        run(model, late, rest)
        assert late.steps == counted + 2

    model = perceptron()
    late = LateSAM(model.parameters(), SGD, RHO, after=1, **MOMENTUM)
    scaler, calls = GradScaler("cpu", init_scale=1024.0), []

    def closure(inputs: Tensor = inputs) -> Tensor:
        calls.append(1)
        loss = cross_entropy(model(inputs), labels)
        scaler.scale(loss).backward()
        return loss

    before = weights(model)
    late.step(lambda: closure(spoiled), scaler=scaler)
    scaler.update()
    assert same(weights(model), before)
    assert (late.steps, len(calls), scaler.get_scale()) == (1, 1, 512.0)
    late.step(closure, scaler=scaler)
    assert (late.steps, len(calls)) == (2, 3)
    assert not same(weights(model), before)


def test_a_step_that_fails_does_not_count() -> None:
    model, (batch,) = perceptron(), batches(1)
    late = LateSAM(model.parameters(), SGD, RHO, after=1, **MOMENTUM)

    def failing() -> Tensor:
        raise KeyboardInterrupt

    for steps in (0, 1):
        with pytest.raises(KeyboardInterrupt):
            late.step(failing)
        assert late.steps == steps
        run(model, late, [batch])


def test_without_a_number_of_steps_it_is_not_made() -> None:
    with pytest.raises(TypeError, match="after"):
        LateSAM(perceptron().parameters(), SGD, lr=0.1)  # type: ignore[call-arg]
    for missing in ({}, {"after": None}):
        with pytest.raises(ConfigError, match="after is missing"):
            build_sam("late", perceptron(), SGD, lr=0.1, settings=missing)
