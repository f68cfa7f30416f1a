"""The study's figure, as SVG: text stays text, equal numbers give equal bytes."""

import io
from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from sparse_sam.evaluation import ARM_COLOURS
from studies.oneshot.networks import ARMS, Values
from studies.oneshot.tables import NAMES, PUBLISHED, ROWS, accuracies

_COLOURS = {
    "random": "#999999",
    "magnitude": "#0072B2",
    "saliency": "#56B4E9",
    "obs-single": "#E69F00",
    "obs-selection": "#CC79A7",
    "obs": "#D55E00",
}
_MARKERS = {"sgd": "o", "sgd_2x": "^", "sam": "D"}
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "oneshot",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#dddddd",
    "axes.axisbelow": True,
}
_TICKS = [0.1, 0.2, 0.4, 0.6, 0.8, 0.85, 0.9, 0.92, 0.94, 0.96, 0.97]


def accuracy(params: Values, measured: Mapping[str, Any]) -> str:
    """Test accuracy against sparsity: one-shot by criterion, then finetuned by arm."""
    sparsities = params["sparsities"]
    panels = 1 + len(params["finetuned"])
    with mpl.rc_context(_STYLE):
        # On a page that is 840 pixels wide, words of a wider figure cannot be read.
        figure = Figure(figsize=(9.3, 3.2 * (panels + 1) // 2), layout="constrained")
        all_axes = figure.subplots((panels + 1) // 2, 2).ravel()
        for criterion in params["criteria"]:
            _line(all_axes[0], params, measured, criterion, "pruned", ROWS[criterion])
        best = np.array(list(PUBLISHED.values())).max(0) / 100
        places = range(len(sparsities))
        all_axes[0].plot(places, best, "k_", ms=14, mew=1.5, label="best published")
        all_axes[0].set_title("one-shot, nothing trained after")
        all_axes[0].set_ylabel("test accuracy, % (logit scale)")
        for axes, criterion in zip(all_axes[1:], params["finetuned"], strict=True):
            for arm in ARMS:
                _line(axes, params, measured, criterion, arm, NAMES[arm])
            axes.set_title(f"{ROWS[criterion]}, finetuned")
            axes.sharey(all_axes[1])
        for axes in all_axes:
            _scales(axes, sparsities)
            axes.axhline(np.mean(measured["dense"]) / 100, color="k", lw=0.6, ls=":")
            axes.set_xlabel("sparsity")
        for axes in all_axes[:2]:
            axes.legend(frameon=False, loc="lower left")
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def _line(
    axes: Axes, params: Values, measured: Mapping[str, Any], criterion: str, arm: str, label: str
) -> None:
    """The mean over seeds as a line, every seed as a dot."""
    by_seed = [accuracies(measured, criterion, at, arm) / 100 for at in params["sparsities"]]
    places = np.arange(len(by_seed))
    is_pruned = arm == "pruned"
    style = {"color": _COLOURS[criterion]} if is_pruned else {"color": ARM_COLOURS[arm]}
    marker = "o" if is_pruned else _MARKERS[arm]
    shift = 0.0 if is_pruned else 0.08 * (ARMS.index(arm) - 1)
    axes.plot(places + shift, [one.mean() for one in by_seed], lw=1.2, label=label, **style)
    for place, values in zip(places, by_seed, strict=True):
        axes.plot([place + shift] * len(values), values, marker, ms=2.5, **style)


def _scales(axes: Axes, sparsities: list[float]) -> None:
    axes.set_yscale("logit")
    axes.yaxis.set_major_locator(FixedLocator(_TICKS))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks(range(len(sparsities)), [f"{one:g}" for one in sparsities])
