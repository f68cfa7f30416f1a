"""One training by what it is, and the same taken from a store where it was done before."""

import tempfile
import time
from pathlib import Path

from sparse_sam.data import TrainingData
from sparse_sam.errors import CheckpointError, DivergenceError
from sparse_sam.files import Store, file_hash
from sparse_sam.training.arms import DENSE
from sparse_sam.training.checkpoint import Checkpoint, save_checkpoint
from sparse_sam.training.diverged import Diverged
from sparse_sam.training.engines import Cost, here
from sparse_sam.training.experiment import (
    OnEpoch,
    Trained,
    arm_recipe,
    finetune,
    origin_of,
    train_dense,
)
from sparse_sam.training.kept import keep_trained, take_training
from sparse_sam.training.made_by import Dense, Environment, Finetuning, key_of
from sparse_sam.training.resume import ResumePoint
from sparse_sam.training.taken_over import as_trained
from sparse_sam.training.worker import on_threads


def train_one(
    task: Dense | Finetuning,
    data: TrainingData,
    start: Checkpoint | None = None,
    teacher: Checkpoint | None = None,
    report: OnEpoch = lambda _: None,
    resume: ResumePoint | None = None,
) -> Trained:
    """Do one training.

    ``start`` is what a finetuning starts from, or the dense network that is taken over;
    ``teacher`` whom it follows.
    """
    if isinstance(task, Dense) and task.start:
        if start is None:
            raise CheckpointError("a dense network that is taken over must be given")
        taken = as_trained(start, data)
        for row in taken.history:
            report(row)
        return taken
    if isinstance(task, Dense):
        return train_dense(data, task.model, task.recipe, task.seed, report, resume)
    if start is None:
        raise CheckpointError("a finetuning needs the network that it starts from")
    return finetune(start, data, task.recipe, task.arm, report, resume, task.prune, teacher)


def epochs_of(task: Dense | Finetuning) -> int:
    """How many epochs a training takes."""
    if isinstance(task, Dense):
        return 0 if task.start else task.recipe.epochs
    return arm_recipe(task.recipe.training, task.arm).epochs


def checkpoint_hash(checkpoint: Checkpoint) -> str:
    """SHA-256 of the file that a checkpoint makes: ``Finetuning.start`` and ``teacher``."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.safetensors"
        save_checkpoint(path, checkpoint)
        return file_hash(path, "sha256")


def train_once(
    task: Dense | Finetuning,
    data: TrainingData,
    store: Store,
    *,
    threads: int = 1,
    start: Checkpoint | None = None,
    teacher: Checkpoint | None = None,
) -> Trained:
    """Take a training from a store, or do it and keep it there: the same bits either way.

    Args:
        task: what it is.
        data: on the device where it is done.
        store: where to look, and to keep it.
        threads: of torch, for the training.
        start: what a finetuning starts from; ``task.start`` is its hash.
        teacher: the dense network, for a finetuning that distils; ``task.teacher`` is its hash.

    Raises:
        DivergenceError: it diverges, or did before.
    """
    key = key_of(task, Environment.here(data.train.labels.device, threads))
    arm = DENSE if isinstance(task, Dense) else task.arm
    expected = origin_of(task.model, data.info, arm, task.seed)
    with tempfile.TemporaryDirectory() as folder:
        found = take_training(store, key, Path(folder) / "taken", expected, epochs_of(task))
    if isinstance(found, Diverged):
        raise DivergenceError(found.why)
    if found is not None:
        return Trained(found.checkpoint, found.history)
    started = time.perf_counter()
    with on_threads(threads):
        done = train_one(task, data, start, teacher)
    cost = Cost(time.perf_counter() - started, here(), time.time())
    keep_trained(store, key, task.content(), done, cost)
    return done
