"""No training goes on with a weight that it does not train, and none is stopped for rounding."""

import copy
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from sparse_sam.data.tensors import TrainingData
from sparse_sam.errors import DivergenceError, FrozenWeightError
from sparse_sam.pruning.masks import Masks, attach, attached_masks, plain_state
from sparse_sam.sam.registry import VARIANTS
from sparse_sam.training.experiment import finetune, initial_checkpoint, prune
from sparse_sam.training.loop import Epoch, train
from sparse_sam.training.params import FinetuneParams, TrainingParams
from sparse_sam.training.resume import ResumePoint
from sparse_sam.training.with_sam import make_sam
from sparse_sam.training.with_sgd import make_sgd
from tests.recipes import NOT_DISTILLED, prune_params, sam_params

Recipe = Callable[..., TrainingParams]
Data = Callable[..., TrainingData]
KINDS = ["sgd", *VARIANTS]
KINDS_AND_MOMENTA = [*((kind, 0.9) for kind in KINDS), ("sgd", 0.0), ("sam", 0.0)]


class Net(nn.Module):
    """Two layers, the first with masks if they are wanted, and what a test does to the second."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(25, 8), nn.Linear(8, 8)
        self.last = nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.first(images.flatten(1)).tanh()
        return self.last(hidden + self.read(hidden).tanh())  # type: ignore[no-any-return]

    def read(self, hidden: Tensor) -> Tensor:
        return self.second(hidden)  # type: ignore[no-any-return]


class Detached(Net):
    def read(self, hidden: Tensor) -> Tensor:
        return nn.functional.linear(hidden, self.second.weight.detach(), self.second.bias)


class Unused(Net):
    def read(self, hidden: Tensor) -> Tensor:
        return hidden + self.second.bias


class TimesZero(Net):
    def read(self, hidden: Tensor) -> Tensor:
        return nn.functional.linear(hidden, 0 * self.second.weight, self.second.bias)


class PutBackBeforeEachPass(Net):
    def __init__(self) -> None:
        super().__init__()
        self.before: list[Tensor] = []
        self.second.register_forward_pre_hook(lambda *_: self.put_back())

    def put_back(self) -> None:
        if not self.before:
            self.before.append(plain(self).detach().clone())
        write(plain(self), self.before[0])


class WithoutGradient(Net):
    def __init__(self) -> None:
        super().__init__()
        plain(self).register_hook(torch.zeros_like)


class LosesItsGradient(Net):
    def __init__(self) -> None:
        super().__init__()
        plain(self).register_post_accumulate_grad_hook(lambda weight: setattr(weight, "grad", None))


def plain(model: Any) -> nn.Parameter:
    """The weight of the second layer, masked or not."""
    parametrized = getattr(model.second, "parametrizations", None)
    return parametrized.weight.original if parametrized else model.second.weight  # type: ignore[no-any-return]


@torch.no_grad()
def write(weight: Tensor, value: Tensor) -> None:
    weight.copy_(value)


def make_optimizer(kind: str, model: nn.Module, recipe: TrainingParams) -> Optimizer:
    if kind == "sgd":
        return make_sgd(model, recipe)
    return make_sam(model, recipe, sam_params(variant=kind))


def pruned(model: Net) -> Net:
    generator = torch.Generator().manual_seed(0)
    masks = {
        f"{name}.weight": torch.rand(layer.weight.shape, generator=generator) < 0.5
        for name, layer in (("first", model.first), ("second", model.second))
    }
    attach(model, Masks(masks))
    return model


def run(model: nn.Module, data: TrainingData, recipe: TrainingParams, kind: str = "sgd") -> None:
    train(model, make_optimizer(kind, model, recipe), data, recipe, seed=0, purpose="finetune")


# What is refused


REASONS = {
    Detached: "no step left a gradient",
    Unused: "no step left a gradient",
    LosesItsGradient: "no step left a gradient",
    TimesZero: "its gradient was exactly 0 in every step",
    WithoutGradient: "its gradient was exactly 0 in every step",
    PutBackBeforeEachPass: "it did not change, although its gradient is large enough to move it",
}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", REASONS)
def test_a_weight_that_does_not_train_is_refused_by_name(
    make_data: Data, make_recipe: Recipe, make: type[Net], kind: str, masked: bool
) -> None:
    model = pruned(make()) if masked else make()
    # Weight decay and momentum, which move a weight without a gradient too.
    recipe = make_recipe(momentum=0.9, weight_decay=0.01)
    with pytest.raises(FrozenWeightError) as raised:
        run(model, make_data(), recipe, kind)
    message = str(raised.value)
    assert message.startswith(
        f"epoch 1 did not train 1 of 6 tensors (second.weight: {REASONS[make]})"
    )
    assert "Check that the forward pass uses each of them without detaching it" in message
    assert "requires_grad_(False)" in message


@pytest.mark.parametrize(("kind", "momentum"), KINDS_AND_MOMENTA)
def test_a_weight_that_is_put_back_between_the_steps_is_refused(
    make_data: Data, make_recipe: Recipe, kind: str, momentum: float
) -> None:
    model, recipe = pruned(Net()), make_recipe(momentum=momentum)
    first = plain(model).detach().clone()
    with pytest.raises(FrozenWeightError, match=r"epoch 1 .* \(second\.weight: it did not change"):
        train(
            model,
            make_optimizer(kind, model, recipe),
            make_data(),
            recipe,
            seed=0,
            purpose="finetune",
            before_step=lambda _: write(plain(model), first),
        )


class PutsBack(SGD):
    """Steps, and puts the weights that it is told back."""

    def __init__(self, params: Iterable[Tensor], put_back: Tensor, **options: Any) -> None:
        super().__init__(params, **options)
        first = put_back.detach().clone()
        self.register_step_post_hook(lambda *_: write(put_back, first))


@pytest.mark.parametrize("images", [8, 16, 32])
def test_a_weight_that_is_put_back_after_each_step_is_refused(
    make_data: Data, make_recipe: Recipe, images: int
) -> None:
    # Epochs of one step, of two and of four.
    model = Net()
    optimizer = PutsBack(model.parameters(), model.first.weight, lr=0.1)
    with pytest.raises(FrozenWeightError, match=r"epoch 1 .* \(first\.weight: it did not change"):
        train(model, optimizer, make_data(images), make_recipe(), seed=0, purpose="finetune")


def test_a_weight_that_stops_training_later_is_refused_then(
    make_data: Data, make_recipe: Recipe
) -> None:
    model, recipe, told = Net(), make_recipe(epochs=3), []

    def on_epoch(row: Epoch) -> None:
        told.append(row.epoch)
        if row.epoch == 1:
            model.last.bias.register_hook(torch.zeros_like)

    with pytest.raises(
        FrozenWeightError, match=r"epoch 2 did not train 1 of 6 tensors \(last\.bias"
    ):
        train(
            model,
            make_sgd(model, recipe),
            make_data(),
            recipe,
            seed=0,
            purpose="finetune",
            on_epoch=on_epoch,
        )
    assert told == [0, 1]


def test_only_the_first_of_many_are_named(make_data: Data, make_recipe: Recipe) -> None:
    class Nothing(Net):
        def forward(self, images: Tensor) -> Tensor:
            return self.last(images.flatten(1)[:, :8])  # type: ignore[no-any-return]

    with pytest.raises(FrozenWeightError) as raised:
        run(Nothing(), make_data(), make_recipe())
    assert "epoch 1 did not train 4 of 6 tensors (first.weight: no step" in str(raised.value)
    assert "second.weight: no step left a gradient; and 1 more)" in str(raised.value)


# What is none


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", REASONS)
def test_what_is_frozen_on_purpose_may_be(
    make_data: Data, make_recipe: Recipe, make: type[Net], kind: str
) -> None:
    if make in {WithoutGradient, LosesItsGradient}:
        return  # a hook on a tensor without a gradient is no hook
    model = make()
    model.second.weight.requires_grad_(False)
    before = model.second.weight.clone()
    run(model, make_data(), make_recipe(momentum=0.9, weight_decay=0.01), kind)
    assert torch.equal(model.second.weight, before)


def with_a_bias_before_batchnorm() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(25, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))


@pytest.mark.parametrize(("kind", "momentum"), KINDS_AND_MOMENTA)
def test_a_gradient_that_is_lost_in_rounding_is_no_fault(
    make_data: Data, make_recipe: Recipe, kind: str, momentum: float
) -> None:
    model = with_a_bias_before_batchnorm()
    with torch.no_grad():
        model[1].bias.fill_(1.0)  # type: ignore[index]
    recipe = make_recipe(epochs=4, momentum=momentum, lr=0.01)
    run(model, make_data(), recipe, kind)
    assert model[1].bias.tolist() == [1.0] * 8  # type: ignore[index]


@pytest.mark.parametrize("images", [8, 30])
@pytest.mark.parametrize("kind", KINDS)
def test_a_learning_rate_of_0_is_no_fault(
    make_data: Data, make_recipe: Recipe, kind: str, images: int
) -> None:
    model, recipe = Net(), make_recipe(momentum=0.9)
    before = copy.deepcopy(model.state_dict())
    optimizer = make_optimizer(kind, model, recipe)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    train(model, optimizer, make_data(images), recipe, seed=0, purpose="finetune")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_epochs_of_one_step_are_judged_by_it(
    make_data: Data, make_recipe: Recipe, kind: str
) -> None:
    recipe = make_recipe(epochs=3, schedule="cosine", momentum=0.9)
    run(Net(), make_data(8), recipe, kind)
    with pytest.raises(FrozenWeightError, match=r"second\.weight"):
        run(WithoutGradient(), make_data(8), recipe, kind)


class Sometimes(Net):
    """Uses its second layer in one of its passes only."""

    def __init__(self, when: int) -> None:
        super().__init__()
        self.when, self.passes = when, 0

    def read(self, hidden: Tensor) -> Tensor:
        self.passes += self.training
        return self.second(hidden) if self.passes % 4 == self.when else hidden  # type: ignore[no-any-return]


@pytest.mark.parametrize("when", [0, 1, 2, 3])
def test_one_step_of_an_epoch_is_enough(make_data: Data, make_recipe: Recipe, when: int) -> None:
    run(Sometimes(when), make_data(32), make_recipe())


@pytest.mark.parametrize("kind", KINDS)
def test_a_tensor_that_masks_cut_off_is_no_fault(
    make_data: Data, make_recipe: Recipe, kind: str
) -> None:
    # One output of the first layer is read, and none of its weights is kept there.
    model = nn.Sequential(nn.Flatten(), nn.Linear(25, 8), nn.ReLU(), nn.Linear(8, 3))
    first, last = torch.ones(8, 25, dtype=torch.bool), torch.zeros(3, 8, dtype=torch.bool)
    first[0], last[:, 0] = False, True
    attach(model, Masks({"1.weight": first, "3.weight": last}))
    with torch.no_grad():
        model[1].bias[0] = 0.5
    twin = copy.deepcopy(model)
    before = plain_state(model)
    recipe = make_recipe(momentum=0.9)
    run(model, make_data(), recipe, kind)
    after = plain_state(model)
    assert torch.equal(after["1.weight"], before["1.weight"])
    assert not torch.equal(after["3.weight"], before["3.weight"])
    assert torch.equal(attached_masks(model)[0].mask, attached_masks(twin)[0].mask)
    # But a hook that takes the same gradient away is one.
    attached_masks(twin)[0].original.register_hook(torch.zeros_like)
    with pytest.raises(FrozenWeightError, match=r"1\.weight: its gradient was exactly 0"):
        run(twin, make_data(), recipe, kind)
    assert not plain_state(twin)["1.weight"][~first].count_nonzero()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_tensor_behind_dead_units_is_a_divergence(
    make_data: Data, make_recipe: Recipe, kind: str, masked: bool
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(25, 8), nn.ReLU(), nn.Linear(8, 3))
    if masked:
        attach(model, Masks({"1.weight": torch.rand(8, 25) < 0.5}))
    with torch.no_grad():
        model[1].bias.fill_(-100.0)
    with pytest.raises(DivergenceError) as raised:
        run(model, make_data(), make_recipe(momentum=0.9), kind)
    assert isinstance(raised.value, FrozenWeightError)
    assert "epoch 1 did not train 3 of 4 tensors (1." in str(raised.value)
    assert "1.weight: its gradient was exactly 0 in every step; " in str(raised.value)
    assert "are dead for all images. Lower lr" in str(raised.value)


@pytest.mark.parametrize("images", [16, 24, 32])
def test_a_schedule_that_rewinds_is_no_fault(
    make_data: Data, make_recipe: Recipe, tiny_net: str, images: int
) -> None:
    # A round a step, and weights put back at every one of them.
    data, recipe = make_data(images), make_recipe(epochs=1)
    rounds = {"name": "iterative", "rounds": images // 8, "rewind": "dense"}
    pruning = prune_params(sparsity=0.6, schedule=rounds)
    start = prune(initial_checkpoint(data, tiny_net, 0), pruning)
    for arm in ("sgd", "sam"):
        params = FinetuneParams(training=recipe, distillation=NOT_DISTILLED, sam=sam_params())
        trained = finetune(start, data, params, arm, lambda _: None, pruning=pruning)
        assert not torch.equal(trained.checkpoint.state["4.weight"], start.state["4.weight"])


# Resuming


class Stop(Exception):  # noqa: N818 - no error
    pass


def verdict(
    model: nn.Module,
    data: TrainingData,
    recipe: TrainingParams,
    kind: str,
    resume: ResumePoint,
    stop: int | None,
) -> str:
    """What a training ends with; it is interrupted before step ``stop``."""

    def before_step(step: int) -> None:
        if step == stop:
            raise Stop

    try:
        train(
            model,
            make_optimizer(kind, model, recipe),
            data,
            recipe,
            seed=0,
            purpose="finetune",
            before_step=before_step,
            resume=resume,
        )
    except Stop:
        return "stopped"
    except FrozenWeightError as error:
        return str(error)
    return "trained"


@pytest.mark.parametrize("kind", ["sgd", "sam", "momentum"])
@pytest.mark.parametrize(
    "make",
    [
        *REASONS,
        Net,
        with_a_bias_before_batchnorm,
        *((lambda when=when: Sometimes(when)) for when in range(4)),
    ],
)
def test_a_resumed_training_comes_to_the_same_verdict(
    make_data: Data,
    make_recipe: Recipe,
    tmp_path: Path,
    make: Callable[[], nn.Module],
    kind: str,
) -> None:
    data, recipe = make_data(32), make_recipe(epochs=1, momentum=0.9)
    expected = verdict(make(), data, recipe, kind, ResumePoint(tmp_path, "whole", 1), None)
    for stop in (1, 2, 3):
        resume = ResumePoint(tmp_path, f"stopped-{stop}", 1)
        assert verdict(make(), data, recipe, kind, resume, stop) == "stopped"
        again = make()
        if isinstance(again, Sometimes):
            again.passes = stop * (2 if kind == "sam" else 1)
        if isinstance(again, PutBackBeforeEachPass):
            again.put_back()  # what a new process would put back
        assert verdict(again, data, recipe, kind, resume, None) == expected


class Skipping(nn.Module):
    """Stochastic depth: a residual layer that half of the steps leave out."""

    def __init__(self, multiplied: bool) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(25, 25), nn.Linear(25, 3)
        self.multiplied = multiplied

    def forward(self, images: Tensor) -> Tensor:
        rows = images.flatten(1)
        kept = not self.training or bool(torch.rand(()) < 0.5)
        if self.multiplied:
            rows = rows + kept * self.inner(rows).tanh()
        elif kept:
            rows = rows + self.inner(rows).tanh()
        out: Tensor = self.head(rows)
        return out


@pytest.mark.parametrize("multiplied", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_layers_that_steps_leave_out_at_random_are_no_fault(
    multiplied: bool, seed: int, make_data: Any, make_recipe: Any
) -> None:
    torch.manual_seed(seed)
    model = Skipping(multiplied)
    recipe = make_recipe(epochs=4, batch_size=16)  # two steps an epoch
    train(model, make_sgd(model, recipe), make_data(), recipe, seed=seed, purpose="test")


def test_a_gradient_that_the_optimizer_takes_away_is_found(
    make_data: Any, make_recipe: Any
) -> None:
    class Lossy(SGD):
        def step(self, closure: Any) -> Any:  # type: ignore[override]
            with torch.enable_grad():
                loss = closure()
            self.param_groups[0]["params"][0].grad.zero_()
            super().step()
            return loss

    model = nn.Sequential(nn.Flatten(), nn.Linear(25, 8), nn.Tanh(), nn.Linear(8, 3))
    optimizer = Lossy(model.parameters(), lr=0.1)
    with pytest.raises(FrozenWeightError, match=r"1\.weight: its gradient was removed"):
        train(model, optimizer, make_data(), make_recipe(), seed=0, purpose="test")


def test_a_layer_of_no_width_is_left_alone(make_data: Any, make_recipe: Any) -> None:
    class Empty(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.none, self.unused = nn.Linear(25, 0), nn.Linear(25, 2)
            self.head = nn.Linear(25, 3)

        def forward(self, images: Tensor) -> Tensor:
            rows = images.flatten(1)
            out: Tensor = self.head(torch.cat([rows, self.none(rows)], dim=1))
            return out

    model, recipe = Empty(), make_recipe()
    with pytest.raises(FrozenWeightError, match=r"2 of 4 tensors \(unused\.weight"):
        train(model, make_sgd(model, recipe), make_data(), recipe, seed=0, purpose="test")
