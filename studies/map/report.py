"""Write ``REPORT.md`` from the results: ``python -m studies.map.report``.

A seed counts when all of its regimes are there, so what is half done says nothing yet.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np

from sparse_sam.evaluation import p_in_words, signed
from sparse_sam.files import write_text
from studies.map import figures
from studies.map.analysis import (
    Accuracies,
    Difference,
    Pair,
    Regime,
    best_of,
    corrected,
    in_detail,
    over_regimes,
    tested,
)
from studies.map.cells import Known, measured_key, regime, searched_arm, tried_key
from studies.map.run import chosen_arms, table
from studies.map.search import is_inside
from studies.map.study import DENSE, HERE, PRUNED, Mask, Start, Study, load_study, tasks
from studies.regimes import study as regimes
from studies.rows import Row, read_rows

NAMES = {**regimes.NAMES, "late": "SGD, then SAM", "sgd_within": "SGD (up to 2×)"}
TITLES = {
    "digits": "LeNet-300-100 on 10,240 digits",
    "colour": "ResNet-20 on 4,352 colour images",
}


class Results:
    """What one task has come to.

    Attributes:
        study: what was declared.
        seeds: those whose every regime is there.
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        self.rows: Mapping[Any, Row] = {
            measured_key(row): row for row in read_rows(table(study.name, "measured"))
        }
        self.seeds = [seed for seed in study.seeds if self._is_whole(seed)]

    @cached_property
    def accuracies(self) -> Accuracies:
        """By regime and arm, ``pruned`` among them, and what is the best of some."""
        found = {}
        for dense, mask in self.regimes():
            arms = {
                arm: [self.rows[dense, seed, *mask, arm]["accuracy"] for seed in self.seeds]
                for arm in (PRUNED, *self.study.arms)
            }
            better = {
                name: best_of(arms, {arm: self._scores(arm, mask) for arm in among})
                for name, among in self.study.within.items()
            }
            found[dense, mask] = arms | better
        return found

    @cached_property
    def tried(self) -> Known:
        """Every row of the arms' searches."""
        return {tried_key(row): row for row in read_rows(table(self.study.name, "tried"))}

    def _scores(self, arm: str, mask: Mask) -> list[float]:
        """What an arm's best values came to on held-out images, at a mask's anchor, by seed."""
        anchor = self.study.anchor(mask)
        found = [searched_arm(self.study, self.tried, arm, anchor, one) for one in self.seeds]
        return [one.scores[one.best] for one in found]

    def regimes(self) -> Iterator[Regime]:
        """Every dense training and mask."""
        for dense in self.study.dense:
            for mask in self.study.masks(dense):
                yield dense, mask

    def dense(self, kind: str) -> list[float]:
        """Test accuracies of dense networks."""
        place = (DENSE, 0.0, DENSE)
        return [self.rows[kind, seed, *place]["accuracy"] for seed in self.seeds]

    def curve(self, sparsity: float, arm: str) -> tuple[list[float], list[float]]:
        """Gradient evaluations, and validation accuracy in the mean over regimes and seeds."""
        curves = np.array(
            [
                [point[:2] for point in self.rows[dense, seed, *mask, arm]["curve"]]
                for dense, mask in self.regimes()
                for seed in self.seeds
                if mask.sparsity == sparsity and "curve" in self.rows[dense, seed, *mask, arm]
            ]
        )
        gradients, accuracies = curves.mean(axis=0).T
        return gradients.tolist(), accuracies.tolist()

    def _is_whole(self, seed: int) -> bool:
        return all(
            key in self.rows
            for dense, mask in self.regimes()
            for key in regime(self.study, Start(dense, seed), mask)
        )


def page(results: Sequence[Results]) -> str:
    """The report, in Markdown."""
    compared = results[0].study.compared
    nothing = float(results[0].study.values["nothing"])
    tasks_found = {one.study.name: one.accuracies for one in results}
    primary = over_regimes(tasks_found, compared, nothing)
    detail = in_detail(tasks_found, compared, nothing)
    return "\n".join(
        [
            "# The map: where does SAM pay, if everything is searched?",
            "",
            *_answer(results, primary, detail),
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
            *_by_sparsity(results, detail),
            "",
            "## Accuracy against compute",
            "",
            *(f"![{one.study.name}](curves-{one.study.name}.svg)" for one in results),
            "",
            *_long_enough(results),
            "",
            *_dense(results, nothing),
            "",
            *_searches(results),
            "",
        ]
    )


def _answer(
    results: Sequence[Results],
    primary: Mapping[tuple[str, Pair], Difference],
    detail: Mapping[Any, Difference],
) -> Iterator[str]:
    alone = [one for (_, __, of), one in detail.items() if not isinstance(of, float)]
    gains, losses = (sum(one.shown == sign for one in alone) for sign in (1, -1))
    for (task, pair), one in primary.items():
        yield f"- {TITLES[task]}, {_pair(pair)}: {_sentence(one)}"
    yield ""
    seeds = ", ".join(f"{len(one.seeds)} with {one.study.task['network']}" for one in results)
    yield (
        f"Of {len(alone)} comparisons of one regime, for the same budget of gradients, {gains} show a gain and "
        f"{losses} a loss (seeds: {seeds})."
    )


