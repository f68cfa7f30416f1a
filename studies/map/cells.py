"""One network of the study at a time: trained, pruned, finetuned, and how well it does."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from typing import Any

import torch

from sparse_sam.data import Split, TrainingData, read_data
from sparse_sam.errors import DivergenceError, FrozenWeightError, SparseSamError
from sparse_sam.files import Store
from sparse_sam.pruning import obs_paths_kept
from sparse_sam.training import (
    SAM_ARM,
    SGD_ARM,
    Checkpoint,
    Dense,
    Trained,
    checkpoint_hash,
    evaluate,
    finetune,
    prune,
    train_once,
)
from studies.map.search import Found, Line, Point, search
from studies.map.study import DENSE, NOT_PRUNED, PRUNED, Mask, Method, Setting, Start, Study
from studies.rows import CPU, Row, Told, machine

CURVE = 1_000
"""So many validation images are looked at after every epoch; all of them at the end."""

SAM_DENSE, CONTROL_DENSE, CONTROL = "sam", "sgd_2x", "sgd_2x as sam"
"""SAM's dense training, SGD's of as many gradients, and that with SAM's values."""

Choice = tuple[str, str, Mask, int | None]
"""An arm, the dense training, the anchor and the reported seed.

Or of a dense training: ``of_dense``.
"""
Make = Callable[[Setting, int], Row]
"""What is measured of a setting, with a seed."""
Known = Mapping[tuple[Any, ...], Row]
"""Rows by what they are of."""


@dataclass(frozen=True)
class Images:
    """The data of a task.

    Attributes:
        training: what trains, and what is looked at after every epoch.
        held_out: what chooses.
        test: what is reported.
    """

    training: TrainingData
    held_out: Split
    test: Split


@dataclass(frozen=True)
class Lab:
    """What every cell of a task needs."""

    study: Study
    images: Images
    store: Store

    @property
    def device(self) -> torch.device:
        """Where networks are trained and tested: where the images are."""
        return self.images.test.labels.device

    @property
    def side_by_side(self) -> bool:
        """Whether cells are computed in processes of their own: a GPU takes one after the other."""
        return self.device.type == "cpu"

    def pruned(self, dense: Checkpoint, mask: Mask) -> Checkpoint:
        """A dense network, pruned; on the CPU, where the library prunes."""
        return prune(dense, self.study.prune(mask), self._on_cpu)

    @cached_property
    def _on_cpu(self) -> TrainingData:
        return self.images.training.to(CPU)


def of_dense(kind: str) -> Choice:
    """Of a dense training: there is no arm but itself, and no mask or seed."""
    return kind, kind, NOT_PRUNED, None


def load_images(study: Study, folder: str | None, device: torch.device = CPU) -> Images:
    """Read a task's images, onto a device. Raises DataError."""
    data, test = read_data(study.data(folder))
    if data.validation is None:
        raise TypeError("the study's sources hold images out")
    curve = data.validation.part(torch.arange(CURVE))
    training = replace(data, validation=curve).to(device)
    return Images(training, data.validation.to(device), test.test.to(device))


def tried_key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a row of the search is of."""
    names = ("method", "dense", "criterion", "sparsity", "lr", "weight_decay", "rho", "seed")
    return tuple(row[name] for name in names)


def measured_key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a row of the results is of."""
    return tuple(row[name] for name in ("dense", "seed", "criterion", "sparsity", "arm"))


def choose_dense(lab: Lab, known: Known, kind: str, told: Told) -> Found:
    """Search the values of a dense training, on held-out images; ``told`` of every new row."""

    def make(setting: Setting, seed: int) -> Row:
        return _tested(partial(_dense, lab, kind, setting, seed), lab.images.held_out)

    return searched_dense(lab.study, known, kind, make, told)


def choose_arm(
    lab: Lab,
    known: Known,
    chosen: Mapping[Choice, Setting],
    job: tuple[str, Mask, int],
    told: Told,
) -> None:
    """Search the values of an arm at an anchor for a reported seed; ``told`` of every new row.

    For the networks of every dense training, one after the other.

    Args:
        lab: what is needed.
        known: the rows of the searches.
        chosen: the values of the dense trainings.
        job: the arm, the anchor, and the seed.
        told: takes rows.
    """
    (arm, anchor, seed), done = job, dict(known)
    method = lab.study.arms[arm]

    @cache  # and only if there is something to make
    def pruned(kind: str, choosing: int) -> Checkpoint:
        setting = chosen[of_dense(kind)]
        return lab.pruned(_dense(lab, kind, setting, choosing).checkpoint, anchor)

    def make(kind: str, setting: Setting, choosing: int) -> Row:
        start = pruned(kind, choosing)
        make = partial(_finetuned, lab, method, setting, start, anchor)
        return _tested(make, lab.images.held_out)

    def keep(row: Row) -> None:
        done[tried_key(row)] = row
        told(row)

    for kind in lab.study.searched_of:
        searched_arm(lab.study, done, (arm, kind, anchor, seed), partial(make, kind), keep)


