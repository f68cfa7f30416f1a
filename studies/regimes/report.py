"""Write the study's report from its tables: ``python -m studies.regimes.report``.

Every sentence that says what was found is made from the numbers, so that the report cannot say
what its tables do not.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sparse_sam.evaluation import ALPHA, smallest_permutation_p
from sparse_sam.files import write_text
from studies.regimes import figures
from studies.regimes.study import (
    COMPARED,
    HERE,
    LR,
    NAMES,
    OF_DENSE,
    RHO,
    TITLES,
    Place,
    Row,
    Study,
    by_rho,
    compare,
    load,
    shown,
)

REPORT = HERE / "REPORT.md"


def report(studies: Sequence[Study]) -> str:
    """The report as Markdown."""
    return "\n".join(_lines(studies)) + "\n"


def _lines(studies: Sequence[Study]) -> Iterator[str]:
    compared = compare(studies)
    sweep = studies[0].sweep
    training = sweep.base["finetune"]["training"]
    yield "# Where does SAM pay?"
    yield ""
    yield from _answer(compared)
    yield ""
    yield (
        f"Dense networks are trained for {sweep.base['train_dense']['epochs']} epochs with SGD or "
        "SAM, pruned once by magnitude within each layer, and finetuned for "
        f"{training['epochs']} epochs, always with momentum {training['momentum']} and a cosine "
        "schedule. SAM and ASAM take two gradients a step, so at equal compute they are compared with "
        "SGD for twice the epochs. Momentum SAM takes one. For every sparsity and dense training, each "
        "arm's lr and ρ were chosen on validation images, with seed "
        f"{', '.join(map(str, sweep.seeds.choosing))}. The chosen settings were then tested once, after "
        f"the last epoch, with the {len(sweep.seeds.reporting)} reported seeds. Differences are paired "
        f"by seed. All {len(compared)} comparisons on this page are corrected together (Holm, paired "
        "t-tests); those shown at 0.05 after that are **bold**. `python -m studies.regimes.report` "
        "writes this page from `results/`; `make study-regimes` runs everything."
    )
    yield ""
    yield "![Differences at equal compute, by sparsity and dense training](heat_map.svg)"
    yield ""
    yield "![Test accuracy against sparsity, by arm](accuracy.svg)"
    yield ""
    yield "![Difference from SGD against sparsity](differences.svg)"
    for study in studies:
        yield from _network(study, compared)
    yield from _dense_training(studies, compared)
    yield from _rho(studies)
    yield from _flatness(studies)
    yield from _limits(studies)
    yield from _again(studies)


def _answer(compared: Mapping[Place, Mapping[str, Any]]) -> Iterator[str]:
    equal = {place: one for place, one in compared.items() if "compute" in place[3]}
    paying = {place: one for place, one in equal.items() if shown(one) > 0}
    losses = sum(shown(one) < 0 for one in equal.values())
    regimes = len({place[:3] for place in equal})
    networks = len({place[0] for place in equal})
    yield (
        f"**At equal compute, SAM or a variant shows a gain in {len(paying) or 'none'} and a loss in "
        f"{losses or 'none'} of {len(equal)} comparisons, in {regimes} regimes (network, dense training, "
        f"sparsity) of {networks} network{'s' if networks > 1 else ''}.**"
    )
    for (network, dense, sparsity, what), one in paying.items():
        yield (
            f"The gain: {what}, {network} after dense training with {dense.upper()}, sparsity "
            f"{sparsity:g}, {_points(one['mean'])} points."
        )
    yield ""
    for what in COMPARED.values():
        yield f"- {what}: {_said(compared, what)}"


def _said(compared: Mapping[Place, Mapping[str, Any]], what: str) -> str:
    own = [one for place, one in compared.items() if place[3] == what]
    margin = own[0]["equivalence"]["margin"]
    parts = []
    for side, word in ((1, "a gain"), (-1, "a loss")):
        where = _where(compared, what, lambda one, side=side: shown(one) == side)  # type: ignore[misc]
        if where:
            sizes = [100 * abs(compared[place]["mean"]) for place in where]
            size = f"{min(sizes):.2f} to {max(sizes):.2f}" if len(sizes) > 1 else f"{sizes[0]:.2f}"
            parts.append(f"{word} in {len(where)} ({size} points: {_listed(where)})")
    rest = [one for one in own if shown(one) == 0]
    if rest:
        none = sum(one["equivalence"]["p_value"] < ALPHA for one in rest)
        parts.append(
            f"no difference shown in {len(rest)}, of which {none} exclude one larger than "
            f"{100 * margin:g} points"
        )
    return "; ".join(parts) + "."


def _where(
    compared: Mapping[Place, Mapping[str, Any]], what: str, holds: Callable[[Any], bool]
) -> list[Place]:
    return [place for place, one in compared.items() if place[3] == what and holds(one)]


def _listed(where: Sequence[Place]) -> str:
    groups: dict[tuple[str, str], list[str]] = {}
    for network, dense, sparsity, what in where:
        trained = "" if what == OF_DENSE else f" after {dense.upper()}"
        groups.setdefault((network, trained), []).append(f"{sparsity:g}")
    return "; ".join(f"{name}{after} at {', '.join(at)}" for (name, after), at in groups.items())


def _network(study: Study, compared: Mapping[Place, Mapping[str, Any]]) -> Iterator[str]:
    yield ""
    yield f"## {TITLES[study.network]}"
    yield ""
    yield "Test accuracy in %: mean over seeds ± half the width of its 95 % interval."
    yield ""
    yield "| dense training | sparsity | pruned | " + " | ".join(NAMES.values()) + " |"
    yield "|---" * (3 + len(NAMES)) + "|"
    for dense in study.dense:
        for sparsity in study.sparsities:
            pruned = 100 * study.values(dense, sparsity, "sgd", "pruned_test_accuracy").mean()
            cells = [
                _mean(100 * study.values(dense, sparsity, arm, "test_accuracy")) for arm in NAMES
            ]
            yield f"| {dense.upper()} | {sparsity:g} | {pruned:.2f} | {' | '.join(cells)} |"
    yield ""
    yield "Differences in points, with 95 % intervals:"
    yield ""
    heads = [what.replace(" at equal ", ", equal ") for what in COMPARED.values()]
    yield "| dense training | sparsity | " + " | ".join(heads) + " |"
    yield "|---" * (2 + len(heads)) + "|"
    for dense in study.dense:
        for sparsity in study.sparsities:
            cells = [
                _difference(compared[study.network, dense, sparsity, what])
                for what in COMPARED.values()
            ]
            yield f"| {dense.upper()} | {sparsity:g} | {' | '.join(cells)} |"


def _dense_training(
    studies: Sequence[Study], compared: Mapping[Place, Mapping[str, Any]]
) -> Iterator[str]:
    yield ""
    yield "## SAM before pruning"
    yield ""
    yield (
        "Does a dense network prune better if SAM trained it? This compares dense training with SAM "
        "and with SGD; both networks are finetuned with SGD. SAM − SGD: "
        f"{_said(compared, OF_DENSE)} Dense training with SAM takes twice the compute, and nothing "
        "here makes up for that."
    )
    yield ""
    yield "| network | sparsity | before finetuning | after |"
    yield "|---|---|---|---|"
    for study in studies:
        for sparsity in study.sparsities:
            by_sam, by_sgd = (
                study.values(dense, sparsity, "sgd", "pruned_test_accuracy")
                for dense in ("sam", "sgd")
            )
            after = _difference(compared[study.network, "sam", sparsity, OF_DENSE])
            before = _points(float((by_sam - by_sgd).mean()))
            yield f"| {study.network} | {sparsity:g} | {before} | {after} |"


def _rho(studies: Sequence[Study]) -> Iterator[str]:
    yield ""
    yield "## How much ρ matters"
    yield ""
    yield (
        "The figure shows validation accuracy with the seed that chooses: at each ρ, the best learning "
        "rate, minus SGD's best. One seed has few validation images, so mind the scale."
    )
    yield ""
    yield "![Validation accuracy against ρ, by variant and sparsity](rho.svg)"
    yield ""
    yield "| network | arm | spread over ρ, points: median, largest (over regimes) |"
    yield "|---|---|---|"
    for study in studies:
        for arm in ("sam", "asam", "momentum"):
            spreads = [
                100 * float(np.ptp(list(by_rho(study, dense, sparsity, arm).values())))
                for dense in study.dense
                for sparsity in study.sparsities
            ]
            yield (
                f"| {study.network} | {NAMES[arm]} | {np.median(spreads):.2f}, {max(spreads):.2f} |"
            )


def _flatness(studies: Sequence[Study]) -> Iterator[str]:
    yield ""
    yield "## Flatness and accuracy"
    yield ""
    flat = studies[0].sweep.flatness
    assert flat is not None  # noqa: S101 - the study declares it
    yield (
        f"Sharpness is how much the loss rises after one ascent step of length ρ = {flat.rho} on "
        f"{flat.images} training images. The table gives Spearman's rank correlation of sharpness "
        "with test accuracy, within each regime over arms and seeds, and counts the regimes in which "
        "SAM's networks are flatter than SGD's on average."
    )
    yield ""
    yield "![Sharpness against test accuracy](flatness.svg)"
    yield ""
    yield "| network | correlation: median [smallest, largest] | SAM flatter than SGD | than SGD (2× epochs) |"
    yield "|---|---|---|---|"
    for study in studies:
        found, flatter = [], {"sgd": 0, "sgd_2x": 0}
        for dense in study.dense:
            for sparsity in study.sparsities:
                columns = [
                    np.concatenate([study.values(dense, sparsity, arm, name) for arm in NAMES])
                    for name in ("sharpness", "test_accuracy")
                ]
                found.append(float(stats.spearmanr(*columns).statistic))
                sam = study.values(dense, sparsity, "sam", "sharpness").mean()
                for arm in flatter:
                    flatter[arm] += sam < study.values(dense, sparsity, arm, "sharpness").mean()
        counts = [f"{count} of {len(found)}" for count in flatter.values()]
        middle, low, high = (_signed(one) for one in (np.median(found), min(found), max(found)))
        yield f"| {study.network} | {middle} [{low}, {high}] | {' | '.join(counts)} |"


def _limits(studies: Sequence[Study]) -> Iterator[str]:
    seeds = len(studies[0].sweep.seeds.reporting)
    chosen = [
        (study, row)
        for study in studies
        for row in study.rows
        if row["purpose"] == "choose" and row["chosen"] == "1"
    ]
    rates = [(float(row[LR]), _largest(study, row["arm"], LR)) for study, row in chosen]
    rhos = [
        (float(row[RHO]), _largest(study, row["arm"], RHO)) for study, row in chosen if row[RHO]
    ]
    yield ""
    yield "## Limits"
    yield ""
    yield (
        "- The study was cut to fit two cores: one seed chooses, from two learning rates and three ρ; "
        "dense training has ten epochs and finetuning two. Scope, criterion and schedule are fixed."
    )
    for what, pairs in (("lr", rates), ("ρ", rhos)):
        edge = sum(one == largest for one, largest in pairs)
        yield (
            f"- In {edge} of {len(pairs)} choices, the chosen {what} is the largest one tried. A "
            "larger one might have been better."
        )
    yield (
        "- After two epochs, the sparsest networks are far from converged. At equal compute, they "
        "show what twice the steps are worth, and little about longer finetuning."
    )
    yield (
        "- Every layer is pruned to the same sparsity, the last one too. Of LeNet-300-100's 1,000 "
        "weights into ten classes, 20 are left at 0.98 and 10 at 0.99, so a seed's mask decides how "
        "many classes every arm can tell apart at all. Unpaired intervals are wide there."
    )
    yield (
        f"- {seeds} seeds vary initialisation and batch order, not the data: the intervals hold for "
        "these images. The findings rest on the t-test's assumptions: with so few seeds, the exact "
        f"sign-flip test cannot go below p = {smallest_permutation_p(seeds):.2g}, too large for any "
        "correction over so many comparisons."
    )


def _largest(study: Study, arm: str, column: str) -> float:
    tried = (row for row in study.rows if row["arm"] == arm and row["purpose"] == "choose")
    return max(float(row[column]) for row in tried)


def _again(studies: Sequence[Study]) -> Iterator[str]:
    yield ""
    yield "## Reproduce one cell"
    yield ""
    yield (
        "For each network, one reported cell was drawn at random. The command computes that cell "
        "alone, starting from its data, and prints these digits on a processor of the same kind:"
    )
    yield ""
    for study in studies:
        row = drawn(study)
        yield f"    {command(study, row)}"
        yield "    " + ", ".join(
            f'"{name}": {row[name]}' for name in ("test_accuracy", "test_loss", "sharpness")
        )
        yield ""


def drawn(study: Study) -> Row:
    """A reported cell, the same every time."""
    reported = [row for row in study.rows if row["purpose"] == "report"]
    return random.Random(study.network).choice(reported)  # noqa: S311


def command(study: Study, row: Row) -> str:
    """What computes a cell of the table anew."""
    return f"python -m sparse_sam.sweep studies/regimes/{study.network}.yaml --cell {row['cell']}"


def _mean(values: NDArray[np.float64]) -> str:
    half = stats.t.ppf(1 - ALPHA / 2, len(values) - 1) * stats.sem(values)
    return f"{values.mean():.2f} ± {half:.2f}"


def _difference(compared: Mapping[str, Any]) -> str:
    low, high = compared["ci95"]
    text = f"{_points(compared['mean'])} [{_points(low)}, {_points(high)}]"
    return f"**{text}**" if shown(compared) else text


def _points(share: float) -> str:
    return _signed(100 * share)


def _signed(number: float) -> str:
    return f"{number:+z.2f}".replace("-", "−")


def main() -> None:
    """Write the report and its figures."""
    studies = load()
    for name, draw in figures.FIGURES.items():
        write_text(HERE / name, draw(studies))
    write_text(REPORT, report(studies))


if __name__ == "__main__":
    main()
