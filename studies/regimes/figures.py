"""The study's figures, as SVG: text stays text, equal numbers give equal bytes."""

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from sparse_sam.evaluation import compare_paired, summarize
from studies.regimes.study import NAMES, TITLES, Study, by_rho

COLOURS = {
    "sgd": "#0072B2",
    "sgd_2x": "#56B4E9",
    "sam": "#D55E00",
    "asam": "#E69F00",
    "momentum": "#CC79A7",
}
MARKERS = {"sgd": "o", "sgd_2x": "^", "sam": "D", "asam": "s", "momentum": "v"}
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "regimes",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "axes.axisbelow": True,
    "axes.grid.axis": "y",
}
_LINEAR_TO = 0.5
"""Differences of so many points are drawn to scale, larger ones on a logarithmic one."""


def accuracy(studies: Sequence[Study]) -> str:
    """Test accuracy against sparsity by arm: mean and 95 % interval."""
    with _figure(2, 2 * len(studies)) as (figure, drawn):
        panels = np.array(figure.subplots(1, 2 * len(studies), squeeze=False))[0]
        for axes, (study, dense) in zip(panels, _columns(studies), strict=True):
            for offset, arm in enumerate(NAMES):
                values = [
                    study.values(dense, sparsity, arm, "test_accuracy")
                    for sparsity in study.sparsities
                ]
                _intervals(axes, arm, offset, [summarize(one.tolist()) for one in values], 1)
            axes.set_yscale("logit")
            axes.yaxis.set_major_locator(
                FixedLocator([0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.985, 0.99])
            )
            axes.yaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
            _sparsities(axes, study, dense)
        panels[0].set_ylabel("test accuracy, % (logit scale)")
        panels[-1].legend(frameon=False)
    return drawn()


def differences(studies: Sequence[Study]) -> str:
    """SAM's kinds less SGD against sparsity: at equal epochs above, at equal compute below."""
    rows = {
        "equal epochs": [("sam", "sgd"), ("asam", "sgd"), ("momentum", "sgd")],
        "equal compute": [("sam", "sgd_2x"), ("asam", "sgd_2x"), ("momentum", "sgd")],
    }
    with _figure(4, 2 * len(studies)) as (figure, drawn):
        grid = figure.subplots(2, 2 * len(studies), squeeze=False, sharey=True)
        for panels, (equal, pairs) in zip(grid, rows.items(), strict=True):
            for axes, (study, dense) in zip(panels, _columns(studies), strict=True):
                for offset, pair in enumerate(pairs):
                    compared = []
                    for sparsity in study.sparsities:
                        first, second = (
                            study.values(dense, sparsity, arm, "test_accuracy").tolist()
                            for arm in pair
                        )
                        margin = study.sweep.equivalence_margin
                        compared.append(compare_paired(first, second, margin))
                    _intervals(axes, pair[0], offset + 1, compared, 100)
                axes.axhline(0, color="k", lw=0.8)
                axes.set_yscale("symlog", linthresh=_LINEAR_TO, linscale=2)
                ticks = [-5, -2, -1, -0.5, -0.25, 0, 0.25, 0.5, 1]
                axes.yaxis.set_major_locator(FixedLocator(ticks))
                axes.yaxis.set_minor_locator(NullLocator())
                axes.yaxis.set_major_formatter(FuncFormatter(lambda points, _: f"{points:g}"))
                _sparsities(axes, study, dense)
            panels[0].set_ylabel(f"accuracy less SGD's, points\n{equal}")
        grid[0][0].legend(frameon=False, loc="lower left")
    return drawn()


