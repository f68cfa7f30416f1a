"""What the training stages share: every arm and seed in turn, files, metrics, progress."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, fields
from itertools import product
from math import ceil

from tqdm import tqdm

from sparse_sam.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from sparse_sam.compute import select_device
from sparse_sam.dataset import TrainingData, load_training_data
from sparse_sam.errors import CheckpointError
from sparse_sam.experiment import OnEpoch, Trained, arm_recipe, finetune, origin_of
from sparse_sam.files import atomic_folder, file_hash, write_csv, write_json
from sparse_sam.parallel import one_core_would_wait, run_jobs
from sparse_sam.parts import DataInfo
from sparse_sam.pipelines import repository_root, state_folder
from sparse_sam.results import mean_history, training_metrics
from sparse_sam.resume import ResumePoint, resume_key
from sparse_sam.training import Epoch
from stages import layout
from stages.runner import Stage

_TURNS = 4
"""In how many parts the longest trainings are done, so that no core waits long at the end."""

TrainOne = Callable[[str, int, OnEpoch, ResumePoint], Trained]


def train_arms(
    stage: Stage,
    data: TrainingData,
    epochs: Mapping[str, int],
    train_one: TrainOne,
    starts: Callable[[int], Sequence[str]] = lambda _: (),
) -> None:
    """Train every arm and seed, and write checkpoints, histories and metrics.

    What a run that was killed had trained is gone on with, and forgotten when the stage ends well.

    Args:
        stage: the running stage.
        data: what it trains on.
        epochs: the arms, and how many epochs each takes; the first is the stage's main arm.
        train_one: trains one arm for one seed.
        starts: the hashes of the files that a seed starts from, beside the data.
    """
    seeds, journal, info = stage.params.seeds, stage.journal, data.info
    journal.dataset(name=info.source, fingerprint=info.fingerprint, context="training")
    jobs = sorted(product(epochs, seeds), key=lambda job: -epochs[job[0]])
    params = {key: value for key, value in stage.own_params.items() if key != "seeds"}
    made_by = [stage.name, params, info.fingerprint, data.train.labels.device.type]
    points = {
        (arm, seed): ResumePoint(
            state_folder(repository_root()) / "resume",
            resume_key(*made_by, arm, seed, *starts(seed)),
            stage.params.save_every_steps,
        )
        for arm, seed in jobs
    }
    with ExitStack() as stack:
        folders = {arm: stack.enter_context(atomic_folder(layout.models(arm))) for arm in epochs}
        total = len(seeds) * sum(epochs.values())
        progress = stack.enter_context(
            tqdm(total=total, desc=stage.name, unit="epoch", disable=None)
        )

        def work(job: tuple[str, int], report: OnEpoch) -> list[Epoch]:
            trained = train_one(*job, report, points[job])
            save_checkpoint(folders[job[0]] / layout.checkpoint(*job).name, trained.checkpoint)
            return trained.history

        def on_epoch(job: tuple[str, int], row: Epoch) -> None:
            arm, seed = job
            child = f"{arm} seed {seed}"
            if row.epoch == 0:
                journal.child(child, {"arm": arm, "seed": seed})
            progress.update(min(row.epoch, 1))
            values = asdict(row)
            journal.metrics(values, step=values.pop("epoch"), child=child)

        histories = run_jobs(
            work,
            jobs,
            on_report=on_epoch,
            side_by_side=data.train.labels.device.type == "cpu"
            and not one_core_would_wait([epochs[arm] for arm, _ in jobs]),
            turn=ceil(max(epochs.values()) / _TURNS),
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
    for point in points.values():
        point.remove()


def finetune_arms(stage: Stage, arms: Sequence[str]) -> None:
    """Finetune the pruned network of every seed as each of ``arms`` does."""
    params = stage.params.finetune
    data = load_training_data(layout.DATASET).to(select_device(stage.params.device))

    def train_one(arm: str, seed: int, on_epoch: OnEpoch, resume: ResumePoint) -> Trained:
        pruned = load_arm("pruned", seed, data.info, "prune", stage.params.model.name)
        return finetune(pruned, data, params, arm, on_epoch, resume, stage.params.prune)

    def starts(seed: int) -> Sequence[str]:
        pruned = layout.checkpoint("pruned", seed)
        return [file_hash(pruned)] if pruned.is_file() else []  # load_arm says that it is missing

    epochs = {arm: arm_recipe(params.training, arm).epochs for arm in arms}
    train_arms(stage, data, epochs, train_one, starts)


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
