"""The training loop: what it counts, what it repeats, what it refuses."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import parameters_to_vector
from torch.optim import SGD, Optimizer

from sparse_sam.data.augmentation import random_shifts, shift
from sparse_sam.data.seeding import batch_order
from sparse_sam.data.tensors import Split, TrainingData
from sparse_sam.errors import DivergenceError, MaskError, StaleOptimizerError
from sparse_sam.evaluation.flatness.sharpness import sharpness
from sparse_sam.networks.batchnorm import reestimate_batchnorm
from sparse_sam.networks.build import build_model
from sparse_sam.pruning.masks import Masks, attach, plain_state
from sparse_sam.training.epoch import Batches, split_order
from sparse_sam.training.loop import Epoch, evaluate, train
from sparse_sam.training.params import TrainingParams
from sparse_sam.training.with_sam import make_sam
from sparse_sam.training.with_sgd import make_sgd
from tests.recipes import sam_params

Recipe = Callable[..., TrainingParams]
Data = Callable[..., TrainingData]
RHO = sam_params(0.05)


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(25, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)
    )


def softmax_regression(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(25, 3))


def sgd(model: nn.Module, recipe: TrainingParams) -> Optimizer:
    return make_sgd(model, recipe)


def sam(model: nn.Module, recipe: TrainingParams) -> Optimizer:
    return make_sam(model, recipe, RHO)


def run(
    model: nn.Module,
    data: TrainingData,
    recipe: TrainingParams,
    optimizer: Callable[[nn.Module, TrainingParams], Optimizer] = sgd,
    seed: int = 0,
    purpose: str = "finetune",
) -> list[Epoch]:
    return train(model, optimizer(model, recipe), data, recipe, seed=seed, purpose=purpose)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def scaled(split: Split, factor: float) -> Split:
    return Split(split.images * factor, split.labels)


# Evaluation


def test_an_evaluation_by_hand() -> None:
    # Logits (x, 0, −x) of the only pixel x: for x = 2 class 0 is predicted, for x = −1 class 2.
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 3, bias=False))
    model[1].weight = nn.Parameter(torch.tensor([[1.0], [0.0], [-1.0]]))
    images = torch.tensor([2.0, -1.0, 2.0]).view(3, 1, 1, 1)
    found = evaluate(model, Split(images, torch.tensor([0, 2, 1])))
    assert found.predictions.tolist() == [0, 2, 0]
    assert found.predictions.dtype == torch.int64
    assert found.accuracy == 2 / 3
    of_2, of_1 = (math.log(math.exp(x) + 1 + math.exp(-x)) for x in (2, 1))
    assert found.loss == pytest.approx(((of_2 - 2) + (of_1 - 1) + (of_2 - 0)) / 3, rel=1e-6)


def test_an_evaluation_of_many_images_is_that_of_them_together(make_data: Data) -> None:
    model, split = net().eval(), make_data(train=2001).train
    logits = model(split.images).detach()
    found = evaluate(model, split)
    assert len(found.predictions) == 2001
    assert torch.equal(found.predictions, logits.argmax(1))
    assert found.loss == pytest.approx(float(cross_entropy(logits, split.labels)), rel=1e-5)


def test_an_evaluation_changes_nothing(make_data: Data) -> None:
    model = net()
    model[2].eval()  # a layer that was frozen on purpose stays so
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    evaluate(model, make_data().train)
    assert [module.training for module in model] == [True, True, False, True, True]
    assert model.training
    assert same(model.state_dict(), before)
    assert all(parameter.grad is None for parameter in model.parameters())
    model.eval()
    evaluate(model, make_data().train)
    assert not any(module.training for module in model.modules())


def test_an_evaluation_uses_running_statistics_and_not_those_of_the_batch(
    make_data: Data,
) -> None:
    model, split = net(), make_data().train
    one_by_one = [
        evaluate(model, Split(split.images[i : i + 1], split.labels[i : i + 1]))
        for i in range(len(split))
    ]
    together = evaluate(model, split)
    assert [int(one.predictions) for one in one_by_one] == together.predictions.tolist()
    mean = sum(one.loss for one in one_by_one) / len(split)
    assert together.loss == pytest.approx(mean, rel=1e-5)


# One step


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_a_step_of_softmax_regression_by_hand(
    make_data: Data, make_recipe: Recipe, smoothing: float
) -> None:
    data, model = make_data(train=12), softmax_regression()
    x, y = data.train.images.flatten(1).double(), data.train.labels
    weight, bias = (p.detach().clone().double() for p in model.parameters())
    # The gradient of the cross-entropy is (softmax(Wx + b) − target) xᵀ, a mean over images.
    target = (1 - smoothing) * torch.eye(3, dtype=torch.double)[y] + smoothing / 3
    probability = torch.softmax(x @ weight.t() + bias, dim=1)
    error = (probability - target) / 12
    loss = float(-(target * probability.log()).sum(1).mean())

    recipe = make_recipe(epochs=1, batch_size=12, lr=0.5, label_smoothing=smoothing)
    history = run(model, data, recipe)
    torch.testing.assert_close(model[1].weight.double(), weight - 0.5 * error.t() @ x)
    torch.testing.assert_close(model[1].bias.double(), bias - 0.5 * error.sum(0))
    assert history[1].train_loss == pytest.approx(loss, rel=1e-5)


def test_label_smoothing_is_of_training_and_not_of_validation(
    make_data: Data, make_recipe: Recipe
) -> None:
    plain = run(net(), make_data(), make_recipe())
    smooth = run(net(), make_data(), make_recipe(label_smoothing=0.2))
    assert plain[0] == smooth[0]
    assert plain[1].train_loss != smooth[1].train_loss


@pytest.mark.parametrize("optimizer", [sgd, sam])
def test_bfloat16_rounds_the_products_and_nothing_else(
    make_data: Data, make_recipe: Recipe, optimizer: Callable[..., Optimizer]
) -> None:
    data, models = make_data(), (net(), net(), net())
    _, exact, rounded = models
    one_step = {"epochs": 1, "batch_size": len(data.train)}
    histories = {
        model: run(model, data, make_recipe(**one_step, precision=name), optimizer)
        for model, name in ((exact, "float32"), (rounded, "bfloat16"))
    }
    assert {one.dtype for one in rounded.state_dict().values()} == {torch.float32, torch.int64}
    before, after, found = map(parameters_to_vector, map(nn.Module.parameters, models))
    # Every factor is rounded by 2⁻⁹ at most. Two layers forward, two back, BatchNorm's difference
    # of like numbers, and SAM's passing twice make some tens of it.
    error = float(((found - after).norm() / (after - before).norm()).detach())
    assert 0 < error < 0.1
    # What is measured is measured in float32, also before the first step.
    assert histories[rounded][0] == replace(
        histories[exact][0], seconds=histories[rounded][0].seconds
    )
    assert data.validation
    assert histories[rounded][-1].validation_loss == evaluate(rounded, data.validation).loss


def test_bfloat16_is_as_repeatable_as_float32(make_data: Data, make_recipe: Recipe) -> None:
    one, other = net(), net()
    for model in (one, other):
        run(model, make_data(), make_recipe(epochs=2, precision="bfloat16"), sam)
    for name, weight in one.state_dict().items():
        assert torch.equal(weight, other.state_dict()[name])


def test_the_training_loss_is_a_mean_over_images_and_not_over_batches(
    make_data: Data, make_recipe: Recipe
) -> None:
    # Batches of 8, 8 and 4, at a rate that moves nothing: the loss of the model as it is.
    data, model = make_data(train=20), softmax_regression()
    expected = evaluate(model, data.train).loss
    history = run(model, data, make_recipe(epochs=1, lr=1e-12))
    assert history[1].train_loss == pytest.approx(expected, rel=1e-5)


def test_the_training_loss_of_sam_is_that_of_the_weights_and_not_of_the_perturbed_ones(
    make_data: Data, make_recipe: Recipe
) -> None:
    recipe = make_recipe(epochs=1, batch_size=30)
    of_sgd = run(net(), make_data(), recipe)[1].train_loss
    assert run(net(), make_data(), recipe, sam)[1].train_loss == of_sgd


def test_a_model_in_evaluation_mode_is_trained_in_training_mode(
    make_data: Data, make_recipe: Recipe
) -> None:
    one, other = net(), net().eval()
    run(one, make_data(), make_recipe())
    run(other, make_data(), make_recipe())
    assert int(other.state_dict()["2.num_batches_tracked"]) == 8
    assert same(one.state_dict(), other.state_dict())


# The history


@pytest.mark.parametrize(("make", "per_step"), [(sgd, 1), (sam, 2)])
def test_what_a_history_holds(
    make_data: Data,
    make_recipe: Recipe,
    make: Callable[[nn.Module, TrainingParams], Optimizer],
    per_step: int,
) -> None:
    data, model, recipe = make_data(train=30), net(), make_recipe(epochs=3, batch_size=8)
    seen: list[Epoch] = []
    untouched = evaluate(model, data.validation or data.train)

    def on_epoch(row: Epoch) -> None:
        seen.append(row)
        now = evaluate(model, data.validation or data.train)
        assert (row.validation_loss, row.validation_accuracy) == (now.loss, now.accuracy)

    history = train(
        model, make(model, recipe), data, recipe, seed=0, purpose="finetune", on_epoch=on_epoch
    )
    assert history == seen
    assert [row.epoch for row in history] == [0, 1, 2, 3]
    # 30 images in batches of 8: 8, 8, 8 and 6.
    assert [row.gradient_evaluations for row in history] == [
        4 * per_step * epoch for epoch in range(4)
    ]
    assert history[0] == Epoch(0, 0, 0.0, None, None, untouched.loss, untouched.accuracy)
    assert all(row.learning_rate == 0.1 for row in history[1:])
    assert all(after.seconds > before.seconds for before, after in pairwise(history))


def test_sam_with_a_rho_of_0_costs_what_sgd_costs(make_data: Data, make_recipe: Recipe) -> None:
    recipe, model = make_recipe(momentum=0.9, weight_decay=0.01), net()
    history = run(model, make_data(), recipe, lambda m, r: make_sam(m, r, sam_params(0.0)))
    other = net()
    same_history = run(other, make_data(), recipe)
    assert same(model.state_dict(), other.state_dict())
    rows = [[replace(row, seconds=0.0) for row in one] for one in (history, same_history)]
    assert rows[0] == rows[1]


def test_without_a_validation_part_there_is_no_validation(
    make_data: Data, make_recipe: Recipe
) -> None:
    with_part, without = net(), net()
    run(with_part, make_data(validation=9), make_recipe())
    history = run(without, make_data(validation=0), make_recipe())
    assert {(row.validation_loss, row.validation_accuracy) for row in history} == {(None, None)}
    assert all(row.train_loss is not None for row in history[1:])
    assert same(with_part.state_dict(), without.state_dict())


def test_the_cosine_schedule_ends_at_0(make_data: Data, make_recipe: Recipe) -> None:
    # Two epochs of two steps: the rate at step t of 4 is lr (1 + cos(π t / 4)) / 2.
    recipe, model = make_recipe(schedule="cosine", lr=0.4, batch_size=15), net()
    optimizer = make_sgd(model, recipe)
    history = train(model, optimizer, make_data(train=30), recipe, seed=0, purpose="finetune")
    rates = [0.2 * (1 + math.cos(math.pi * step / 4)) for step in (1, 3)]
    assert [row.learning_rate for row in history[1:]] == pytest.approx(rates)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("make", [sgd, sam])
def test_training_moves_every_weight_and_learns(
    make_data: Data,
    make_recipe: Recipe,
    make: Callable[[nn.Module, TrainingParams], Optimizer],
) -> None:
    data, model = make_data(train=60), net()
    before = plain_state(model)
    history = run(model, data, make_recipe(epochs=8), make)
    for name, tensor in plain_state(model).items():
        assert not torch.equal(tensor, before[name]), name
    assert model[1].weight.grad is not None
    losses = [row.train_loss or 0.0 for row in history[1:]]
    assert losses[-1] < 0.6 * losses[0]
    assert evaluate(model, data.train).accuracy > 0.8
    assert model.training


# Batches


class Recorder(nn.Module):
    """A network that writes down which images it was trained on: their first pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()
        self.seen: list[list[float]] = []

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            self.seen.append(images[:, 0, 0, 0].tolist())
        logits: Tensor = self.net(images)
        return logits


