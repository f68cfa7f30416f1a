"""Mixed precision, clipping, accumulation, and gradients that are not finite."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sam_cases import (
    VARIANT_CASES,
    batches,
    bits,
    closure_of,
    flat,
    perceptron,
    relative_distance,
    run,
    same,
    weights,
    with_batchnorm,
)
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD, AdamW

from sparse_sam.errors import DivergenceError
from sparse_sam.sam.build import build_sam
from sparse_sam.sam.optimizer import SAM

MOMENTUM: dict[str, Any] = {"lr": 0.05, "momentum": 0.9}


def scaled_closure(
    model: nn.Module, scaler: GradScaler, inputs: Tensor, labels: Tensor
) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        loss = cross_entropy(model(inputs), labels)
        scaler.scale(loss).backward()
        return loss

    return closure


def poisoned(closure: Callable[[], Tensor], model: nn.Module, call: int, bad: float) -> Any:
    """A closure whose ``call``-th gradient has one bad value."""
    calls = 0

    def poisoning() -> Tensor:
        nonlocal calls
        calls += 1
        loss = closure()
        if calls == call:
            gradient = model[2].weight.grad
            assert gradient is not None
            gradient[0, 0] = bad
        return loss

    return poisoning


@pytest.mark.parametrize(("variant", "own"), VARIANT_CASES)
def test_a_scaler_changes_nothing_but_rounding(variant: str, own: dict[str, Any]) -> None:
    plain, mixed = perceptron().double(), perceptron().double()
    data = [(inputs.double(), labels) for inputs, labels in batches(8)]
    options: dict[str, Any] = {"settings": own, "max_grad_norm": 0.2, **MOMENTUM}
    run(plain, build_sam(variant, plain, SGD, 0.2, **options), data)
    optimizer = build_sam(variant, mixed, SGD, 0.2, **options)
    # The scale grows on the way, so that what is kept from step to step meets another scale.
    scaler = GradScaler("cpu", init_scale=8.0, growth_interval=2)
    for batch in data:
        optimizer.step(scaled_closure(mixed, scaler, *batch), scaler=scaler)
        scaler.update()
    assert scaler.get_scale() > 8.0
    assert relative_distance(mixed, plain) < 1e-6


def test_two_passes_with_a_scaler() -> None:
    one, two = perceptron(), perceptron()
    scalers = [GradScaler("cpu", init_scale=64.0) for _ in range(2)]
    first, second = (SAM(model.parameters(), SGD, rho=0.2, lr=0.1) for model in (one, two))
    for batch in batches(3):
        first.step(scaled_closure(one, scalers[0], *batch), scaler=scalers[0])
        scalers[0].update()
        closure = scaled_closure(two, scalers[1], *batch)
        closure()
        second.first_step(zero_grad=True)
        closure()
        second.second_step(zero_grad=True, scaler=scalers[1])
        scalers[1].update()
    assert same(weights(one), weights(two))


@pytest.mark.parametrize(
    ("variant", "own", "call"),
    # Momentum SAM has one pass only.
    [
        (*case, call)
        for case in VARIANT_CASES
        for call in (1, 2)
        if (case[0], call) != ("momentum", 2)
    ],
)
@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
@pytest.mark.parametrize("base", [SGD, AdamW])
def test_an_overflow_in_either_pass_skips_the_step_and_tells_the_scaler(
    variant: str, own: dict[str, Any], call: int, bad: float, base: Any
) -> None:
    model = perceptron()
    options = MOMENTUM if base is SGD else {"lr": 1e-3}
    optimizer = build_sam(variant, model, base, 0.2, settings=own, **options)
    scaler = GradScaler("cpu", init_scale=1024.0)
    for batch in batches(3):  # after three steps those with k = 3 ascend again
        optimizer.step(scaled_closure(model, scaler, *batch), scaler=scaler)
        scaler.update()
    before, scale = weights(model), scaler.get_scale()
    buffers = [t.clone() for p in model.parameters() for t in optimizer.state[p].values()]
    closure = scaled_closure(model, scaler, *batches(1)[0])
    optimizer.step(poisoned(closure, model, call, bad), scaler=scaler)
    scaler.update()
    assert same(weights(model), before)
    assert same([t for p in model.parameters() for t in optimizer.state[p].values()], buffers)
    assert scaler.get_scale() == scale / 2
    for batch in batches(4):  # nothing of it is left
        optimizer.step(scaled_closure(model, scaler, *batch), scaler=scaler)
        scaler.update()
    assert flat(weights(model)).isfinite().all()
    assert not same(weights(model), before)


def test_a_real_overflow_of_the_scaled_loss() -> None:
    model = perceptron()
    sam = SAM(model.parameters(), SGD, rho=0.2, lr=0.1)
    scaler = GradScaler("cpu", init_scale=2.0**127)
    before, skipped = weights(model), 0
    for batch in batches(80):
        scale = scaler.get_scale()
        sam.step(scaled_closure(model, scaler, *batch), scaler=scaler)
        scaler.update()
        if scaler.get_scale() < scale:
            skipped += 1
            assert same(weights(model), before)
    assert 0 < skipped < 80
    assert not same(weights(model), before)


def test_a_scaler_that_is_switched_off_is_not_there() -> None:
    one, two = perceptron(), perceptron()
    scaler = GradScaler("cpu", enabled=False)
    run(one, SAM(one.parameters(), SGD, lr=0.1), batches(3))
    sam = SAM(two.parameters(), SGD, lr=0.1)
    for batch in batches(3):
        sam.step(scaled_closure(two, scaler, *batch), scaler=scaler)
        scaler.update()
    assert same(weights(one), weights(two))


@settings(max_examples=40)
@given(
    case=st.sampled_from(VARIANT_CASES),
    call=st.sampled_from([1, 2]),
    bad=st.sampled_from([float("inf"), float("-inf"), float("nan")]),
    clip=st.sampled_from([None, 0.1]),
)
def test_a_step_that_is_not_finite_is_skipped_or_raised(
    case: tuple[str, dict[str, Any]], call: int, bad: float, clip: float | None
) -> None:
    (variant, own), batch = case, batches(1)[0]
    if variant == "momentum":
        call = 1
    for choice in ("skip", "raise"):
        model = with_batchnorm()
        model[2] = nn.Linear(16, 16)  # where ``poisoned`` puts the bad value
        options: dict[str, Any] = {"nonfinite": choice, "max_grad_norm": clip, **MOMENTUM}
        optimizer = build_sam(variant, model, SGD, 0.2, settings=own, **options)
        run(model, optimizer, batches(3))
        before = weights(model)
        momenta = [optimizer.state[p]["momentum_buffer"].clone() for p in model.parameters()]
        closure = poisoned(closure_of(model, optimizer, *batch), model, call, bad)
        if choice == "skip":
            loss = optimizer.step(closure)
            assert loss.isfinite()
            assert optimizer.skipped == 1
        else:
            which = "first" if call == 1 and variant != "momentum" else "last"
            with pytest.raises(DivergenceError, match=f"the {which} pass"):
                optimizer.step(closure)
            assert optimizer.skipped == 0
        assert same(weights(model), before)
        after = [optimizer.state[p]["momentum_buffer"] for p in model.parameters()]
        assert same(after, momenta)
        run(model, optimizer, batches(4))
        assert flat(weights(model)).isfinite().all()


def test_by_default_what_is_not_finite_shows_in_the_weights() -> None:
    model = perceptron()
    sam = SAM(model.parameters(), SGD, lr=0.1)
    sam.step(poisoned(closure_of(model, sam, *batches(1)[0]), model, 1, float("inf")))
    assert not flat(weights(model)).isfinite().all()


def test_bf16_autocast_trains_with_the_gradient_of_the_perturbed_weights() -> None:
    model, twin, (inputs, labels) = perceptron(), perceptron(), batches(1)[0]

    def loss_of(network: nn.Module) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return cross_entropy(network(inputs), labels)

    def closure() -> Tensor:
        loss = loss_of(model)
        loss.backward()
        return loss

    loss_of(twin).backward()
    g = flat([parameter.grad for parameter in twin.parameters()])
    assert g.dtype == torch.float32
    start = flat(weights(twin))
    with torch.no_grad():
        nn.utils.vector_to_parameters(start + 1.0 * g / g.norm(), twin.parameters())
    twin.zero_grad()
    loss_of(twin).backward()
    expected = start - 0.1 * flat([parameter.grad for parameter in twin.parameters()])
    SAM(model.parameters(), SGD, rho=1.0, lr=0.1).step(closure)
    torch.testing.assert_close(flat(weights(model)), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("variant", ["sam", "momentum"])
def test_autocast_around_the_whole_step_does_not_use_stale_casts(variant: str) -> None:
    # Autocast keeps half-precision copies of the weights until its outermost block ends.
    inside, around = perceptron(), perceptron()
    data = batches(3)
    one, two = (build_sam(variant, m, SGD, 1.0, **MOMENTUM) for m in (inside, around))

    def closure_with(model: nn.Module, inputs: Tensor, labels: Tensor) -> Callable[[], Tensor]:
        def closure() -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = cross_entropy(model(inputs), labels)
            loss.backward()
            return loss

        return closure

    for batch in data:
        one.step(closure_with(inside, *batch))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for batch in data:
            two.step(closure_with(around, *batch))
            around(batch[0])  # fills the cache with the weights between two steps
    assert same(weights(inside), weights(around))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_are_restored_and_their_norm_does_not_overflow(
    dtype: torch.dtype,
) -> None:
    model = nn.Linear(64, 64).to(dtype)
    sam = SAM(model.parameters(), SGD, rho=0.5, lr=0.0)
    before = weights(model)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 3e4)  # the sum of squares is beyond float16
    sam.first_step()
    epsilon = flat(weights(model)).double() - flat(before).double()
    assert float(epsilon.norm()) == pytest.approx(0.5, rel=0.1)
    sam.second_step()
    assert same(weights(model), before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [3e4, 2.0**-14])
def test_adaptive_epsilon_in_half_precision_neither_overflows_nor_vanishes(
    dtype: torch.dtype, size: float
) -> None:
    # T² g is beyond float16, or 0 there.
    weight = nn.Parameter(torch.full((64,), 4.0 if size > 1 else 2.0**-7, dtype=dtype))
    sam = SAM([weight], SGD, rho=1.0, adaptive=True, lr=0.0)
    before = weight.detach().clone().double()
    weight.grad = torch.full_like(weight, size)
    sam.first_step()
    # Equal weights and gradients: ε is w / ‖1‖.
    torch.testing.assert_close(weight.detach().double() - before, before / 8, rtol=0.02, atol=0)
    sam.second_step()


@pytest.mark.parametrize("variant", ["gsam", "looksam"])
def test_variants_with_half_precision_weights_take_the_step_of_float32(variant: str) -> None:
    # Gradients whose products overflow in float16, if they are computed there.
    generator = torch.Generator().manual_seed(3)
    start = torch.randn(512, generator=generator).half()
    first, last = (200 * torch.randn(512, generator=generator).half() for _ in range(2))

    def step(dtype: torch.dtype) -> list[Tensor]:
        weight = nn.Parameter(start.to(dtype, copy=True))
        own = {"k": 2} if variant == "looksam" else {}
        sam = build_sam(variant, nn.ParameterList([weight]), SGD, 0.1, settings=own, lr=1e-3)
        for _ in range(2):
            weight.grad = first.to(dtype, copy=True)
            sam.first_step()
            weight.grad = last.to(dtype, copy=True)
            sam.second_step()
        return [weight.detach().double()]

    torch.testing.assert_close(step(torch.float16), step(torch.float32), rtol=3e-3, atol=3e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_clipping_of_half_precision_gradients_does_not_overflow(dtype: torch.dtype) -> None:
    weight = nn.Parameter(torch.zeros(64, dtype=dtype))
    sam = SAM([weight], SGD, rho=0.0, lr=1.0, max_grad_norm=8.0)
    weight.grad = torch.full_like(weight, 3e4)  # of norm 2.4e5, which is beyond float16
    sam.second_step()
    torch.testing.assert_close(weight.detach().double(), torch.full((64,), -1.0).double())


def test_clipping_acts_on_the_final_gradient_only() -> None:
    model, twin, batch = perceptron(), perceptron(), batches(1)[0]
    clipped = SAM(model.parameters(), SGD, rho=0.5, max_grad_norm=0.01, lr=1.0)
    before = flat(weights(model))
    run(model, clipped, [batch])
    step = before - flat(weights(model))
    assert float(step.norm()) == pytest.approx(0.01, rel=1e-3)
    # The direction is that of the whole ε: clipping the first gradient would not change it, but
    # a smaller ρ would.
    by_hand = SAM(twin.parameters(), SGD, rho=0.5, lr=1.0)
    closure = closure_of(twin, by_hand, *batch)
    closure()
    by_hand.first_step(zero_grad=True)
    closure()
    by_hand.restore()
    clip_grad_norm_(twin.parameters(), 0.01)
    by_hand.second_step()
    assert same(weights(model), weights(twin))


def test_clipping_leaves_a_short_gradient_alone() -> None:
    one, other = perceptron(), perceptron()
    run(one, SAM(one.parameters(), SGD, max_grad_norm=1e3, lr=0.1), batches(3))
    run(other, SAM(other.parameters(), SGD, lr=0.1), batches(3))
    assert same(weights(one), weights(other))


@pytest.mark.parametrize(("variant", "own"), VARIANT_CASES)
@pytest.mark.parametrize("parts", [2, 3])
def test_micro_batches_give_the_step_of_the_whole_batch(
    variant: str, own: dict[str, Any], parts: int
) -> None:
    whole, split = perceptron().double(), perceptron().double()
    data = [(inputs.double(), labels) for inputs, labels in batches(5)]
    run(whole, build_sam(variant, whole, SGD, 0.3, settings=own, **MOMENTUM), data)
    optimizer = build_sam(variant, split, SGD, 0.3, settings=own, **MOMENTUM)
    for inputs, labels in data:

        def closure(inputs: Tensor = inputs, labels: Tensor = labels) -> Tensor:
            total = torch.zeros((), dtype=inputs.dtype)
            for x, y in zip(inputs.chunk(parts), labels.chunk(parts), strict=True):
                loss = cross_entropy(split(x), y) * len(y) / len(labels)
                loss.backward()
                total += loss.detach()
            return total

        optimizer.step(closure)
    assert relative_distance(split, whole) < 1e-12


def test_bits_tell_what_equal_does_not() -> None:
    assert not bits(torch.tensor([0.0])).equal(bits(torch.tensor([-0.0])))
