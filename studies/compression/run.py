"""Run the study for one network: ``python -m studies.compression.run STEP NETWORK``.

``choose`` tries every arm's recipes on images held out of training, with a seed of its own.
``measure`` then runs the best on all training images, for the seeds that are reported, and tests
once, after the last epoch. Every network is a row of ``results/``, so what was stopped goes on, on
any machine. With ``--folder`` the digits are read from four idx files.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from sparse_sam.data import Split, TrainingData
from sparse_sam.errors import DivergenceError, SparseSamError
from sparse_sam.files import Store
from sparse_sam.networks import Network
from sparse_sam.pruning import PruneParams
from sparse_sam.sam import SAMParams
from sparse_sam.tracking import open_store, repository_root
from sparse_sam.training import (
    Checkpoint,
    Dense,
    DenseParams,
    DistillationParams,
    FinetuneParams,
    Finetuning,
    TrainingParams,
    checkpoint_hash,
    evaluate,
    prune,
    select_device,
    train_once,
)
from studies.lenet.run import ARMS, load_data
from studies.rows import Row, Rows, Told, check_kept, digest_of, machine, read_rows

HERE = Path(__file__).parent

Values = Mapping[str, Any]
Known = Mapping[tuple[Any, ...], Row]


@dataclass(frozen=True)
class Phase:
    """A part of the finetuning.

    Attributes:
        epochs: of SAM; SGD takes twice as many.
        compression: to which it prunes; None is the one that is asked for.
        criterion: by which weights go.
        end: the share of its steps after which they all have.
        updates: in how many steps they do.
    """

    epochs: int
    compression: float | None
    criterion: str
    end: float
    updates: int


@dataclass(frozen=True)
class Recipe:
    """What an arm may choose.

    Attributes:
        arm: by which is finetuned.
        lr: learning rate.
        weight_decay: of all parameters.
        distillation: weight of what the dense network says, from 0 to 1.
        rho: SAM's ρ; None of SGD.
    """

    arm: str
    lr: float
    weight_decay: float
    distillation: float
    rho: float | None = None


@dataclass(frozen=True)
class Study:
    """What is declared of one network.

    Attributes:
        values: the whole declaration.
        network: its name.
    """

    values: Values
    network: str

    @property
    def own(self) -> Values:
        """What is declared of this network alone."""
        found: Values = self.values["networks"][self.network]
        return found

    @property
    def digest(self) -> str:
        """Of what the rows depend on beside what they name: others do not count."""
        shared = {key: value for key, value in self.values.items() if key != "networks"}
        shared["data"] = {**shared["data"], "source": None, "folder": None, "mirror": None}
        own = {key: value for key, value in self.own.items() if key != "candidates"}
        return digest_of([shared, own])

    @property
    def made(self) -> Network:
        """The network, with its arguments."""
        return Network.of(self.network, **self.own.get("arguments", {}))

    def phases_to(self, compression: float) -> list[Phase]:
        """Of the finetuning to a compression, one after the other: what comes before is shared."""
        phases = [Phase(**one) for one in self.own["phases"]]
        return [one for one in phases if (one.compression or 0) <= compression]

    def candidates(self) -> list[Recipe]:
        """What the arms may choose from; SGD's first."""
        return [Recipe(arm=arm, **one) for arm in ARMS for one in self.own["candidates"][arm]]

    def to_try(self) -> list[Recipe]:
        """Those of arms that have several; one that is alone was chosen before."""
        return [one for one in self.candidates() if len(self.own["candidates"][one.arm]) > 1]

    def dense(self, shift: int) -> DenseParams:
        """How a dense network is trained."""
        sam = SAMParams(variant="sam", rho=0.0)  # not used
        return DenseParams(**self._training(shift), optimizer="sgd", sam=sam)

    def finetuning(self, recipe: Recipe, shift: int, phase: Phase) -> FinetuneParams:
        """How it is finetuned while it is pruned."""
        changes = {
            "lr": recipe.lr,
            "weight_decay": recipe.weight_decay,
            **self.values["finetuning"],
        }
        training = {**self._training(shift), **changes, "epochs": phase.epochs}
        taught = {"weight": recipe.distillation, "temperature": self.values["temperature"]}
        return FinetuneParams(
            training=TrainingParams(**training),
            distillation=DistillationParams(**taught),
            sam=SAMParams(variant="sam", rho=recipe.rho or 0.0),
        )

    def prune(self, compression: float, phase: Phase, begun: float) -> PruneParams:
        """How it is pruned in a phase.

        Args:
            compression: the one that is asked for; it counts the weights that are kept.
            phase: the part of the finetuning.
            begun: the sparsity with which it begins.
        """
        schedule = {"name": "gradual", "initial": begun, "end": phase.end, "updates": phase.updates}
        at = {
            "criterion": phase.criterion,
            "sparsity": 1 - 1 / (phase.compression or compression),
            "schedule": schedule,
        }
        return PruneParams.model_validate({**self.values["prune"], **at})

    def _training(self, shift: int) -> dict[str, Any]:
        precision = self.own["precision"]
        return {**self.values["dense"], "precision": precision, "shift_pixels": shift}