def _not_known(_: Setting, __: int) -> Row:
    raise SparseSamError("a search is not at its end: run choose-dense, then choose")


def _untold(_: Row) -> None:
    """Nothing is new."""


def searched_dense(
    study: Study, known: Known, kind: str, make: Make = _not_known, told: Told = _untold
) -> Found:
    """The search of a dense training's values, from the rows that are known and those to make.

    Raises:
        SparseSamError: one is not known, and nothing makes it.
    """
    of, seeds = study.dense[kind], study.choosing_dense
    at = {"dense": kind, **NOT_PRUNED._asdict()}
    return _searched(study, known, of, at, seeds, study.lines(of), make, told)


def searched_arm(
    study: Study,
    known: Known,
    choice: Choice,
    make: Make = _not_known,
    told: Told = _untold,
) -> Found:
    """The search of an arm's values for a reported seed. Raises as ``searched_dense``.

    Of networks of the first dense training all of them are searched, from where it is declared.
    Of those of another the learning rate is, from where that search came to, and the others stay.
    """
    arm, kind, anchor, seed = choice
    if seed is None:
        raise TypeError("arms are searched for a reported seed")
    method, choosing = study.arms[arm], [study.choosing(seed)]
    lines, first = study.lines(method), study.searched_of[0]
    stay: Point = ()
    if kind != first:
        rate, *others = searched_arm(study, known, (arm, first, anchor, seed)).best
        lines, stay = [replace(lines[0], start=rate)], tuple(others)
    at = {"dense": kind, **anchor._asdict()}
    return _searched(study, known, method, at, choosing, lines, make, told, stay)


def _searched(
    study: Study,
    known: Known,
    method: Method,
    at: Row,
    seeds: Sequence[int],
    lines: Sequence[Line],
    make: Make,
    told: Told,
    stay: Point = (),
) -> Found:
    """Search for the highest accuracy on held-out images, in the mean over seeds.

    Along the first lines; ``stay`` are the values of the others.
    """

    def score(point: Point) -> float:
        setting, accuracies = study.setting(method, (*point, *stay)), []
        for seed in seeds:
            row = {"method": method.name, **at, **setting._asdict(), "seed": seed}
            done = known.get(tried_key(row))
            if done is None:
                done = row | make(setting, seed)
                told(done)
            accuracies.append(done["accuracy"])
        return sum(accuracies) / len(accuracies)

    found = search(lines, score)
    return Found(
        (*found.best, *stay), {(*point, *stay): value for point, value in found.scores.items()}
    )


def timed(lab: Lab, mask: Mask, method: Method, _: Told) -> Row:
    """How long a method takes, and how well it does on held-out images, where the search begins.

    With the first of the dense trainings' seeds, from a network of plain SGD.
    """
    study, seed = lab.study, lab.study.choosing_dense[0]
    plain = study.dense[SGD_ARM]
    begin = study.setting(plain, tuple(line.start for line in study.lines(plain)))
    dense = _dense(lab, SGD_ARM, begin, seed).checkpoint
    setting = study.setting(method, tuple(line.start for line in study.lines(method)))
    start = lab.pruned(dense, mask)
    row = _tested(partial(_finetuned, lab, method, setting, start, mask), lab.images.held_out)
    return {"method": method.name, "times": method.times, **row}


def measure(
    lab: Lab, known: Known, chosen: Mapping[Choice, Setting], start: Start, told: Told
) -> None:
    """Test every network that begins with one dense network, where that is not known.

    The arms of a mask begin with the same pruned network, to the bit. If it is another than that
    of the rows that are known, since they were made on another processor, these are made anew; and
    so are rows of other values than the chosen.
    """
    study = lab.study
    missing = [
        mask for mask in study.masks(start.dense) if not is_whole(study, known, chosen, start, mask)
    ]
    if not missing:
        return
    kind, seed = start
    at = {"dense": kind, "seed": seed}
    setting = chosen[of_dense(kind)]
    row = at | {**NOT_PRUNED._asdict(), "arm": DENSE, **setting._asdict()}
    dense = _dense(lab, kind, setting, seed)
    told(row | _tested(lambda: dense, lab.images.test, with_curve=True))
    with obs_paths_kept():
        pruned_by = {mask: lab.pruned(dense.checkpoint, mask) for mask in missing}
    for mask, pruned in pruned_by.items():
        first = checkpoint_hash(pruned)[:12]
        row = at | mask._asdict() | {"arm": PRUNED, "start": first}
        told(row | _accuracies(lab, pruned))
        for arm in study.arms:
            setting = chosen[arm, kind, study.anchor(mask), seed]
            row = at | {**mask._asdict(), "arm": arm, "start": first, **setting._asdict()}
            done = known.get(measured_key(row))
            if done is None or done["start"] != first or setting_of(done) != setting:
                told(row | _reported(lab, arm, setting, pruned, mask))


