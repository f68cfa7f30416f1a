"""Write ``REPORT.md`` and the figures from the results: ``python -m studies.map.report [TASK]``.

Nothing is said before every seed of its tasks is there: those that are reported together, or one
that has a page of its own (``TASK/REPORT.md``).
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np

from sparse_sam.errors import ConfigError
from sparse_sam.evaluation import p_in_words, signed
from sparse_sam.files import write_text
from studies.map import figures
from studies.map.analysis import (
    Accuracies,
    Best,
    Difference,
    Pair,
    Regime,
    Task,
    best_within,
    by_regime,
    by_sparsity,
    over_regimes,
    tested,
    with_best,
)
from studies.map.cells import Known, measured_key, regime, searched_arm, tried_key
from studies.map.run import chosen_arms, table
from studies.map.search import is_inside
from studies.map.study import HERE, PRUNED, Bounds, Start, Study, load_study, tasks
from studies.regimes import study as regimes
from studies.rows import Row, read_rows

NAMES = {
    **regimes.NAMES,
    "sgd_half": "SGD (½ of the epochs)",
    "late": "SGD, then SAM",
    "sgd_within_2x": "SGD (up to 2×)",
    "sgd_within": "SGD (up to 1×)",
}
TITLES = {
    "digits": "LeNet-300-100 on 10,240 digits",
    "colour": "ResNet-20 on 4,352 colour images",
    "whole": "ResNet-20 on 45,000 colour images",
}
SAID = {
    "gain": "a gain is shown",
    "loss": "a loss is shown",
    "equivalent": "equivalent",
    "undecided": "undecided",
}


class Results:
    """What one task has come to.

    Attributes:
        study: what was declared.
        rows: by what they are of.
        missing: how many rows are not there yet.
    """

    def __init__(self, study: Study, step: str = "measured") -> None:
        self.study = study
        self.rows: Mapping[Any, Row] = {
            measured_key(row): row for row in read_rows(table(study.name, step))
        }
        wanted = {
            key
            for seed in study.seeds
            for dense, mask in self.regimes()
            for key in regime(study, Start(dense, seed), mask)
        }
        self.missing = len(wanted - self.rows.keys())

    @cached_property
    def task(self) -> Task:
        """Its accuracies, with what is the best of some arms, and what is asked of them."""
        study, accuracies = self.study, with_best(self._by_arm("accuracy"), self.best)
        return Task(study.name, accuracies, study.compared, study.bounds)

    @cached_property
    def best(self) -> Best:
        """For how long SGD does best on held-out images, within each budget."""
        return best_within(self._by_arm("held_out"), self.study.within)

    def accuracy(self, sparsity: float, arm: str) -> float:
        """On test images, in the mean over regimes and seeds."""
        of_arm = [
            np.mean(arms[arm])
            for (_, mask), arms in self.task.accuracies.items()
            if mask.sparsity == sparsity
        ]
        return float(np.mean(of_arm))

    @cached_property
    def tried(self) -> Known:
        """Every row of the arms' searches."""
        return {tried_key(row): row for row in read_rows(table(self.study.name, "tried"))}

    @property
    def title(self) -> str:
        """What the task is called."""
        return TITLES.get(self.study.name, self.study.name)

    @property
    def diverged(self) -> int:
        """How many finetunings did."""
        return sum(row.get("diverged", False) for row in self.rows.values())

    def _by_arm(self, name: str) -> Accuracies:
        """By regime and arm, ``pruned`` among them; one for each seed."""
        return {
            (dense, mask): {
                arm: [self.rows[dense, seed, *mask, arm][name] for seed in self.study.seeds]
                for arm in (PRUNED, *self.study.arms)
            }
            for dense, mask in self.regimes()
        }

    def regimes(self) -> Iterator[Regime]:
        """Every dense training and mask."""
        for dense in self.study.dense:
            for mask in self.study.masks(dense):
                yield dense, mask

    def curve(self, sparsity: float, arm: str) -> tuple[list[float], list[float]]:
        """Gradient evaluations, and validation accuracy in the mean over regimes and seeds."""
        curves = np.array(
            [
                [point[:2] for point in self.rows[dense, seed, *mask, arm]["curve"]]
                for dense, mask in self.regimes()
                for seed in self.study.seeds
                if mask.sparsity == sparsity and "curve" in self.rows[dense, seed, *mask, arm]
            ]
        )
        gradients, accuracies = curves.mean(axis=0).T
        return gradients.tolist(), accuracies.tolist()