def flat(batches: list[list[float]]) -> list[float]:
    return [pixel for batch in batches for pixel in batch]


def test_all_arms_see_the_same_batches(make_data: Data, make_recipe: Recipe) -> None:
    data = make_data(train=30)
    arms = {name: Recorder() for name in ("sgd", "sgd_2x", "sam", "seed", "purpose")}
    run(arms["sgd"], data, make_recipe(epochs=2))
    run(arms["sgd_2x"], data, make_recipe(epochs=4))
    run(arms["sam"], data, make_recipe(epochs=2), sam)
    run(arms["seed"], data, make_recipe(epochs=2), seed=1)
    run(arms["purpose"], data, make_recipe(epochs=2), purpose="train_dense")
    seen = arms["sgd"].seen
    assert [len(batch) for batch in seen] == [8, 8, 8, 6] * 2
    assert arms["sgd_2x"].seen[:8] == seen
    # SAM sees every batch twice in a row.
    assert arms["sam"].seen[::2] == arms["sam"].seen[1::2] == seen
    # Another seed, purpose or epoch gives another order of the same images.
    for other in (arms["seed"].seen, arms["purpose"].seen, seen[4:]):
        assert other[:4] != seen[:4]
        assert sorted(flat(other[:4])) == sorted(flat(seen[:4]))
    pixels = data.train.images[:, 0, 0, 0]
    first = batch_order(30, 0, "finetune", 1)
    assert flat(seen[:4]) == pixels[first].tolist()


