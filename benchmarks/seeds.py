"""Many networks at once: S seeds as one batched model against the loop, one after the other.

    python benchmarks/seeds.py                                   # two minutes on two cores
    python benchmarks/seeds.py --device cuda --seeds 1 8 64 --whole

The unit is one epoch of finetuning a pruned network with SAM, or with ``--whole`` the protocol of
params.yaml: dense training, pruning, and the three arms. What is aimed at on a large GPU is 64
seeds of the whole protocol in less than 4 × the time of one.
"""

from collections.abc import Callable

import torch
from digits import reference
from harness import ROOT, Value, arguments_of, in_turn, machine, ratios, report, value

from sparse_sam.arms import SAM, SGD, SGD_2X
from sparse_sam.batched import Member, initial, train_batched
from sparse_sam.compute import select_device
from sparse_sam.config import Params
from sparse_sam.dataset import TrainingData
from sparse_sam.experiment import arm_recipe, finetune, prune, train_dense
from sparse_sam.reading import read_data


def silent(_: object) -> None:
    """Nobody is told."""


def in_a_loop(data: TrainingData, params: Params, seeds: int, *, whole: bool) -> None:
    """The default: one network after the other."""
    for seed in range(seeds):
        if whole:
            dense = train_dense(data, params.model.name, params.train_dense, seed, silent)
            start = dense.checkpoint
        else:
            start = initial(data, params.model.name, seed)
        pruned = prune(start, params.prune)
        for arm in (SGD, SGD_2X, SAM) if whole else (SAM,):
            finetune(pruned, data, params.finetune, arm, silent)


def together(data: TrainingData, params: Params, seeds: int, *, whole: bool) -> None:
    """The same, stacked: all seeds, and SGD beside SAM, since they take as many epochs."""
    starts = [initial(data, params.model.name, seed) for seed in range(seeds)]
    if whole:
        members = [Member(start, "dense") for start in starts]
        dense = train_batched(members, data, params.train_dense, purpose="train_dense")
        starts = [one.checkpoint for one in dense]
    pruned = [prune(start, params.prune) for start in starts]
    recipe, rho = params.finetune.training, params.finetune.sam.rho
    members = [Member(start, SAM, rho) for start in pruned]
    if whole:
        members += [Member(start, SGD) for start in pruned]
        longer = [Member(start, SGD_2X) for start in pruned]
        train_batched(longer, data, arm_recipe(recipe, SGD_2X), purpose="finetune")
    train_batched(members, data, recipe, purpose="finetune")


def measure(
    device: torch.device, counts: list[int], model: str, *, quick: bool, whole: bool
) -> list[Value]:
    """Seconds of the loop and of the batched model, their ratio, and growth with seeds."""
    data, _ = read_data(reference(ROOT, fraction=0.2 if quick else 1.0).data)
    data = data.to(select_device("cuda" if device.type == "cuda" else "cpu"))
    params = reference(ROOT)
    params = params.model_copy(update={"model": params.model.model_copy(update={"name": model})})
    if not whole:
        recipe = params.finetune.training.model_copy(update={"epochs": 1})
        params = params.model_copy(
            update={"finetune": params.finetune.model_copy(update={"training": recipe})}
        )

    def timed(function: Callable[..., None], count: int) -> Callable[[], None]:
        def run() -> None:
            function(data, params, count, whole=whole)
            if device.type == "cuda":
                torch.cuda.synchronize()

        return run

    cases = {}
    for count in counts:
        cases[f"batched, {count}"] = timed(together, count)
        if device.type == "cpu" or count == 1:
            cases[f"loop, {count}"] = timed(in_a_loop, count)
    seconds = in_turn(cases, rounds=2 if quick else 3 if whole else 5)
    values = [value(f"{model}: {name} seeds", "s", times) for name, times in seconds.items()]
    for count in counts:
        batched, loop = seconds[f"batched, {count}"], seconds.get(f"loop, {count}")
        if loop:
            name = f"{model}: batched / loop, {count} seeds"
            values.append(value(name, "×", ratios(batched, loop)))
        if count > 1 and 1 in counts:
            name = f"{model}: {count} seeds batched / one in the loop"
            values.append(value(name, "×", ratios(batched, seconds["loop, 1"])))
    return values


def main() -> None:
    """Measure and report."""
    parser = arguments_of(__doc__, device=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--models", nargs="+", default=["classifier", "lenet-300-100", "mlpnet"])
    parser.add_argument("--whole", action="store_true", help="the whole protocol")
    arguments = parser.parse_args()
    where = machine(arguments.device)
    models = ["mlpnet"] if arguments.quick else arguments.models
    values = [
        one
        for model in models
        for one in measure(
            arguments.device,
            arguments.seeds,
            model,
            quick=arguments.quick,
            whole=arguments.whole,
        )
    ]
    report("seeds", values, where, arguments)


if __name__ == "__main__":
    main()