def _sentence(one: Difference) -> str:
    said = {1: "a gain is shown", -1: "a loss is shown", 0: "no difference is shown"}[one.shown]
    return f"{_interval(one)} points: {said} (corrected p {p_in_words(one.holm_p_value)})."


def _pair(pair: Pair) -> str:
    return f"{NAMES[pair[0]]} − {NAMES[pair[1]]}"


def _interval(one: Difference) -> str:
    ends = (signed(100 * one.low), signed(100 * one.high))
    return f"{signed(100 * one.mean)} [{ends[0]}, {ends[1]}]"


def _primary_table(primary: Mapping[tuple[str, Pair], Difference]) -> Iterator[str]:
    yield "| task | difference for the same budget of gradients | points, 95 % interval | corrected p |"
    yield "|---|---|---|---|"
    for (task, pair), one in primary.items():
        p = p_in_words(one.holm_p_value)
        yield f"| {TITLES[task]} | {_pair(pair)} | {_bold(one)} | {p} |"


def _bold(one: Difference) -> str:
    return f"**{_interval(one)}**" if one.shown else _interval(one)


def _by_sparsity(results: Sequence[Results], detail: Mapping[Any, Difference]) -> Iterator[str]:
    yield "## By sparsity"
    yield ""
    for one in results:
        pairs = one.study.compared
        yield f"### {TITLES[one.study.name]}"
        yield ""
        yield "| sparsity | pruned | " + " | ".join(NAMES[arm] for arm in one.study.arms) + " | "
        yield "|---" * (2 + len(one.study.arms)) + "|"
        for sparsity in one.study.values["sparsities"]:
            means = [
                np.mean(
                    [
                        arms[arm]
                        for (_, mask), arms in one.accuracies.items()
                        if mask.sparsity == sparsity
                    ]
                )
                for arm in (PRUNED, *one.study.arms)
            ]
            cells = " | ".join(f"{100 * mean:.2f}" for mean in means)
            yield f"| {100 * sparsity:g} % | {cells} |"
        yield ""
        yield "| sparsity | " + " | ".join(map(_pair, pairs)) + " |"
        yield "|---" * (1 + len(pairs)) + "|"
        for sparsity in one.study.values["sparsities"]:
            found = [_bold(detail[one.study.name, pair, sparsity]) for pair in pairs]
            yield f"| {100 * sparsity:g} % | " + " | ".join(found) + " |"
        yield ""


def _long_enough(results: Sequence[Results]) -> Iterator[str]:
    yield "## Is finetuning long enough?"
    yield ""
    for one in results:
        margin = 100 * one.study.values["margin"]
        for sparsity in one.study.values["sparsities"]:
            found = tested(
                [
                    np.subtract(arms["sgd_2x"], arms["sgd"])
                    for (_, mask), arms in one.accuracies.items()
                    if mask.sparsity == sparsity
                ],
                0.0,
            )
            said = "no more than" if 100 * found.mean <= margin else "MORE than"
            yield (
                f"- {TITLES[one.study.name]}, {100 * sparsity:g} %: twice the epochs give SGD "
                f"{_interval(found)} points, {said} the margin of {margin:g}."
            )


def _dense(results: Sequence[Results], nothing: float) -> Iterator[str]:
    yield "## Do SAM's dense networks survive pruning better?"
    yield ""
    found = {}
    for one in results:
        for mask in one.study.masks("sam"):
            first, second = (one.accuracies[kind, mask][PRUNED] for kind in ("sam", "sgd_2x"))
            if mask.sparsity:
                found[one.study.name, mask] = tested([np.subtract(first, second)], nothing)
    yield "| task | criterion | sparsity | SAM − SGD (2× epochs), right after pruning | corrected p |"
    yield "|---|---|---|---|---|"
    for (task, mask), difference in corrected(found).items():
        p = p_in_words(difference.holm_p_value)
        where = f"{TITLES[task]} | {mask.criterion} | {100 * mask.sparsity:g} %"
        yield f"| {where} | {_bold(difference)} | {p} |"


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
    compared = results[0].study.compared
    nothing = float(results[0].study.values["nothing"])
    margin = float(results[0].study.values["margin"])
    tasks_found = {one.study.name: one.accuracies for one in results}
    primary = over_regimes(tasks_found, compared, nothing)
    detail = in_detail(tasks_found, compared, nothing)
    pairs = {pair: _pair(pair) for pair in compared}
    drawn = {
        "forest.svg": figures.forest(
            {f"{task}: {pairs[pair]}": one for (task, pair), one in primary.items()}, margin
        )
    }
    for one in results:
        name = one.study.name
        own = {
            (pair, of): found
            for (task, pair, of), found in detail.items()
            if task == name and not isinstance(of, float)
        }
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


def main() -> int:
    """Write the report of the tasks that have whole seeds."""
    results = [Results(load_study(task)) for task in tasks()]
    results = [one for one in results if len(one.seeds) > 1]
    if not results:
        sys.stderr.write("error: no two seeds are there yet: run `make study-map`\n")
        return 1
    write_text(HERE / "REPORT.md", page(results))
    for name, drawing in drawings(results).items():
        write_text(HERE / name, drawing)
    return 0


if __name__ == "__main__":
    sys.exit(main())
