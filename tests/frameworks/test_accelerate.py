"""SAM in a loop of accelerate's: the same five steps as in a plain loop."""

from functools import partial
from pathlib import Path
from typing import Any

import cases
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from cases import (
    CLIP,
    DEVICE,
    OF_SGD,
    STEPS,
    VARIANTS,
    Batch,
    assert_drawn_in_both_passes_alike,
    assert_same,
    batches,
    distance,
    make_sam,
    make_scaler,
    network,
    set_scaler,
    state,
    weights_after,
    weights_in,
    with_noise,
)
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.checkpoint import checkpoint

from sparse_sam.frameworks import SAMPasses
from sparse_sam.sam import LookSAM

pytestmark = pytest.mark.frameworks
plain = partial(cases.plain, loss_in_autocast=False)
PRECISIONS = ["fp32", "bf16", "fp16"]


@pytest.fixture(autouse=True)
def another_accelerator() -> None:
    """Its precision holds for the whole process until it is forgotten."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def accelerator_of(accumulate: int, precision: str = "fp32", scale: float = 2.0**10) -> Accelerator:
    on_cpu = precision == "fp16" and DEVICE == "cpu"
    accelerator = Accelerator(
        cpu=DEVICE == "cpu",
        gradient_accumulation_steps=accumulate,
        mixed_precision="no" if precision == "fp32" or on_cpu else precision,
        step_scheduler_with_optimizer=False,
    )
    if precision == "fp16":
        set_scaler(accelerator, scale)
    return accelerator


def train(
    data: list[Batch],
    accelerator: Accelerator,
    model: nn.Module,
    clip: float | None = None,
    losses: list[float] | None = None,
    resumed: Path | None = None,
    **options: Any,
) -> Any:
    """The recipe of docs/frameworks.md; gives the prepared optimizer."""
    own = make_sam(model, **options)
    model, optimizer = accelerator.prepare(model, own)
    scheduler = CosineAnnealingLR(own, STEPS)
    accelerator.register_for_checkpointing(scheduler)
    if resumed:
        accelerator.load_state(resumed)
    passes = SAMPasses(accelerator, model, optimizer)

    def loss_of(inputs: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(model(inputs), labels)

    for inputs, labels in data:
        with accelerator.accumulate(model):
            loss = passes.backward(loss_of, inputs, labels)
            if accelerator.sync_gradients and clip:
                accelerator.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            if accelerator.sync_gradients:
                scheduler.step()
            optimizer.zero_grad()
        if losses is not None:
            losses.append(float(loss))
    return optimizer


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("clip", [None, CLIP])
def test_five_steps_are_those_of_a_plain_loop(
    precision: str, accumulate: int, clip: float | None
) -> None:
    data, model, losses = batches(STEPS * accumulate), network(), []
    train(data, accelerator_of(accumulate, precision), model, clip, losses)
    options: dict[str, Any] = {"accumulate": accumulate, "precision": precision}
    assert_same(state(model), plain(data, clip=clip, **options))
    assert distance(state(model), plain(data, clip=None if clip else CLIP, **options)) > 1e-3
    first = cross_entropy(network()(data[0][0]), data[0][1])
    assert losses[0] == pytest.approx(float(first), rel=1e-6 if precision == "fp32" else 1e-2)


@pytest.mark.parametrize(
    ("variant", "own"),
    VARIANTS,
)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_variants(variant: Any, own: dict[str, Any], precision: str) -> None:
    data, options, model = batches(2 * STEPS), {"variant": variant, **own}, network()
    train(data, accelerator_of(2, precision), model, **options)
    assert_same(state(model), plain(data, accumulate=2, precision=precision, **options))


def test_an_overflow_skips_the_same_steps_as_in_a_plain_loop() -> None:
    data, model = batches(2 * STEPS), network()
    accelerator = accelerator_of(2, "fp16", scale=2.0**19)
    optimizer = train(data, accelerator, model, CLIP)
    ours = make_scaler(2.0**19)
    expected = plain(data, accumulate=2, precision="fp16", clip=CLIP, scaler=ours)
    scale = accelerator.scaler.get_scale()
    assert scale == ours.get_scale()
    assert 2.0**10 < scale < 2.0**19  # some were skipped, and not all
    assert not optimizer.step_was_skipped
    assert_same(state(model), expected)


def test_the_dense_gradient_behind_the_masks() -> None:
    data, model = batches(2 * STEPS), network()
    train(data, accelerator_of(2), model, dense_gradient=True)
    assert_same(state(model), plain(data, accumulate=2, dense_gradient=True))
    assert distance(state(model), plain(data, accumulate=2)) > 1e-3


@pytest.mark.parametrize("accumulate", [1, 3])
def test_dropout_takes_the_same_units_in_both_passes(accumulate: int) -> None:
    model = with_noise()
    torch.manual_seed(3)
    train(batches(3 * accumulate), accelerator_of(accumulate), model)
    assert_drawn_in_both_passes_alike(model[1].drawn, accumulate)
    after = torch.rand(3)
    torch.manual_seed(3)
    for inputs, _ in batches(3 * accumulate):
        torch.rand_like(inputs[:, :8])
    assert DEVICE == "cuda" or torch.rand(3).equal(after)


def test_it_resumes_with_the_same_bits(tmp_path: Path) -> None:
    data, through, begun, resumed = batches(8), network(), network(), network()
    options: dict[str, Any] = {"variant": LookSAM, "k": 3}
    train(data, accelerator_of(2), through, **options)

    first = accelerator_of(2)
    train(data[:4], first, begun, **options)
    first.save_state(tmp_path / "state")
    train(data[4:], accelerator_of(2), resumed, resumed=tmp_path / "state", **options)
    assert distance(state(begun), state(through)) > 1e-3
    assert_same(state(resumed), state(through))


def test_a_compiled_network() -> None:
    data, model = batches(2 * STEPS), network()
    train(data, accelerator_of(2), torch.compile(model, backend="aot_eager"))
    assert_same(state(model), plain(data, accumulate=2), 1e-6)


def test_gradient_checkpointing() -> None:
    class Checkpointed(nn.Sequential):
        def forward(self, inputs: Tensor) -> Tensor:
            return checkpoint(super().forward, inputs, use_reentrant=False)

    data, model = batches(2 * STEPS), Checkpointed(*network())
    train(data, accelerator_of(2), model)
    expected = plain(data, accumulate=2)
    weights = [name for name in expected if "weight" in name or "bias" in name]
    assert_same({n: state(model)[n] for n in weights}, {n: expected[n] for n in weights})


def test_a_second_pass_that_fails_leaves_the_network_as_it_was() -> None:
    model, accelerator = network(), accelerator_of(1)
    before = state(model)
    model, optimizer = accelerator.prepare(model, make_sam(model))
    passes, calls = SAMPasses(accelerator, model, optimizer), []

    def loss_of(inputs: Tensor) -> Tensor:
        calls.append(inputs)
        if len(calls) == 2:
            raise MemoryError
        return model(inputs).square().sum()

    with pytest.raises(MemoryError):
        passes.backward(loss_of, batches(1)[0][0])
    weights = [name for name in before if "weight" in name or "bias" in name]
    assert_same({n: state(model)[n] for n in weights}, {n: before[n] for n in weights})
    assert all(p.grad is None for p in model.parameters())
    with pytest.raises(ValueError, match="needs a closure"):
        optimizer.step()


@pytest.mark.parametrize("way", ["none", "zero", "raises"])
@pytest.mark.parametrize(
    ("accumulate", "dropped", "steps"),
    [
        (1, 1, [[0], [2], [3], [4], [5]]),
        (2, 2, [[0, 1], [3], [4, 5]]),
        (3, 1, [[2], [3, 4, 5]]),  # with it goes what was accumulated before
    ],
)
def test_a_micro_batch_that_the_loop_drops_is_in_neither_pass(
    way: str, accumulate: int, dropped: int, steps: list[list[int]]
) -> None:
    data = batches(6)
    data[dropped] = (data[dropped][0] * torch.nan, data[dropped][1])
    accelerator, model = accelerator_of(accumulate), network()
    prepared, optimizer = accelerator.prepare(model, make_sam(model))
    passes, tried = SAMPasses(accelerator, prepared, optimizer), set()

    def loss_of(number: int) -> Tensor:
        if way == "raises" and number == dropped and number not in tried:
            tried.add(number)
            raise MemoryError  # the first time only
        return cross_entropy(prepared(data[number][0]), data[number][1])

    for number in range(len(data)):
        with accelerator.accumulate(prepared):
            try:
                finite = bool(passes.backward(loss_of, number).isfinite())
            except MemoryError:
                finite = False
            if not finite:
                prepared.zero_grad(set_to_none=way != "zero")
                continue
            optimizer.step()
            optimizer.zero_grad()
    expected = weights_after([[data[i] for i in step] for step in steps], accumulate)
    assert all(bool(one.isfinite().all()) for one in expected.values())
    assert_same(weights_in(state(model)), expected)


def test_a_micro_batch_whose_pass_fails_keeps_those_before_it() -> None:
    data, accelerator, model = batches(3), accelerator_of(3), network()
    prepared, optimizer = accelerator.prepare(model, make_sam(model))
    passes, tried = SAMPasses(accelerator, prepared, optimizer), set()

    def loss_of(number: int) -> Tensor:
        if number == 1 and not tried:
            tried.add(number)
            raise MemoryError
        return cross_entropy(prepared(data[number][0]), data[number][1])

    for number in range(3):
        with accelerator.accumulate(prepared):
            try:
                passes.backward(loss_of, number)
            except MemoryError:
                continue
            optimizer.step()
            optimizer.zero_grad()
    assert_same(weights_in(state(model)), weights_after([[data[0], data[2]]], 3))


def test_another_optimizer_is_refused() -> None:
    accelerator = accelerator_of(1)
    model = network()
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), **OF_SGD))
    with pytest.raises(TypeError, match="AcceleratedOptimizer: SAMPasses needs"):
        SAMPasses(accelerator, model, optimizer)