def rho(studies: Sequence[Study]) -> str:
    """Validation accuracy against ρ less SGD's, a line a sparsity, dense trainings averaged."""
    arms = ("sam", "asam", "momentum")
    colours = mpl.colormaps["viridis"]
    with _figure(2 * len(studies), len(arms)) as (figure, drawn):
        grid = figure.subplots(len(studies), len(arms), squeeze=False)
        for panels, study in zip(grid, studies, strict=True):
            for axes, arm in zip(panels, arms, strict=True):
                for number, sparsity in enumerate(study.sparsities):
                    lines = []
                    for dense in study.dense:
                        best = max(by_rho(study, dense, sparsity, "sgd").values())
                        lines.append(by_rho(study, dense, sparsity, arm))
                        lines[-1] = {at: 100 * (one - best) for at, one in lines[-1].items()}
                    rhos = sorted(lines[0])
                    mean = [np.mean([line[at] for line in lines if at in line]) for at in rhos]
                    colour = colours(number / len(study.sparsities))
                    axes.plot(rhos, mean, marker="o", ms=3, color=colour, label=f"{sparsity:g}")
                axes.axhline(0, color="k", lw=0.8)
                axes.set_xscale("log")
                axes.set_xticks(rhos, [f"{one:g}" for one in rhos])
                axes.xaxis.set_minor_locator(NullLocator())
                axes.set_xlabel("ρ")
                axes.set_title(f"{study.network}: {NAMES[arm]}")
            panels[0].set_ylabel("validation accuracy less SGD's, points")
        grid[0][-1].legend(frameon=False, title="sparsity", fontsize=7, ncols=2)
    return drawn()


def flatness(studies: Sequence[Study]) -> str:
    """Test accuracy against sharpness, a dot a network, at the four highest sparsities."""
    with _figure(2 * len(studies), 4) as (figure, drawn):
        grid = figure.subplots(len(studies), 4, squeeze=False)
        for panels, study in zip(grid, studies, strict=True):
            for axes, sparsity in zip(panels, sorted(study.sparsities)[-4:], strict=False):
                for arm in NAMES:
                    x, y = (
                        np.concatenate(
                            [study.values(dense, sparsity, arm, name) for dense in study.dense]
                        )
                        for name in ("sharpness", "test_accuracy")
                    )
                    axes.plot(x, 100 * y, MARKERS[arm], color=COLOURS[arm], ms=3, label=NAMES[arm])
                axes.set_xlabel("sharpness, nats")
                axes.set_title(f"{study.network}, sparsity {sparsity:g}")
            panels[0].set_ylabel("test accuracy, %")
        grid[0][0].legend(frameon=False, fontsize=7)
    return drawn()


FIGURES: dict[str, Callable[[Sequence[Study]], str]] = {
    "accuracy.svg": accuracy,
    "differences.svg": differences,
    "rho.svg": rho,
    "flatness.svg": flatness,
}


def _columns(studies: Sequence[Study]) -> Iterator[tuple[Study, str]]:
    return ((study, dense) for study in studies for dense in study.dense)


def _intervals(axes: Axes, arm: str, offset: int, of: Sequence[Any], scale: float) -> None:
    places = np.arange(len(of)) + 0.13 * (offset - 2)
    means = scale * np.array([one["mean"] for one in of])
    lows, highs = scale * np.array([one["ci95"] for one in of]).T
    axes.errorbar(
        places,
        means,
        [means - lows, highs - means],
        fmt=MARKERS[arm],
        ms=3.5,
        lw=1,
        color=COLOURS[arm],
        label=NAMES[arm],
    )


def _sparsities(axes: Axes, study: Study, dense: str) -> None:
    axes.set_xticks(range(len(study.sparsities)), [f"{one:g}" for one in study.sparsities])
    axes.set_xlabel("sparsity")
    axes.set_title(f"{TITLES[study.network]},\ndense training: {dense.upper()}")


@contextmanager
def _figure(rows: int, columns: int) -> Iterator[tuple[Figure, Callable[[], str]]]:
    """A figure of panels, and what gives it as text once it is drawn."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(3.1 * columns, 1.8 * rows), layout="constrained")
        text = io.StringIO()
        yield figure, text.getvalue
        figure.savefig(text, format="svg", metadata={"Date": None})
