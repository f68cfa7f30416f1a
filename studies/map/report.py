"""Write ``REPORT.md`` and the figures from the results: ``python -m studies.map.report [TASK]``.

Nothing is said before every seed of its tasks is there: those that are reported together, or one
that has a page of its own (``TASK/REPORT.md``).
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np

from sparse_sam.errors import SparseSamError
from sparse_sam.evaluation import p_in_words, signed
from sparse_sam.files import write_text
from studies.map import figures
from studies.map.analysis import (
    Difference,
    Pair,
    Regime,
    Task,
    best_within,
    by_regime,
    by_sparsity,
    not_below,
    over_regimes,
    pooled,
    tested,
    with_best,
)
from studies.map.cells import CONTROL_DENSE, SAM_DENSE, of_dense
from studies.map.outcome import TITLES, Results
from studies.map.search import neighbours
from studies.map.study import (
    HERE,
    LR,
    PRUNED,
    WEIGHT_DECAY,
    Bounds,
    load_study,
    tasks,
)
from studies.regimes import study as regimes

NAMES = {
    **regimes.NAMES,
    "sgd_half": "SGD (½ of the epochs)",
    "late": "SGD, then SAM",
    "sgd_within_2x": "SGD (up to 2×)",
    "sgd_within": "SGD (up to 1×)",
}
SAID = {
    "gain": "a gain is shown",
    "loss": "a loss is shown",
    "equivalent": "equivalent",
    "undecided": "undecided",
}


def page(results: Sequence[Results]) -> str:
    """The report, in Markdown."""
    found = [one.task for one in results]
    primary, sparsities = over_regimes(found), by_sparsity(found)
    return "\n".join(
        [
            "# The map: where does SAM pay, if its values and SGD's are searched alike?",
            "",
            *_answer(results, primary),
            "",
            "![The mean over pruned regimes, with 95 % intervals](forest.svg)",
            "",
            *_primary_table(primary),
            "",
            *(
                f"![Every regime: {one.study.name}](heat_map-{one.study.name}.svg)"
                for one in results
            ),
            "",
            *_sensitivity(results),
            "",
            *_what_to_use(results, sparsities),
            "",
            *_by_sparsity(results, sparsities),
            "",
            "## Accuracy against compute",
            "",
            *(f"![{one.study.name}](curves-{one.study.name}.svg)" for one in results),
            "",
            *_long_enough(results),
            "",
            *_dense(results),
            "",
            *_in_float32(results),
            "",
            *_searches(results),
            "",
            *_regimes(results, by_regime(found)),
            "",
        ]
    )


def _answer(
    results: Sequence[Results], primary: Mapping[tuple[str, Pair], Difference]
) -> Iterator[str]:
    for (task, pair), one in primary.items():
        margin = next(each.study.bounds.margin for each in results if each.study.name == task)
        said = _verdict(one, margin)
        yield f"- {TITLES.get(task, task)}, {_pair(pair)}: {_interval(one)} points: {said}."
    yield ""
    for each in results:
        bounds, name = each.study.bounds, each.title
        yield (
            f"- {name}: {len(each.study.seeds)} seeds; {each.diverged} finetunings diverged. No "
            f"difference of {100 * bounds.nothing:g} points or less is claimed, since luck in "
            f"searching may make it; less than {100 * bounds.margin:g} points do not matter. So "
            f"equivalent means: beyond doubt within ± {100 * (bounds.margin - bounds.nothing):g} "
            f"points. Made on: {each.machines}."
        )


def _verdict(one: Difference, margin: float | None = None) -> str:
    """In words, with the p-value that decides."""
    p_value = one.holm_equivalent if one.verdict == "equivalent" else one.holm_differs
    small = one.verdict in {"gain", "loss"} and margin is not None and abs(one.mean) < margin
    said = SAID[one.verdict] + (", smaller than what matters" if small else "")
    return f"{said} (corrected p {p_in_words(p_value)})"


def _pair(pair: Pair) -> str:
    return f"{NAMES[pair[0]]} − {NAMES[pair[1]]}"


def _interval(one: Difference) -> str:
    ends = (signed(100 * one.low), signed(100 * one.high))
    return f"{signed(100 * one.mean)} [{ends[0]}, {ends[1]}]"


def _primary_table(primary: Mapping[tuple[str, Pair], Difference]) -> Iterator[str]:
    yield "| task | difference for the same budget of gradients | points, 95 % interval | shown |"
    yield "|---|---|---|---|"
    for (task, pair), one in primary.items():
        yield f"| {TITLES.get(task, task)} | {_pair(pair)} | {_bold(one)} | {_verdict(one)} |"


def _bold(one: Difference) -> str:
    return f"**{_interval(one)}**" if one.verdict in {"gain", "loss"} else _interval(one)


def _sensitivity(results: Sequence[Results]) -> Iterator[str]:
    """The primary differences, if something were done otherwise; without tests."""
    yield "## Does it hang on how it was done?"
    yield ""
    yield (
        "The same means over pruned regimes, points with 95 % intervals, without a test. A "
        "finetuning has collapsed if it ends more than half a point below what it began with."
    )
    for one in results:
        study = one.study
        yield ""
        yield f"### {one.title}"
        yield ""
        yield "| what is done otherwise | " + " | ".join(map(_pair, study.compared)) + " |"
        yield "|---" * (1 + len(study.compared)) + "|"
        for name, task in _otherwise(one).items():
            pruned = task.sparsities - {0.0}
            found = [_interval(task.over(pair, pruned, study.bounds)) for pair in study.compared]
            yield f"| {name} | " + " | ".join(found) + " |"
        spans = []
        for pair in study.compared:
            each = 100 * one.task.by_seed(pair, one.task.sparsities - {0.0})
            means = (each.sum() - each) / (len(each) - 1)
            spans.append(f"{signed(means.min())} to {signed(means.max())}")
        yield (
            "| one seed is left out: the least mean, and the largest | " + " | ".join(spans) + " |"
        )
        yield ""
        starts = [of for of in one.regimes() if of[1].sparsity]
        yield "| | " + " | ".join(NAMES[arm] for arm in study.arms) + " |"
        yield "|---" * (1 + len(study.arms)) + "|"
        counts = [one.collapsed(arm, starts) for arm in study.arms]
        of_all = len(starts) * len(study.seeds)
        yield f"| collapsed, of {of_all} | " + " | ".join(map(str, counts)) + " |"


def _otherwise(one: Results) -> dict[str, Task]:
    """Variations of how a task's accuracies are compared, by what is done otherwise."""
    study, task = one.study, one.task
    accuracies, held_out = one.by_arm("accuracy"), one.by_arm("held_out")
    longest = {
        name: max(among, key=lambda arm: study.arms[arm].cost)
        for name, among in study.within.items()
    }
    always = {(of, name): arm for of in accuracies for name, arm in longest.items()}
    searched = {of: arms for of, arms in task.accuracies.items() if of[1] in study.anchors()}
    of_reported = with_best(accuracies, best_within(pooled(held_out), study.within))
    raised = with_best(not_below(accuracies, held_out, PRUNED), one.best)
    found = {
        "nothing": task.accuracies,
        "only regimes whose values were searched in themselves": searched,
        "SGD has as many gradients, and no choice of fewer": with_best(accuracies, always),
        "SGD's length is chosen by the reported networks' held-out accuracy, as declared first": of_reported,
        "what does worse on held-out images than what it began with counts as that": raised,
    }
    return {name: replace(task, accuracies=each) for name, each in found.items()}