def load_study(network: str) -> Study:
    """Read the declaration."""
    return Study(YAML(typ="safe", pure=True).load(HERE / "params.yaml"), network)


def table(study: Study, step: str) -> Path:
    """Where the rows of ``choose`` or ``measure`` are."""
    return HERE / "results" / f"{step}-{study.network}.jsonl"


def rows_of(study: Study, step: str) -> list[Row]:
    """The rows that count."""
    return [row for row in read_rows(table(study, step)) if row["declared"] == study.digest]


def tried_key(row: Row) -> tuple[Any, ...]:
    """What a row of ``choose`` is of."""
    return (row["declared"], row["shift"], *(row[name] for name in Recipe.__dataclass_fields__))


def measured_key(row: Row) -> tuple[Any, ...]:
    """What a row of ``measure`` is of."""
    return tuple(row[name] for name in ("declared", "shift", "seed", "compression", "arm"))


def best(study: Study, shift: int, arm: str) -> Recipe:
    """The candidate of an arm with the lowest error on held-out images; the first of equals.

    Raises:
        SparseSamError: one was not tried.
    """
    known = {tried_key(row): row for row in rows_of(study, "choose")}
    own = [one for one in study.candidates() if one.arm == arm]
    keys = {one: tried_key(asdict(one) | _of(study, shift)) for one in own}
    if own[0] not in study.to_try():
        return own[0]
    if not known.keys() >= set(keys.values()):
        raise SparseSamError(
            f"not every candidate was tried: run `python -m studies.compression.run choose "
            f"{study.network}`"
        )
    return min(own, key=lambda one: float(known[keys[one]]["error"]))


def _of(study: Study, shift: int) -> Row:
    return {"declared": study.digest, "shift": shift}


@dataclass(frozen=True)
class Lab:
    """What every row needs.

    Attributes:
        study: what was declared.
        data: what trains.
        tested: what is tested on: held-out images, or those of the test set.
        store: of trained dense networks.
    """

    study: Study
    data: TrainingData
    tested: Split
    store: Store

    def dense(self, shift: int, seed: int) -> Checkpoint:
        """A dense network: from the store, or trained and kept there."""
        task = Dense(self.data.info.fingerprint, self.study.made, self.study.dense(shift), seed)
        return train_once(task, self.data, self.store).checkpoint

    def finetuned(self, dense: Checkpoint, recipe: Recipe, shift: int, compression: float) -> Row:
        """The row of a network that was finetuned; its error is 100 % if it diverged."""
        study, begun = self.study, time.perf_counter()
        row = {**_of(study, shift), "compression": compression, **asdict(recipe)}
        network, gradients = dense, 0
        try:
            for phase in study.phases_to(compression):
                network, evaluated = self._phase(network, dense, recipe, shift, compression, phase)
                gradients += evaluated
        except DivergenceError:
            return row | {"error": 100.0, "diverged": True, "machine": machine()}
        if network.masks is None:
            raise TypeError("a finetuned network has no masks")
        return row | {
            "kept": network.masks.kept,
            "weights": network.masks.total,
            "error": self.error(network),
            "gradient_evaluations": gradients,
            "seconds": round(time.perf_counter() - begun, 1),
            "machine": machine(),
        }

    def _phase(
        self,
        begin: Checkpoint,
        dense: Checkpoint,
        recipe: Recipe,
        shift: int,
        compression: float,
        phase: Phase,
    ) -> tuple[Checkpoint, int]:
        """The network after a phase, and its gradient evaluations; from the store if known."""
        study = self.study
        sparsity = begin.masks.sparsity if begin.masks else 0.0
        pruning = study.prune(compression, phase, sparsity)
        start = prune(replace(begin, masks=None), pruning, self.data)
        params = study.finetuning(recipe, shift, phase)
        task = Finetuning(
            start=checkpoint_hash(start),
            arm=recipe.arm,
            recipe=params,
            prune=pruning,
            model=study.made,
            seed=dense.origin.seed,
            teacher=checkpoint_hash(dense) if recipe.distillation else "",
        )
        done = train_once(task, self.data, self.store, start=start, teacher=dense)
        return done.checkpoint, done.history[-1].gradient_evaluations

    def error(self, checkpoint: Checkpoint) -> float:
        """In percent."""
        return round(100 * (1 - evaluate(checkpoint.build(), self.tested).accuracy), 6)


