"""All trainings of a stage: here or handed to an engine, the same networks and histories."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sparse_sam.data.dataset import save_dataset
from sparse_sam.data.loading import load_raw
from sparse_sam.data.params import DataParams
from sparse_sam.data.stratify import build_dataset
from sparse_sam.errors import CheckpointError, DivergenceError, SparseSamError
from sparse_sam.files import file_hash
from sparse_sam.training import arms_and_seeds
from sparse_sam.training.arms_and_seeds import Job, Trainings, train_all
from sparse_sam.training.checkpoint import load_expected, save_checkpoint
from sparse_sam.training.devices import training_data_on
from sparse_sam.training.engines import Cost, Engine, Sequential
from sparse_sam.training.experiment import initial_checkpoint, origin_of, prune
from sparse_sam.training.loop import Epoch
from sparse_sam.training.made_by import Behind, Dense, Finetuning
from sparse_sam.training.params import (
    DenseParams,
    DistillationParams,
    FinetuneParams,
    TrainingParams,
)
from sparse_sam.training.resume import ResumePoint
from tests.recipes import NOT_DISTILLED, prune_params, sam_params

SEEDS = (0, 1)
Recipe = Callable[..., TrainingParams]


@pytest.fixture
def dataset(idx_folder: Path, data_params: Callable[..., DataParams], tmp_path: Path) -> Path:
    params = data_params(source="idx", folder=str(idx_folder), validation_fraction=0.25)
    path = tmp_path / "dataset.safetensors"
    save_dataset(path, build_dataset(load_raw(params), params))
    return path


@pytest.fixture
def trainings(dataset: Path, tmp_path: Path, make_recipe: Recipe) -> Trainings:
    """Finetunings of two arms and two seeds."""
    data, recipe = training_data_on(dataset, "cpu"), make_recipe(epochs=2, batch_size=32)
    pruned = {seed: tmp_path / "pruned" / f"{seed}" for seed in SEEDS}
    for seed, path in pruned.items():
        network = prune(initial_checkpoint(data, "mlpnet", seed), prune_params(), data)
        save_checkpoint(path, network)
    params = FinetuneParams(training=recipe, distillation=NOT_DISTILLED, sam=sam_params())
    tasks = {
        (arm, seed): Finetuning(
            file_hash(path, "sha256"), "mlpnet", prune_params(), arm, params, seed
        )
        for arm in ("sgd_2x", "sam")
        for seed, path in pruned.items()
    }
    return Trainings(
        name="finetune",
        dataset=dataset,
        device="cpu",
        tasks=tasks,
        behind={job: Behind.of(task) for job, task in tasks.items()},
        pruned=pruned,
        dense={},
        given={},
        checkpoints={job: tmp_path / "made" / f"{job[0]} {job[1]}" for job in tasks},
        points={job: ResumePoint(tmp_path / "points", f"{job[0]} {job[1]}") for job in tasks},
    )


class Heard:
    """What ``train_all`` told of, and when."""

    def __init__(self) -> None:
        self.rows: dict[Job, list[Epoch]] = {}
        self.done: dict[Job, list[Epoch]] = {}
        self.costs: list[Cost] = []
        self.order: list[Job] = []

    def epoch(self, job: Job, row: Epoch) -> None:
        assert job not in self.done
        self.rows.setdefault(job, []).append(row)

    def end(self, job: Job, history: list[Epoch], cost: Cost) -> None:
        assert job not in self.done
        self.done[job] = history
        self.order.append(job)
        self.costs.append(cost)


def train(trainings: Trainings, engine: Engine | None, *jobs: Job) -> Heard:
    heard = Heard()
    train_all(
        trainings,
        jobs or trainings.tasks,
        threads=1,
        engine=engine,
        on_epoch=heard.epoch,
        on_done=heard.end,
    )
    return heard


def numbers(histories: dict[Job, list[Epoch]]) -> dict[Job, list[Epoch]]:
    return {job: [replace(row, seconds=0.0) for row in rows] for job, rows in histories.items()}


def test_an_engine_trains_what_is_trained_here_to_the_byte(
    trainings: Trainings, tmp_path: Path
) -> None:
    here = train(trainings, None)
    kept = {job: path.read_bytes() for job, path in trainings.checkpoints.items()}
    assert len(set(kept.values())) == len(kept) == 4
    elsewhere = {job: tmp_path / "other" / path.name for job, path in trainings.checkpoints.items()}
    there = train(replace(trainings, checkpoints=elsewhere), Sequential())
    assert {job: path.read_bytes() for job, path in elsewhere.items()} == kept
    assert numbers(here.done) == numbers(there.done)
    for heard in (here, there):
        assert heard.done.keys() == trainings.tasks.keys()
        assert heard.rows == heard.done
        assert all(cost.seconds > 0 and cost.worker for cost in heard.costs)
    for (arm, seed), task in trainings.tasks.items():
        info = training_data_on(trainings.dataset, "cpu").info
        expected = origin_of(task.model, info, arm, seed)
        load_expected(elsewhere[arm, seed], expected, stage="finetune")
    assert [arm for arm, _ in there.order] == ["sgd_2x", "sgd_2x", "sam", "sam"]  # longest first


@pytest.mark.parametrize("engine", [None, Sequential()])
def test_only_what_is_asked_for_is_trained(trainings: Trainings, engine: Engine | None) -> None:
    heard = train(trainings, engine, ("sam", 1))
    assert set(heard.done) == {("sam", 1)}
    assert [path.name for path in trainings.checkpoints[("sam", 1)].parent.iterdir()] == ["sam 1"]
    heard = Heard()
    train_all(trainings, [], threads=1, engine=engine, on_epoch=heard.epoch, on_done=heard.end)
    assert not heard.done


def test_a_dense_network_needs_no_start(trainings: Trainings, make_recipe: Recipe) -> None:
    data = training_data_on(trainings.dataset, "cpu")
    recipe = make_recipe(batch_size=32).model_dump()
    params = DenseParams(**recipe, optimizer="sgd", sam=sam_params())
    job = ("sam", 0)
    task = Dense(data.info.fingerprint, "mlpnet", params, 0)
    behind = {job: Behind.of(task)}
    dense = replace(trainings, tasks={job: task}, behind=behind, pruned={})
    for engine in (None, Sequential()):
        assert list(train(dense, engine).done) == [job]


def test_a_training_that_is_no_more_what_its_key_says_is_none(trainings: Trainings) -> None:
    for changed in (
        replace(
            trainings,
            behind={job: replace(one, state="of before") for job, one in trainings.behind.items()},
        ),
        replace(
            trainings, tasks={j: replace(t, start="0" * 64) for j, t in trainings.tasks.items()}
        ),
    ):
        with pytest.raises(SparseSamError, match=r"was changed while the stage ran"):
            train(changed, None)
        assert not list(changed.points[next(iter(changed.points))].path.parent.glob("*.safe*"))


@pytest.fixture
def distilled(trainings: Trainings, tmp_path: Path) -> Trainings:
    """The same with teachers, a dense network for every seed."""
    data = training_data_on(trainings.dataset, "cpu")
    dense = {seed: tmp_path / "dense" / f"{seed}" for seed in SEEDS}
    for seed, path in dense.items():
        save_checkpoint(path, initial_checkpoint(data, "mlpnet", seed))
    asked = DistillationParams(weight=0.5, temperature=2.0)
    tasks = {
        job: replace(
            task,
            recipe=task.recipe.model_copy(update={"distillation": asked}),
            teacher=file_hash(dense[job[1]], "sha256"),
        )
        for job, task in trainings.tasks.items()
        if isinstance(task, Finetuning)
    }
    points = {job: ResumePoint(tmp_path / "others", f"{job[0]} {job[1]}") for job in tasks}
    return replace(trainings, tasks=tasks, dense=dense, points=points)


def test_a_teacher_goes_along_wherever_it_is_trained(
    trainings: Trainings, distilled: Trainings, tmp_path: Path
) -> None:
    alone = numbers(train(trainings, None).done)
    here = train(distilled, None)
    kept = {job: path.read_bytes() for job, path in distilled.checkpoints.items()}
    elsewhere = {job: tmp_path / "other" / path.name for job, path in distilled.checkpoints.items()}
    there = train(replace(distilled, checkpoints=elsewhere), Sequential())
    assert {job: path.read_bytes() for job, path in elsewhere.items()} == kept
    assert numbers(here.done) == numbers(there.done) != alone


@pytest.mark.parametrize("engine", [None, Sequential()])
def test_another_teacher_is_refused(distilled: Trainings, engine: Engine | None) -> None:
    swapped = replace(distilled, dense={0: distilled.dense[1], 1: distilled.dense[0]})
    with pytest.raises(CheckpointError, match="seed"):
        train(swapped, engine)
    pruned = replace(distilled, dense=distilled.pruned)
    with pytest.raises(CheckpointError, match=r"of arm pruned, not dense\. Run `dvc repro train_d"):
        train(pruned, engine)
    tasks = {job: replace(task, teacher="0" * 64) for job, task in distilled.tasks.items()}
    with pytest.raises(SparseSamError, match="was changed while the stage ran"):
        train(replace(distilled, tasks=tasks), engine)


@pytest.mark.parametrize("engine", [None, Sequential()])
def test_another_network_to_start_from_is_refused(
    trainings: Trainings, engine: Engine | None
) -> None:
    swapped = replace(trainings, pruned={0: trainings.pruned[1], 1: trainings.pruned[0]})
    with pytest.raises(CheckpointError, match="seed"):
        train(swapped, engine)
    missing = replace(trainings, pruned=dict.fromkeys(SEEDS, Path("none")))
    with pytest.raises(SparseSamError, match=r"none is missing\. Run `dvc repro prune`"):
        train(missing, engine)


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (DivergenceError("the loss is NaN"), DivergenceError, "^the loss is NaN$"),
        (
            ZeroDivisionError("a fault"),
            SparseSamError,
            "finetune: sam seed 0 failed on the cluster",
        ),
    ],
)
def test_what_fails_on_an_engine_ends_the_stage_and_says_which(
    error: Exception,
    kind: type[Exception],
    said: str,
    trainings: Trainings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(arms_and_seeds, "train_one", fail)
    with pytest.raises(kind, match=said):
        train(trainings, Sequential(), ("sam", 0))
    assert not trainings.checkpoints["sam", 0].exists()
