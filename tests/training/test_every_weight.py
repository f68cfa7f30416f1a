"""The experiment on networks that read their weights in every way: all train, and stay sparse."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sparse_sam.data.tensors import TrainingData
from sparse_sam.sam.registry import VARIANTS
from sparse_sam.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from sparse_sam.training.experiment import finetune, prune, train_dense
from sparse_sam.training.params import DenseParams, FinetuneParams, TrainingParams
from tests.recipes import NOT_DISTILLED, prune_params, sam_params
from tests.sample_networks import NAMES

Recipe = Callable[..., TrainingParams]
Data = Callable[..., TrainingData]
SEED = 3
CASES = [
    *((name, arm, "sam") for name in NAMES for arm in ("sgd", "sgd_2x", "sam")),
    *(("transformer", "sam", variant) for variant in VARIANTS if variant != "sam"),
]
# A weight moves for certain only where its gradient is far above the rounding of a step.
CLEARLY = 1e-5


@pytest.fixture(scope="module")
def data(make_data: Data) -> TrainingData:
    return make_data()


@pytest.fixture(scope="module")
def make_pruned(data: TrainingData, make_recipe: Recipe) -> Callable[[str], Checkpoint]:
    made: dict[str, Checkpoint] = {}

    def make(name: str) -> Checkpoint:
        if name not in made:
            recipe = make_recipe(epochs=1, lr=0.03).model_dump()
            params = DenseParams(**recipe, optimizer="sgd", sam=sam_params())
            dense = train_dense(data, f"tests.sample_networks:{name}", params, SEED, lambda _: None)
            made[name] = prune(dense.checkpoint, prune_params())
        return made[name]

    return make


def gradients(checkpoint: Checkpoint, data: TrainingData) -> dict[str, Tensor]:
    """Of all training images, by plain name, at the weights as plain ones."""
    model = Checkpoint(checkpoint.origin, checkpoint.state, None).build()
    cross_entropy(model(data.train.images), data.train.labels).backward()
    return {
        name: parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
        for name, parameter in model.named_parameters()
    }


def read(model: nn.Module, name: str) -> Tensor:
    """The weight as a layer sees it that reads it."""
    layer, _, own = name.rpartition(".")
    weight: Tensor = getattr(model.get_submodule(layer), own)
    return weight


@pytest.mark.parametrize(("name", "arm", "variant"), CASES)
def test_finetuning_moves_every_kept_weight_and_no_pruned_one(
    data: TrainingData,
    make_recipe: Recipe,
    make_pruned: Callable[[str], Checkpoint],
    tmp_path: Path,
    name: str,
    arm: str,
    variant: str,
) -> None:
    start = make_pruned(name)
    assert start.masks is not None
    params = FinetuneParams(
        training=make_recipe(lr=0.03, momentum=0.9, weight_decay=1e-3),
        distillation=NOT_DISTILLED,
        sam=sam_params(variant=variant),
    )
    trained = finetune(start, data, params, arm, lambda _: None).checkpoint
    save_checkpoint(tmp_path / "saved", trained)
    loaded = load_checkpoint(
        tmp_path / "saved",
        arm=arm,
        seed=SEED,
        dataset=data.info.fingerprint,
        stage="finetune",
        model=trained.origin.model,
    )
    assert loaded.masks is not None
    exercised = 0
    for weight, gradient in gradients(start, data).items():
        mask = start.masks.get(weight, torch.ones_like(gradient, dtype=torch.bool))
        assert torch.equal(loaded.masks.get(weight, mask), mask)
        moved = loaded.state[weight] != start.state[weight]
        clearly = mask & (gradient.abs() > CLEARLY)
        exercised += int(clearly.sum())
        assert clearly.any(), weight
        assert moved[clearly].all(), weight
        assert not loaded.state[weight][~mask].count_nonzero(), weight
        assert torch.equal(read(loaded.build(), weight), loaded.state[weight])
    assert exercised > loaded.masks.kept / 2


@pytest.mark.parametrize("arm", ["sgd", "sgd_2x", "sam"])
def test_a_weight_that_layers_share_is_sparse_in_all_of_them(
    data: TrainingData,
    make_recipe: Recipe,
    make_pruned: Callable[[str], Checkpoint],
    tmp_path: Path,
    arm: str,
) -> None:
    start = make_pruned("tied")
    params = FinetuneParams(
        training=make_recipe(lr=0.03, momentum=0.9), distillation=NOT_DISTILLED, sam=sam_params()
    )
    save_checkpoint(
        tmp_path / "saved", finetune(start, data, params, arm, lambda _: None).checkpoint
    )
    loaded = load_checkpoint(
        tmp_path / "saved",
        arm=arm,
        seed=SEED,
        dataset=data.info.fingerprint,
        stage="finetune",
        model=start.origin.model,
    )
    assert loaded.masks is not None
    # Once each: the embedding, the layer that is used twice, the classes.
    assert set(loaded.masks) == {"embedding.weight", "first.weight", "classes.weight"}
    assert loaded.masks.total == 5 * 8 + 8 * 8 + 3 * 125
    assert loaded.masks.kept == 5 * 4 + 8 * 4 + 3 * 125 // 2
    for one, other in (("embedding", "head"), ("first", "second")):
        mask = loaded.masks[f"{one}.weight"]
        assert torch.equal(loaded.state[f"{one}.weight"], loaded.state[f"{other}.weight"])
        assert not loaded.state[f"{other}.weight"][~mask].count_nonzero()
    model: Any = loaded.build()
    before = model.head.weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    cross_entropy(model(data.train.images), data.train.labels).backward()
    optimizer.step()
    assert torch.equal(model.head.weight, model.embedding.weight)
    assert not torch.equal(model.head.weight, before)
    assert not model.head.weight[~loaded.masks["embedding.weight"]].count_nonzero()
