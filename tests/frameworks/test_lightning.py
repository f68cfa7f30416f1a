"""SAM in Lightning's loop: the same five steps as in a plain loop."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import (
    CLIP,
    DEVICE,
    STEPS,
    VARIANTS,
    assert_drawn_in_both_passes_alike,
    assert_same,
    batches,
    distance,
    make_sam,
    make_scaler,
    network,
    plain,
    state,
    weights_after,
    weights_in,
    with_noise,
)
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from sparse_sam.frameworks import SAMModule
from sparse_sam.sam import SAM, LookSAM, MomentumSAM

pytestmark = [
    pytest.mark.frameworks,
    pytest.mark.filterwarnings("ignore::UserWarning:lightning", "ignore::FutureWarning:lightning"),
]


class Net(SAMModule, LightningModule):
    def __init__(self, net: nn.Module | None = None, **options: Any) -> None:
        super().__init__()
        self.net = net or network()
        self.options = options
        self.losses: list[float] = []

    def training_step(self, batch: Any, _: int) -> Tensor:
        inputs, labels = batch
        loss = cross_entropy(self.net(inputs), labels)
        self.log("loss", loss)
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        self.losses.append(float(self.trainer.callback_metrics["loss"]))

    def configure_optimizers(self) -> Any:
        optimizer = make_sam(self, **self.options)
        scheduler = CosineAnnealingLR(optimizer, STEPS)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }


def fit(module: LightningModule, data: Any, path: str | None = None, **options: Any) -> Trainer:
    quiet = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    defaults: dict[str, Any] = {"accelerator": DEVICE, "devices": 1, "max_epochs": 1}
    trainer = Trainer(**{**defaults, **quiet, **options})
    trainer.fit(module, DataLoader(data, batch_size=None), ckpt_path=path)
    return trainer


def in_precision(precision: str, scale: float = 2.0**10) -> dict[str, Any]:
    if precision == "fp16":  # Trainer(precision="16-mixed") makes it on a GPU, and refuses on a CPU
        return {"plugins": [MixedPrecision("16-mixed", DEVICE, scaler=make_scaler(scale))]}
    return {"precision": "bf16-mixed"} if precision == "bf16" else {}


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("clip", [None, CLIP])
def test_five_steps_are_those_of_a_plain_loop(
    precision: str, accumulate: int, clip: float | None
) -> None:
    data, module = batches(STEPS * accumulate), Net()
    options = {"accumulate_grad_batches": accumulate, "gradient_clip_val": clip}
    trainer = fit(module, data, **options, **in_precision(precision))
    assert trainer.global_step == STEPS
    expected = partial(plain, data, accumulate=accumulate, precision=precision)
    assert_same(state(module), expected(clip=clip))
    assert distance(state(module), expected(clip=None if clip else CLIP)) > 1e-3
    assert_masks_hold(state(module))


def assert_masks_hold(state: dict[str, Tensor]) -> None:
    mask = state["0.parametrizations.weight.0.mask"] != 0
    assert 0 < int(mask.sum()) < mask.numel()
    assert not state["0.parametrizations.weight.original"][~mask].any()


@pytest.mark.parametrize(
    ("variant", "own"),
    [*VARIANTS, (MomentumSAM, {})],
)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_variants(variant: Any, own: dict[str, Any], precision: str) -> None:
    data, options = batches(2 * STEPS), {"variant": variant, **own}
    module = Net(**options)
    fit(module, data, accumulate_grad_batches=2, **in_precision(precision))
    expected = plain(data, accumulate=2, precision=precision, **options)
    if variant is MomentumSAM:  # BatchNorm sees w in the pass that is Lightning's
        expected |= {name: one for name, one in state(module).items() if "running" in name}
    assert_same(state(module), expected)


def test_an_overflow_skips_the_same_steps_as_in_a_plain_loop() -> None:
    data, module = batches(2 * STEPS), Net()
    precision = in_precision("fp16", scale=2.0**19)
    fit(module, data, accumulate_grad_batches=2, gradient_clip_val=CLIP, **precision)
    ours = make_scaler(2.0**19)
    expected = plain(data, accumulate=2, precision="fp16", clip=CLIP, scaler=ours)
    scale = precision["plugins"][0].scaler.get_scale()
    assert scale == ours.get_scale()
    assert 2.0**10 < scale < 2.0**19  # some were skipped, and not all
    assert_same(state(module), expected)
    assert module.optimizers().optimizer.base_optimizer.state


def test_an_incomplete_last_window_is_a_step_as_lightning_makes_it() -> None:
    data, module = batches(5), Net()
    trainer = fit(module, data, accumulate_grad_batches=2)
    assert trainer.global_step == 3
    assert_same(state(module), plain(data, accumulate=2))


def test_clipping_by_value_bounds_the_gradient_that_moves_the_weights() -> None:
    module, seen = Net(), []

    class Watch(Callback):
        def on_before_zero_grad(self, *_: Any) -> None:
            """Called before the next step's: what is in ``.grad`` has moved the weights."""
            seen.extend(p.grad.abs().max() for p in module.parameters() if p.grad is not None)

    options = {"gradient_clip_val": 1e-3, "gradient_clip_algorithm": "value"}
    fit(module, batches(4), callbacks=[Watch()], **options)
    assert seen
    assert max(float(one) for one in seen) == pytest.approx(1e-3)


