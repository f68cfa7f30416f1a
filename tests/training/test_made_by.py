"""Keys: everything that makes a training, and nothing that does not."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from sparse_sam.files import code_of
from sparse_sam.networks.network import Network
from sparse_sam.training.made_by import Dense, Environment, Finetuning, identity, key_of
from sparse_sam.training.params import (
    DenseParams,
    DistillationParams,
    FinetuneParams,
    TrainingParams,
)
from tests.recipes import NOT_DISTILLED, prune_params, sam_params, training_values

RECIPE = training_values()
CHANGED: dict[str, Any] = {
    "epochs": 4,
    "batch_size": 32,
    "base_optimizer": "adamw",
    "lr": 0.06,
    "momentum": 0.8,
    "weight_decay": 0.1,
    "schedule": "cosine",
    "warmup_epochs": 0.5,
    "clip_norm": 1.0,
    "label_smoothing": 0.1,
    "shift_pixels": 1,
    "flip": True,
    "cutout_pixels": 1,
    "precision": "bfloat16",
}
HERE = Environment("2.0", "x86_64", "cpu", "AVX2", 1)
DENSE = Dense(
    "data", "mlpnet", DenseParams(**RECIPE, optimizer="sgd", sam=sam_params(0.05)), seed=3
)
TUNED = Finetuning(
    "e" * 64,
    "mlpnet",
    prune_params(),
    "sam",
    FinetuneParams(
        training=TrainingParams(**RECIPE), distillation=NOT_DISTILLED, sam=sam_params(0.05)
    ),
    seed=3,
)


def finetune(**changes: Any) -> FinetuneParams:
    return FinetuneParams(
        training=TrainingParams(**RECIPE | changes.pop("training", {})),
        distillation=changes.pop("distillation", NOT_DISTILLED),
        sam=changes.pop("sam", sam_params(0.05)),
    )


PUBLISHED = {
    "epochs": 3,
    "batch_size": 64,
    "lr": 0.05,
    "momentum": 0.9,
    "weight_decay": 0.0,
    "schedule": "constant",
    "label_smoothing": 0.0,
    "shift_pixels": 0,
    "precision": "float32",
}
"""The recipe, as it was written when the first tables were published."""


def test_a_name_is_the_hash_of_its_content_from_version_to_version() -> None:
    """Published tables name cells so; `Dense` without files has no key for them."""
    text = json.dumps(
        {
            "data": "data",
            "model": "mlpnet",
            "recipe": {**PUBLISHED, "optimizer": "sgd"},
            "seed": 3,
        },
        sort_keys=True,
    )
    assert identity(DENSE) == hashlib.sha256(text.encode()).hexdigest()
    content = replace(TUNED, arm="sgd").content()
    assert content["recipe"] == {"training": PUBLISHED}
    assert "teacher" not in content
    assert TUNED.content()["recipe"].keys() == {"training", "sam"}


@pytest.mark.parametrize("key", RECIPE)
def test_every_parameter_of_the_recipe_makes_a_difference(key: str) -> None:
    assert set(RECIPE) == set(TrainingParams.model_fields) == set(CHANGED)
    changed = {key: CHANGED[key]}
    dense = replace(DENSE, recipe=DENSE.recipe.model_copy(update=changed))
    training = TUNED.recipe.training.model_copy(update=changed)
    recipe = TUNED.recipe.model_copy(update={"training": training})
    tuned = replace(TUNED, recipe=recipe)
    assert key_of(dense, HERE) != key_of(DENSE, HERE)
    for arm in ("sgd", "sgd_2x", "sam"):
        assert key_of(replace(tuned, arm=arm), HERE) != key_of(replace(TUNED, arm=arm), HERE)


@pytest.mark.parametrize(
    "change",
    [
        *({"data": "other"}, {"model": "lenet-5"}, {"seed": 4}, {"files": ("params.yaml",)}),
        {"model": Network.of("mlpnet", width=8)},
    ],
)
def test_every_field_of_a_dense_network_makes_a_difference(change: dict[str, Any]) -> None:
    assert {one.name for one in fields(Dense)} == {
        "data",
        "model",
        "recipe",
        "seed",
        "files",
        "start",
    }
    assert key_of(replace(DENSE, **change), HERE) != key_of(DENSE, HERE)


DISTILLED = finetune(distillation=DistillationParams(weight=0.5, temperature=4.0))


@pytest.mark.parametrize(
    "change",
    [
        {"start": "f" * 64},
        {"model": "lenet-5"},
        {"model": Network.of("mlpnet", width=8)},
        {"prune": prune_params(sparsity=0.6)},
        {"prune": prune_params(criterion="random")},
        {"arm": "sgd"},
        {"arm": "sgd_2x"},
        {"seed": 4},
        {"files": ("params.yaml",)},
        {"recipe": DISTILLED},
        {"recipe": finetune(sam=sam_params(0.06))},
        {"recipe": finetune(sam=sam_params(variant="asam"))},
        {"recipe": finetune(sam=sam_params(variant="gsam", alpha=0.2))},
    ],
)
def test_every_field_of_a_finetuning_makes_a_difference(change: dict[str, Any]) -> None:
    names = {"start", "model", "prune", "arm", "recipe", "seed", "files", "teacher"}
    assert {one.name for one in fields(Finetuning)} == names
    assert key_of(replace(TUNED, **change), HERE) != key_of(TUNED, HERE)


@pytest.mark.parametrize("arm", ["sgd", "sgd_2x", "sam"])
def test_a_teacher_makes_a_difference_where_there_is_one(arm: str) -> None:
    tuned = replace(TUNED, arm=arm)
    assert key_of(replace(tuned, teacher="f" * 64), HERE) == key_of(tuned, HERE)
    other = finetune(distillation=DistillationParams(weight=0.0, temperature=2.0))
    assert key_of(replace(tuned, recipe=other), HERE) == key_of(tuned, HERE)
    keys = {
        key_of(replace(tuned, recipe=finetune(distillation=asked), teacher=teacher), HERE)
        for teacher in ("e" * 64, "f" * 64)
        for asked in (
            DistillationParams(weight=0.5, temperature=4.0),
            DistillationParams(weight=0.6, temperature=4.0),
            DistillationParams(weight=0.5, temperature=2.0),
        )
    }
    assert len(keys | {key_of(tuned, HERE)}) == 7


def test_arguments_count_by_value_and_type_and_not_by_order() -> None:
    def key(**arguments: Any) -> str:
        return key_of(replace(DENSE, model=Network.of("own:net", **arguments)), HERE)

    given = [{}, {"a": 1}, {"a": 1.0}, {"a": True}, {"a": "1"}, {"a": [1]}, {"a": None}, {"b": 1}]
    assert len({key(**one) for one in given}) == len(given)
    assert key(a=1, b=2) == key(b=2, a=1)
    assert replace(DENSE, model=Network.of("own:net", a=1)).content()["arguments"] == {"a": 1}


def test_what_an_arm_does_not_use_makes_none() -> None:
    other = finetune(sam=sam_params(variant="gsam"))
    for arm in ("sgd", "sgd_2x"):
        tuned = replace(TUNED, arm=arm)
        assert key_of(replace(tuned, recipe=other), HERE) == key_of(tuned, HERE)
    recipe = DENSE.recipe.model_copy(update={"sam": sam_params(0.5)})
    assert key_of(replace(DENSE, recipe=recipe), HERE) == key_of(DENSE, HERE)
    by_sam = DENSE.recipe.model_copy(update={"optimizer": "sam"})
    assert key_of(replace(DENSE, recipe=by_sam), HERE) != key_of(DENSE, HERE)


@pytest.mark.parametrize("name", [one.name for one in fields(Environment)])
def test_where_it_is_trained_makes_a_difference_where_it_changes_bits(name: str) -> None:
    change: dict[str, Any] = {name: 2 if name == "threads" else "other"}
    other = replace(HERE, **change)
    assert key_of(DENSE, other) != key_of(DENSE, HERE)


def test_the_environment_of_this_process() -> None:
    import torch

    here = Environment.here(torch.device("cpu"), 2)
    assert (here.device, here.threads, here.version) == ("cpu", 2, torch.__version__)
    assert here == Environment.here(torch.device("cpu"), 2)


def test_a_file_that_a_network_reads_counts_by_its_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("weights").write_bytes(b"1")
    task = replace(DENSE, files=("weights",))
    before = key_of(task, HERE)
    assert key_of(task, HERE) == before
    Path("weights").write_bytes(b"2")
    assert key_of(task, HERE) != before
    Path("weights").unlink()
    assert len({before, key_of(task, HERE), key_of(DENSE, HERE)}) == 3


def test_ones_own_code_and_what_it_imports_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_keys.py").write_text("from own_parts_of_keys import x\n\ndef net(*_): ...\n")
    parts = tmp_path / "own_parts_of_keys.py"
    parts.write_text("x = 1\n")
    task = replace(DENSE, model="own_keys:net")
    before = key_of(task, HERE)
    parts.write_text("x = 1  # one\n")
    assert key_of(task, HERE) == before
    parts.write_text("x = 2\n")
    assert key_of(task, HERE) != before


OWN = """
from {parts} import x
from sparse_sam.pruning import PruningSchedule
from sparse_sam.sam import SAM