def test_images_keep_their_labels(make_data: Data, make_recipe: Recipe) -> None:
    # Learning to perfection is only possible if order permutes images and labels together.
    data, model = make_data(train=24), softmax_regression()
    run(model, data, make_recipe(epochs=30, lr=1.0, batch_size=5))
    assert evaluate(model, data.train).accuracy == 1.0


@pytest.mark.parametrize(
    ("count", "batch_size", "sizes"),
    [(9, 8, [8]), (9, 3, [3, 3, 3]), (12, 8, [8, 4]), (11, 8, [8]), (6, 8, [6]), (7, 2, [2, 2, 2])],
)
def test_a_short_last_batch_is_left_out(
    make_data: Data, make_recipe: Recipe, count: int, batch_size: int, sizes: list[int]
) -> None:
    model = Recorder()
    recipe = make_recipe(epochs=1, batch_size=batch_size, schedule="cosine")
    optimizer = make_sgd(model, recipe)
    history = train(model, optimizer, make_data(train=count), recipe, seed=0, purpose="finetune")
    assert [len(batch) for batch in model.seen] == sizes
    assert history[-1].gradient_evaluations == len(sizes)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)


# Repeating


@pytest.mark.parametrize("make", [sgd, sam])
def test_the_same_seed_gives_the_same_bits(
    make_data: Data,
    make_recipe: Recipe,
    make: Callable[[nn.Module, TrainingParams], Optimizer],
) -> None:
    recipe = make_recipe(momentum=0.9)
    states = []
    for seed in (0, 0, 1):
        model = net()
        torch.manual_seed(100 + len(states))  # the state of the world, which must not matter
        run(model, make_data(), recipe, make, seed=seed)
        states.append(model.state_dict())
    assert same(states[0], states[1])
    assert not torch.equal(states[0]["1.weight"], states[2]["1.weight"])


