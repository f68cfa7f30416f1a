"""What the training stages share: every arm and seed, taken or trained; files and metrics."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

import torch

from sparse_sam.data import DataInfo
from sparse_sam.errors import DivergenceError
from sparse_sam.files import atomic_folder, file_hash, write_csv, write_json
from sparse_sam.stages.runner import Stage
from sparse_sam.terminal import activity
from sparse_sam.tracking import (
    RUN,
    STAGES,
    TAKEN,
    layout,
    open_store,
    repository_root,
    state_folder,
)
from sparse_sam.training import (
    DENSE,
    KIND,
    PRUNED,
    Behind,
    Cost,
    Dense,
    Diverged,
    Engine,
    Environment,
    Epoch,
    Finetuning,
    Job,
    Kept,
    ResumePoint,
    Trained,
    Trainings,
    check_names,
    given_path,
    history_table,
    keep_training,
    key_of,
    mean_history,
    origin_of,
    select_device,
    take_training,
    train_all,
    training_data_on,
    training_metrics,
)

_CHANCE = 0.01
"""Fewer zeros than this share of the weights may be there by chance."""
_AT_ONCE = 0.5
"""Shorter epochs, in seconds, may be heard of together though they were not done at once."""


def train_stage(stage: Stage) -> None:
    """See that every arm of a stage and every seed is trained; write networks and what is known.

    A training that the store has is taken from there, the same to the byte. Of one that was killed
    what it had trained is gone on with, and forgotten when the stage has ended well.
    """
    params, seeds, journal = stage.params, stage.params.seeds, stage.journal
    arms = STAGES[stage.name].arms
    torch.set_num_threads(params.threads)
    with ExitStack() as stack:
        engine = stack.enter_context(_engine(stage))
        device = "cpu" if engine else params.device
        data = training_data_on(layout.dataset, device)
        info = data.info
        journal.dataset(name=info.source, fingerprint=info.fingerprint, context="training")
        if DENSE in arms:  # now, and not after days of training
            check_names(params.model.network, info, params.prune)
        tasks = {(arm, seed): _task(stage, arm, seed, info) for arm in arms for seed in seeds}
        environment = (
            engine.environment(params.threads)
            if engine
            else Environment.here(select_device(device), params.threads)
        )
        behind = {job: Behind.of(task) for job, task in tasks.items()}
        codes: dict[tuple[str, ...], str] = {}
        keys = {job: key_of(task, environment, codes) for job, task in tasks.items()}
        folders = {arm: stack.enter_context(atomic_folder(layout.models(arm))) for arm in arms}
        places = {job: folders[job[0]] / layout.checkpoint(*job).name for job in tasks}
        points = _resume_points(stage, keys)
        trainings = Trainings(
            name=stage.name,
            dataset=layout.dataset,
            device=device,
            tasks=tasks,
            behind=behind,
            pruned={seed: layout.checkpoint(PRUNED, seed) for seed in seeds},
            given=_all_given(stage),
            dense={seed: layout.checkpoint(DENSE, seed) for seed in seeds},
            checkpoints=places,
            points=points,
        )
        results = _Results(stage, trainings, keys)
        results.take(info)
        _train(stage, trainings, results, engine)
    results.say()
    _write(stage, info, results.histories)
    report_checkpoints(stage)
    stage.afterwards.extend(point.remove for point in points.values())


def _train(stage: Stage, trainings: Trainings, results: "_Results", engine: Engine | None) -> None:
    """Train what the store did not have."""
    missing = results.missing
    if not missing:
        return
    epochs, count = sum(map(trainings.epochs, missing)), len(missing)
    what = f"training {count} network{'s' * (count > 1)}"
    heard: dict[Job, tuple[float, float]] = {}
    with activity(what, epochs, "epochs") as doing:

        def on_epoch(job: Job, row: Epoch) -> None:
            now, (then, before) = time.monotonic(), heard.get(job, (0.0, 0.0))
            heard[job] = now, row.seconds
            if row.epoch:
                # A training that is gone on with tells its first epochs anew, all at once.
                took = row.seconds - before
                doing.advance(given=took > _AT_ONCE and now - then < took / 2)
            else:  # what went before was the start of its process
                doing.begin()
            results.tell(job, row)

        train_all(
            trainings,
            missing,
            threads=stage.params.threads,
            engine=engine,
            on_epoch=on_epoch,
            on_done=results.keep,
        )


@contextmanager
def _engine(stage: Stage) -> Iterator[Engine | None]:
    """What trains; None trains here."""
    engine = stage.params.engine.begin(stage.params.threads)
    try:
        yield engine
    finally:
        if engine is not None:
            engine.close()


def _task(stage: Stage, arm: str, seed: int, info: DataInfo) -> Dense | Finetuning:
    """What one training is made by."""
    params, model = stage.params, stage.params.model
    if arm == DENSE:
        given = _given(stage, seed)
        start = file_hash(given, "sha256") if given else ""
        return Dense(info.fingerprint, model.network, params.train_dense, seed, model.files, start)
    distils = params.finetune.distillation.weight > 0
    return Finetuning(
        start=_hash_of(layout.checkpoint(PRUNED, seed)),
        model=model.network,
        prune=params.prune,
        arm=arm,
        recipe=params.finetune,
        seed=seed,
        files=model.files,
        teacher=_hash_of(layout.checkpoint(DENSE, seed)) if distils else "",
    )


def _hash_of(network: Path) -> str:
    # (Whoever reads it says so if it is missing.)
    return file_hash(network, "sha256") if network.is_file() else ""


def _all_given(stage: Stage) -> dict[int, Path]:
    if DENSE not in STAGES[stage.name].arms:
        return {}
    found = {seed: _given(stage, seed) for seed in stage.params.seeds}
    return {seed: path for seed, path in found.items() if path}


def _given(stage: Stage, seed: int) -> Path | None:
    """The file that a seed's dense network is taken over from, if it is."""
    given = stage.params.model.checkpoint
    return given_path(given, seed) if given else None


