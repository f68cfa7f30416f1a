"""All trainings of a stage: every arm and seed, side by side, each gone on with after a kill."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from math import ceil
from pathlib import Path

from sparse_sam.data import TrainingData, load_training_data
from sparse_sam.pruning import PruneParams
from sparse_sam.training.arms import DENSE, PRUNED
from sparse_sam.training.checkpoint import load_expected, save_checkpoint
from sparse_sam.training.devices import select_device
from sparse_sam.training.experiment import OnEpoch, arm_recipe, finetune, origin_of, train_dense
from sparse_sam.training.jobs import run_jobs
from sparse_sam.training.loop import Epoch
from sparse_sam.training.params import DenseParams, Device, FinetuneParams
from sparse_sam.training.resume import ResumePoint

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
        model: the network's name.
        dense: how dense networks are trained.
        finetuning: how pruned networks are finetuned.
        pruning: its schedule may prune further on the way.
        pruned: where the network lies that a seed's finetuning starts from.
        checkpoints: where each trained network goes.
        points: where each training is saved on its way.
    """

    name: str
    dataset: Path
    device: Device
    model: str
    dense: DenseParams
    finetuning: FinetuneParams
    pruning: PruneParams
    pruned: Mapping[int, Path]
    checkpoints: Mapping[Job, Path]
    points: Mapping[Job, ResumePoint]

    def __call__(self, job: Job, report: OnEpoch) -> list[Epoch]:
        """Do one training, write its checkpoint, and give its history."""
        (arm, seed), point = job, self.points[job]
        data = training_data_on(self.dataset, self.device)
        if arm == DENSE:
            done = train_dense(data, self.model, self.dense, seed, report, point)
        else:
            expected = origin_of(self.model, data.info, PRUNED, seed)
            pruned = load_expected(self.pruned[seed], expected, stage="prune")
            done = finetune(pruned, data, self.finetuning, arm, report, point, self.pruning)
        save_checkpoint(self.checkpoints[job], done.checkpoint)
        return done.history

    def epochs(self, arm: str) -> int:
        """How many epochs an arm takes."""
        recipe = self.dense if arm == DENSE else arm_recipe(self.finetuning.training, arm)
        return recipe.epochs


@cache
def training_data_on(dataset: Path, device: Device) -> TrainingData:
    """Training and validation part of a data set on a device, read once a process."""
    return load_training_data(dataset).to(select_device(device))


def train_arms(
    trainings: Trainings,
    arms: Sequence[str],
    seeds: Sequence[int],
    *,
    threads: int,
    on_epoch: Callable[[Job, Epoch], None],
) -> Mapping[Job, list[Epoch]]:
    """Train every arm and seed, those that take longest first, and give the histories.

    Args:
        trainings: what is trained, and where it goes.
        arms: their names.
        seeds: of each arm.
        threads: of each training.
        on_epoch: told of every row of a history as soon as it is there.

    Raises:
        SparseSamError: what ``experiment.train_dense``, ``experiment.finetune`` and
            ``jobs.run_jobs`` raise.
    """
    jobs = sorted(product(arms, seeds), key=lambda job: -trainings.epochs(job[0]))
    return run_jobs(
        trainings,
        jobs,
        on_report=on_epoch,
        threads=threads,
        side_by_side=select_device(trainings.device).type == "cpu",
        turn=ceil(max(map(trainings.epochs, arms)) / _TURNS),
        name_of=lambda job: f"{trainings.name}: {job[0]} seed {job[1]}",
    )