class Criterion:
    scores = pooled = None


class Structure:
    targets = unit_scores = most = mask = None


class Schedule(PruningSchedule):
    steepness: float


class Variant(SAM): ...


def scope(counts, sparsity): ...


def rate(optimizer, steps, restarts): ...


def base(model, recipe): ...


def net(shape, classes): ...
"""


def made_with(choice: str, own: str) -> Dense | Finetuning:
    """A training that uses something of one's own on one axis."""
    schedule = {"name": f"{own}:Schedule", "steepness": 1.0}
    recipe = {**RECIPE, "schedule": f"{own}:rate"}
    on_own = {**RECIPE, "base_optimizer": f"{own}:base", "momentum": 0.0}
    by_sam = DENSE.recipe.model_copy(update={"optimizer": "sam"})
    variant = sam_params(variant=f"{own}:Variant")
    tasks: dict[str, Callable[[], Dense | Finetuning]] = {
        "criterion": lambda: replace(TUNED, prune=prune_params(criterion=f"{own}:Criterion")),
        "scope": lambda: replace(TUNED, prune=prune_params(scope=f"{own}:scope")),
        "structure": lambda: replace(TUNED, prune=prune_params(structure=f"{own}:Structure")),
        "pruning": lambda: replace(TUNED, prune=prune_params(schedule=schedule)),
        "rate": lambda: replace(TUNED, recipe=finetune(training=recipe)),
        "base": lambda: replace(TUNED, recipe=finetune(training=on_own)),
        "variant": lambda: replace(TUNED, recipe=finetune(sam=variant)),
        "network": lambda: replace(TUNED, model=f"{own}:net"),
        "dense network": lambda: replace(DENSE, model=f"{own}:net"),
        "dense rate": lambda: replace(
            DENSE, recipe=DENSE.recipe.model_copy(update={"schedule": f"{own}:rate"})
        ),
        "dense base": lambda: replace(
            DENSE, recipe=DENSE.recipe.model_copy(update={"base_optimizer": f"{own}:base"})
        ),
        "dense variant": lambda: replace(DENSE, recipe=by_sam.model_copy(update={"sam": variant})),
    }
    return tasks[choice]()


