"""What the training stages share: every arm and seed in turn, files, metrics, progress."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from functools import cache
from itertools import product
from math import ceil
from pathlib import Path

import torch
from tqdm import tqdm

from sparse_sam.arms import DENSE
from sparse_sam.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from sparse_sam.compute import select_device
from sparse_sam.config import Device, Params
from sparse_sam.dataset import TrainingData, load_training_data
from sparse_sam.errors import CheckpointError
from sparse_sam.experiment import OnEpoch, Trained, arm_recipe, finetune, origin_of, train_dense
from sparse_sam.files import atomic_folder, file_hash, write_csv, write_json
from sparse_sam.parallel import run_jobs
from sparse_sam.parts import DataInfo
from sparse_sam.pipelines import repository_root, state_folder
from sparse_sam.results import mean_history, training_metrics
from sparse_sam.resume import ResumePoint, resume_key
from sparse_sam.training import Epoch
from stages import layout
from stages.runner import Stage

_TURNS = 4
"""In how many parts the longest trainings are done, so that no core waits long at the end."""

Job = tuple[str, int]
"""An arm and a seed."""


@dataclass(frozen=True)
class Trainings:
    """All trainings of a stage, as workers are told of them.

    Attributes:
        params: all parameters.
        dataset: the file of the data set.
        points: where each training is saved on its way.
        folders: where each arm's checkpoints go.
    """

    params: Params
    dataset: Path
    points: Mapping[Job, ResumePoint]
    folders: Mapping[str, Path]

    def __call__(self, job: Job, report: OnEpoch) -> list[Epoch]:
        """Do one training, write its checkpoint, and give its history."""
        arm, seed = job
        params, point = self.params, self.points[job]
        data = _data(self.dataset, params.device)
        if arm == DENSE:
            done = train_dense(data, params.model.name, params.train_dense, seed, report, point)
        else:
            pruned = load_arm("pruned", seed, data.info, "prune", params.model.name)
            done = finetune(pruned, data, params.finetune, arm, report, point, params.prune)
        save_checkpoint(self.folders[arm] / layout.checkpoint(*job).name, done.checkpoint)
        return done.history


@cache
def _data(path: Path, device: Device) -> TrainingData:
    """The data set, once a process."""
    return load_training_data(path).to(select_device(device))


def train_arms(stage: Stage, epochs: Mapping[str, int]) -> None:
    """Train every arm and seed, and write checkpoints, histories and metrics.

    What a run that was killed had trained is gone on with, and forgotten when the stage has ended
    well.

    Args:
        stage: the running stage.
        epochs: the arms, and how many epochs each takes; the first is the stage's main arm.
    """
    params, seeds, journal = stage.params, stage.params.seeds, stage.journal
    torch.set_num_threads(params.threads)
    data = _data(layout.DATASET, params.device)
    device, info = data.train.labels.device.type, data.info
    journal.dataset(name=info.source, fingerprint=info.fingerprint, context="training")
    jobs = sorted(product(epochs, seeds), key=lambda job: -epochs[job[0]])
    points = _resume_points(stage, jobs, [info.fingerprint, device])
    with ExitStack() as stack:
        folders = {arm: stack.enter_context(atomic_folder(layout.models(arm))) for arm in epochs}
        total = len(seeds) * sum(epochs.values())
        progress = stack.enter_context(
            tqdm(total=total, desc=stage.name, unit="epoch", disable=None)
        )

        def on_epoch(job: Job, row: Epoch) -> None:
            arm, seed = job
            child = f"{arm} seed {seed}"
            if row.epoch == 0:
                journal.child(child, {"arm": arm, "seed": seed})
            progress.update(min(row.epoch, 1))
            values = asdict(row)
            journal.metrics(values, step=values.pop("epoch"), child=child)

        histories = run_jobs(
            Trainings(params, layout.DATASET, points, folders),
            jobs,
            on_report=on_epoch,
            threads=params.threads,
            side_by_side=device == "cpu",
            turn=ceil(max(epochs.values()) / _TURNS),
            name_of=lambda job: f"{stage.name}: {job[0]} seed {job[1]}",
        )
    metrics = {}
    for arm in epochs:
        trained = [
            Trained(
                load_arm(arm, seed, info, stage.name, stage.params.model.name), histories[arm, seed]
            )
            for seed in seeds
        ]
        rows = [
            [seed, *asdict(row).values()]
            for seed, one in zip(seeds, trained, strict=True)
            for row in one.history
        ]
        write_csv(layout.history(arm), ["seed", *(field.name for field in fields(Epoch))], rows)
        metrics[arm] = training_metrics(trained)
        # Every stage reports its main arm under the same names, so that MLflow's comparison of
        # two stages overlays them; the names of a further arm begin with it.
        prefix = "" if arm == next(iter(epochs)) else f"{arm}."
        for step, means in enumerate(mean_history([one.history for one in trained])):
            values = {f"{prefix}{name}": value for name, value in means.items()}
            journal.metrics(values, step=step, seconds=means["seconds"])
        journal.metrics({f"{prefix}sparsity": metrics[arm]["sparsity"]})
    write_json(layout.metrics(stage.name), metrics)
    report_checkpoints(stage, list(epochs))
    stage.afterwards.extend(point.remove for point in points.values())


def _resume_points(
    stage: Stage, jobs: Sequence[Job], made_by: Sequence[str]
) -> dict[Job, ResumePoint]:
    """Where each training is saved, named after all that makes it."""
    params = {key: value for key, value in stage.own_params.items() if key != "seeds"}
    folder = state_folder(repository_root()) / "resume"

    def start(arm: str, seed: int) -> list[str]:
        pruned = layout.checkpoint("pruned", seed)
        # (load_arm says so if it is missing.)
        return [file_hash(pruned)] if arm != DENSE and pruned.is_file() else []

    return {
        (arm, seed): ResumePoint(
            folder,
            resume_key(stage.name, params, *made_by, arm, seed, *start(arm, seed)),
            stage.params.save_every_steps,
        )
        for arm, seed in jobs
    }


def finetune_arms(stage: Stage, arms: Sequence[str]) -> None:
    """Finetune the pruned network of every seed as each of ``arms`` does."""
    recipe = stage.params.finetune.training
    train_arms(stage, {arm: arm_recipe(recipe, arm).epochs for arm in arms})


def load_arm(arm: str, seed: int, info: DataInfo, stage: str, model: str) -> Checkpoint:
    """One seed's checkpoint of an arm, which ``stage`` made from this data set.

    Raises:
        CheckpointError: it is not there, or not the one that params.yaml and the data ask for;
            ``model`` is ``model.name`` in params.yaml.
    """
    path = layout.checkpoint(arm, seed)
    checkpoint = load_checkpoint(
        path, arm=arm, seed=seed, dataset=info.fingerprint, stage=stage, model=model
    )
    if checkpoint.origin != origin_of(model, info, arm, seed):
        raise CheckpointError(
            f"{path} is of images of another shape, scale or number of classes than "
            f"{layout.DATASET} holds. Run `dvc repro {stage}`, or `dvc checkout` to restore it."
        )
    return checkpoint


def report_checkpoints(stage: Stage, arms: Sequence[str]) -> None:
    """Hand the checkpoints to MLflow, each under its seed's run, and end those runs."""
    for arm in arms:
        for seed in stage.params.seeds:
            child = f"{arm} seed {seed}"
            stage.journal.artifact(layout.checkpoint(arm, seed), child=child)
            stage.journal.child_end(child)
        if layout.history(arm).is_file():
            stage.journal.artifact(layout.history(arm))
    stage.journal.artifact(layout.metrics(stage.name))
