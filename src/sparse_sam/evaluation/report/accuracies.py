"""Figures of the comparison itself: differences, accuracies, curves, and what they cost."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_sam.evaluation.report.content import Content, Rows
from sparse_sam.evaluation.report.drawing import GREY, axes_of, looks, svg
from sparse_sam.evaluation.shown_arms import ARM_COLOURS, ARM_MARKERS, ARM_NAMES, COMPARISONS
from sparse_sam.evaluation.summary import primary

FINETUNED = ("sgd", "sgd_2x", "sam")


def differences(summary: Mapping[str, Any]) -> str:
    """Every paired difference, SAM minus SGD, with its interval, the margin, and its seeds."""
    # As narrow as a phone asks for, and its words still large enough there.
    figure, axes = axes_of((5.6, 2.5), left=0.24)
    figure.subplots_adjust(bottom=0.3, top=0.96)
    compared = summary["comparisons"]
    margin = 100 * next(iter(compared.values()))["equivalence"]["margin"]
    axes.axvspan(-margin, margin, color=GREY, alpha=0.2, lw=0)
    for edge in (-margin, margin):
        axes.axvline(edge, color=GREY, lw=0.8, ls="--")
    axes.axvline(0, color="black", lw=1)
    names = []
    decides = primary(summary)
    for place, name in enumerate(sorted(compared, key=lambda one: one == decides)):
        of = compared[name]
        first, second = COMPARISONS[name]
        one, other = (summary["arms"][arm]["accuracy"]["values"] for arm in (first, second))
        pairs = 100 * np.subtract(one, other)
        low, high = of["ci95"] or (of["mean"], of["mean"])
        # Which seed is which: the same order from top to bottom in every row.
        heights = place + np.linspace(0.3, 0.14, len(pairs)) if len(pairs) > 1 else [place + 0.2]
        axes.plot(pairs, heights, ".", color=ARM_COLOURS[second], ms=6)
        axes.plot([100 * low, 100 * high], [place, place], color=ARM_COLOURS[first], lw=2.5)
        axes.plot(100 * of["mean"], place, ARM_MARKERS[first], color=ARM_COLOURS[first], ms=9)
        names.append(f"SAM − {ARM_NAMES[second]}".replace(" (", "\n("))
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.5, len(names) - 0.4)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("points of test accuracy\nSGD is better  ←  0  →  SAM is better")
    return svg(figure)


def accuracy(content: Content) -> str:
    """Test accuracy by arm: every seed a dot, a seed's arms joined, means with intervals."""
    figure, axes = axes_of()
    arms = content.summary["arms"]
    finetuned = [arm for arm in arms if arm in FINETUNED]
    first = list(arms).index(finetuned[0])
    for seed in zip(*(arms[arm]["accuracy"]["values"] for arm in finetuned), strict=True):
        places = range(first, first + len(finetuned))
        axes.plot(places, [100 * one for one in seed], color=GREY, lw=0.8, zorder=1)
    for position, (arm, of) in enumerate(arms.items()):
        values = 100 * np.array(of["accuracy"]["values"])
        axes.plot([position] * len(values), values, ARM_MARKERS[arm], color=ARM_COLOURS[arm], ms=5)
        mean = 100 * of["accuracy"]["mean"]
        low, high = of["accuracy"]["ci95"] or (mean / 100, mean / 100)
        axes.errorbar(
            position + 0.25, mean, [[mean - 100 * low], [100 * high - mean]], fmt="_", color="k"
        )
    axes.set_xticks(range(len(arms)), [ARM_NAMES[arm].replace(" (", "\n(") for arm in arms])
    axes.set_ylabel("test accuracy, %")
    return svg(figure)


def cost(content: Content) -> str:
    """Test accuracy of every finetuned network against the gradients that it took."""
    figure, axes = axes_of(left=0.18)
    arms = content.summary["arms"]
    for arm in (arm for arm in arms if arm in FINETUNED):
        of = arms[arm]
        values = 100 * np.array(of["accuracy"]["values"])
        at = [of["gradient_evaluations"]] * len(values)
        axes.plot(at, values, lw=0, ms=6, **looks(arm))
    for arm, style in (("dense", "--"), ("pruned", ":")):
        mean = 100 * arms[arm]["accuracy"]["mean"]
        axes.axhline(mean, color=ARM_COLOURS[arm], ls=style, label=ARM_NAMES[arm])
    axes.set_xlim(left=0)
    axes.set_xlabel("gradient evaluations of a seed's finetuning")
    axes.set_ylabel("test accuracy, %")
    axes.legend(frameon=False, fontsize=9)
    return svg(figure)


def curves(content: Content, x: str, label: str) -> str:
    """Validation accuracy of the finetuned arms against ``x``: means, from lowest to highest seed.

    Empty where nothing was held out to validate on.
    """
    by_arm = {
        arm: _by_seed(rows, x, "validation_accuracy") for arm, rows in content.histories.items()
    }
    if not all(by_arm.values()):
        return ""
    figure, axes = axes_of()
    for arm, lines in by_arm.items():
        stacked = np.array([values[1] for values in lines])
        at = np.mean([values[0] for values in lines], axis=0)
        low, high = 100 * stacked.min(axis=0), 100 * stacked.max(axis=0)
        axes.fill_between(at, low, high, color=ARM_COLOURS[arm], alpha=0.18, lw=0)
        axes.plot(at, np.array([low, high]).T, color=ARM_COLOURS[arm], lw=0.6)
        axes.plot(at, 100 * stacked.mean(axis=0), lw=2, ms=5, **looks(arm))
    axes.set_xlabel(label)
    axes.set_ylabel("validation accuracy, %")
    axes.legend(frameon=False)
    return svg(figure)


def accuracy_by_class(content: Content, first: str, second: str) -> str:
    """By how many points the first arm is better than the second, in every class."""
    classes = range(len(content.classes))
    right = {arm: content.predictions[arm] == content.labels for arm in (first, second)}
    gained = []
    for own in (content.labels == one for one in classes):
        share = {arm: found[:, own].mean() for arm, found in right.items()} if own.any() else {}
        gained.append(100 * float(share.get(first, 0.0) - share.get(second, 0.0)))
    figure, axes = axes_of()
    colours = [ARM_COLOURS[first if gain > 0 else second] for gain in gained]
    axes.bar(list(classes), gained, color=colours)
    axes.axhline(0, color="black", lw=1)
    if len(content.classes) <= 30:
        long = max(map(len, content.classes)) > 2
        axes.set_xticks(list(classes), content.classes, rotation=90 if long else 0)
        if long:
            figure.subplots_adjust(bottom=0.3)
    axes.set_xlabel("class")
    axes.set_ylabel(f"{ARM_NAMES[first]} − {ARM_NAMES[second]}, points")
    axes.grid(visible=False, axis="x")
    return svg(figure)


def _by_seed(rows: Rows, x: str, y: str) -> list[NDArray[np.float64]]:
    seeds: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if row[y]:
            seeds.setdefault(row["seed"], []).append((float(row[x]), float(row[y])))
    return [np.array(points).T for points in seeds.values()]