def _what_to_use(
    results: Sequence[Results], found: Mapping[tuple[str, Pair, float], Difference]
) -> Iterator[str]:
    yield "## What to use"
    yield ""
    yield (
        "For a sparsity and a budget, in gradient evaluations for each that SGD's own epochs take. "
        "Something else than SGD is named where a gain over SGD for the same budget is shown after "
        "the correction for every sparsity, and then the largest. SGD's epochs are those that did "
        "best in its searches; what is named is what most regimes have."
    )
    yield ""
    yield "| task | sparsity | budget | SGD | use | test accuracy, % | against SGD: points, 95 % interval |"
    yield "|---" * 7 + "|"
    for one in results:
        study = one.study
        for sparsity, (name, among) in product(
            study.values["sparsities"], reversed(list(study.within.items()))
        ):
            budget = max(study.arms[arm].cost for arm in among)
            others = {
                first: found[study.name, (first, second), sparsity]
                for first, second in study.compared
                if second == name
            }
            used = best_gain(others)
            against = "; ".join(
                f"{NAMES[arm]} {_interval(each)}, {SAID[each.verdict]}"
                for arm, each in others.items()
            )
            yield (
                f"| {one.title} | {100 * sparsity:g} % | {budget:g}× | "
                f"{NAMES[one.usual(sparsity, name)]}: {100 * one.accuracy(sparsity, name):.2f} | "
                f"{NAMES[used or one.usual(sparsity, name)]} | "
                f"{100 * one.accuracy(sparsity, used or name):.2f} | {against} |"
            )


def best_gain(others: Mapping[str, Difference]) -> str | None:
    """The arm with the largest gain that is shown; None if none is."""
    gains = {arm: one.mean for arm, one in others.items() if one.verdict == "gain"}
    return max(gains, key=gains.__getitem__) if gains else None


