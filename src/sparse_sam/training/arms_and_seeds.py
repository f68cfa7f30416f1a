"""All trainings of a stage: every arm and seed, side by side, each gone on with after a kill."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from sparse_sam.data import DataInfo
from sparse_sam.errors import SparseSamError
from sparse_sam.files import file_hash
from sparse_sam.redaction import redacted
from sparse_sam.training.arms import DENSE, PRUNED
from sparse_sam.training.checkpoint import Checkpoint, load_expected, save_checkpoint
from sparse_sam.training.devices import select_device, training_data_on
from sparse_sam.training.engines import Cost, Done, Engine, Failed, Large, Task, here
from sparse_sam.training.experiment import OnEpoch, origin_of
from sparse_sam.training.jobs import run_jobs
from sparse_sam.training.loop import Epoch
from sparse_sam.training.made_by import Behind, Dense, Finetuning, hashes_of, load_code
from sparse_sam.training.once import epochs_of, train_one
from sparse_sam.training.params import Device
from sparse_sam.training.resume import ResumePoint
from sparse_sam.training.taken_over import take_over

Job = tuple[str, int]
"""An arm and a seed."""

_TURNS = 4
"""In how many parts the longest trainings are done, so that no core waits long at the end."""


@dataclass(frozen=True)
class Trainings:
    """The trainings of a stage, as its workers are told of them: all of it can be pickled.

    Attributes:
        name: of the stage, for messages.
        dataset: the file of the data set.
        device: where to train.
        tasks: what each training is.
        behind: code and files of each, as they were when its key was made.
        pruned: where the network lies that a seed's finetuning starts from.
        given: the file that a seed's dense network is taken over from, if it is.
        dense: where its dense network lies, which a finetuning with distillation follows.
        checkpoints: where each trained network goes.
        points: where each training is saved on its way.
    """

    name: str
    dataset: Path
    device: Device
    tasks: Mapping[Job, Dense | Finetuning]
    behind: Mapping[Job, Behind]
    pruned: Mapping[int, Path]
    given: Mapping[int, Path]
    dense: Mapping[int, Path]
    checkpoints: Mapping[Job, Path]
    points: Mapping[Job, ResumePoint]

    def __call__(self, job: Job, report: OnEpoch) -> list[Epoch]:
        """Do one training, write its checkpoint, and give its history."""
        task = self.tasks[job]
        data = training_data_on(self.dataset, self.device)
        if isinstance(task, Dense) and data.info.fingerprint != task.data:
            raise self.changed(job, str(self.dataset))
        start, teacher = self.start(job, data.info), self.teacher(job, data.info)
        load_code(task)
        self.check(job)  # now that all is loaded
        done = train_one(task, data, start, teacher, report, self.points[job])
        try:
            self.check(job)
        except SparseSamError:
            self.points[job].path.unlink(missing_ok=True)
            raise
        save_checkpoint(self.checkpoints[job], done.checkpoint)
        return done.history

    def check(self, job: Job) -> None:
        """Raise SparseSamError if a training is no more what its key says."""
        if not self.behind[job].is_as_it_was():
            raise self.changed(job, "its code, or a file in model.files,")

    def changed(self, job: Job, what: str) -> SparseSamError:
        """The error of one who changes things while they are used."""
        return SparseSamError(
            f"{self.called(job)}: {what} was changed while the stage ran, so this training was "
            "discarded. Run the stage again."
        )

    def start(self, job: Job, info: DataInfo) -> Checkpoint | None:
        """The network that a training starts from, if it does. Raises CheckpointError."""
        task = self.tasks[job]
        if isinstance(task, Dense):
            return self._given(job, task, info) if task.start else None
        path, expected = self.pruned[task.seed], origin_of(task.model, info, PRUNED, task.seed)
        start = load_expected(path, expected, stage="prune")
        if file_hash(path, "sha256") != task.start:
            raise self.changed(job, str(path))
        return start

    def _given(self, job: Job, task: Dense, info: DataInfo) -> Checkpoint:
        path = self.given[task.seed]
        taken = take_over(path, origin_of(task.model, info, DENSE, task.seed))
        if file_hash(path, "sha256") != task.start:
            raise self.changed(job, str(path))
        return taken

    def teacher(self, job: Job, info: DataInfo) -> Checkpoint | None:
        """The dense network that a finetuning distils, if it does. Raises CheckpointError."""
        task = self.tasks[job]
        if isinstance(task, Dense) or not task.recipe.distillation.weight:
            return None
        path, expected = self.dense[task.seed], origin_of(task.model, info, DENSE, task.seed)
        teacher = load_expected(path, expected, stage="train_dense")
        if file_hash(path, "sha256") != task.teacher:
            raise self.changed(job, str(path))
        return teacher

    def epochs(self, job: Job) -> int:
        """How many epochs a training takes."""
        return epochs_of(self.tasks[job])

    def called(self, job: Job) -> str:
        """What a training is called."""
        return f"{self.name}: {job[0]} seed {job[1]}"


def train_all(
    trainings: Trainings,
    jobs: Iterable[Job],
    *,
    threads: int,
    engine: Engine | None,
    on_epoch: Callable[[Job, Epoch], None],
    on_done: Callable[[Job, list[Epoch], Cost], None],
) -> None:
    """Do trainings, those that take longest first.

    Args:
        trainings: what is trained, and where it goes.
        jobs: which of them.
        threads: of each training.
        engine: a cluster; None trains here.
        on_epoch: told of every row of a history as soon as it is there.
        on_done: told of every training whose network lies in its place.

    Raises:
        SparseSamError: what ``experiment.train_dense``, ``experiment.finetune`` and
            ``jobs.run_jobs`` raise.
    """
    ordered = sorted(jobs, key=lambda job: -trainings.epochs(job))
    if not ordered:
        return
    if engine is not None:
        _on_cluster(trainings, ordered, engine, on_epoch, on_done)
        return

    def done(job: Job, history: list[Epoch]) -> None:
        on_done(job, history, Cost(history[-1].seconds, here(), time.time()))

    run_jobs(
        trainings,
        ordered,
        on_report=on_epoch,
        threads=threads,
        side_by_side=select_device(trainings.device).type == "cpu",
        turn=max(1, ceil(max(map(trainings.epochs, ordered)) / _TURNS)),
        name_of=trainings.called,
        on_done=done,
        apart=True,
    )


def _on_cluster(
    trainings: Trainings,
    jobs: Iterable[Job],
    engine: Engine,
    on_epoch: Callable[[Job, Epoch], None],
    on_done: Callable[[Job, list[Epoch], Cost], None],
) -> None:
    """Networks go there and come back by value: nodes need no disk of this machine's."""
    training = training_data_on(trainings.dataset, "cpu")
    data = Large(training)
    tasks = []
    for job in jobs:
        task = trainings.tasks[job]
        info = training.info
        arguments = (task, data, trainings.start(job, info), trainings.teacher(job, info))
        files = hashes_of(task.files)
        tasks.append(Task(job, train_one, arguments, task.code(), files))
    for event in engine.run(tasks):
        done: Any = event.task.key
        if isinstance(event, Failed):
            if isinstance(event.error, SparseSamError):
                raise event.error
            raise SparseSamError(
                f"{trainings.called(done)} failed on the cluster:\n{redacted(event.why)}"
            )
        if isinstance(event, Done):
            for row in event.found.history:
                on_epoch(done, row)
            trainings.check(done)
            save_checkpoint(trainings.checkpoints[done], event.found.checkpoint)
            on_done(done, event.found.history, event.cost)