def test_random_layers_repeat_and_the_global_generator_goes_on(
    make_data: Data, make_recipe: Recipe
) -> None:
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(5)
        model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(25, 3))
        torch.manual_seed(100 + len(states))
        before = torch.get_rng_state()
        run(model, make_data(train=8), make_recipe(batch_size=8), seed=seed)
        assert torch.equal(torch.get_rng_state(), before)
        states.append(model.state_dict())
    assert same(states[0], states[1])
    # One batch holds all images, so that only the dropped pixels differ.
    assert not torch.allclose(states[0]["2.weight"], states[2]["2.weight"], atol=1e-4)


# What is refused


@pytest.mark.parametrize("make", [sgd, sam])
def test_a_stale_optimizer_is_refused_before_anything_happens(
    make_data: Data,
    make_recipe: Recipe,
    make: Callable[[nn.Module, TrainingParams], Optimizer],
) -> None:
    recipe, dense = make_recipe(), net()
    sparse = copy.deepcopy(dense)
    attach(sparse, Masks({"1.weight": torch.rand(8, 25) < 0.5}))
    part = SGD(list(sparse.parameters())[1:], lr=0.1)
    more = SGD([*sparse.parameters(), *dense.parameters()], lr=0.1)
    before = plain_state(sparse)
    rows: list[Epoch] = []
    for stale in (make(dense, recipe), part, more):
        with pytest.raises(StaleOptimizerError, match="Make a new optimizer"):
            train(sparse, stale, make_data(), recipe, seed=0, purpose="x", on_epoch=rows.append)
    assert rows == []
    assert same(plain_state(sparse), before)


