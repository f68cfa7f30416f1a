"""Run the study: ``python -m studies.oneshot.run choose``, then ``measure``.

``choose`` tries damping of obs, and every arm's learning rate and ρ, on images held out of
training, with a seed of its own. ``measure`` then prunes and finetunes networks that were trained
on all training images, and tests each once. With ``--folder`` the digits are read from four idx
files. Pruned networks and trainings are kept in the store: what was stopped goes on.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product

import torch
from tqdm import tqdm

from sparse_sam.data import Split, TrainingData
from sparse_sam.errors import DivergenceError, SparseSamError
from sparse_sam.files import read_json, write_json
from sparse_sam.pruning import OBS, Evidence, Masks, attach, plain_parameters, prunable_parameters
from sparse_sam.training import (
    SAM_ARM,
    SGD_2X_ARM,
    SGD_ARM,
    Checkpoint,
    evaluate,
    run_jobs,
    select_device,
)
from studies.oneshot.networks import (
    ARMS,
    Recipe,
    Values,
    best,
    damped,
    dense_network,
    finetuned,
    load_data,
    load_params,
    pruned_network,
    results,
)

Told = Callable[[int], None]


def candidates(params: Values) -> list[Recipe]:
    """What each arm may choose from, for every criterion; those that take longest first."""
    found = []
    for criterion in params["finetuned"]:
        rates = params["finetune"]["rates"]
        found += [
            Recipe(criterion, SAM_ARM, lr, rho)
            for lr, rho in product(rates, params["finetune"]["rhos"])
        ]
        found += [Recipe(criterion, arm, lr, None) for arm in (SGD_2X_ARM, SGD_ARM) for lr in rates]
    return found


def choose(params: Values, data: TrainingData, progress: Told) -> Values:
    """Validation accuracy, in percent, of every damping of obs and of every candidate."""
    seed, sparsity = params["choosing_seed"], params["finetune"]["choosing_sparsity"]
    dense = dense_network(params, data, seed)
    work = partial(_damped, params, dense, data)
    by_damping = run_jobs(work, params["dampings"], on_report=lambda _, count: progress(count))
    pruning = partial(_prune_only, params, {seed: dense}, data)
    cells = [(criterion, sparsity, seed) for criterion in params["finetuned"]]
    run_jobs(pruning, cells, on_report=lambda _, count: progress(count))
    tuning = partial(_validation_accuracy, params, dense, data)
    found = run_jobs(tuning, candidates(params), on_report=lambda _, count: progress(count))
    return {
        "seed": seed,
        "dense": _accuracy(dense, _held_out(data)),
        "dampings": [{"damping": one, "accuracies": by_damping[one]} for one in params["dampings"]],
        "sparsity": sparsity,
        "tried": [{**vars(one), "accuracy": found[one]} for one in candidates(params)],
    }


def _damped(
    params: Values, dense: Checkpoint, data: TrainingData, damping: float, report: Told
) -> list[float]:
    """One-shot, at every sparsity: as ``Pruner.prune`` with a criterion of this damping."""
    found = damped(dense, data, damping, partial(_one_shot, params, dense, data, damping))
    report(1)
    return found


def _one_shot(params: Values, dense: Checkpoint, data: TrainingData, damping: float) -> list[float]:
    criterion = replace(OBS(), damping=damping)
    evidence = Evidence(dense.origin.seed, data.train, dense.origin.image_shape)
    network = dense.build()
    weights = prunable_parameters(network)
    scores = criterion.scores(network, weights, evidence)
    flat = torch.cat([score.flatten() for score in scores.values()])
    accuracies = []
    for sparsity in params["sparsities"]:
        limit = flat.sort().values[round(sparsity * len(flat))]
        masks = Masks({name: score >= limit for name, score in scores.items()})
        values = criterion.compensated(network, weights, masks, evidence)
        pruned = dense.build()
        attach(pruned, masks)
        with torch.no_grad():
            for name, weight in plain_parameters(pruned).items():
                if name in masks:
                    weight.copy_(values[name] * masks[name])
        accuracies.append(100 * evaluate(pruned, _held_out(data)).accuracy)
    return accuracies


def _held_out(data: TrainingData) -> Split:
    if data.validation is None:
        raise SparseSamError("choosing needs images that are held out, and there are none")
    return data.validation


def _validation_accuracy(
    params: Values, dense: Checkpoint, data: TrainingData, recipe: Recipe, report: Told
) -> float:
    """In percent; 0 of one that diverged."""
    sparsity = params["finetune"]["choosing_sparsity"]
    start = pruned_network(params, dense, data, recipe.criterion, sparsity)
    report(1)
    try:
        _, accuracy = finetuned(params, start, data, recipe, sparsity)
    except DivergenceError:
        return 0.0
    return 100 * (accuracy or 0.0)


def measure(
    params: Values, data: TrainingData, test: Split, tried: Sequence[Values], progress: Told
) -> Values:
    """Test accuracy, in percent, of every network: dense, pruned, and after its last epoch."""
    dense = {seed: dense_network(params, data, seed) for seed in params["seeds"]}
    cells = list(product(reversed(params["criteria"]), params["sparsities"], params["seeds"]))
    work = partial(_measured, params, dense, data, test, tried)
    rows = run_jobs(work, cells, on_report=lambda _, count: progress(count))
    ordered = product(params["criteria"], params["sparsities"], params["seeds"])
    return {
        "dense": [_accuracy(one, test) for one in dense.values()],
        "rows": [rows[cell] for cell in ordered],
    }


Cell = tuple[str, float, int]


def _prune_only(
    params: Values, dense: Mapping[int, Checkpoint], data: TrainingData, cell: Cell, report: Told
) -> None:
    criterion, sparsity, seed = cell
    pruned_network(params, dense[seed], data, criterion, sparsity)
    report(1)


def _measured(
    params: Values,
    dense: Mapping[int, Checkpoint],
    data: TrainingData,
    test: Split,
    tried: Sequence[Values],
    cell: Cell,
    report: Told,
) -> Values:
    """A row of the results."""
    criterion, sparsity, seed = cell
    pruned = pruned_network(params, dense[seed], data, criterion, sparsity)
    if pruned.masks is None:
        raise SparseSamError("a pruned network has no masks")
    report(1)
    row = {
        "criterion": criterion,
        "sparsity": sparsity,
        "seed": seed,
        "kept": pruned.masks.kept,
        "weights": pruned.masks.total,
        "pruned": _accuracy(pruned, test),
    }
    if criterion in params["finetuned"]:
        for arm in ARMS:
            recipe = best(tried, criterion, arm)
            done, _ = finetuned(params, pruned, data, recipe, sparsity)
            row[arm] = _accuracy(done, test)
            report(1)
    return row


def _accuracy(checkpoint: Checkpoint, split: Split) -> float:
    """In percent."""
    return 100 * evaluate(checkpoint.build(), split).accuracy


def run_choose(params: Values) -> Values:
    """What was tried, and how each did."""
    data, _ = load_data(params["data"], params["validation_images"])
    total = len(params["dampings"]) + len(params["finetuned"]) + len(candidates(params))
    with tqdm(total=total, desc="choosing", disable=None) as progress:
        return choose(params, data, progress.update)


def run_measure(params: Values) -> Values:
    """The test accuracies of what was chosen."""
    tried = read_json(results("choose"), cure="Run `python -m studies.oneshot.run choose`.")
    data, test = load_data(params["data"], 0)
    each = len(params["sparsities"]) * len(params["seeds"])
    total = each * (len(params["criteria"]) + len(ARMS) * len(params["finetuned"]))
    with tqdm(total=total, desc="measuring", disable=None) as progress:
        found = measure(params, data, test.test, tried["tried"], progress.update)
    counts = {part: sum(each) for part, each in data.info.counts.items()}
    return {"fingerprint": data.info.fingerprint, "images": counts, **found}


def main() -> int:
    """Choose or measure, and write the results."""
    params = load_params()
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("step", choices=["choose", "measure"])
    parser.add_argument("--folder", help="four idx files to read instead of downloading")
    arguments = parser.parse_args()
    if arguments.folder:
        params["data"] |= {"source": "idx", "folder": arguments.folder}
    try:
        select_device("cpu")
        found = run_choose(params) if arguments.step == "choose" else run_measure(params)
    except SparseSamError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    write_json(results(arguments.step), found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
