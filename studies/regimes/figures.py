"""The study's figures, as SVG: text stays text, equal numbers give equal bytes."""

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from sparse_sam.evaluation import compare_paired, summarize
from studies.regimes.study import NAMES, TITLES, Study, by_rho, compare, shown

COLOURS = {
    "sgd": "#0072B2",
    "sgd_2x": "#009E73",
    "sam": "#D55E00",
    "asam": "#767676",
    "momentum": "#CC79A7",
}
MARKERS = {"sgd": "o", "sgd_2x": "^", "sam": "D", "asam": "s", "momentum": "v"}
STYLE: Any = {
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
_EQUAL_COMPUTE = {
    "SAM − SGD at equal compute": "SAM − SGD (twice the epochs)",
    "ASAM − SGD at equal compute": "ASAM − SGD (twice the epochs)",
    "momentum SAM − SGD at equal epochs and compute": "momentum SAM − SGD (as many epochs)",
}
_FULL_COLOUR = 1.0
"""From so many points on a cell has its full colour; its number says how many they are."""
MUTED = 0.3
"""The colour of what is not shown: as strong, it would be read as a finding."""


def heat_map(studies: Sequence[Study]) -> str:
    """Every difference at equal compute, sparsity by dense training; what is shown is framed."""
    compared = compare(studies)
    sparsities = studies[0].sparsities
    rows = [(study, dense) for study, dense in _columns(studies)]
    with mpl.rc_context(STYLE | {"font.size": 11, "axes.titlesize": 11}):
        figure = Figure(figsize=(9.4, 6.6), layout="constrained")
        text = io.StringIO()
        grid = figure.subplots(len(_EQUAL_COMPUTE), 1, sharex=True)
        for axes, (what, title) in zip(grid, _EQUAL_COMPUTE.items(), strict=True):
            found = [
                [compared[study.network, dense, sparsity, what] for sparsity in sparsities]
                for study, dense in rows
            ]
            points = 100 * np.array([[one["mean"] for one in row] for row in found])
            claims = np.array([[shown(one) != 0 for one in row] for row in found])
            scale: Any = {"cmap": "RdBu", "vmin": -_FULL_COLOUR, "vmax": _FULL_COLOUR}
            axes.imshow(points, alpha=np.where(claims, 1.0, MUTED), aspect="auto", **scale)
            for (row, column), value in np.ndenumerate(points):
                is_shown = claims[row, column]
                axes.text(
                    column,
                    row,
                    f"{value:+z.2f}".replace("-", "−"),
                    ha="center",
                    va="center",
                    weight="bold" if is_shown else "normal",
                    color="#ffffff" if is_shown and abs(value) > 0.5 * _FULL_COLOUR else "#111111",
                )
                if is_shown:
                    place = (column - 0.47, row - 0.44)
                    axes.add_patch(Rectangle(place, 0.94, 0.88, fill=False, ec="#111111", lw=1.8))
            names = [f"{study.network},\ntrained with {dense.upper()}" for study, dense in rows]
            axes.set_yticks(range(len(rows)), names, fontsize=9)
            axes.grid(visible=False)
            axes.set_title(f"{title}, points of test accuracy", loc="left", weight="bold")
        grid[-1].set_xticks(range(len(sparsities)), [f"{100 * one:g} %" for one in sparsities])
        framed = "red: SGD better, blue: SAM better; framed, in full colour: shown after correction"
        grid[-1].set_xlabel(f"sparsity ({framed})")
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def accuracy(studies: Sequence[Study]) -> str:
    """Test accuracy against sparsity by arm: mean and 95 % interval."""
    with _figure(len(studies)) as (figure, drawn):
        panels = figure.subplots(len(studies), 2, squeeze=False).ravel()
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
        for axes in panels[::2]:
            axes.set_ylabel("test accuracy, % (logit scale)")
        panels[0].legend(frameon=False, loc="lower left")
    return drawn()


def differences(studies: Sequence[Study]) -> str:
    """SAM's kinds minus SGD, against sparsity: at equal epochs above, at equal compute below."""
    rows = {
        "equal epochs": [("sam", "sgd"), ("asam", "sgd"), ("momentum", "sgd")],
        "equal compute": [("sam", "sgd_2x"), ("asam", "sgd_2x"), ("momentum", "sgd")],
    }
    with _figure(2 * len(studies)) as (figure, drawn):
        grid = figure.subplots(2 * len(studies), 2, squeeze=False, sharey=True)
        for panels, (equal, pairs) in zip(grid.reshape(2, -1), rows.items(), strict=True):
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
                _sparsities(axes, study, dense)
            for axes in panels[::2]:
                axes.set_ylabel(f"accuracy minus SGD's,\npoints, {equal}")
        grid[0][0].legend(frameon=False, loc="lower left")
    return drawn()


def rho(studies: Sequence[Study]) -> str:
    """Validation accuracy minus SGD's against ρ, a line a sparsity, dense trainings averaged."""
    arms = ("sam", "asam", "momentum")
    colours = mpl.colormaps["viridis"]
    with _figure(len(studies)) as (figure, drawn):
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
            panels[0].set_ylabel("validation accuracy\nminus SGD's, points")
        grid[0][-1].legend(frameon=False, title="sparsity", ncols=2)
    return drawn()


def flatness(studies: Sequence[Study]) -> str:
    """Test accuracy against sharpness, a dot a network, at the four highest sparsities."""
    with _figure(2 * len(studies)) as (figure, drawn):
        grid = figure.subplots(2 * len(studies), 2, squeeze=False).reshape(len(studies), 4)
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
            for axes in panels[::2]:
                axes.set_ylabel("test accuracy, %")
        grid[0][0].legend(frameon=False)
    return drawn()


FIGURES: dict[str, Callable[[Sequence[Study]], str]] = {
    "heat_map.svg": heat_map,
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
def _figure(rows: int) -> Iterator[tuple[Figure, Callable[[], str]]]:
    """A figure of panels, and what gives it as text once it is drawn.

    As wide as the heat map: wider ones are shrunk on a page, and their words cannot be read.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.3, 3.1 * rows), layout="constrained")
        text = io.StringIO()
        yield figure, text.getvalue
        figure.savefig(text, format="svg", metadata={"Date": None})
