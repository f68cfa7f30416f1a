"""The study's figures, as SVG: text stays text, equal numbers give equal bytes."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from sparse_sam.evaluation import signed
from studies.map.analysis import Difference, Pair, Regime
from studies.map.study import Bounds
from studies.regimes import figures as earlier

COLOURS = {**earlier.COLOURS, "late": "#111111", "sgd_half": "#56B4E9"}
MARKERS = {**earlier.MARKERS, "late": "P", "sgd_half": "<"}
_VERDICT_COLOURS = {
    "gain": "#0072B2",
    "loss": "#B2182B",
    "equivalent": "#111111",
    "undecided": "#767676",
}
_STYLE: Any = earlier.STYLE | {
    "svg.hashsalt": "map",
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.grid": False,
}
_FULL_COLOUR = 2.0
"""From so many points on a cell has its full colour; its number says how many they are."""

Detail = Mapping[tuple[Pair, Regime], Difference]


def heat_map(detail: Detail, names: Mapping[Pair, str]) -> str:
    """Every difference of a task at equal compute; what is shown is framed."""
    regimes = list(dict.fromkeys(regime for _, regime in detail))
    sparsities = sorted({mask.sparsity for _, mask in regimes})
    lines = list(dict.fromkeys((dense, mask.criterion) for dense, mask in regimes))
    with _figure(1.0 + (0.5 + 0.42 * len(lines)) * len(names)) as (figure, drawn):
        grid = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (pair, title) in zip(grid, names.items(), strict=True):
            axes.set_xlim(-0.5, len(sparsities) - 0.5)
            axes.set_ylim(len(lines) - 0.5, -0.5)
            colours = mpl.colormaps["RdBu"]
            for (of, (dense, mask)), one in detail.items():
                if of != pair:
                    continue
                place = (sparsities.index(mask.sparsity), lines.index((dense, mask.criterion)))
                points = 100 * one.mean
                strength = 0.5 + points / _FULL_COLOUR / 2
                corner = (place[0] - 0.47, place[1] - 0.44)
                shown = one.verdict in {"gain", "loss"}
                edge = "#111111" if shown else "none"
                face = (*colours(strength)[:3], 1.0 if shown else earlier.MUTED)
                axes.add_patch(Rectangle(corner, 0.94, 0.88, fc=face, ec=edge, lw=1.8))
                light = shown and abs(points) > 0.5 * _FULL_COLOUR
                axes.text(
                    *place,
                    signed(points),
                    ha="center",
                    va="center",
                    weight="bold" if shown else "normal",
                    color="#ffffff" if light else "#111111",
                )
            labels = [f"{dense.upper().replace('_2X', ' 2×')}, {how}" for dense, how in lines]
            axes.set_yticks(range(len(lines)), labels)
            axes.set_title(f"{title}, points of test accuracy", loc="left", weight="bold")
        grid[-1].set_xticks(range(len(sparsities)), [f"{100 * one:g} %" for one in sparsities])
        grid[-1].set_xlabel(
            "sparsity (rows: dense training, criterion; red: SGD better, blue: SAM better;\n"
            "framed, in full colour: shown after correction)"
        )
    return drawn()


def forest(tasks: Mapping[str, tuple[Bounds, Mapping[str, Difference]]]) -> str:
    """Differences with their 95 % intervals; a panel a task, with the band that is not claimed."""
    lines = sum(len(tests) for _, tests in tasks.values())
    with _figure(1.2 + 0.4 * len(tasks) + 0.34 * lines) as (figure, drawn):
        heights = [len(tests) for _, tests in tasks.values()]
        grid = figure.subplots(len(tasks), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axes, (task, (bounds, tests)) in zip(grid, tasks.items(), strict=True):
            axes.axvspan(-100 * bounds.nothing, 100 * bounds.nothing, color="#e6e6e6")
            axes.axvline(0, color="#111111", lw=1)
            for line, one in enumerate(tests.values()):
                colour = _VERDICT_COLOURS[one.verdict]
                axes.plot([100 * one.low, 100 * one.high], [line, line], color=colour, lw=2.5)
                axes.plot(100 * one.mean, line, "D", color=colour)
                axes.annotate(
                    one.verdict,
                    (1.0, line),
                    xycoords=("axes fraction", "data"),
                    xytext=(6, 0),
                    textcoords="offset points",
                    va="center",
                    color=colour,
                )
            axes.set_yticks(range(len(tests)), list(tests))
            axes.set_ylim(len(tests) - 0.5, -0.5)
            axes.grid(axis="x")
            axes.set_title(task, loc="left", weight="bold")
        grid[-1].set_xlabel(
            "points of test accuracy: SGD is better ← 0 → SAM is better\n"
            "(grey band: luck in searching may be worth so much, and nothing is claimed)"
        )
    return drawn()


def curves(
    panels: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]],
    names: Mapping[str, str],
) -> str:
    """Accuracy on validation images against gradient evaluations, by arm; a panel a sparsity."""
    rows = -(-len(panels) // 2)
    with _figure(2.9 * rows) as (figure, drawn):
        grid = figure.subplots(rows, 2, squeeze=False).ravel()
        for axes, (title, arms) in zip(grid, panels.items(), strict=False):
            for arm, (gradients, accuracies) in arms.items():
                style: Any = {"color": COLOURS[arm], "marker": MARKERS[arm], "ms": 3, "lw": 1.2}
                axes.plot(gradients, 100 * np.array(accuracies), label=names[arm], **style)
            axes.set_title(title)
            axes.grid(axis="y")
            axes.set_xlabel("gradient evaluations")
            axes.set_ylabel("validation accuracy, %")
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        grid[0].legend(frameon=False, fontsize=9)
    return drawn()


@contextmanager
def _figure(height: float) -> Iterator[tuple[Figure, Callable[[], str]]]:
    """A figure as wide as a page, and what gives it as text once it is drawn."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(9.3, height), layout="constrained")
        text = io.StringIO()
        yield figure, text.getvalue
        figure.savefig(text, format="svg", metadata={"Date": None})
