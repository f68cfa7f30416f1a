"""Write the study's report from its results: ``python -m studies.oneshot.report``.

Every sentence that says what was found is made from the numbers.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_sam.evaluation import ALPHA, compare_paired, smallest_permutation_p, summarize
from sparse_sam.files import write_text
from sparse_sam.pruning import OBS
from studies.oneshot import figures
from studies.oneshot.networks import ARMS, HERE, Values, best, load_params
from studies.oneshot.tables import (
    COMPARED,
    MARGIN,
    NAMES,
    PUBLISHED,
    PUBLISHED_DENSE,
    ROWS,
    Measured,
    accuracies,
    comparisons,
    load,
)

REPORT, FIGURE = HERE / "REPORT.md", HERE / "accuracy.svg"


def report(params: Values, chosen: Values, measured: Measured) -> str:
    """The report as Markdown."""
    return "\n".join(_lines(params, chosen, measured)) + "\n"


def _lines(params: Values, chosen: Values, measured: Measured) -> Iterator[str]:
    dense = np.array(measured["dense"])
    seeds, epochs = len(params["seeds"]), params["finetune"]["training"]["epochs"]
    yield "# One-shot pruning of 784-40-20-10, and what finetuning makes of it"
    yield ""
    yield from _answer(params, measured)
    yield ""
    yield (
        f"The network has no biases and {measured['rows'][0]['weights']:,} weights. {seeds} dense "
        f"networks were trained on all {measured['images']['train']:,} digits with a recipe that was "
        f"declared beforehand ({params['dense']['epochs']} epochs of SGD, lr {params['dense']['lr']}, "
        f"no momentum), short so as to end near the published network's {PUBLISHED_DENSE} %: they "
        f"have {_cell(dense)} % on the test images. All weights are pruned together (global). Test "
        "images chose nothing. Written by `python -m studies.oneshot.report` from `results/`; "
        "`make study-oneshot FOLDER=…`, with the four idx files of MNIST, does it all."
    )
    yield ""
    yield "![Test accuracy against sparsity: one-shot by criterion, and finetuned](accuracy.svg)"
    yield from _one_shot(params, measured)
    yield from _settings(params, chosen)
    yield from _finetuned(params, measured, epochs)
    yield from _recipes(params, chosen)
    yield from _limits(params)


def _answer(params: Values, measured: Measured) -> Iterator[str]:
    best_known = np.array(list(PUBLISHED.values())).max(0)
    ours = [accuracies(measured, "obs", at, "pruned").mean() for at in params["sparsities"]]
    above = [
        f"{at:g} ({one:.2f} against {known:.2f})"
        for at, one, known in zip(params["sparsities"], ours, best_known, strict=True)
        if one > known
    ]
    below = [
        f"{at:g} ({one:.2f} against {known:.2f})"
        for at, one, known in zip(params["sparsities"], ours, best_known, strict=True)
        if one <= known
    ]
    yield (
        f"**Without training after it, `obs` is above the best published accuracy at sparsity "
        f"{', '.join(above) or 'none'}"
        + (f", and not above it at {', '.join(below)}" if below else "")
        + ".**"
    )
    more = _loses_more(params, measured)
    if more:
        yield (
            f"At {' and '.join(f'{at:g}' for at in more)} that comes from better dense networks: "
            f"there `obs` loses more points than the best published ({'; '.join(more.values())})."
        )
    compared = comparisons(params, measured)
    for (first, second), equal in COMPARED.items():
        own = {k: v for k, v in compared.items() if k[2:] == (first, second)}
        gains = [k for k, v in own.items() if v["adjusted"] < ALPHA and v["mean"] > 0]
        losses = [k for k, v in own.items() if v["adjusted"] < ALPHA and v["mean"] < 0]
        yield (
            f"Finetuned at {equal}, {NAMES[first]} against {NAMES[second]}: of {len(own)} "
            f"comparisons (criterion, sparsity) a gain is shown in {_where(gains)} and a loss in "
            f"{_where(losses)}; the mean difference is positive in "
            f"{sum(v['mean'] > 0 for v in own.values())}, "
            f"from {_signed(min(v['mean'] for v in own.values()))} to "
            f"{_signed(max(v['mean'] for v in own.values()))} points."
        )


def _where(places: Sequence[tuple[str, float, str, str]]) -> str:
    if not places:
        return "none"
    return f"{len(places)} ({', '.join(f'{ROWS[one[0]]} at {one[1]:g}' for one in places)})"


def _one_shot(params: Values, measured: Measured) -> Iterator[str]:
    yield ""
    yield "## One-shot"
    yield ""
    yield (
        f"Test accuracy in % without any training after pruning: mean of {len(params['seeds'])} "
        "dense networks ± standard deviation."
    )
    yield ""
    yield "| criterion | " + " | ".join(f"{at:g}" for at in params["sparsities"]) + " |"
    yield "|---" * (1 + len(params["sparsities"])) + "|"
    for criterion in params["criteria"]:
        cells = [
            _cell(accuracies(measured, criterion, at, "pruned")) for at in params["sparsities"]
        ]
        yield f"| {ROWS[criterion]} | {' | '.join(cells)} |"
    for name, values in PUBLISHED.items():
        yield f"| *published:* {name} | {' | '.join(f'{one:.2f}' for one in values)} |"
    yield ""
    yield from _lost(params, measured)
    yield ""
    stages = _stages(1 - OBS().until)
    gradients = (stages + 2) * OBS().examples  # the rest goes in one more; so does the update
    yield (
        "`obs-selection` uses the masks of `obs` and keeps the dense network's values: the two rows "
        "differ by what updating the kept weights gives. `obs` and `obs in a single stage` differ by "
        "what the stages give. No weight is trained, but `obs` is not free: each stage takes the "
        f"gradients of {OBS().examples:,} training images, others each time. Choosing takes "
        f"{stages + 1} such passes, and updating, which starts from the stages already done, one "
        f"more: together the gradients of {gradients / measured['images']['train']:.1f} epochs "
        "(docs/pruning.md). Magnitude takes none, saliency 512 images."
    )


def _loses_more(params: Values, measured: Measured) -> dict[float, str]:
    """Where pruning by obs loses more than the best published, each below its dense network."""
    dense = np.array(measured["dense"])
    least_known = PUBLISHED_DENSE - np.array(list(PUBLISHED.values())).max(0)
    ours = [
        (dense - accuracies(measured, "obs", at, "pruned")).mean() for at in params["sparsities"]
    ]
    return {
        at: f"{at:g} ({one:.2f} against {known:.2f})"
        for at, one, known in zip(params["sparsities"], ours, least_known, strict=True)
        if one >= known
    }


def _lost(params: Values, measured: Measured) -> Iterator[str]:
    dense = np.array(measured["dense"])
    more = _loses_more(params, measured).values()
    yield (
        f"Our dense networks have {dense.mean():.2f} % and the published one {PUBLISHED_DENSE} %, so "
        "accuracies alone flatter ours. What pruning loses, in points below the dense network it "
        "began with:"
    )
    yield ""
    yield "| criterion | " + " | ".join(f"{at:g}" for at in params["sparsities"]) + " |"
    yield "|---" * (1 + len(params["sparsities"])) + "|"
    for criterion in params["criteria"]:
        lost = [
            _cell(dense - accuracies(measured, criterion, at, "pruned"))
            for at in params["sparsities"]
        ]
        yield f"| {ROWS[criterion]} | {' | '.join(lost)} |"
    for name, values in PUBLISHED.items():
        cells = [f"{PUBLISHED_DENSE - one:.2f}" for one in values]
        yield f"| *published:* {name} | {' | '.join(cells)} |"
    yield ""
    yield (
        f"By this measure `obs` loses more than the best published at {', '.join(more)}: there its "
        "higher accuracy comes from the dense network."
        if more
        else "By this measure, too, `obs` loses less than the best published at every sparsity."
    )


def _stages(sparsity: float) -> int:
    how, share, count = OBS(), OBS().first, 1
    while share > 1 - sparsity:
        share, count = share * how.keeps, count + 1
    return count


def _settings(params: Values, chosen: Values) -> Iterator[str]:
    yield ""
    yield (
        f"The damping of `obs` was chosen on {params['validation_images']:,} training images held "
        f"out, with a network of seed {chosen['seed']} that is not reported (dense "
        f"{chosen['dense']:.2f} %): validation accuracy in %, one-shot. The best on average is the "
        "default."
    )
    yield ""
    yield "| damping | " + " | ".join(f"{at:g}" for at in params["sparsities"]) + " | mean |"
    yield "|---" * (2 + len(params["sparsities"])) + "|"
    for one in chosen["dampings"]:
        cells = " | ".join(f"{value:.2f}" for value in one["accuracies"])
        yield f"| {one['damping']:g} | {cells} | {np.mean(one['accuracies']):.2f} |"


def _finetuned(params: Values, measured: Measured, epochs: int) -> Iterator[str]:
    yield ""
    yield "## Finetuned"
    yield ""
    yield (
        f"{epochs} epochs with SGD or SAM, {2 * epochs} with {NAMES['sgd_2x']}, which is as many gradient "
        "evaluations as SAM takes. Test accuracy in % after the last epoch, mean ± standard "
        "deviation; differences in points with their 95 % intervals, paired by seed. **Bold**: "
        f"shown at {ALPHA:.2g} after Holm's correction over all of this table."
    )
    yield ""
    yield (
        "| criterion | sparsity | one-shot | "
        + " | ".join(NAMES[arm] for arm in ARMS)
        + "".join(f" | {NAMES[first]} − {NAMES[second]}" for first, second in COMPARED)
        + " |"
    )
    yield "|---" * (5 + len(ARMS)) + "|"
    compared = comparisons(params, measured)
    for criterion in params["finetuned"]:
        for at in params["sparsities"]:
            cells = [_cell(accuracies(measured, criterion, at, arm)) for arm in ("pruned", *ARMS)]
            cells += [_difference(compared[criterion, at, *pair]) for pair in COMPARED]
            yield f"| {ROWS[criterion]} | {at:g} | {' | '.join(cells)} |"
    yield ""
    yield "What is left of a criterion's lead after finetuning, in points:"
    yield ""
    yield "| | sparsity | one-shot | " + " | ".join(NAMES[arm] for arm in ARMS) + " |"
    yield "|---" * (3 + len(ARMS)) + "|"
    for first, second in (("obs", "magnitude"), ("obs", "obs-selection")):
        for at in params["sparsities"]:
            cells = []
            for arm in ("pruned", *ARMS):
                pair = [accuracies(measured, one, at, arm).tolist() for one in (first, second)]
                cells.append(_interval(compare_paired(*pair, MARGIN)))
            yield f"| {ROWS[first]} − {ROWS[second]} | {at:g} | {' | '.join(cells)} |"


def _recipes(params: Values, chosen: Values) -> Iterator[str]:
    tuning = params["finetune"]
    yield ""
    yield (
        f"Learning rates {_listed(tuning['rates'])} and, of SAM, ρ {_listed(tuning['rhos'])} were "
        f"tried for every criterion at sparsity {chosen['sparsity']:g}, on the held-out images, "
        "with the seed that chooses:"
    )
    yield ""
    yield "| criterion | arm | lr | ρ | validation accuracy % | at the edge of what was tried |"
    yield "|---|---|---|---|---|---|"
    for criterion in params["finetuned"]:
        for arm in ARMS:
            recipe = best(chosen["tried"], criterion, arm)
            accuracy = max(
                one["accuracy"]
                for one in chosen["tried"]
                if (one["criterion"], one["arm"]) == (criterion, arm)
            )
            edges = [
                name
                for name, value, tried in (
                    ("lr", recipe.lr, tuning["rates"]),
                    ("ρ", recipe.rho, tuning["rhos"]),
                )
                if value in (min(tried), max(tried))
            ]
            rho = "" if recipe.rho is None else f"{recipe.rho:g}"
            yield (
                f"| {ROWS[criterion]} | {NAMES[arm]} | {recipe.lr:g} | {rho} | {accuracy:.2f} | "
                f"{', '.join(edges) or 'no'} |"
            )
    smallest = [
        ROWS[criterion]
        for criterion in params["finetuned"]
        if best(chosen["tried"], criterion, "sam").rho == min(tuning["rhos"])
    ]
    if smallest:
        yield ""
        yield (
            f"The smallest ρ was the best after {' and '.join(smallest)}. A smaller one brings SAM "
            "still closer to SGD (ρ = 0), so nothing is lost by not trying it."
        )


def _limits(params: Values) -> Iterator[str]:
    seeds = len(params["seeds"])
    yield ""
    yield "## What limits this"
    yield ""
    yield (
        f"- {seeds} seeds: intervals are wide, and the exact sign-flip test cannot go below p = "
        f"{smallest_permutation_p(seeds):.2g}. A difference that is not shown is not shown to be "
        "none."
    )
    yield "- The published numbers are of one network; how its seeds vary is not known."
    yield (
        "- Recipes were chosen at one sparsity, with one seed. The dense networks are far from "
        "trained out, so that finetuning goes on with their training: finetuned networks of low "
        "sparsity are better than the dense ones."
    )
    yield ("- The network is small. What `obs` costs for larger ones: docs/performance.md.")


def _cell(values: NDArray[np.float64]) -> str:
    found = summarize(values.tolist())
    spread = f" ± {found['std']:.2f}" if found["std"] is not None else ""
    return f"{found['mean']:.2f}{spread}"


def _difference(compared: Mapping[str, Any]) -> str:
    text = _interval(compared)
    return f"**{text}**" if (compared["adjusted"] or 0) < ALPHA else text


def _interval(compared: Mapping[str, Any]) -> str:
    if compared["ci95"] is None:
        return _signed(compared["mean"])
    low, high = compared["ci95"]
    return f"{_signed(compared['mean'])} [{_signed(low)}, {_signed(high)}]"


def _signed(number: float) -> str:
    return f"{number:+z.2f}".replace("-", "−")


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{one:g}" for one in values)


def main() -> None:
    """Write the report and its figure."""
    params, (chosen, measured) = load_params(), load()
    write_text(FIGURE, figures.accuracy(params, measured))
    write_text(REPORT, report(params, chosen, measured))


if __name__ == "__main__":
    main()