def _by_sparsity(
    results: Sequence[Results], detail: Mapping[tuple[str, Pair, float], Difference]
) -> Iterator[str]:
    yield "## By sparsity"
    yield ""
    for one in results:
        yield f"### {one.title}"
        yield ""
        yield "| sparsity | pruned | " + " | ".join(NAMES[arm] for arm in one.study.arms) + " | "
        yield "|---" * (2 + len(one.study.arms)) + "|"
        for sparsity in one.study.values["sparsities"]:
            means = [one.accuracy(sparsity, arm) for arm in (PRUNED, *one.study.arms)]
            cells = " | ".join(f"{100 * mean:.2f}" for mean in means)
            yield f"| {100 * sparsity:g} % | {cells} |"
        yield ""
        places = {at: f"{100 * at:g} %" for at in one.study.values["sparsities"]}
        yield from _by_pair("sparsity", one, places, detail)
        yield ""


def _long_enough(results: Sequence[Results]) -> Iterator[str]:
    yield "## Is finetuning long enough?"
    yield ""
    yield "| task | sparsity | SGD (2× epochs) − SGD, points, 95 % interval | margin |"
    yield "|---|---|---|---|"
    for one in results:
        margin = 100 * one.study.bounds.margin
        for sparsity in one.study.values["sparsities"]:
            bounds = Bounds(0.0, one.study.bounds.margin)
            found = one.task.over(("sgd_2x", "sgd"), {sparsity}, bounds)
            said = _compared(100 * found.low, 100 * found.high, margin)
            yield (
                f"| {one.title} | {100 * sparsity:g} % | {_interval(found)} | {said} {margin:g} |"
            )


def _compared(low: float, high: float, margin: float) -> str:
    """Where an interval lies."""
    if high <= margin:
        return "no more than"
    return "MORE than" if low > margin else "undecided:"


def _dense(results: Sequence[Results]) -> Iterator[str]:
    yield "## Do SAM's dense networks survive pruning better?"
    yield ""
    yield (
        "Right after pruning, before any finetuning: a description, without a test, since two seeds "
        "chose how dense networks are trained, for all that are reported. The last column gives "
        "SGD (2× epochs) the learning rate and weight decay of SAM: what is left is due to SAM, and "
        "not to these values."
    )
    yield ""
    yield (
        "| task | sparsity | SGD (2× epochs), % | SAM − SGD (2× epochs), points | "
        "with SAM's learning rate and weight decay: SGD, % | SAM − SGD, points |"
    )
    yield "|---" * 6 + "|"
    for one in results:
        control = one.control
        for mask in one.study.controlled():
            of_sam, of_sgd = (
                one.task.accuracies[kind, mask][PRUNED] for kind in (SAM_DENSE, CONTROL_DENSE)
            )
            cells = []
            for other in (of_sgd, control.get(mask)):
                if other is None:
                    cells.append("not computed yet | ")
                    continue
                found = tested([np.subtract(of_sam, other)], one.study.bounds)
                cells.append(f"{100 * np.mean(other):.2f} | {_interval(found)}")
            yield f"| {one.title} | {100 * mask.sparsity:g} % | {' | '.join(cells)} |"
    yield ""
    yield "| task | dense training | lr | ρ | weight decay |"
    yield "|---" * 5 + "|"
    for one in results:
        for kind in one.study.dense:
            values = one.chosen[of_dense(kind)]
            rho = "" if values.rho is None else f"{values.rho:g}"
            yield (
                f"| {one.title} | {NAMES[kind]} | {values.lr:g} | {rho} | {values.weight_decay:g} |"
            )


def _in_float32(results: Sequence[Results]) -> Iterator[str]:
    """The part that was computed in float32, beside the same in bfloat16."""
    if not any(one.study.in_float32 for one in results):
        return
    yield "## Does bfloat16 change it?"
    yield ""
    yield "| task | regime | difference | bfloat16, points | float32, points |"
    yield "|---|---|---|---|---|"
    for one in results:
        study = one.study.in_float32
        if study is None:
            continue
        other = Results(study, "float32")
        for of, pair in product(other.regimes(), study.compared):
            both = []
            for each in (one, other):
                if each.missing:
                    both.append("not computed yet")
                    continue
                both.append(_interval(tested([each.task.difference(pair, of)], study.bounds)))
            yield (f"| {one.title} | {_where(of)} | {_pair(pair)} | {' | '.join(both)} |")


def _where(of: Regime) -> str:
    dense, mask = of
    return f"{NAMES[dense]}, {mask.criterion}, {100 * mask.sparsity:g} %"


def _regimes(
    results: Sequence[Results], detail: Mapping[tuple[str, Pair, Regime], Difference]
) -> Iterator[str]:
    yield "## Every regime"
    yield ""
    yield (
        "Points with 95 % intervals of one regime alone; bold where a difference is shown after the "
        "correction for all of them, which so few seeds seldom do. (Dense training, criterion, "
        "sparsity.)"
    )
    for one in results:
        yield ""
        yield f"### {one.title}"
        yield ""
        yield from _by_pair("regime", one, {of: _where(of) for of in one.regimes()}, detail)


