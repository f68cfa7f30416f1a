"""Figures of the weights: what is kept of every layer, and how flat the loss is around them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sparse_sam.evaluation.report.content import Rows
from sparse_sam.evaluation.report.drawing import PAPER, axes_of, looks, svg
from sparse_sam.evaluation.shown_arms import ARM_COLOURS, ARM_MARKERS, ARM_NAMES


def kept_by_layer(layers: Sequence[Mapping[str, Any]]) -> str:
    """How much of every prunable tensor is kept."""
    height = max(3.3, 0.28 * len(layers) + 0.8)
    figure, axes = axes_of((4.8, height), left=0.33)
    figure.subplots_adjust(bottom=0.5 / height, top=1 - 0.15 / height)
    names = [layer["name"] for layer in layers]
    shares = [100 * layer["kept"] / layer["weights"] for layer in layers]
    axes.barh(names, shares, color=ARM_COLOURS["sgd"])
    for position, (layer, share) in enumerate(zip(layers, shares, strict=True)):
        # Beside a bar that is too short to hold it.
        start, colour = (1, PAPER) if share > 55 else (share + 1, "black")
        words = f"{layer['kept']:,} of {layer['weights']:,}"
        axes.text(start, position, words, va="center", color=colour, fontsize=9)
    axes.set_xlim(0, 104)
    axes.set_xticks(range(0, 101, 20))
    axes.tick_params(axis="y", labelsize=9)
    axes.invert_yaxis()
    axes.set_xlabel("weights kept, %")
    axes.grid(visible=False, axis="y")
    return svg(figure)


def sharpness(flatness: Mapping[str, Any]) -> str:
    """One-step sharpness against ρ, every seed a marker, the mean a line."""
    figure, axes = axes_of()
    radii: list[float] = []
    for arm, of in flatness["arms"].items():
        rows = [row for row in of["sharpness"] if row["steps"] == 1]
        radii = [row["rho"] for row in rows]
        for row in rows:
            at = [row["rho"]] * len(row["values"])
            axes.plot(at, row["values"], ARM_MARKERS[arm], color=ARM_COLOURS[arm], ms=3)
        axes.plot(radii, [row["mean"] for row in rows], ms=6, **looks(arm))
    axes.set_xscale("log")
    axes.set_xticks(radii, [f"{radius:g}" for radius in radii])
    axes.minorticks_off()
    axes.set_yscale("log")
    axes.set_xlabel("radius ρ of the perturbation ε")
    axes.set_ylabel("L(w + ε) − L(w), nats")
    axes.legend(frameon=False, ncols=2, fontsize=9)
    return svg(figure)


def loss_slice(rows: Rows) -> str:
    """The loss along one direction through every arm's network."""
    figure, axes = axes_of()
    for arm in dict.fromkeys(row["arm"] for row in rows):
        own = [row for row in rows if row["arm"] == arm]
        axes.plot(
            [float(row["x"]) for row in own],
            [float(row["loss"]) for row in own],
            ms=4,
            **looks(arm),
        )
    axes.set_xlabel("distance, in filter norms")
    axes.set_ylabel("loss, nats")
    axes.legend(frameon=False, fontsize=9)
    return svg(figure)


def loss_surface(rows: Rows, arm: str) -> str:
    """Contours of the loss in a plane through one arm's network; all arms have the same levels."""
    own = [row for row in rows if row["arm"] == arm]
    side = sorted({float(row["x"]) for row in own})
    losses = np.array([float(row["loss"]) for row in own]).reshape(len(side), len(side))
    everything = [float(row["loss"]) for row in rows]
    least = max(min(everything), 1e-4)
    levels = np.geomspace(least, max(*everything, 1.001 * least), 12)
    figure, axes = axes_of((4.8, 3.9))
    filled = axes.contourf(
        side, side, losses.T, levels=levels, cmap="cividis", norm="log", extend="both"
    )
    bar = figure.colorbar(filled, ax=axes, format="%.2g")
    bar.set_label("loss, nats")
    bar.minorticks_off()
    bar.ax.set_gid("key")
    axes.contour(side, side, losses.T, levels=levels, colors="w", linewidths=0.6)
    axes.plot(0, 0, ARM_MARKERS[arm], color=ARM_COLOURS[arm], mec="w", ms=8)
    axes.set_aspect("equal")
    axes.grid(visible=False)
    axes.set_xlabel("first direction, in filter norms")
    axes.set_ylabel("second direction")
    axes.set_title(ARM_NAMES[arm], fontsize=11)
    return svg(figure)