def test_the_loss_that_is_logged_is_that_at_w_and_metrics_count_once() -> None:
    class Measured(Net):
        def __init__(self) -> None:
            super().__init__()
            self.mean, self.accuracy = MeanMetric(), MulticlassAccuracy(4)
            self.passes: list[bool] = []

        def training_step(self, batch: Any, _: int) -> Tensor:
            inputs, labels = batch
            outputs = self.net(inputs)
            loss = cross_entropy(outputs, labels)
            self.mean.update(loss)
            self.accuracy(outputs, labels)
            self.log_dict({"loss": loss, "accuracy": self.accuracy})
            self.passes.append(self.in_second_pass)
            return loss

        def on_train_batch_end(self, *_: Any) -> None:
            super().on_train_batch_end()
            self.counted = int(self.accuracy.tp.sum() + self.accuracy.fn.sum())

    data, module = batches(2 * STEPS), Measured()
    fit(module, data, accumulate_grad_batches=2)
    assert module.passes == [False, False, True, True] * STEPS
    first = network()
    for (inputs, labels), seen in zip(data[:2], module.losses[:2], strict=True):
        assert seen == pytest.approx(float(cross_entropy(first(inputs), labels)), rel=1e-6)
    assert module.mean.update_count == len(data)
    assert float(module.mean.compute()) == pytest.approx(sum(module.losses) / len(data), rel=1e-6)
    assert module.counted == 8 * len(data)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_dropout_takes_the_same_units_in_both_passes(accumulate: int) -> None:
    module = Net(with_noise())
    torch.manual_seed(3)
    fit(module, batches(3 * accumulate), accumulate_grad_batches=accumulate)
    assert_drawn_in_both_passes_alike(module.net[1].drawn, accumulate)
    after = torch.rand(3)
    torch.manual_seed(3)
    once = Net(with_noise())
    once.configure_optimizers = lambda: torch.optim.SGD(once.parameters(), 0.1)
    torch.manual_seed(3)
    fit(once, batches(3 * accumulate), accumulate_grad_batches=accumulate)
    assert torch.rand(3).equal(after)  # what comes later is drawn as if there was no second pass


def test_it_resumes_with_the_same_bits(tmp_path: Path) -> None:
    data, options = batches(4), {"accumulate_grad_batches": 2, "max_epochs": 2}
    through, begun, resumed = (Net(variant=LookSAM, k=3) for _ in range(3))
    fit(through, data, **options)
    trainer = fit(begun, data, **{**options, "max_epochs": 1})
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    fit(resumed, data, str(tmp_path / "one.ckpt"), **options)
    assert distance(state(through), state(begun)) > 1e-3
    assert_same(state(resumed), state(through))


def test_another_optimizer_is_left_alone() -> None:
    class WithSGD(Net):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    class Without(LightningModule):
        training_step, configure_optimizers = Net.training_step, WithSGD.configure_optimizers

        def __init__(self) -> None:
            super().__init__()
            self.net = network()

    one, other = WithSGD(), Without()
    for module in (one, other):
        fit(module, batches(6), accumulate_grad_batches=2, gradient_clip_val=CLIP)
    assert_same(state(one), state(other))


def test_a_compiled_network() -> None:
    data, module = batches(2 * STEPS), Net()
    module.net.forward = torch.compile(module.net.forward, backend="aot_eager")
    fit(module, data, accumulate_grad_batches=2)
    assert_same(state(module), plain(data, accumulate=2), 1e-6)


def test_a_compiled_module() -> None:
    class Silent(Net):
        """(Lightning 2.6.6 with torch 2.13 cannot compile ``self.log``, with SAM or without.)."""

        def training_step(self, batch: Any, _: int) -> Tensor:
            inputs, labels = batch
            return cross_entropy(self.net(inputs), labels)

        def on_train_batch_end(self, *_: Any) -> None:
            pass

    data, module = batches(2 * STEPS), Silent()
    fit(torch.compile(module, backend="aot_eager"), data, accumulate_grad_batches=2)
    assert_same(state(module), plain(data, accumulate=2), 1e-6)