def test_a_loss_that_diverges_names_epoch_step_and_rate(
    make_data: Data, make_recipe: Recipe
) -> None:
    # The images are so large that the first step makes all logits infinite.
    good = make_data(train=30)
    data = TrainingData(scaled(good.train, 1e25), None, good.info)
    recipe = make_recipe(lr=0.3)
    with pytest.raises(DivergenceError) as raised:
        run(softmax_regression(), data, recipe)
    assert str(raised.value) == (
        "the loss in epoch 1, step 2, became infinite or NaN, with lr 0.3. Lower lr in params.yaml."
    )
    with pytest.raises(
        DivergenceError,
        match=r"epoch 1, step 2,.* with lr 0\.3 and rho 0\.05\. "
        r"Lower lr or rho in params",
    ):
        run(softmax_regression(), data, recipe, sam)


def test_a_last_step_to_infinity_is_a_divergence_too(make_data: Data, make_recipe: Recipe) -> None:
    # One step only, whose loss is finite: only the weights after it are not.
    good = make_data(train=8, validation=0)
    data = TrainingData(scaled(good.train, 1e37), None, good.info)
    recipe = make_recipe(epochs=1, lr=1e5)
    with pytest.raises(DivergenceError, match=r"1\.weight in epoch 1, step 1, became infinite"):
        run(softmax_regression(), data, recipe)


def test_a_validation_loss_that_is_no_number_is_a_divergence(
    make_data: Data, make_recipe: Recipe
) -> None:
    good = make_data()
    assert good.validation is not None
    data = TrainingData(good.train, scaled(good.validation, 3e38), good.info)
    with pytest.raises(DivergenceError, match="the validation loss after epoch 0 became infinite"):
        run(softmax_regression(), data, make_recipe())


class Reviver(SGD):
    """An optimizer that does not care for masks."""

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = super().step(closure)
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.add_(0.01)
        return loss


def test_a_revived_weight_ends_the_training(make_data: Data, make_recipe: Recipe) -> None:
    model = net()
    attach(model, Masks({"1.weight": torch.arange(200).view(8, 25) % 2 == 0}))
    with pytest.raises(MaskError, match=r"100 pruned weights of 1\.weight are not 0"):
        run(model, make_data(), make_recipe(), lambda m, r: Reviver(m.parameters(), lr=r.lr))


# Masks that hold


@given(
    seed=st.integers(0, 100),
    momentum=st.sampled_from([0.0, 0.9]),
    weight_decay=st.sampled_from([0.0, 0.1]),
    rho=st.sampled_from([None, 0.05, 2.0]),
)
def test_masks_hold_and_kept_weights_move(
    make_data: Data,
    make_recipe: Recipe,
    seed: int,
    momentum: float,
    weight_decay: float,
    rho: float | None,
) -> None:
    model = net(seed)
    keep = torch.rand(8, 25, generator=torch.Generator().manual_seed(seed)) < 0.3
    keep[0, 0] = True
    attach(model, Masks({"1.weight": keep}))
    before = plain_state(model)["1.weight"]
    recipe = make_recipe(epochs=1, momentum=momentum, weight_decay=weight_decay)
    make = sgd if rho is None else lambda m, r: make_sam(m, r, sam_params(rho))
    run(model, make_data(train=16, validation=0), recipe, make, seed=seed)
    after = plain_state(model)["1.weight"]
    assert int((after[~keep] == 0).sum()) == int((~keep).sum())
    assert (after[keep] != before[keep]).float().mean() > 0.9