def page(results: Sequence[Results]) -> str:
    """The report, in Markdown."""
    found = [one.task for one in results]
    primary, sparsities = over_regimes(found), by_sparsity(found)
    return "\n".join(
        [
            "# The map: where does SAM pay, if everything is searched?",
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
        yield f"- {TITLES.get(task, task)}, {_pair(pair)}: {_sentence(one)}"
    yield ""
    for each in results:
        bounds, name = each.study.bounds, each.title
        yield (
            f"- {name}: {len(each.study.seeds)} seeds; {each.diverged} finetunings diverged. No "
            f"difference of {100 * bounds.nothing:g} points or less is claimed, since luck in "
            f"searching may make it; {100 * bounds.margin:g} points do not matter."
        )


def _sentence(one: Difference) -> str:
    return f"{_interval(one)} points: {_verdict(one)}."


def _verdict(one: Difference) -> str:
    """In words, with the p-value that decides."""
    p_value = one.holm_equivalent if one.verdict == "equivalent" else one.holm_differs
    return f"{SAID[one.verdict]} (corrected p {p_in_words(p_value)})"


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


def _what_to_use(
    results: Sequence[Results], found: Mapping[tuple[str, Pair, float], Difference]
) -> Iterator[str]:
    yield "## What to use"
    yield ""
    yield (
        "For a sparsity and a budget, in gradient evaluations for each that SGD's own epochs take. "
        "Something else than SGD is named where a gain over SGD for the same budget is shown after "
        "the correction for every sparsity, and then the largest. SGD's epochs are those that do "
        "best on held-out images."
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
                f"{NAMES[one.best[sparsity, name]]}: {100 * one.accuracy(sparsity, name):.2f} | "
                f"{NAMES[used or one.best[sparsity, name]]} | "
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
            said = "no more than" if 100 * found.mean <= margin else "MORE than"
            yield (
                f"| {one.title} | {100 * sparsity:g} % | {_interval(found)} | {said} {margin:g} |"
            )


def _dense(results: Sequence[Results]) -> Iterator[str]:
    yield "## Do SAM's dense networks survive pruning better?"
    yield ""
    yield (
        "A description, without a test: two seeds chose how dense networks are trained, for all "
        "that are reported."
    )
    yield ""
    yield "| task | criterion | sparsity | SAM − SGD (2× epochs), right after pruning, points |"
    yield "|---|---|---|---|"
    for one in results:
        for mask in one.study.masks("sam"):
            first, second = (one.task.accuracies[kind, mask][PRUNED] for kind in ("sam", "sgd_2x"))
            found = tested([np.subtract(first, second)], one.study.bounds)
            yield (
                f"| {one.title} | {mask.criterion} | "
                f"{100 * mask.sparsity:g} % | {_interval(found)} |"
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
        "correction for all of them, which five seeds seldom do. (Dense training, criterion, "
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
    yield "| task | arm | values searched | inside | at a floor | networks | gradients | chosen lr | chosen ρ | chosen weight decay |"
    yield "|---" * 10 + "|"
    for one in results:
        known = one.tried
        chosen = chosen_arms(one.study)
        for arm, method in one.study.arms.items():
            found = [
                searched_arm(one.study, known, arm, anchor, seed)
                for seed, anchor in product(one.study.seeds, one.study.anchors())
            ]
            lines = one.study.lines(method)
            inside = sum(is_inside(each, lines) for each in found)
            floors = sum(
                any(
                    not value / line.factor >= line.floor
                    for value, line in zip(each.best, lines, strict=True)
                )
                for each in found
            )
            rows = [row for key, row in known.items() if key[0] == arm]
            gradients = sum(row.get("gradient_evaluations", 0) for row in rows)
            values = [setting for (name, *_), setting in chosen.items() if name == arm]
            spans = [
                _span([getattr(each, name) for each in values])
                for name in ("lr", "rho", "weight_decay")
            ]
            yield (
                f"| {one.study.name} | {NAMES[arm]} | {len(found)} | {inside} | {floors} | "
                f"{len(rows)} | {gradients:,} | " + " | ".join(spans) + " |"
            )


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
                arm: one.curve(sparsity, arm) for arm in one.study.arms
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
        results = [Results(load_study(task)) for task in ([alone] if alone else tasks())]
    except ConfigError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    missing = {one.study.name: one.missing for one in results if one.missing}
    if missing:
        said = ", ".join(f"{number} of {task}" for task, number in missing.items())
        sys.stderr.write(f"error: networks are missing ({said}): run `make study-map`\n")
        return 1
    folder = HERE / (alone or "")
    folder.mkdir(exist_ok=True)
    write_text(folder / "REPORT.md", page(results))
    for name, drawing in drawings(results).items():
        write_text(folder / name, drawing)
    return 0


if __name__ == "__main__":
    sys.exit(main())