def test_gradient_checkpointing() -> None:
    class Checkpointed(nn.Sequential):
        def forward(self, inputs: Tensor) -> Tensor:
            return checkpoint(super().forward, inputs, use_reentrant=False)

    data = batches(2 * STEPS)
    nets = [Checkpointed(*network()) for _ in range(2)]
    module = Net(nets[0])
    fit(module, data, accumulate_grad_batches=2)
    assert_same(state(module), plain(data, accumulate=2, model=nets[1]))
    # The first pass runs the forward pass twice, and BatchNorm counts both, as it does without SAM.
    assert int(module.net[1].num_batches_tracked) == 4 * STEPS
    ours, theirs = state(module), plain(data, accumulate=2)
    assert distance(*({k: v for k, v in s.items() if "weight" in k} for s in (ours, theirs))) == 0


def test_a_training_step_that_gives_nothing_is_left_out() -> None:
    class Skipping(Net):
        def training_step(self, batch: Any) -> Any:
            inputs, labels = batch
            return None if len(labels) == 3 else {"loss": cross_entropy(self.net(inputs), labels)}

        def on_train_batch_end(self, *_: Any) -> None:
            pass

    whole, few = batches(4), [(x[:3], y[:3]) for x, y in batches(4)]
    data = [whole[0], few[1], few[2], whole[3]]
    module = Skipping()
    fit(module, data, accumulate_grad_batches=2)
    expected = network()
    optimizer = make_sam(expected)
    scheduler = CosineAnnealingLR(optimizer, STEPS)
    for inputs, labels in (whole[0], whole[3]):

        def closure(inputs: Tensor = inputs, labels: Tensor = labels) -> Tensor:
            loss = cross_entropy(expected(inputs), labels) / 2
            loss.backward()
            return loss

        optimizer.step(closure)
        scheduler.step()
    assert_same(state(module), state(expected))


class Plain(Net):
    def on_train_batch_end(self, *_: Any) -> None:
        pass

    def configure_optimizers(self) -> Any:
        return make_sam(self)


@pytest.mark.parametrize(
    ("accumulate", "dropped", "steps"),
    [
        (1, 1, [[0], [2], [3], [4], [5]]),
        (2, 2, [[0, 1], [3], [4, 5]]),
        (2, 3, [[0, 1], [2], [4, 5]]),
        (3, 1, [[0, 2], [3, 4, 5]]),
    ],
)
def test_a_micro_batch_that_gave_nothing_at_first_is_in_neither_pass(
    accumulate: int, dropped: int, steps: list[list[int]]
) -> None:
    data, passes = batches(6), []

    class Surviving(Plain):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            passes.append(batch_idx)
            if batch_idx == dropped and passes.count(batch_idx) == 1:
                return None  # as who catches that memory was short
            return cross_entropy(self.net(batch[0]), batch[1])

    module = Surviving()
    fit(module, data, accumulate_grad_batches=accumulate)
    expected = weights_after([[data[i] for i in step] for step in steps], accumulate)
    assert_same(weights_in(state(module)), expected)
    assert passes.count(dropped) == 1


def test_micro_batches_whose_gradients_are_zeroed_are_in_neither_pass() -> None:
    data = batches(6)
    data[3] = (data[3][0] * torch.nan, data[3][1])

    class Zeroing(Plain):
        def on_train_batch_end(self, _: Any, __: Any, batch_idx: int) -> None:
            if batch_idx == 3:
                self.zero_grad()

    module = Zeroing()
    fit(module, data, accumulate_grad_batches=3)
    assert_same(weights_in(state(module)), weights_after([data[:3], data[4:]], 3))


def test_who_forgets_super_is_told() -> None:
    class Forgetful(Net):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            pass

    with pytest.raises(RuntimeError, match=r"call super\(\).on_train_batch_start"):
        fit(Forgetful(), batches(1))


def test_the_dense_gradient_needs_one_micro_batch() -> None:
    data = batches(STEPS)
    module = Net(dense_gradient=True)
    fit(module, data)
    assert_same(state(module), plain(data, dense_gradient=True))
    with pytest.raises(RuntimeError, match="accumulate_grad_batches=1"):
        fit(Net(track_kept_share=True), data, accumulate_grad_batches=2)


class Manual(Net):
    """The recipe of docs/frameworks.md."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.automatic_optimization = False

    def backward_of(self, batch: Any) -> Tensor:
        inputs, labels = batch
        loss = cross_entropy(self.net(inputs), labels)
        self.manual_backward(loss)
        return loss.detach()

    def training_step(self, batch: Any, _: int) -> Tensor:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        loss = self.backward_of(batch)
        optimizer.replace_gradient(lambda: self.backward_of(batch))
        optimizer.step()
        self.lr_schedulers().step()
        self.log("loss", loss)
        return loss


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("clip", [None, CLIP])
def test_manual_optimization(precision: str, clip: float | None) -> None:
    data, module = batches(STEPS), Manual(max_grad_norm=clip)
    fit(module, data, **in_precision(precision))
    assert_same(state(module), plain(data, precision=precision, clip=clip))
    assert isinstance(module.optimizers().optimizer, SAM)
