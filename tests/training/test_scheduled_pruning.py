"""Pruning while it is finetuned: exact at the end, alike in every arm, and the same when killed."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparse_sam.data.seeding import seeded
from sparse_sam.data.tensors import TrainingData
from sparse_sam.errors import DivergenceError, MaskError
from sparse_sam.networks.build import build_model
from sparse_sam.pruning.criteria import Evidence
from sparse_sam.pruning.forgetting import forget_everything, forget_pruned
from sparse_sam.pruning.masks import (
    Masks,
    attach,
    attached_masks,
    load_plain,
    masks_of,
    plain_state,
    tighten,
)
from sparse_sam.pruning.ranking import pruned_count
from sparse_sam.pruning.sparsifier import Sparsifier
from sparse_sam.sam.registry import VARIANTS
from sparse_sam.training import experiment
from sparse_sam.training.base_optimizer import make_base
from sparse_sam.training.checkpoint import Checkpoint
from sparse_sam.training.experiment import Trained, finetune, prune, train_dense
from sparse_sam.training.loop import Epoch, train
from sparse_sam.training.params import DenseParams, FinetuneParams, TrainingParams
from sparse_sam.training.resume import ResumePoint
from sparse_sam.training.with_sam import make_sam
from sparse_sam.training.with_sgd import make_sgd
from tests.recipes import NOT_DISTILLED, prune_params, sam_params

Recipe = Callable[..., TrainingParams]
Data = Callable[..., TrainingData]
WEIGHTS = {"1.weight": 12 * 25, "4.weight": 3 * 12}
GRADUAL = {"name": "gradual", "initial": 0.0, "end": 0.7, "updates": 5}
ITERATIVE = {"name": "iterative", "rounds": 3, "rewind": "none"}
SCHEDULES = {
    "one-shot": {"name": "one-shot"},
    "gradual": GRADUAL,
    "iterative": ITERATIVE,
    "rewound": {**ITERATIVE, "rewind": "dense"},
    "from the start": {**ITERATIVE, "rewind": "initial"},
}
EPOCHS = 3


def silent(_: Epoch) -> None:
    return


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def finetune_params(recipe: TrainingParams, **sam: Any) -> FinetuneParams:
    return FinetuneParams(training=recipe, distillation=NOT_DISTILLED, sam=sam_params(**sam))


@pytest.fixture(scope="module")
def dense(make_data: Data, make_recipe: Recipe, tiny_net: str) -> Checkpoint:
    recipe = DenseParams(**make_recipe().model_dump(), optimizer="sgd", sam=sam_params())
    return train_dense(make_data(), tiny_net, recipe, 3, silent).checkpoint


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, Masks]]:
    """(progress, masks) whenever masks have shrunk."""
    seen: list[tuple[float, Masks]] = []

    class Recording(Sparsifier):
        def step(self, optimizer: Any = None) -> bool:
            before = masks_of(self.model)
            rewound = super().step(optimizer)
            after = masks_of(self.model)
            assert before is not None
            assert after is not None
            assert all(not (after[name] & ~mask).any() for name, mask in before.items())
            if after.kept != before.kept:
                assert self.steps is not None
                seen.append((self.done / (self.steps - 1), after))
            return rewound

    monkeypatch.setattr(experiment, "Sparsifier", Recording)
    return seen


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("variant", ["sgd", *VARIANTS])
def test_the_final_sparsity_is_exact_and_masks_only_shrink(
    schedule: dict[str, Any],
    variant: str,
    make_data: Data,
    make_recipe: Recipe,
    dense: Checkpoint,
    asked: list[tuple[float, Masks]],
) -> None:
    data, pruning = make_data(), prune_params(sparsity=0.8, schedule=schedule)
    recipe = make_recipe(epochs=EPOCHS, momentum=0.9, weight_decay=0.01)
    arm = "sgd" if variant == "sgd" else "sam"
    settings = {} if variant == "sgd" else {"variant": variant}
    pruned = prune(dense, pruning, data)
    assert pruned.masks is not None
    tuned = finetune(
        pruned, data, finetune_params(recipe, **settings), arm, silent, pruning=pruning
    ).checkpoint
    assert tuned.masks is not None
    for name, size in WEIGHTS.items():
        # (That pruned weights are exactly 0, training and checkpoints check.)
        assert int((~tuned.masks[name]).sum()) == pruned_count(0.8, size)
        assert int((tuned.state[name] == 0).sum()) == pruned_count(0.8, size)
        assert not (tuned.masks[name] & ~pruned.masks[name]).any()
    shrunk = {"one-shot": 0, "gradual": 5, "iterative": 2}[schedule["name"]]
    assert len(asked) == shrunk


@pytest.mark.parametrize("pruning", [prune_params(sparsity=0.8), None])
def test_one_shot_is_as_without_a_schedule(
    pruning: Any, make_data: Data, make_recipe: Recipe, dense: Checkpoint
) -> None:
    data, params = make_data(), finetune_params(make_recipe(momentum=0.9))
    pruned = prune(dense, prune_params(sparsity=0.8))
    for arm in ("sgd", "sam"):
        one = finetune(pruned, data, params, arm, silent, pruning=pruning).checkpoint
        assert same(one.state, finetune(pruned, data, params, arm, silent).checkpoint.state)


def test_a_gradual_schedule_begins_where_it_says(dense: Checkpoint) -> None:
    start = prune(dense, prune_params(sparsity=0.8, schedule=GRADUAL))
    assert same(start.state, dense.state)
    assert start.masks is not None
    assert start.masks.kept == start.masks.total
    half = prune(dense, prune_params(sparsity=0.8, schedule={**GRADUAL, "initial": 0.5}))
    assert half.masks is not None
    assert half.masks.kept == 150 + 18
    third = prune(dense, prune_params(sparsity=0.875, schedule=ITERATIVE))
    assert third.masks is not None
    assert third.masks.kept == 150 + 18


def test_all_arms_see_the_same_schedule(
    make_data: Data, make_recipe: Recipe, dense: Checkpoint, asked: list[tuple[float, Masks]]
) -> None:
    data, pruning = make_data(), prune_params(sparsity=0.8, schedule=GRADUAL)
    pruned, params = prune(dense, pruning), finetune_params(make_recipe(epochs=5))
    seen = {}
    for arm in ("sgd", "sam", "sgd_2x"):
        finetune(pruned, data, params, arm, silent, pruning=pruning)
        seen[arm] = [(progress, masks.kept) for progress, masks in asked]
        asked.clear()
    assert seen["sgd"] == seen["sam"]
    assert [kept for _, kept in seen["sgd"]] == [kept for _, kept in seen["sgd_2x"]]
    for arm, step in (("sgd", 1 / 19), ("sgd_2x", 1 / 39)):
        wanted = [0.7 * update / 5 for update in range(1, 6)]
        found = [progress for progress, _ in seen[arm]]
        assert all(0 <= there - here < step for here, there in zip(wanted, found, strict=True))


@pytest.mark.parametrize(
    ("criterion", "scope", "structure", "sparsity"),
    [
        ("random", "global", "unstructured", 0.8),
        ("saliency", "erk", "unstructured", 0.8),
        ("saliency", "layerwise", "channels", 0.5),
        ("random", "global", "2:4", 0.5),
    ],
)
@pytest.mark.parametrize("name", ["gradual", "rewound"])
def test_other_axes_go_with_schedules(
    name: str,
    criterion: str,
    scope: str,
    structure: str,
    sparsity: float,
    make_data: Data,
    make_recipe: Recipe,
    dense: Checkpoint,
    asked: list[tuple[float, Masks]],
) -> None:
    data = make_data()
    pruning = prune_params(
        sparsity=sparsity,
        criterion=criterion,
        scope=scope,
        structure=structure,
        schedule=SCHEDULES[name],
    )
    recipe = make_recipe(epochs=EPOCHS, momentum=0.9, weight_decay=0.01)
    pruned = prune(dense, pruning, data)
    for arm in ("sgd", "sam"):
        tuned = finetune(
            pruned, data, finetune_params(recipe), arm, silent, pruning=pruning
        ).checkpoint
        assert tuned.masks is not None
        total = sum(WEIGHTS[name] for name in tuned.masks)
        assert tuned.masks.total - tuned.masks.kept == pruned_count(sparsity, total)
    assert asked


@pytest.mark.parametrize("name", ["gradual", "iterative", "rewound", "from the start"])
@pytest.mark.parametrize("variant", ["sgd", "sam", "looksam"])
def test_going_on_after_any_epoch_equals_never_having_stopped(
    name: str,
    variant: str,
    tmp_path: Path,
    make_data: Data,
    make_recipe: Recipe,
    dense: Checkpoint,
) -> None:
    data = make_data()
    criterion = "saliency" if variant == "sam" else "magnitude"
    pruning = prune_params(sparsity=0.8, schedule=SCHEDULES[name], criterion=criterion)
    recipe = make_recipe(epochs=EPOCHS, momentum=0.9, weight_decay=0.01, schedule="cosine")
    settings = {} if variant == "sgd" else {"variant": variant}
    params, arm = finetune_params(recipe, **settings), "sgd" if variant == "sgd" else "sam"
    pruned = prune(dense, pruning, data)

    class Stop(Exception):  # noqa: N818 - no error
        pass

    def run(point: ResumePoint | None = None, stop_after: int | None = None) -> Trained:
        def on_epoch(row: Epoch) -> None:
            if row.epoch == stop_after:
                raise Stop

        return finetune(pruned, data, params, arm, on_epoch, point, pruning)

    whole = run()
    for stop_after in range(EPOCHS + 1):
        point = ResumePoint(tmp_path, f"key {stop_after}")
        with pytest.raises(Stop):
            run(point, stop_after)
        torch.manual_seed(stop_after)  # whatever the process did before
        again = run(point)
        assert same(again.checkpoint.state, whole.checkpoint.state)
        assert again.checkpoint.masks is not None
        assert whole.checkpoint.masks is not None
        assert same(dict(again.checkpoint.masks), dict(whole.checkpoint.masks))
        assert [replace(row, seconds=0.0) for row in again.history] == [
            replace(row, seconds=0.0) for row in whole.history
        ]


@pytest.mark.parametrize("name", ["gradual", "rewound"])
def test_going_on_after_any_step_equals_never_having_stopped(
    name: str,
    tmp_path: Path,
    make_data: Data,
    make_recipe: Recipe,
    dense: Checkpoint,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data, pruning = make_data(), prune_params(sparsity=0.8, schedule=SCHEDULES[name])
    recipe = make_recipe(epochs=EPOCHS, momentum=0.9, weight_decay=0.01, schedule="cosine")
    params, pruned = finetune_params(recipe), prune(dense, pruning, data)

    def run(point: ResumePoint | None = None, stop_before: int | None = None) -> Trained:
        def before_step(step: int) -> None:
            if step == stop_before:
                raise KeyboardInterrupt

        monkeypatch.setattr(experiment, "train", partial(train, before_step=before_step))
        return finetune(pruned, data, params, "sam", silent, point, pruning)

    whole = run()
    for stop_before in range(1, 4 * EPOCHS):
        point = ResumePoint(tmp_path, f"key {stop_before}", every_steps=1)
        with pytest.raises(KeyboardInterrupt):
            run(point, stop_before)
        again = run(point)
        assert same(again.checkpoint.state, whole.checkpoint.state)
        assert [replace(row, seconds=0.0) for row in again.history] == [
            replace(row, seconds=0.0) for row in whole.history
        ]


def test_a_training_of_one_step_ends_at_the_final_sparsity(
    make_data: Data, make_recipe: Recipe, dense: Checkpoint
) -> None:
    pruning = prune_params(sparsity=0.8, schedule=GRADUAL)
    data, recipe = make_data(train=8), make_recipe(epochs=1, batch_size=8)
    pruned = prune(dense, pruning)
    tuned = finetune(pruned, data, finetune_params(recipe), "sgd", silent, pruning=pruning)
    assert tuned.checkpoint.masks is not None
    assert tuned.checkpoint.masks.kept == 60 + 7


def test_a_sparsity_that_was_not_met_is_a_fault(
    make_data: Data, make_recipe: Recipe, dense: Checkpoint
) -> None:
    pruning = prune_params(sparsity=0.8)
    elsewhere = prune(dense, prune_params(sparsity=0.7))
    with pytest.raises(
        MaskError,
        match=r"210 of 300 weights of 1\.weight are pruned, but layerwise sparsity 0\.8",
    ):
        finetune(
            elsewhere, make_data(), finetune_params(make_recipe()), "sgd", silent, pruning=pruning
        )


def test_weights_are_rewound_to_what_they_were(
    make_data: Data, make_recipe: Recipe, tiny_net: str, dense: Checkpoint
) -> None:
    data, recipe = make_data(), make_recipe(momentum=0.9)
    with seeded(3, "initialisation"):
        initial = plain_state(build_model(tiny_net, (1, 5, 5), 3))
    for rewind, to in (("dense", dense.state), ("initial", initial)):
        pruning = prune_params(sparsity=0.8, schedule={**ITERATIVE, "rewind": rewind})
        pruned = prune(dense, pruning)
        model = pruned.build()
        optimizer = make_sgd(model, recipe)
        evidence = Evidence(3, data.train, (1, 5, 5))
        sparsifier = experiment._sparsifier(model, pruning, evidence)
        sparsifier.prepare(optimizer, 12)
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        assert [sparsifier.step() for _ in range(3)] == [False] * 3
        assert optimizer.state
        assert sparsifier.step()
        assert not optimizer.state
        masks = masks_of(model)
        assert masks is not None
        for name, tensor in plain_state(model).items():
            expected = to[name] * masks[name] if name in masks else to[name]
            assert torch.equal(tensor, expected)


@pytest.mark.parametrize("arm", ["sgd", "sgd_2x", "sam"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_holds_its_masks_under_adamw(
    schedule: str, arm: str, make_data: Data, make_recipe: Recipe, dense: Checkpoint
) -> None:
    recipe = make_recipe(
        epochs=EPOCHS,
        base_optimizer="adamw",
        lr=0.01,
        weight_decay=0.1,
        schedule="cosine",
        warmup_epochs=0.5,
        clip_norm=1.0,
    )
    pruning = prune_params(sparsity=0.8, schedule=SCHEDULES[schedule])
    data = make_data()
    tuned = finetune(
        prune(dense, pruning, data), data, finetune_params(recipe), arm, silent, pruning=pruning
    )
    masks = tuned.checkpoint.masks
    assert masks is not None
    assert masks.kept == 60 + 7
    for name, mask in masks.items():
        assert not tuned.checkpoint.state[name][~mask].any()
    assert all(row.train_loss < 2 for row in tuned.history[1:])


# The parts


def test_masks_only_shrink() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with pytest.raises(MaskError, match="the model is dense"):
        tighten(model, Masks({"0.weight": torch.eye(2).bool()}))
    attach(model, Masks({"0.weight": torch.eye(2).bool()}))
    with pytest.raises(MaskError, match=r"0\.weight brings back 2 pruned weights"):
        tighten(model, Masks({"0.weight": torch.ones(2, 2).bool()}))
    with pytest.raises(
        MaskError, match=r"the new masks are of 1\.weight; they must be of 0\.weight"
    ):
        tighten(model, Masks({"1.weight": torch.eye(2).bool()}))
    with pytest.raises(MaskError, match="has shape"):
        tighten(model, Masks({"0.weight": torch.eye(3).bool()}))
    mask, weight = attached_masks(model)[0].mask, attached_masks(model)[0].original
    tighten(model, Masks({"0.weight": torch.tensor([[True, False], [False, False]])}))
    # In place: what an optimizer and SAM hold is still the model's.
    assert attached_masks(model)[0].mask is mask
    assert attached_masks(model)[0].original is weight
    assert mask.tolist() == [[1, 0], [0, 0]]
    assert weight.detach().count_nonzero() == 1
    assert torch.equal(model[0].weight, weight)


def test_weights_that_became_nan_are_no_fault_of_the_masks(make_recipe: Recipe) -> None:
    model = nn.Linear(4, 4)
    attach(model, Masks({"weight": torch.ones(4, 4).bool()}))
    params = prune_params(sparsity=0.8, schedule=GRADUAL)
    sparsifier = experiment._sparsifier(model, params, Evidence())
    sparsifier.prepare(make_sgd(model, make_recipe()), steps=2)
    with torch.no_grad():
        attached_masks(model)[0].original[1, 2] = torch.nan
    with pytest.raises(DivergenceError, match=r"weight cannot be pruned by magnitude: .* Lower lr"):
        sparsifier.step()


@pytest.mark.parametrize("clip_norm", [None, 0.1])
@pytest.mark.parametrize("base", ["sgd", "adamw"])
@pytest.mark.parametrize("variant", ["sgd", *VARIANTS])
def test_what_is_remembered_of_pruned_weights_does_not_move_them(
    variant: str, base: str, clip_norm: float | None, make_recipe: Recipe
) -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 4)
    attach(model, Masks({"weight": torch.ones(4, 4).bool()}))
    recipe = make_recipe(
        base_optimizer=base,
        momentum=0.9 if base == "sgd" else 0.0,
        weight_decay=0.1,
        clip_norm=clip_norm,
    )
    optimizer = (
        make_base(model, recipe)
        if variant == "sgd"
        else make_sam(model, recipe, sam_params(variant=variant))
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model(torch.ones(2, 4)).square().sum()
        loss.backward()
        return loss

    for _ in range(2):
        optimizer.step(closure)
    kept = torch.eye(4).bool()
    tighten(model, Masks({"weight": kept}))
    forget_pruned(optimizer, model)
    (weight,) = (one.original for one in attached_masks(model))
    for name, value in optimizer.state[weight].items():
        if name != "step":
            assert value[kept].any()
            assert not value[~kept].any()
    for _ in range(6):
        optimizer.step(closure)
        assert not weight[~kept].any()
    forget_everything(optimizer)
    assert not optimizer.state
    optimizer.step(closure)


def test_a_state_is_loaded_under_plain_names(dense: Checkpoint) -> None:
    pruned = prune(dense, prune_params(sparsity=0.8))
    model = pruned.build()
    masks = masks_of(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    load_plain(model, dense.state)
    assert same(plain_state(model), pruned.state)
    assert masks is not None
    with pytest.raises(
        MaskError, match=r"does not fit the model: only one of the two has 1\.weight"
    ):
        load_plain(model, {n: t for n, t in dense.state.items() if n != "1.weight"})


def test_batchnorm_is_estimated_anew_where_it_is_asked_for(
    make_data: Data, dense: Checkpoint
) -> None:
    data = make_data()
    plain = prune(dense, prune_params(sparsity=0.8))
    anew = prune(dense, prune_params(sparsity=0.8, reestimate_batchnorm=True), data)
    for name, tensor in plain.state.items():
        statistics = name.startswith("2.running") or name.endswith("tracked")
        assert torch.equal(tensor, anew.state[name]) is not statistics
    hidden = data.train.images.flatten(1) @ plain.state["1.weight"].T
    assert torch.allclose(anew.state["2.running_mean"], hidden.mean(dim=0), atol=1e-6)
    assert torch.allclose(anew.state["2.running_var"], hidden.var(dim=0), atol=1e-6)
    with pytest.raises(MaskError, match="needs training data"):
        prune(dense, prune_params(reestimate_batchnorm=True))
