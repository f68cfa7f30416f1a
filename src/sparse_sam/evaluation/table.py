"""The comparison as a table, in plain text and in Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from sparse_sam.evaluation.shown_arms import ARM_NAMES, COMPARISONS, SGD
from sparse_sam.evaluation.words import p_in_words, signed
from sparse_sam.files import as_markdown, needed_by, printable

with needed_by("the comparison as a table"):
    from tabulate import tabulate


def comparison_table(summary: Mapping[str, Any], before: Mapping[str, Any] | None = None) -> str:
    """The summary as text: arms, then paired differences in percentage points.

    Args:
        summary: ``metrics/summary.json``.
        before: an earlier one, of the same data and network. Where an arm's accuracy is another, a
            column says by how much.
    """
    changes = accuracy_changes(summary, before)
    seeds, base = summary["seeds"], printable(summary["base_optimizer"])
    labels = {arm: _label(arm, base) for arm in summary["arms"]}
    title = (
        f"{printable(summary['model'])} on {printable(summary['dataset'])}, "
        f"{len(seeds)} seed{'s' * (len(seeds) != 1)}"
        f"{'' if base == 'SGD' else f', base optimizer {base}'}: mean with 95 % confidence interval"
    )
    arms = [
        [
            labels[arm],
            _mean_and_margin(of["accuracy"]),
            *([changes.get(arm, "new")] if changes else []),
            f"{of['sparsity']:.2%}",
            of["gradient_evaluations"],
            f"{of['seconds']:.1f}",
        ]
        for arm, of in summary["arms"].items()
    ]
    differences = [
        [_label(name, base), *_difference(compared)]
        for name, compared in summary["comparisons"].items()
    ]
    return "\n".join(
        [
            title,
            "",
            _table(
                [
                    *("arm", "test accuracy %", *(["change"] if changes else [])),
                    *("sparsity", "gradient evaluations", "seconds a seed"),
                ],
                arms,
            ),
            "",
            _table(["paired difference", "points", "95 % interval", "corrected p"], differences),
            "",
            printable(summary["answer"]),
            *(printable(compared["verdict"]) for compared in summary["comparisons"].values()),
        ]
    )


def accuracy_changes(
    summary: Mapping[str, Any], before: Mapping[str, Any] | None
) -> dict[str, str]:
    """By how many points every arm's accuracy is another than before; {} if none is."""
    if before is None:
        return {}
    now, old = _accuracies(summary), _accuracies(before)
    changes = {arm: signed(100 * (now[arm] - old[arm])) for arm in now if arm in old}
    is_same = len(changes) == len(now) and set(changes.values()) == {signed(0.0)}
    return {} if is_same else changes


def _accuracies(summary: Mapping[str, Any]) -> dict[str, float]:
    return {arm: of["accuracy"]["mean"] for arm, of in summary["arms"].items()}


def _label(name: str, base: str) -> str:
    """What an arm or a comparison is called, with the base optimizer that there is."""
    if name in COMPARISONS:
        first, second = COMPARISONS[name]
        return f"{ARM_NAMES[first]} − {_label(second, base)}"
    return ARM_NAMES[name].replace(SGD, base)


def described(summary: Mapping[str, Any]) -> str:
    """The comparison in Markdown: its sentences, then the arms."""
    rows = [
        [
            _label(arm, as_markdown(summary["base_optimizer"])),
            _mean_and_margin(of["accuracy"]),
            f"{of['sparsity']:.2%}",
            f"{of['seconds']:.1f}",
        ]
        for arm, of in summary["arms"].items()
    ]
    seeds = len(summary["seeds"])
    what, of_what = as_markdown(summary["model"]), as_markdown(summary["dataset"])
    return "\n".join(
        [
            f"{what} on {of_what}, {seeds} seed{'s' * (seeds != 1)}",
            "",
            f"**{printable(summary['answer'])}**",
            "",
            *(
                f"- {printable(compared['verdict'])}"
                for compared in summary["comparisons"].values()
            ),
            "",
            tabulate(
                rows,
                ["arm", "test accuracy %", "sparsity", "seconds a seed"],
                disable_numparse=True,
                tablefmt="github",
            ),
        ]
    )


def _table(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    align = ("left", *["right"] * (len(headers) - 1))
    return tabulate(rows, headers, disable_numparse=True, colalign=align, tablefmt="simple")


def _mean_and_margin(accuracy: Mapping[str, Any]) -> str:
    mean, interval = 100 * accuracy["mean"], accuracy["ci95"]
    # Two seeds give intervals that no accuracy can have: they say nothing but that.
    if interval is None or interval[0] < 0 or interval[1] > 1:
        return f"{mean:.2f}"
    return f"{mean:.2f} ± {50 * (interval[1] - interval[0]):.2f}"


def _difference(compared: Mapping[str, Any]) -> tuple[str, str, str]:
    mean, interval, p = 100 * compared["mean"], compared["ci95"], compared["holm_p_value"]
    if interval is None:
        return signed(mean), "one seed has none", ""
    low, high = (signed(100 * bound) for bound in interval)
    return signed(mean), f"[{low}, {high}]", p_in_words(p)