def control(
    lab: Lab, known: Known, chosen: Mapping[Choice, Setting], seed: int, told: Told
) -> None:
    """Prune networks that SGD (2×) trained with the learning rate and weight decay of SAM's.

    What SAM's networks gain beside these, right after pruning, is not due to these values.
    """
    at = {"dense": CONTROL, "seed": seed, "arm": PRUNED}
    rows = {mask: at | mask._asdict() for mask in lab.study.controlled()}
    if all(measured_key(row) in known for row in rows.values()):
        return
    values = chosen[of_dense(SAM_DENSE)]._replace(rho=None)
    dense = _dense(lab, CONTROL_DENSE, values, seed).checkpoint
    for mask, row in rows.items():  # all of one network, on one processor
        told(row | _accuracies(lab, lab.pruned(dense, mask)) | {"machine": machine(lab.device)})


def again(lab: Lab, dense: Row, row: Row) -> Row:
    """A reported row, computed anew with the values that it names.

    Args:
        lab: with a store of its own, where nothing is computed anew.
        dense: the row of the dense network that it begins with.
        row: of a finetuned network.
    """
    mask = Mask(row["criterion"], row["sparsity"])
    network = _dense(lab, dense["dense"], setting_of(dense), dense["seed"]).checkpoint
    pruned = lab.pruned(network, mask)
    done = _reported(lab, row["arm"], setting_of(row), pruned, mask)
    return {**row, "start": checkpoint_hash(pruned)[:12], **done}


def _reported(lab: Lab, arm: str, setting: Setting, pruned: Checkpoint, mask: Mask) -> Row:
    """What is reported of a finetuning; one that diverges counts as what it began with."""
    row = _tested(
        partial(_finetuned, lab, lab.study.arms[arm], setting, pruned, mask),
        lab.images.test,
        lab.images.held_out,
        with_curve=True,
    )
    return row | _accuracies(lab, pruned) if row["diverged"] else row


def _accuracies(lab: Lab, checkpoint: Checkpoint) -> Row:
    """On test images, and on those that are held out."""
    model = checkpoint.build().to(lab.device)
    return {
        "accuracy": evaluate(model, lab.images.test).accuracy,
        "held_out": evaluate(model, lab.images.held_out).accuracy,
    }


def setting_of(row: Row) -> Setting:
    """The values that a row names."""
    return Setting(row["lr"], row["weight_decay"], row["rho"])


def regime(study: Study, start: Start, mask: Mask) -> Iterator[tuple[Any, ...]]:
    """The keys of a regime's rows with one seed: pruned, and every arm."""
    for arm in (PRUNED, *study.arms):
        yield (*start, *mask, arm)


def is_whole(
    study: Study, known: Known, chosen: Mapping[Choice, Setting], start: Start, mask: Mask
) -> bool:
    """Whether all arms of a regime are known, with the chosen values, from one network."""
    keys = list(regime(study, start, mask))
    return (
        all(key in known for key in keys)
        and len({known[key]["start"] for key in keys}) == 1
        and all(
            setting_of(known[*start, *mask, arm])
            == chosen[arm, start.dense, study.anchor(mask), start.seed]
            for arm in study.arms
        )
    )


def _dense(lab: Lab, kind: str, setting: Setting, seed: int) -> Trained:
    """A dense network: from the store, or trained and kept there."""
    recipe = lab.study.dense_recipe(lab.study.dense[kind], setting)
    fingerprint = lab.images.training.info.fingerprint
    task = Dense(fingerprint, lab.study.task["network"], recipe, seed)
    return train_once(task, lab.images.training, lab.store)


def _finetuned(
    lab: Lab, method: Method, setting: Setting, start: Checkpoint, mask: Mask
) -> Trained:
    """A pruned network, finetuned."""
    study, data = lab.study, lab.images.training
    steps = -(-len(data.train) // study.task["training"]["batch_size"])
    recipe = study.finetuning(method, setting, steps)
    name = SGD_ARM if method.variant is None else SAM_ARM
    return finetune(start, data, recipe, name, lambda _: None, pruning=study.prune(mask))


def _tested(
    make: Callable[[], Trained],
    split: Split,
    held_out: Split | None = None,
    *,
    with_curve: bool = False,
) -> Row:
    """How well a network does, and what it took; accuracy 0 of one that diverged.

    With its curve: gradient evaluations, validation accuracy and training loss after every epoch.
    """
    begun, device = time.perf_counter(), split.labels.device
    try:
        done = make()
    except (DivergenceError, FrozenWeightError):
        return {"accuracy": 0.0, "diverged": True, "machine": machine(device)}
    last, model = done.history[-1], done.checkpoint.build().to(device)
    row = {
        "accuracy": evaluate(model, split).accuracy,
        "diverged": False,
        "gradient_evaluations": last.gradient_evaluations,
        "seconds": round(last.seconds, 2),
        "all_seconds": round(time.perf_counter() - begun, 2),
        "machine": machine(device),
    }
    if held_out is not None:
        row["held_out"] = evaluate(model, held_out).accuracy
    if with_curve:
        row["curve"] = [
            [one.gradient_evaluations, one.validation_accuracy, _rounded(one.train_loss)]
            for one in done.history
        ]
    return row


def _rounded(loss: float | None) -> float | None:
    return None if loss is None else round(loss, 5)