def _by_pair(
    head: str,
    one: Results,
    places: Mapping[Any, str],
    detail: Mapping[tuple[str, Pair, Any], Difference],
) -> Iterator[str]:
    """A table of differences: a line a place, a column a pair of arms."""
    pairs = one.study.compared
    yield f"| {head} | " + " | ".join(map(_pair, pairs)) + " |"
    yield "|---" * (1 + len(pairs)) + "|"
    for place, name in places.items():
        found = [_bold(detail[one.study.name, pair, place]) for pair in pairs]
        yield f"| {name} | " + " | ".join(found) + " |"


def _searches(results: Sequence[Results]) -> Iterator[str]:
    yield "## What was searched"
    yield ""
    yield (
        "A search goes on until no value has a better one beside it, a factor of "
        f"{_factor(results[0], LR):g} away in "
        f"lr and ρ, and of {_factor(results[0], WEIGHT_DECAY):g} in weight decay, or none, where "
        "that would fall below its floor. Beside many there is one as good."
    )
    yield ""
    yield "| task | arm | searches | with one as good beside it | at a floor | networks | diverged | gradients of the others | chosen lr | chosen ρ | chosen weight decay |"
    yield "|---" * 11 + "|"
    for one in results:
        known = one.tried
        for arm, method in one.study.arms.items():
            lines = one.study.lines(method)
            found = [each for (name, *_), each in one.searches.items() if name == arm]
            as_good = sum(
                any(
                    each.scores.get(near) == each.scores[each.best]
                    for near in neighbours(each.best, lines)
                )
                for each in found
            )
            floors = sum(
                any(
                    not value / line.factor >= line.floor
                    for value, line in zip(each.best, lines, strict=True)
                )
                for each in found
            )
            rows = [row for key, row in known.items() if key[0] == arm]
            gradients = sum(row.get("gradient_evaluations", 0) for row in rows)
            diverged = sum(row["diverged"] for row in rows)
            values = [setting for (name, *_), setting in one.chosen.items() if name == arm]
            spans = [
                _span([getattr(each, name) for each in values])
                for name in ("lr", "rho", "weight_decay")
            ]
            yield (
                f"| {one.title} | {NAMES[arm]} | {len(found)} | {as_good} | {floors} | "
                f"{len(rows)} | {diverged} | {gradients:,} | " + " | ".join(spans) + " |"
            )


def _factor(one: Results, name: str) -> float:
    lines = one.study.lines(next(iter(one.study.arms.values())))
    return next(line.factor for line in lines if line.name == name)


def drawings(results: Sequence[Results]) -> dict[str, str]:
    """The figures by the names of their files."""
    found = [one.task for one in results]
    primary, detail = over_regimes(found), by_regime(found)
    pairs = {pair: _pair(pair) for pair in results[0].study.compared}
    drawn = {
        "forest.svg": figures.forest(
            {
                one.study.name: (
                    one.study.bounds,
                    {
                        pairs[pair]: difference
                        for (task, pair), difference in primary.items()
                        if task == one.study.name
                    },
                )
                for one in results
            }
        )
    }
    for one in results:
        name = one.study.name
        own = {(pair, of): each for (task, pair, of), each in detail.items() if task == name}
        drawn[f"heat_map-{name}.svg"] = figures.heat_map(own, pairs)
        panels = {
            f"{100 * sparsity:g} % sparse": {
                arm: curve
                for arm in one.study.arms
                if (curve := one.curve(sparsity, arm)) is not None
            }
            for sparsity in one.study.values["sparsities"]
        }
        drawn[f"curves-{name}.svg"] = figures.curves(panels, NAMES)
    return drawn


def _span(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{min(known):g} to {max(known):g}" if known else ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the report, once every seed of its tasks is there."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument("task", nargs="?", help="one that has a page of its own")
    alone = parser.parse_args(arguments).task
    try:
        if alone in tasks():
            raise SparseSamError(
                f"task = {alone!r}: is reported together with the others, whose answers are corrected "
                "together; leave it out"
            )
        results = [Results(load_study(task)) for task in ([alone] if alone else tasks())]
        missing = {one.study.name: one.missing for one in results if one.missing}
        if missing:
            said = ", ".join(f"{number} of {task}" for task, number in missing.items())
            raise SparseSamError(f"networks are missing ({said}): run `make study-map`")
        said, drawn = page(results), drawings(results)
    except SparseSamError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    folder = HERE / (alone or "")
    folder.mkdir(exist_ok=True)
    write_text(folder / "REPORT.md", said)
    for name, drawing in drawn.items():
        write_text(folder / name, drawing)
    return 0


if __name__ == "__main__":
    sys.exit(main())