def _resume_points(stage: Stage, keys: Mapping[Job, str]) -> dict[Job, ResumePoint]:
    """Where each training is saved on its way, by all that makes it."""
    folder = state_folder(repository_root()) / "resume"
    every = stage.params.save_every_steps
    return {job: ResumePoint(folder, key, every) for job, key in keys.items()}


class _Results:
    """The histories of a stage's trainings: from the store, or as they come."""

    def __init__(self, stage: Stage, trainings: Trainings, keys: Mapping[Job, str]) -> None:
        self._stage, self._trainings, self._keys = stage, trainings, keys
        self._store = open_store(repository_root())
        self.histories: dict[Job, list[Epoch]] = {}
        self._trained: set[Job] = set()

    @property
    def missing(self) -> list[Job]:
        """What is to be trained."""
        return [job for job in self._keys if job not in self.histories]

    def take(self, info: DataInfo) -> None:
        """Take what the store has. Raises DivergenceError if that is that it diverged."""
        for job, key in self._keys.items():
            expected = origin_of(self._stage.params.model.network, info, *job)
            place, epochs = self._trainings.checkpoints[job], self._trainings.epochs(job)
            found = take_training(self._store, key, place, expected, epochs)
            if isinstance(found, Diverged):
                raise DivergenceError(found.why)
            if found is not None:
                self._store.share(KIND, key)
                self._begin(job, found)
                for row in found.history:
                    self._tell(job, row)
                self.histories[job] = found.history

    def tell(self, job: Job, row: Epoch) -> None:
        """Write a row of what is trained now into the journal."""
        if row.epoch == 0:
            self._begin(job, None)
        self._tell(job, row)

    def keep(self, job: Job, history: list[Epoch], cost: Cost) -> None:
        """Take a training that was done now, and put it into the store."""
        self.histories[job] = history
        self._trained.add(job)
        task, place = self._trainings.tasks[job], self._trainings.checkpoints[job]
        try:
            run = self._stage.journal.run
            keep_training(self._store, self._keys[job], task.content(), history, place, cost, run)
        except OSError as error:
            sys.stderr.write(
                f"warning: the store could not keep {self._trainings.called(job)} "
                f"({error.filename or self._store.folder}: {error.strerror or error}); the result "
                "itself is not lost\n"
            )

    def say(self) -> None:
        """How many of how many were trained now."""
        given = self._trainings.given  # nothing is trained there
        trained = len([seed for _, seed in self._trained if seed not in given])
        every = len(self._keys) - len(given)
        self._stage.journal.metrics({RUN: float(trained), TAKEN: float(every - trained)})
        if every:
            sys.stdout.write(
                f"{self._stage.name}: {trained} of {every} trainings run, {every - trained} taken "
                "from the store\n"
            )
        for seed, path in self._trainings.given.items():
            accuracy = self.histories[DENSE, seed][-1].validation_accuracy
            said = "" if accuracy is None else f": validation accuracy {accuracy:.2%}"
            said += ", of images that it may have been trained on" if said else ""
            sys.stdout.write(f"{self._stage.name}: seed {seed} is taken over from {path}{said}\n")

    def _begin(self, job: Job, found: Kept | None) -> None:
        """Begin a training's run: whether it was trained here, or by which run of the stage."""
        child = {"arm": job[0], "seed": job[1], "training": self._keys[job]}
        if found is not None:
            child["taken_from"] = found.run or found.cost.worker
        self._stage.journal.child(_child(job), child)

    def _tell(self, job: Job, row: Epoch) -> None:
        values = asdict(row)
        self._stage.journal.metrics(values, step=values.pop("epoch"), child=_child(job))


