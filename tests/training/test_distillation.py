"""Distillation: the loss by hand, the teacher as it is, and the same of it in every arm."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from sparse_sam.data.tensors import TrainingData
from sparse_sam.errors import CheckpointError, SparseSamError
from sparse_sam.files import Store
from sparse_sam.sam.registry import VARIANTS
from sparse_sam.training.base_optimizer import make_base
from sparse_sam.training.checkpoint import Checkpoint
from sparse_sam.training.distillation import Taught, Teacher
from sparse_sam.training.epoch import training_loss
from sparse_sam.training.experiment import finetune, initial_checkpoint, prune, train_dense
from sparse_sam.training.loop import Epoch, evaluate, train
from sparse_sam.training.made_by import Finetuning
from sparse_sam.training.once import checkpoint_hash, train_once
from sparse_sam.training.params import (
    DenseParams,
    DistillationParams,
    FinetuneParams,
    TrainingParams,
)
from sparse_sam.training.with_sam import make_sam
from tests.recipes import NOT_DISTILLED, prune_params, sam_params

Recipe = Callable[..., TrainingParams]
Data = Callable[..., TrainingData]
SEED = 3


def distilled(recipe: TrainingParams, weight: float = 0.7) -> FinetuneParams:
    asked = DistillationParams(weight=weight, temperature=2.0)
    return FinetuneParams(training=recipe, distillation=asked, sam=sam_params())


def untimed(history: list[Epoch]) -> list[Epoch]:
    return [replace(row, seconds=0.0) for row in history]


@pytest.fixture(scope="module")
def dense(make_data: Data, make_recipe: Recipe, tiny_net: str) -> Checkpoint:
    recipe = DenseParams(**make_recipe().model_dump(), optimizer="sgd", sam=sam_params())
    return train_dense(make_data(), tiny_net, recipe, SEED, lambda _: None).checkpoint


# The loss


def softened(logits: list[float], temperature: float) -> list[float]:
    powers = [math.exp(one / temperature) for one in logits]
    return [one / sum(powers) for one in powers]


LOGITS = st.lists(st.floats(-5, 5), min_size=3, max_size=3)


@given(
    student=st.lists(LOGITS, min_size=2, max_size=2),
    teacher=st.lists(LOGITS, min_size=2, max_size=2),
    weight=st.floats(0.1, 1),
    temperature=st.floats(0.5, 8),
)
def test_the_loss_number_by_number(
    student: list[list[float]], teacher: list[list[float]], weight: float, temperature: float
) -> None:
    soft = 0.0
    for mine, theirs in zip(student, teacher, strict=True):
        p, q = softened(theirs, temperature), softened(mine, temperature)
        soft += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)) / len(student)
    expected = (1 - weight) * 1.25 + weight * temperature**2 * soft
    taught = Taught(torch.tensor(teacher, dtype=torch.float64), weight, temperature)
    found = taught.mixed_with(torch.tensor(1.25), torch.tensor(student, dtype=torch.float64))
    assert float(found) == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_in_a_high_temperature_logits_are_matched_whatever_it_is() -> None:
    """Equation 4 of the paper: T² times the gradient tends to (z − v) / N, both centred."""
    student = torch.tensor([[1.0, -0.5, -0.5]], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([[-1.0, 0.25, 0.75]], dtype=torch.float64)
    for temperature in (100.0, 1000.0):
        loss = Taught(teacher, 1.0, temperature).mixed_with(torch.tensor(0.0), student)
        (gradient,) = torch.autograd.grad(loss, student)
        torch.testing.assert_close(gradient, (student.detach() - teacher) / 3, rtol=0.02, atol=1e-3)


# The teacher


def test_a_teacher_speaks_as_it_is_evaluated_and_learns_nothing(make_data: Data) -> None:
    split = make_data().train
    network = nn.Sequential(
        nn.Flatten(), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(25, 3), nn.BatchNorm1d(3)
    )
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    images = split.images.clone()
    state = torch.random.get_rng_state()
    taught = Teacher(network, 0.5, 4.0, "float32")(split.images)
    assert torch.random.get_rng_state().equal(state)
    assert split.images.equal(images)
    assert taught.logits.equal(network.eval()(split.images.clone()))
    assert not taught.logits.requires_grad
    assert all(before[name].equal(tensor) for name, tensor in network.state_dict().items())
    assert not any(weight.requires_grad for weight in network.parameters())


@pytest.mark.parametrize("variant", ["sgd", *VARIANTS])
def test_it_is_asked_once_a_step_about_what_every_pass_sees(
    variant: str, make_data: Data, make_recipe: Recipe
) -> None:
    recipe = make_recipe(momentum=0.9, flip=True, cutout_pixels=2)
    torch.manual_seed(0)
    networks = [nn.Sequential(nn.Flatten(), nn.Linear(25, 3)) for _ in range(2)]
    seen: tuple[list[Tensor], list[Tensor]] = ([], [])
    for network, images in zip(networks, seen, strict=True):

        def look(module: nn.Module, given: tuple[Tensor], images: list[Tensor] = images) -> None:
            if module.training or module is networks[1]:
                images.append(given[0].clone())

        network.register_forward_pre_hook(look)
    model = networks[0]
    optimizer = (
        make_base(model, recipe)
        if variant == "sgd"
        else make_sam(model, recipe, sam_params(variant=variant))
    )
    teacher = Teacher(networks[1], 0.5, 2.0, "float32")
    history = train(
        model, optimizer, make_data(), recipe, seed=0, purpose="finetune", teacher=teacher
    )
    passes, asked = seen
    assert len(asked) == 8
    assert len(passes) == history[-1].gradient_evaluations
    step = -1
    for images in passes:
        if step < 0 or not images.equal(asked[step]):
            step += 1
        assert images.equal(asked[step])
    assert step == 7


# The training


def test_a_step_follows_the_gradient_of_that_loss(make_data: Data, make_recipe: Recipe) -> None:
    data, recipe = make_data(train=12), make_recipe(epochs=1, batch_size=12, lr=0.5)
    torch.manual_seed(0)
    model, network = (nn.Sequential(nn.Flatten(), nn.Linear(25, 3)) for _ in range(2))
    teacher = Teacher(network, 0.4, 3.0, "float32")
    images, labels = data.train.images, data.train.labels
    loss = training_loss(model, images, labels, recipe, teacher(images))
    gradient = torch.autograd.grad(loss, list(model.parameters()))
    expected = [w.detach() - 0.5 * g for w, g in zip(model.parameters(), gradient, strict=True)]
    optimizer = make_base(model, recipe)
    history = train(model, optimizer, data, recipe, seed=0, purpose="finetune", teacher=teacher)
    for weight, after in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(weight.detach(), after)
    assert history[1].train_loss == pytest.approx(float(loss.detach()), rel=1e-5)


@pytest.mark.parametrize("arm", ["sgd", "sgd_2x", "sam"])
def test_every_arm_distils_the_dense_network(
    arm: str, make_data: Data, make_recipe: Recipe, dense: Checkpoint
) -> None:
    data, recipe = make_data(), make_recipe()
    pruned = prune(dense, prune_params(sparsity=0.8))
    whole = finetune(pruned, data, distilled(recipe), arm, lambda _: None, teacher=dense)
    plain = FinetuneParams(training=recipe, distillation=NOT_DISTILLED, sam=sam_params())
    without = finetune(pruned, data, plain, arm, lambda _: None, teacher=dense)
    alone = finetune(pruned, data, plain, arm, lambda _: None)
    assert untimed(without.history) == untimed(alone.history)  # with weight 0 none is asked
    assert untimed(whole.history)[1:] != untimed(alone.history)[1:]
    with pytest.raises(CheckpointError, match="needs the dense network as its teacher"):
        finetune(pruned, data, distilled(recipe), arm, lambda _: None)


def test_alone_with_the_teacher_its_answers_are_learned(
    make_data: Data, make_recipe: Recipe, dense: Checkpoint, tiny_net: str
) -> None:
    """Labels that say nothing, and a teacher who knows: with weight 1 the labels do not count."""
    data = make_data()
    labels = data.train.labels.roll(1)
    wrong = replace(data, train=replace(data.train, labels=labels))
    start = prune(initial_checkpoint(data, tiny_net, SEED), prune_params(sparsity=0.0))
    recipe = make_recipe(epochs=15)
    answers = evaluate(dense.build(), data.train).predictions
    agrees = {}
    for weight in (0.0, 1.0):
        params = distilled(recipe, weight)
        tuned = finetune(start, wrong, params, "sgd", lambda _: None, teacher=dense).checkpoint
        said = evaluate(tuned.build(), data.train).predictions
        agrees[weight] = float((said == answers).double().mean())
    assert agrees[1.0] > 0.8 > 0.5 > agrees[0.0]


def test_a_finetuning_that_distils_is_taken_from_the_store_with_its_teacher(
    tmp_path: Path, make_data: Data, make_recipe: Recipe, dense: Checkpoint
) -> None:
    data, store = make_data(), Store(tmp_path)
    pruned = prune(dense, prune_params())
    task = Finetuning(
        checkpoint_hash(pruned),
        dense.origin.model,
        prune_params(),
        "sam",
        distilled(make_recipe()),
        SEED,
        teacher=checkpoint_hash(dense),
    )
    done = train_once(task, data, store, start=pruned, teacher=dense)
    again = train_once(task, data, store, start=pruned)  # nobody is asked
    assert again.history == done.history
    with pytest.raises(SparseSamError, match="needs the dense network"):
        train_once(replace(task, teacher="0" * 64), data, store, start=pruned)
