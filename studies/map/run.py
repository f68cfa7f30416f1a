"""Run the study: ``python -m studies.map.run STEP TASK --folder FOLDER`` (``make study-map``).

The steps, in order: ``plan`` (how long all will take, and whether finetuning is long enough),
``choose-dense``, ``choose``, ``measure``, ``control`` (SGD's dense networks with the values of
SAM's), and ``check-precision`` of what is to be computed in float32, too. ``recheck`` draws three
networks at random and computes them anew. Every network that is done is a row of
``results/TASK/``, so what was stopped goes on, on any machine.
"""

import argparse
import random
import sys
import tempfile
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch

from sparse_sam.errors import SparseSamError
from sparse_sam.files import Store, write_json
from sparse_sam.tracking import open_store, repository_root
from sparse_sam.training import SGD_ARM, run_jobs, select_device
from studies.map import cells
from studies.map.cells import (
    Choice,
    Known,
    Lab,
    load_images,
    measured_key,
    of_dense,
    searched_arm,
    searched_dense,
    tried_key,
)
from studies.map.study import (
    DENSE,
    HERE,
    Mask,
    Setting,
    Study,
    load_study,
)
from studies.rows import Row, Rows, Told, check_kept, machine

Chosen = dict[Choice, Setting]
PLANNED = ("method", "times", "accuracy", "gradient_evaluations", "seconds", "all_seconds")
RECHECKED = 3
"""So many networks are drawn."""
TRIED = 10
"""About so many settings are tried in a search."""
TRIED_FROM_THERE = 4
"""And in one of the learning rate alone, that begins where another ended."""


def table(task: str, step: str) -> Path:
    """Where the rows of a step are."""
    return HERE / "results" / task / f"{step}.jsonl"


def chosen_dense(study: Study) -> Chosen:
    """What was chosen for dense trainings. Raises SparseSamError if a search is not at its end."""
    known = Rows(table(study.name, "tried_dense"), tried_key).by_key
    return {
        of_dense(kind): study.setting(method, searched_dense(study, known, kind).best)
        for kind, method in study.dense.items()
    }


def choices(study: Study) -> list[Choice]:
    """Every search of an arm's values."""
    return [
        (arm, kind, anchor, seed)
        for seed, kind, anchor, arm in product(
            study.seeds, study.searched_of, study.anchors(), study.arms
        )
    ]


def chosen_arms(study: Study) -> Chosen:
    """What was chosen for the arms. Raises SparseSamError if a search is not at its end."""
    known = Rows(table(study.name, "tried"), tried_key).by_key
    return {
        choice: study.setting(study.arms[choice[0]], searched_arm(study, known, choice).best)
        for choice in choices(study)
    }


def plan(lab: Lab) -> None:
    """Finetune with every arm once, and with SGD for four times as long.

    Where all searches begin, at 90 % sparsity. Hours are those of two cores.
    """
    study = lab.study
    mask = Mask(study.anchors()[0].criterion, 0.9)
    plain = study.arms[SGD_ARM]
    longer = [replace(plain, times=4.0)]
    work = partial(cells.timed, lab, mask)
    methods = [*study.arms.values(), *longer]
    found = run_jobs(work, methods, on_report=lambda *_: None, side_by_side=lab.side_by_side)
    rows = [{name: row[name] for name in PLANNED} for row in found.values()]
    each = {row["method"]: row["all_seconds"] for row in rows[: len(study.arms)]}
    regimes = sum(1 for kind in study.dense for _ in study.masks(kind))
    searched = len(study.anchors()) * (TRIED + TRIED_FROM_THERE * (len(study.searched_of) - 1))
    each_seed = searched + regimes
    counts = dict.fromkeys(study.arms, len(study.seeds) * each_seed)
    hours = sum(each[arm] * counts[arm] for arm in study.arms) / 3600
    workers = 2 if lab.side_by_side else 1
    content = {
        "sparsity": mask.sparsity,
        "finetuned": rows,
        "trainings": counts,
        f"hours of finetuning on {'two cores' if lab.side_by_side else 'a GPU'}": round(
            hours / workers, 1
        ),
        "machine": machine(lab.device),
    }
    write_json(HERE / "results" / study.name / "plan.json", content)


def choose_dense(lab: Lab) -> None:
    """Search the values of every dense training."""
    rows = Rows(table(lab.study.name, "tried_dense"), tried_key)
    kinds = sorted(lab.study.dense, key=lambda kind: lab.study.dense[kind].cost, reverse=True)
    work = partial(cells.choose_dense, lab, rows.by_key)
    rows.make(work, kinds, side_by_side=lab.side_by_side)