@given(count=st.integers(1, 400), batch_size=st.integers(2, 70))
def test_no_step_is_taken_on_less_than_half_a_batch(count: int, batch_size: int) -> None:
    order = torch.randperm(count)
    batches = split_order(order, batch_size)
    taken = torch.cat(batches)
    assert torch.equal(taken, order[: len(taken)])  # every image once, in the order given
    assert all(len(batch) == batch_size for batch in batches[:-1])
    assert len(batches) == 1 or len(batches[-1]) >= max(2, batch_size / 2)
    left_out = count - len(taken)
    assert left_out == 0 or left_out < max(2, batch_size / 2)


def test_images_are_shifted_anew_in_every_epoch_and_alike_for_all_arms(
    make_data: Data, make_recipe: Recipe
) -> None:
    data, recipe = make_data(), make_recipe(batch_size=len(make_data().train), shift_pixels=1)
    seen = {}
    for purpose, epoch in (("finetune", 1), ("finetune", 2), ("train_dense", 1)):
        images, labels = Batches(data, recipe, 5, purpose, epoch)[0]
        again, same_labels = Batches(data, recipe, 5, purpose, epoch)[0]
        assert images.equal(again)
        assert labels.equal(same_labels)
        order = batch_order(len(data.train), 5, purpose, epoch)
        assert labels.equal(data.train.labels[order])
        moves = random_shifts(len(data.train), 1, 5, purpose, epoch)[order]
        background = -data.info.mean[0] / data.info.std[0]
        assert images.equal(shift(data.train.images[order], moves, 1, background))
        seen[purpose, epoch] = moves
    assert not seen["finetune", 1].equal(seen["finetune", 2])
    still = Batches(data, make_recipe(batch_size=len(data.train)), 5, "finetune", 1)[0][0]
    assert still.equal(data.train.images[batch_order(len(data.train), 5, "finetune", 1)])


def test_arms_epochs_and_both_passes_see_what_is_done_to_images(
    make_data: Data, make_recipe: Recipe
) -> None:
    data = make_data()
    recipe = make_recipe(momentum=0.9, shift_pixels=1, flip=True, cutout_pixels=2)
    seen: dict[str, list[Tensor]] = {}
    for name, optimizer in (("sgd", sgd), ("sam", sam)):
        model, images = net(), seen.setdefault(name, [])

        def look(model: nn.Module, given: tuple[Tensor], images: list[Tensor] = images) -> None:
            if model.training:
                images.append(given[0].clone())

        model.register_forward_pre_hook(look)
        run(model, data, recipe, optimizer)
    assert len(seen["sam"]) == 2 * len(seen["sgd"]) == 2 * recipe.epochs * 4
    for step, images in enumerate(seen["sgd"]):
        assert images.equal(seen["sam"][2 * step])
        assert images.equal(seen["sam"][2 * step + 1])
        batch = Batches(data, recipe, 0, "finetune", 1 + step // 4)[step % 4]
        assert images.equal(batch[0])
    # Another thing done to them leaves what was done before as it was.
    shifted = make_recipe(shift_pixels=1)
    alone = Batches(data, shifted, 0, "finetune", 1)[0][0]
    also_cut = Batches(data, shifted.model_copy(update={"cutout_pixels": 2}), 0, "finetune", 1)[0]
    kept = also_cut[0] != 0
    assert also_cut[0][kept].equal(alone[kept])
    assert (~kept).flatten(1).any(dim=1).all()


def test_a_network_that_works_in_place_leaves_the_data_as_they_are(make_data: Data) -> None:
    data = make_data()
    model = build_model("tests.sample_networks:writes_to_its_input", (1, 5, 5), 3)
    before = data.train.images.clone()
    evaluate(model, data.train)
    inplace = nn.Sequential(nn.ReLU(inplace=True), nn.BatchNorm2d(1))
    reestimate_batchnorm(inplace, data.train.batches(250))
    sharpness(model, data.train, 0.05)
    assert torch.equal(data.train.images, before)
