"""What the training stages share: every arm and seed in turn; files, metrics, progress."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from itertools import product

import torch
from tqdm import tqdm

from sparse_sam.files import atomic_folder, file_hash, write_csv, write_json
from sparse_sam.tracking import STAGES, layout, repository_root, state_folder
from sparse_sam.training import (
    DENSE,
    PRUNED,
    Epoch,
    Job,
    ResumePoint,
    Trained,
    Trainings,
    history_table,
    mean_history,
    resume_key,
    train_arms,
    training_data_on,
    training_metrics,
)
from stages.runner import Stage


def train_stage(stage: Stage) -> None:
    """Train every arm of a stage and every seed, and write checkpoints, histories and metrics.

    What a run that was killed had trained is gone on with, and forgotten when the stage has ended
    well.
    """
    params, seeds, journal = stage.params, stage.params.seeds, stage.journal
    arms = STAGES[stage.name].arms
    torch.set_num_threads(params.threads)
    data = training_data_on(layout.dataset, params.device)
    device, info = data.train.labels.device.type, data.info
    journal.dataset(name=info.source, fingerprint=info.fingerprint, context="training")
    jobs = list(product(arms, seeds))
    points = _resume_points(stage, jobs, [info.fingerprint, device])
    with ExitStack() as stack:
        folders = {arm: stack.enter_context(atomic_folder(layout.models(arm))) for arm in arms}
        trainings = Trainings(
            name=stage.name,
            dataset=layout.dataset,
            device=params.device,
            model=params.model.name,
            dense=params.train_dense,
            finetuning=params.finetune,
            pruning=params.prune,
            pruned={seed: layout.checkpoint(PRUNED, seed) for seed in seeds},
            checkpoints={job: folders[job[0]] / layout.checkpoint(*job).name for job in jobs},
            points=points,
        )
        total = len(seeds) * sum(map(trainings.epochs, arms))
        progress = stack.enter_context(
            tqdm(total=total, desc=stage.name, unit="epoch", disable=None)
        )

        def on_epoch(job: Job, row: Epoch) -> None:
            child = f"{job[0]} seed {job[1]}"
            if row.epoch == 0:
                journal.child(child, {"arm": job[0], "seed": job[1]})
            progress.update(min(row.epoch, 1))
            values = asdict(row)
            journal.metrics(values, step=values.pop("epoch"), child=child)

        histories = train_arms(trainings, arms, seeds, threads=params.threads, on_epoch=on_epoch)
    metrics = {}
    for arm in arms:
        networks = [layout.load_arm(arm, seed, info, params.model.name) for seed in seeds]
        trained = [
            Trained(one, histories[arm, seed]) for seed, one in zip(seeds, networks, strict=True)
        ]
        write_csv(layout.history(arm), *history_table({s: histories[arm, s] for s in seeds}))
        metrics[arm] = training_metrics(trained)
        # Every stage reports its main arm under the same names, so that MLflow's comparison of
        # two stages overlays them; the names of a further arm begin with it.
        prefix = "" if arm == arms[0] else f"{arm}."
        for step, means in enumerate(mean_history([one.history for one in trained])):
            values = {f"{prefix}{name}": value for name, value in means.items()}
            journal.metrics(values, step=step, seconds=means["seconds"])
        journal.metrics({f"{prefix}sparsity": metrics[arm]["sparsity"]})
    write_json(layout.metrics(stage.name), metrics)
    report_checkpoints(stage)
    stage.afterwards.extend(point.remove for point in points.values())


def _resume_points(
    stage: Stage, jobs: Sequence[Job], made_by: Sequence[str]
) -> dict[Job, ResumePoint]:
    """Where each training is saved, named after all that makes it."""
    params = {key: value for key, value in stage.own_params.items() if key != "seeds"}
    named = [stage.name, params, stage.params.model.name, *made_by]
    folder = state_folder(repository_root()) / "resume"

    def start(arm: str, seed: int) -> list[str]:
        pruned = layout.checkpoint(PRUNED, seed)
        # (load_arm says so if it is missing.)
        return [file_hash(pruned)] if arm != DENSE and pruned.is_file() else []

    every = stage.params.save_every_steps
    return {job: ResumePoint(folder, resume_key(*named, *job, *start(*job)), every) for job in jobs}


def report_checkpoints(stage: Stage) -> None:
    """Hand the checkpoints to MLflow, each under its seed's run, and end those runs."""
    for arm in STAGES[stage.name].arms:
        for seed in stage.params.seeds:
            child = f"{arm} seed {seed}"
            stage.journal.artifact(layout.checkpoint(arm, seed), child=child)
            stage.journal.child_end(child)
        if layout.history(arm).is_file():
            stage.journal.artifact(layout.history(arm))
    stage.journal.artifact(layout.metrics(stage.name))