CHOICES = (
    *("criterion", "scope", "structure", "pruning", "rate", "base", "variant", "network"),
    *("dense network", "dense rate", "dense base", "dense variant"),
)


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_of_ones_own_counts_with_what_it_imports(
    choice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    own = f"own_{choice.replace(' ', '_')}"
    (tmp_path / f"{own}.py").write_text(OWN.format(parts=f"{own}_parts"))
    parts = tmp_path / f"{own}_parts.py"
    parts.write_text("x = 1\n")
    task = made_with(choice, own)
    before = key_of(task, HERE)
    assert before not in {key_of(DENSE, HERE), key_of(TUNED, HERE)}
    parts.write_text('"""The same."""\n\nx = 1  # one\n')
    assert key_of(task, HERE) == before
    parts.write_text("x = 2\n")
    assert key_of(task, HERE) != before
    if choice == "pruning":
        assert isinstance(task, Finetuning)
        steeper = prune_params(schedule={"name": f"{own}:Schedule", "steepness": 2.0})
        assert key_of(replace(task, prune=steeper), HERE) != key_of(task, HERE)
    if choice in {"variant", "rate", "base"}:
        assert isinstance(task, Finetuning)
        sgd = {key_of(replace(one, arm="sgd"), HERE) for one in (task, TUNED)}
        assert len(sgd) == (1 if choice == "variant" else 2)  # which SGD does not use


def test_a_dense_network_by_sam_holds_its_settings() -> None:
    by_sam = DENSE.recipe.model_copy(update={"optimizer": "sam"})
    keys = {
        key_of(replace(DENSE, recipe=by_sam.model_copy(update={"sam": sam})), HERE)
        for sam in (
            sam_params(0.05),
            sam_params(0.06),
            sam_params(variant="asam"),
            sam_params(variant="gsam", alpha=0.2),
            sam_params(variant="gsam", alpha=0.3),
        )
    }
    assert len(keys) == 5


def test_no_key_holds_where_it_is_trained_or_what_others_use() -> None:
    never = {
        *("sparse_sam.training.on_ray", "sparse_sam.training.engines", "sparse_sam.training.jobs"),
        *("sparse_sam.training.kept", "sparse_sam.files.store", "sparse_sam.training.once"),
        *("sparse_sam.training.engine_params", "sparse_sam.training.made_by"),
    }
    for task in (DENSE, TUNED, replace(TUNED, arm="sgd")):
        assert not never & set(code_of(task.code()))
