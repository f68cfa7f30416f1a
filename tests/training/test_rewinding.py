"""Lottery tickets: what a round begins with, from the first round on."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparse_sam.data.seeding import seeded
from sparse_sam.data.tensors import TrainingData
from sparse_sam.networks.batchnorm import reestimate_batchnorm
from sparse_sam.networks.build import build_model
from sparse_sam.pruning.criteria import Evidence
from sparse_sam.pruning.magnitude import magnitude_masks
from sparse_sam.pruning.masks import masks_of, plain_state
from sparse_sam.pruning.params import PruneParams
from sparse_sam.training import experiment
from sparse_sam.training.checkpoint import Checkpoint
from sparse_sam.training.experiment import finetune, prune, train_dense
from sparse_sam.training.loop import Epoch, train
from sparse_sam.training.params import DenseParams, FinetuneParams, TrainingParams
from sparse_sam.training.registry import LEARNING_RATES
from sparse_sam.training.with_sgd import make_sgd
from tests.recipes import NOT_DISTILLED, prune_params, sam_params

Recipe = Callable[..., TrainingParams]
Data = Callable[..., TrainingData]
State = dict[str, Tensor]
SEED, EPOCHS, STEPS = 3, 3, 12


def same(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def rounds(count: int, rewind: str, **changes: Any) -> PruneParams:
    schedule = {"name": "iterative", "rounds": count, "rewind": rewind}
    return prune_params(sparsity=0.8, schedule=schedule, **changes)


def under(masks: Any, state: State) -> State:
    return {name: one * masks[name] if name in masks else one for name, one in state.items()}


def before_each_step(
    monkeypatch: pytest.MonkeyPatch, look: Callable[[int, nn.Module, Optimizer], object]
) -> None:
    """Have a look at a finetuning before each of its steps."""

    def training(model: nn.Module, optimizer: Optimizer, *given: Any, **named: Any) -> list[Epoch]:
        def before_step(step: int) -> None:
            look(step, model, optimizer)

        return train(model, optimizer, *given, before_step=before_step, **named)

    monkeypatch.setattr(experiment, "train", training)


@pytest.fixture(scope="module")
def dense(make_data: Data, make_recipe: Recipe, tiny_net: str) -> Checkpoint:
    recipe = DenseParams(**make_recipe().model_dump(), optimizer="sgd", sam=sam_params())
    return train_dense(make_data(), tiny_net, recipe, SEED, lambda _: None).checkpoint


@pytest.fixture(scope="module")
def initial(tiny_net: str) -> State:
    with seeded(SEED, "initialisation"):
        return plain_state(build_model(tiny_net, (1, 5, 5), 3))


@pytest.mark.parametrize("count", [1, 3])
def test_the_first_round_begins_with_the_ticket(
    count: int, dense: Checkpoint, initial: State
) -> None:
    # The masks are those of the trained weights, and the weights those of the initialisation.
    trained = magnitude_masks(dense.build(), 1 - 0.2 ** (1 / count))
    ticket = prune(dense, rounds(count, "initial"))
    assert ticket.masks is not None
    assert same(dict(ticket.masks), dict(trained))
    assert same(ticket.state, under(trained, initial))
    untrained = magnitude_masks(build_model_at(initial, dense), 1 - 0.2 ** (1 / count))
    assert not same(dict(ticket.masks), dict(untrained))
    assert int(ticket.state["2.num_batches_tracked"]) == 0


def build_model_at(state: State, dense: Checkpoint) -> Any:
    model = dense.build()
    model.load_state_dict(state)
    return model


@pytest.mark.parametrize("rewind", ["dense", "none"])
def test_otherwise_the_first_round_begins_with_the_trained_network(
    rewind: str, dense: Checkpoint
) -> None:
    pruned = prune(dense, rounds(3, rewind))
    assert pruned.masks is not None
    assert same(pruned.state, under(pruned.masks, dense.state))


@pytest.mark.parametrize("arm", ["sgd", "sam"])
@pytest.mark.parametrize("rewind", ["initial", "dense"])
def test_every_round_begins_where_the_first_began(
    rewind: str,
    arm: str,
    make_data: Data,
    make_recipe: Recipe,
    dense: Checkpoint,
    initial: State,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    began: list[tuple[int, State, int]] = []

    def look(step: int, model: nn.Module, optimizer: Optimizer) -> None:
        state = plain_state(model)
        if step in {0, 4, 8}:
            masks = masks_of(model)
            assert masks is not None
            assert same(state, under(masks, initial if rewind == "initial" else dense.state))
            began.append((step, state, masks.kept))
            assert not optimizer.state
        elif step in {3, 7}:
            assert not same(state, began[-1][1])
            assert optimizer.state

    before_each_step(monkeypatch, look)
    data, pruning = make_data(), rounds(3, rewind)
    recipe = make_recipe(epochs=EPOCHS, momentum=0.9)
    params = FinetuneParams(training=recipe, distillation=NOT_DISTILLED, sam=sam_params())
    history = finetune(
        prune(dense, pruning, data), data, params, arm, lambda _: None, pruning=pruning
    ).history
    # 1 − 0.2^(i/3) of 300 and of 36 weights: 0.415, 0.658 and 0.8 are gone.
    assert [kept for _, _, kept in began] == [300 - 125 + 36 - 15, 300 - 197 + 36 - 24, 60 + 7]
    assert [row.learning_rate for row in history[1:]] == [0.1] * EPOCHS


def test_reestimated_statistics_are_the_tickets(
    make_data: Data, make_recipe: Recipe, dense: Checkpoint, initial: State
) -> None:
    data = make_data()
    pruning = rounds(3, "initial", reestimate_batchnorm=True)
    ticket = prune(dense, pruning, data)
    bare = prune(dense, rounds(3, "initial"))
    hidden = data.train.images.flatten(1) @ bare.state["1.weight"].T
    torch.testing.assert_close(ticket.state["2.running_mean"], hidden.mean(0))
    torch.testing.assert_close(ticket.state["2.running_var"], hidden.var(0))
    model = bare.build()
    reestimate_batchnorm(model, data.train.batches(250))
    assert same(ticket.state, plain_state(model))
    # Later rounds go back to them too.
    model = ticket.build()
    optimizer = make_sgd(model, make_recipe())
    sparsifier = experiment._sparsifier(model, pruning, Evidence(SEED, data.train, (1, 5, 5)))
    sparsifier.prepare(optimizer, STEPS)
    with torch.no_grad():
        model[2].running_mean.fill_(7.0)
    assert [sparsifier.step() for _ in range(4)] == [False] * 3 + [True]
    masks = masks_of(model)
    assert masks is not None
    assert same(plain_state(model), under(masks, ticket.state))


# The learning rate


def by_hand(round_steps: list[int]) -> list[float]:
    """A cosine from 0.1 to 0 in each round."""
    return [
        0.05 * (1 + math.cos(math.pi * step / length))
        for length in round_steps
        for step in range(length)
    ]


@pytest.mark.parametrize(
    ("rewind", "expected"),
    [
        ("initial", by_hand([4, 4, 4])),
        ("dense", by_hand([4, 4, 4])),
        ("none", by_hand([12])),
    ],
)
@pytest.mark.parametrize("arm", ["sgd", "sam"])
def test_the_learning_rate_is_rewound_with_the_weights(
    rewind: str,
    expected: list[float],
    arm: str,
    make_data: Data,
    make_recipe: Recipe,
    dense: Checkpoint,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[float] = []

    before_each_step(monkeypatch, lambda _, __, one: seen.append(one.param_groups[0]["lr"]))
    data, pruning = make_data(), rounds(3, rewind)
    recipe = make_recipe(epochs=EPOCHS, schedule="cosine")
    params = FinetuneParams(training=recipe, distillation=NOT_DISTILLED, sam=sam_params())
    finetune(prune(dense, pruning), data, params, arm, lambda _: None, pruning=pruning)
    assert seen == pytest.approx(expected, abs=1e-12)


def test_a_round_that_is_rewound_warms_up_anew(
    make_data: Data, make_recipe: Recipe, dense: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []

    before_each_step(monkeypatch, lambda _, __, one: seen.append(one.param_groups[0]["lr"]))
    recipe = make_recipe(epochs=EPOCHS, warmup_epochs=0.5)  # two of a round's four steps
    params = FinetuneParams(training=recipe, distillation=NOT_DISTILLED, sam=sam_params())
    for rewind, expected in (
        ("dense", [0.1 / 3, 0.2 / 3, 0.1, 0.1] * 3),
        ("none", [0.1 / 3, 0.2 / 3, *[0.1] * 10]),
    ):
        seen.clear()
        pruning = rounds(3, rewind)
        pruned = prune(dense, pruning)
        finetune(pruned, make_data(), params, "sam", lambda _: None, pruning=pruning)
        assert seen == pytest.approx(expected)


def test_a_schedule_that_begins_anew_by_hand(make_recipe: Recipe, dense: Checkpoint) -> None:
    recipe = make_recipe(schedule="cosine")
    optimizer = make_sgd(dense.build(), recipe)
    schedule = LEARNING_RATES.load(recipe.schedule)(optimizer, 7, restarts=[2, 3])
    seen = []
    for _ in range(8):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    # Rounds of two, one and four steps; after the last, 0.
    root = math.sqrt(0.5)
    last = [0.1, 0.05 * (1 + root), 0.05, 0.05 * (1 - root), 0.0]
    assert seen == pytest.approx([0.1, 0.05, 0.1, *last], abs=1e-12)
