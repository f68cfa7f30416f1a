"""Layers that draw random numbers draw alike in every arm of a seed, step by step."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparse_sam.data.tensors import TrainingData
from sparse_sam.sam.registry import VARIANTS
from sparse_sam.training.loop import train
from sparse_sam.training.params import TrainingParams
from sparse_sam.training.resume import ResumePoint
from sparse_sam.training.with_sam import make_sam
from sparse_sam.training.with_sgd import make_sgd
from tests.recipes import NEEDED, sam_params

Recipe = Callable[..., TrainingParams]
Data = Callable[..., TrainingData]
Masks = tuple[Tensor, ...]
EPOCHS, STEPS = 2, 4
GRADIENTS = {
    "sgd": [1] * 8,
    "sam": [2] * 8,
    "asam": [2] * 8,
    "periodic": [2, 1, 1, 1, 1] * 2,
    "looksam": [2, 1, 1, 1, 1] * 2,
    "late": [1] * NEEDED["late"]["after"] + [2] * 5,
    "momentum": [1] * 8,
    "gsam": [2] * 8,
}


class Stop(Exception):  # noqa: N818 - no error
    pass


def masks_of_a_training(
    data: TrainingData,
    recipe: TrainingParams,
    variant: str,
    *,
    seed: int = 3,
    purpose: str = "finetune",
    resume: ResumePoint | None = None,
    stop_before: int | None = None,
) -> dict[int, list[Masks]]:
    """What both dropout layers dropped: for every step, at each of its gradients."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(), nn.Dropout(0.5), nn.Linear(25, 16), nn.Dropout(0.5), nn.Linear(16, 3)
    )
    optimizer: Optimizer = make_sgd(model, recipe)
    if variant != "sgd":
        optimizer = make_sam(model, recipe, sam_params(variant=variant))
    dropped: list[Tensor] = []
    seen: dict[int, list[Masks]] = {}

    def before_step(step: int) -> None:
        if step == stop_before:
            raise Stop
        seen[step] = []

    def remember(_: nn.Module, __: tuple[Tensor], output: Tensor) -> None:
        if model.training:
            dropped.append(output.detach() == 0)

    def forward_ends(*_: object) -> None:
        if model.training:
            seen[max(seen)].append(tuple(dropped))
            dropped.clear()

    model[1].register_forward_hook(remember)
    model[3].register_forward_hook(remember)
    model.register_forward_hook(forward_ends)
    train(
        model,
        optimizer,
        data,
        recipe,
        seed=seed,
        purpose=purpose,
        before_step=before_step,
        resume=resume,
    )
    return seen


def alike(one: Masks, other: Masks) -> bool:
    return all(a.equal(b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("variant", ["sgd", *VARIANTS])
def test_every_pass_of_every_arm_sees_the_same_masks_at_the_same_step(
    variant: str, make_data: Data, make_recipe: Recipe
) -> None:
    data, recipe = make_data(), make_recipe(epochs=EPOCHS, momentum=0.9)
    twice = masks_of_a_training(data, recipe.model_copy(update={"epochs": 2 * EPOCHS}), "sgd")
    seen = masks_of_a_training(data, recipe, variant)
    assert list(seen) == list(range(EPOCHS * STEPS))
    assert [len(passes) for passes in seen.values()] == GRADIENTS[variant][: len(seen)]
    for step, passes in seen.items():
        assert all(alike(masks, twice[step][0]) for masks in passes)


def test_other_steps_epochs_seeds_and_purposes_have_other_masks(
    make_data: Data, make_recipe: Recipe
) -> None:
    data, recipe = make_data(train=32), make_recipe(epochs=EPOCHS)
    trainings = [
        masks_of_a_training(data, recipe, "sgd"),
        masks_of_a_training(data, recipe, "sgd", seed=4),
        masks_of_a_training(data, recipe, "sgd", purpose="train_dense"),
    ]
    every = [passes[0] for training in trainings for passes in training.values()]
    assert len(every) == 3 * EPOCHS * STEPS
    for layer in range(2):
        distinct = {masks[layer].numpy().tobytes() for masks in every}
        assert len(distinct) == len(every)


@pytest.mark.parametrize("variant", ["sgd", "sam", "looksam", "late", "momentum"])
@pytest.mark.parametrize("stop", [1, 2, 5, 7])
def test_a_resumed_training_sees_them_too(
    variant: str, stop: int, tmp_path: Path, make_data: Data, make_recipe: Recipe
) -> None:
    data, recipe = make_data(), make_recipe(epochs=EPOCHS, momentum=0.9)
    whole = masks_of_a_training(data, recipe, variant)
    point = ResumePoint(tmp_path, "key", every_steps=1)
    with pytest.raises(Stop):
        masks_of_a_training(data, recipe, variant, resume=point, stop_before=stop)
    torch.manual_seed(stop)  # whatever the process did before
    rest = masks_of_a_training(data, recipe, variant, resume=point)
    assert list(rest) == list(range(stop, EPOCHS * STEPS))
    for step, passes in rest.items():
        assert len(passes) == len(whole[step])
        assert all(map(alike, passes, whole[step]))


def test_a_resume_point_holds_no_generators_state(
    tmp_path: Path, make_data: Data, make_recipe: Recipe
) -> None:
    point = ResumePoint(tmp_path, "key", every_steps=1)
    with pytest.raises(Stop):
        masks_of_a_training(make_data(), make_recipe(), "sam", resume=point, stop_before=2)
    saved = point.load()
    assert saved is not None
    assert saved["epoch"].keys() == {
        "losses",
        "gradient_evaluations",
        "learning_rate",
        "seconds",
        "watched",
    }