def _child(job: Job) -> str:
    return f"{job[0]} seed {job[1]}"


def _write(stage: Stage, info: DataInfo, histories: Mapping[Job, list[Epoch]]) -> None:
    """Write histories and metrics, from the networks as they lie on disk."""
    seeds, journal, arms = stage.params.seeds, stage.journal, STAGES[stage.name].arms
    metrics = {}
    for arm in arms:
        networks = [layout.load_arm(arm, seed, info, stage.params.model.network) for seed in seeds]
        trained = [
            Trained(one, histories[arm, seed]) for seed, one in zip(seeds, networks, strict=True)
        ]
        write_csv(layout.history(arm), *history_table({s: histories[arm, s] for s in seeds}))
        metrics[arm] = training_metrics(trained)
        if arm == DENSE and stage.params.model.checkpoint and not stage.params.prune.takes_zeros:
            _tell_of_zeros(stage, metrics[arm]["sparsity"])
        # Every stage reports its main arm under the same names, so that MLflow's comparison of
        # two stages overlays them; the names of a further arm begin with it.
        prefix = "" if arm == arms[0] else f"{arm}."
        for step, means in enumerate(mean_history([one.history for one in trained])):
            values = {f"{prefix}{name}": value for name, value in means.items()}
            journal.metrics(values, step=step, seconds=means["seconds"])
        journal.metrics({f"{prefix}sparsity": metrics[arm]["sparsity"]})
    write_json(layout.metrics(stage.name), metrics)


def _tell_of_zeros(stage: Stage, zeros: float) -> None:
    """A network that was pruned elsewhere would lose those masks without a word."""
    if zeros > _CHANCE:
        sys.stdout.write(
            f"{stage.name}: {zeros:.1%} of the weights that can be pruned are 0 already. To keep "
            "these zeros as the masks, set prune.sparsity to null\n"
        )


def report_checkpoints(stage: Stage) -> None:
    """Hand the checkpoints to MLflow, each under its seed's run, and end those runs."""
    for arm in STAGES[stage.name].arms:
        for seed in stage.params.seeds:
            child = _child((arm, seed))
            stage.journal.artifact(layout.checkpoint(arm, seed), child=child)
            stage.journal.child_end(child)
        if layout.history(arm).is_file():
            stage.journal.artifact(layout.history(arm))
    stage.journal.artifact(layout.metrics(stage.name))