def choose(lab: Lab) -> None:
    """Search the values of every arm at every anchor, for every reported seed."""
    study = lab.study
    dense = chosen_dense(study)
    rows = Rows(table(study.name, "tried"), tried_key)
    arms = sorted(study.arms, key=lambda arm: study.arms[arm].cost, reverse=True)
    jobs = [
        (arm, anchor, seed) for seed, anchor, arm in product(study.seeds, study.anchors(), arms)
    ]
    work = partial(cells.choose_arm, lab, rows.by_key, dense)
    rows.make(work, jobs, side_by_side=lab.side_by_side)


def measure(lab: Lab) -> None:
    """Test what was chosen."""
    study = lab.study
    chosen = chosen_dense(study) | chosen_arms(study)
    _measure(lab, chosen, "measured")


def _measure(lab: Lab, chosen: Chosen, step: str) -> None:
    rows = Rows(table(lab.study.name, step), measured_key)
    work = partial(cells.measure, lab, rows.by_key, chosen)
    rows.make(work, lab.study.starts(), side_by_side=lab.side_by_side)


def check_precision(lab: Lab) -> None:
    """Compute in float32, from the first step, the part that is declared to be."""
    study = lab.study.in_float32
    if study is None:
        raise SparseSamError(f"all of {lab.study.name} is computed in float32")
    chosen = chosen_dense(lab.study) | chosen_arms(lab.study)
    _measure(replace(lab, study=study), chosen, "float32")


def control(lab: Lab) -> None:
    """Train SGD's dense networks with the values of SAM's, and prune them."""
    rows = Rows(table(lab.study.name, "control"), measured_key)
    work = partial(cells.control, lab, rows.by_key, chosen_dense(lab.study))
    rows.make(work, lab.study.seeds, side_by_side=lab.side_by_side)


def recheck(lab: Lab) -> None:
    """Compute reported networks anew, drawn at random, from the first step of the dense training.

    Raises:
        SparseSamError: there are not so many rows of this kind of processor, or one differs.
    """
    rows = Rows(table(lab.study.name, "measured"), measured_key).by_key
    kind = machine(lab.device)
    here = [row for row in rows.values() if row["arm"] in lab.study.arms and row["machine"] == kind]
    if len(here) < RECHECKED:
        raise SparseSamError(
            f"{len(here)} rows were made on this kind of processor ({kind}), and "
            f"{RECHECKED} are to be drawn; digits are those of a kind of processor"
        )
    drawn = [measured_key(row) for row in random.sample(here, RECHECKED)]
    # (As the rows were made: obs has other digits on other numbers of threads.)
    work = partial(_again, lab, rows)
    found = run_jobs(work, drawn, on_report=lambda *_: None, side_by_side=lab.side_by_side)
    for key, row in found.items():
        name, known = ", ".join(map(str, key)), rows[key]
        differing = [one for one in known if "seconds" not in one and row[one] != known[one]]
        if differing:
            raise SparseSamError(f"{name}: {', '.join(differing)} differ: {row} instead of {known}")
        sys.stdout.write(f"{name}: {row['accuracy']:.4f}, the same to the digit\n")


def _again(lab: Lab, rows: Known, key: tuple[Any, ...], _: Told) -> Row:
    row = rows[key]
    dense = rows[row["dense"], row["seed"], DENSE, 0.0, DENSE]
    with tempfile.TemporaryDirectory() as folder:
        return cells.again(replace(lab, store=Store(Path(folder))), dense, row)


STEPS = {
    "plan": plan,
    "choose-dense": choose_dense,
    "choose": choose,
    "measure": measure,
    "control": control,
    "check-precision": check_precision,
    "recheck": recheck,
}


def main() -> int:
    """Do a step."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("task", help="a task of params.yaml")
    parser.add_argument("--folder", help="where its images are; digits are downloaded without")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    asked = parser.parse_args()
    try:
        if asked.device != "cpu" and not torch.cuda.is_available():
            raise SparseSamError("--device cuda: torch finds no GPU here; allowed: cpu")
        device = select_device(asked.device)
        study = load_study(asked.task)
        images = load_images(study, asked.folder, device)
        made_of = {
            "fingerprint": images.training.info.fingerprint,
            "declared": study.digest,
        }
        check_kept(HERE / "results" / study.name / "images.json", made_of)
        lab = Lab(study, images, open_store(repository_root()))
        STEPS[asked.step](lab)
    except SparseSamError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
