"""Trainings in a store: taken as they were done, or not at all."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from sparse_sam.data.tensors import TrainingData
from sparse_sam.errors import CheckpointError, DivergenceError
from sparse_sam.files import Store
from sparse_sam.training.arms import DENSE
from sparse_sam.training.checkpoint import Checkpoint, load_expected, save_checkpoint
from sparse_sam.training.diverged import Diverged
from sparse_sam.training.engines import Cost
from sparse_sam.training.experiment import origin_of, prune, train_dense
from sparse_sam.training.kept import KIND, keep_training, take_training
from sparse_sam.training.made_by import Dense, Finetuning
from sparse_sam.training.once import checkpoint_hash, train_once
from sparse_sam.training.params import DenseParams, FinetuneParams
from tests.recipes import NOT_DISTILLED, prune_params, sam_params

KEY, RUN, COST = "c" * 64, "0123456789abcdef" * 2, Cost(1.5, "process 3", 1e9)


@pytest.fixture
def data(make_data: Callable[..., TrainingData]) -> TrainingData:
    return make_data()


@pytest.fixture
def task(make_recipe: Callable[..., Any], tiny_net: str, data: TrainingData) -> Dense:
    recipe = make_recipe(epochs=2).model_dump()
    params = DenseParams(**recipe, optimizer="sgd", sam=sam_params())
    return Dense(data.info.fingerprint, tiny_net, params, 3)


@pytest.fixture
def trained(task: Dense, data: TrainingData) -> Any:
    return train_dense(data, task.model, task.recipe, task.seed, lambda _: None)


@pytest.fixture
def store(tmp_path: Path, task: Dense, trained: Any) -> Store:
    made, path = Store(tmp_path / "store"), tmp_path / "trained.safetensors"
    save_checkpoint(path, trained.checkpoint)
    keep_training(made, KEY, task.content(), trained.history, path, COST, RUN)
    return made


@pytest.fixture
def expected(task: Dense, data: TrainingData) -> Any:
    return origin_of(task.model, data.info, DENSE, task.seed)


def test_a_training_is_taken_with_its_history_and_who_did_it(
    store: Store, trained: Any, expected: Any, tmp_path: Path
) -> None:
    place = tmp_path / "taken.safetensors"
    found = take_training(store, KEY, place, expected, epochs=2)
    assert place.read_bytes() == (tmp_path / "trained.safetensors").read_bytes()
    assert found.history == trained.history  # type: ignore[union-attr]
    assert (found.run, found.cost) == (RUN, COST)  # type: ignore[union-attr]
    assert take_training(store, "d" * 64, place, expected, epochs=2) is None


@pytest.mark.parametrize(
    "change", [{"seed": 4}, {"arm": "sgd"}, {"dataset": "other"}, {"model": "mlpnet"}, {"std": 9.0}]
)
def test_another_network_than_the_expected_is_refused(
    change: dict[str, Any],
    store: Store,
    expected: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = tmp_path / "taken.safetensors"
    assert take_training(store, KEY, place, replace(expected, **change), epochs=2) is None
    assert not place.exists()
    assert "does not hold a valid result" in capsys.readouterr().err
    assert store.about(KIND, KEY) is None


ROW = {"epoch": 0, "gradient_evaluations": 0, "seconds": 0.0}


@pytest.mark.parametrize(
    "change",
    [
        {"history": []},
        {"history": None},
        {"history": [ROW]},
        {"history": "x"},
        {"run": "../x"},
        {"run": None},
        {"cost": {"seconds": -1.0, "worker": "w", "ended": 1.0}},
        {"cost": {"seconds": 1.0, "worker": "w\n", "ended": 1.0}},
        {"cost": {}},
        {"more": 1},
        {"diverged": 3},
        {"task": []},
        ("validation_loss", "0.5"),
        ("epoch", 7),
        ("seconds", -1.0),
        ("gradient_evaluations", 1.5),
        ("more", 1),
    ],
)
def test_what_nobody_keeps_is_refused(
    change: Any,
    store: Store,
    expected: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    about = store.about(KIND, KEY)
    assert about
    if isinstance(change, tuple):
        about["history"][1][change[0]] = change[1]
    else:
        about |= change
    store.drop(KIND, KEY)
    store.keep(KIND, KEY, about, {"checkpoint": tmp_path / "trained.safetensors"})
    place = tmp_path / "taken.safetensors"
    assert take_training(store, KEY, place, expected, epochs=2) is None
    assert not place.exists()
    said = capsys.readouterr().err
    assert "it is ignored and trained again" in said
    assert "Traceback" not in said


def test_a_history_of_other_epochs_is_refused(store: Store, expected: Any, tmp_path: Path) -> None:
    assert take_training(store, KEY, tmp_path / "taken", expected, epochs=3) is None


def test_a_checkpoint_that_is_none_is_refused(
    store: Store, task: Dense, trained: Any, expected: Any, tmp_path: Path
) -> None:
    path = tmp_path / "none.safetensors"
    for content in (b"", b"x" * 100):
        path.write_bytes(content)
        store.drop(KIND, KEY)
        keep_training(store, KEY, task.content(), trained.history, path, COST, RUN)
        assert take_training(store, KEY, tmp_path / "taken", expected, epochs=2) is None
        assert not (tmp_path / "taken").exists()


def test_that_it_diverged_is_kept(tmp_path: Path, task: Dense, expected: Any) -> None:
    store = Store(tmp_path / "store")
    keep_training(store, KEY, task.content(), Diverged("the loss is NaN"), None, COST)
    found = take_training(store, KEY, tmp_path / "taken", expected, epochs=2)
    assert found == Diverged("the loss is NaN")
    assert not (tmp_path / "taken").exists()


def state(checkpoint: Checkpoint, place: Path) -> bytes:
    save_checkpoint(place, checkpoint)
    return place.read_bytes()


def test_a_training_is_done_once(
    tmp_path: Path,
    data: TrainingData,
    task: Dense,
    make_recipe: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from sparse_sam.training import once

    store, done = Store(tmp_path / "store"), []
    real = once.train_one
    monkeypatch.setattr(once, "train_one", lambda *a, **k: done.append(a[0]) or real(*a, **k))
    dense = [train_once(task, data, store).checkpoint for _ in range(2)]
    assert done == [task]
    assert state(dense[0], tmp_path / "a") == state(dense[1], tmp_path / "a")
    pruned = prune(dense[0], prune_params(), data)
    params = FinetuneParams(
        training=make_recipe(epochs=2), distillation=NOT_DISTILLED, sam=sam_params()
    )
    tuning = Finetuning(checkpoint_hash(pruned), task.model, prune_params(), "sam", params, 3)
    tuned = [train_once(tuning, data, store, start=pruned) for _ in range(2)]
    assert done == [task, tuning]
    assert [asdict(row) for row in tuned[0].history] == [asdict(row) for row in tuned[1].history]
    found = [state(one.checkpoint, tmp_path / "b") for one in tuned]
    assert found[0] == found[1]
    train_once(replace(tuning, seed=3, arm="sgd"), data, store, start=pruned)
    assert len(done) == 3


def test_one_that_diverged_before_diverges(tmp_path: Path, data: TrainingData, task: Dense) -> None:
    from sparse_sam.training.made_by import Environment, key_of

    store = Store(tmp_path / "store")
    key = key_of(task, Environment.here(data.train.labels.device, 1))
    keep_training(store, key, task.content(), Diverged("the loss is NaN"), None, COST)
    with pytest.raises(DivergenceError, match="the loss is NaN"):
        train_once(task, data, store)


def test_a_finetuning_needs_its_start(
    tmp_path: Path, data: TrainingData, task: Dense, make_recipe: Callable[..., Any]
) -> None:
    params = FinetuneParams(
        training=make_recipe(epochs=2), distillation=NOT_DISTILLED, sam=sam_params()
    )
    tuning = Finetuning("e" * 64, task.model, prune_params(), "sam", params, 3)
    with pytest.raises(CheckpointError, match="needs the network that it starts from"):
        train_once(tuning, data, Store(tmp_path))


def test_what_was_kept_can_be_loaded(store: Store, expected: Any, tmp_path: Path) -> None:
    place = tmp_path / "taken.safetensors"
    take_training(store, KEY, place, expected, epochs=2)
    assert load_expected(place, expected, stage="train_dense").origin == expected