def choose(lab: Lab) -> None:
    """Try every candidate that was not tried, at one compression."""
    rows = Rows(table(lab.study, "choose"), tried_key)
    # (A SAM step takes two gradients, but SGD takes twice the steps: none takes longest.)
    jobs = [
        (shift, recipe)
        for shift, recipe in product(lab.study.values["shifts"], lab.study.to_try())
        if tried_key(asdict(recipe) | _of(lab.study, shift)) not in rows.by_key
    ]
    if jobs:
        rows.make(partial(_try, lab), jobs)


def _try(lab: Lab, job: tuple[int, Recipe], told: Told) -> None:
    shift, recipe = job
    dense = lab.dense(shift, lab.study.values["choosing_seed"])
    told(lab.finetuned(dense, recipe, shift, lab.study.own["choosing_compression"]))


def measure(lab: Lab) -> None:
    """Test the chosen recipes, for every compression and seed."""
    study = lab.study
    rows = Rows(table(study, "measure"), measured_key)
    chosen = {
        (shift, arm): best(study, shift, arm) for shift in study.values["shifts"] for arm in ARMS
    }
    jobs = list(product(study.values["seeds"], study.values["shifts"]))
    rows.make(partial(_measure, lab, rows.by_key, chosen), jobs)


def _measure(
    lab: Lab,
    known: Known,
    chosen: Mapping[tuple[int, str], Recipe],
    job: tuple[int, int],
    told: Told,
) -> None:
    """All that begins with one dense network, where that is not known."""
    (seed, shift), study = job, lab.study
    missing = {at: rows for at, rows in _pairs(study, known, seed, shift) if not _is_whole(rows)}
    if not missing:
        return
    dense = lab.dense(shift, seed)
    at = {"seed": seed, "start": checkpoint_hash(dense)[:12], "dense_error": lab.error(dense)}
    for compression, rows in missing.items():
        for arm, row in rows.items():
            if row is None or row["start"] != at["start"]:  # made on another processor
                told(lab.finetuned(dense, chosen[shift, arm], shift, compression) | at)


def _pairs(
    study: Study, known: Known, seed: int, shift: int
) -> Iterator[tuple[float, dict[str, Row | None]]]:
    """Compressions, and what is known of the arms."""
    for compression in study.own["compressions"]:
        at = _of(study, shift) | {"seed": seed, "compression": compression}
        yield compression, {arm: known.get(measured_key(at | {"arm": arm})) for arm in ARMS}


def _is_whole(rows: Mapping[str, Row | None]) -> bool:
    """Whether all arms are known, and began with the same dense network."""
    starts = {row["start"] if row else None for row in rows.values()}
    return len(starts) == 1 and None not in starts


STEPS = {"choose": choose, "measure": measure}


def open_lab(study: Study, step: str, folder: str | None) -> Lab:
    """The images of a step, and the store. Raises DataError."""
    values = dict(study.values)
    if folder:
        values["data"] = {**values["data"], "source": "idx", "folder": folder}
    held_out = values["validation_images"] if step == "choose" else 0
    data, test = load_data(values["data"], held_out)
    tested = data.validation if held_out else test.test
    if tested is None:
        raise TypeError("no images are held out")
    # (That of a step: what is held out belongs to it.)
    images = {"fingerprint": data.info.fingerprint}
    check_kept(HERE / "results" / f"images-{step}.json", images)
    return Lab(study, data, tested, open_store(repository_root()))


def main(arguments: Sequence[str] | None = None) -> int:
    """Do a step."""
    networks = load_study("").values["networks"]
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("network", choices=networks)
    parser.add_argument("--folder", help="four idx files to read instead of downloading")
    asked = parser.parse_args(arguments)
    try:
        select_device("cpu")
        STEPS[asked.step](open_lab(load_study(asked.network), asked.step, asked.folder))
    except SparseSamError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
