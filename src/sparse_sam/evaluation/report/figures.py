"""The report's figures, as SVG: text stays text, equal numbers give equal bytes.

Colours are Okabe and Ito's, which people with any colour vision can tell apart; every arm has a
marker of its own besides.
"""

import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sparse_sam.evaluation.report.content import Content, Rows, confusion, disagreements

COLOURS = {
    "dense": "#000000",
    "pruned": "#999999",
    "sgd": "#0072B2",
    "sgd_2x": "#56B4E9",
    "sam": "#D55E00",
}
MARKERS = {"dense": "s", "pruned": "x", "sgd": "o", "sgd_2x": "^", "sam": "D"}
NAMES = {"dense": "dense", "pruned": "pruned", "sgd": "SGD", "sgd_2x": "SGD, 2x", "sam": "SAM"}
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "sparse-sam",
    "font.family": "sans-serif",
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "axes.axisbelow": True,
}
_NAMED_CLASSES, _LONGEST_NAME = 30, 14
"""Of more classes a table of mistakes has no numbers; longer names are cut."""
_SIZE = (4.8, 3.3)


def accuracy(content: Content) -> str:
    """Test accuracy by arm: every seed a dot, and the mean with its interval."""
    figure, axes = _axes()
    for position, (arm, of) in enumerate(content.summary["arms"].items()):
        values = 100 * np.array(of["accuracy"]["values"])
        spread = np.linspace(-0.18, 0.18, len(values)) if len(values) > 1 else [0]
        axes.plot(position + np.array(spread), values, MARKERS[arm], color=COLOURS[arm], ms=5)
        mean = 100 * of["accuracy"]["mean"]
        low, high = of["accuracy"]["ci95"] or (mean / 100, mean / 100)
        axes.errorbar(
            position + 0.33, mean, [[mean - 100 * low], [100 * high - mean]], fmt="_", color="k"
        )
    arms = list(content.summary["arms"])
    axes.set_xticks(range(len(arms)), [NAMES[arm] for arm in arms])
    axes.set_ylabel("test accuracy, %")
    return _svg(figure)


def curves(content: Content, x: str, label: str) -> str:
    """Validation accuracy of the finetuned arms against ``x``; seeds thin, their mean thick.

    Empty where nothing was held out to validate on.
    """
    by_arm = {
        arm: _by_seed(rows, x, "validation_accuracy") for arm, rows in content.histories.items()
    }
    if not all(by_arm.values()):
        return ""
    figure, axes = _axes()
    for arm, lines in by_arm.items():
        for values in lines:
            axes.plot(values[0], 100 * values[1], color=COLOURS[arm], lw=0.6, alpha=0.5)
        mean = np.mean(lines, axis=0)
        axes.plot(
            mean[0], 100 * mean[1], color=COLOURS[arm], lw=2, marker=MARKERS[arm], label=NAMES[arm]
        )
    axes.set_xlabel(label)
    axes.set_ylabel("validation accuracy, %")
    axes.legend(frameon=False)
    return _svg(figure)


def kept_by_layer(layers: Sequence[Mapping[str, Any]]) -> str:
    """How much of every prunable tensor is kept."""
    figure, axes = _axes(left=0.25)
    names = [layer["name"] for layer in layers]
    shares = [100 * layer["kept"] / layer["weights"] for layer in layers]
    axes.barh(names, shares, color=COLOURS["sgd"])
    for position, (layer, share) in enumerate(zip(layers, shares, strict=True)):
        # Beside a bar that is too short to hold it.
        start, colour = (1, "white") if share > 45 else (share + 1, "black")
        words = f"{layer['kept']:,} of {layer['weights']:,}"
        axes.text(start, position, words, va="center", color=colour)
    axes.set_xlim(0, 104)
    axes.set_xticks(range(0, 101, 20))
    axes.invert_yaxis()
    axes.set_xlabel("weights kept, %")
    return _svg(figure)


def sharpness(flatness: Mapping[str, Any]) -> str:
    """One-step sharpness against ρ, every seed a marker, the mean a line."""
    figure, axes = _axes()
    for offset, (arm, of) in enumerate(flatness["arms"].items()):
        rows = [row for row in of["sharpness"] if row["steps"] == 1]
        rhos = np.array([row["rho"] for row in rows]) * (1 + 0.03 * (offset - 2))
        for rho, row in zip(rhos, rows, strict=True):
            axes.plot([rho] * len(row["values"]), row["values"], MARKERS[arm], color=COLOURS[arm])
        means = [row["mean"] for row in rows]
        axes.plot(rhos, means, color=COLOURS[arm], marker=MARKERS[arm], label=NAMES[arm])
    axes.set_xlabel("ρ")
    axes.set_ylabel("L(w + ε) − L(w), nats")
    axes.set_yscale("log")
    axes.legend(frameon=False, ncols=2, fontsize=9)
    return _svg(figure)


def loss_slice(rows: Rows) -> str:
    """The loss along one direction through every arm's network."""
    figure, axes = _axes()
    for arm in dict.fromkeys(row["arm"] for row in rows):
        own = [row for row in rows if row["arm"] == arm]
        axes.plot(
            [float(row["x"]) for row in own],
            [float(row["loss"]) for row in own],
            color=COLOURS[arm],
            marker=MARKERS[arm],
            ms=4,
            label=NAMES[arm],
        )
    axes.set_xlabel("distance, in lengths of the filters")
    axes.set_ylabel("loss, nats")
    axes.legend(frameon=False, fontsize=9)
    return _svg(figure)


def loss_surface(rows: Rows, arm: str) -> str:
    """Contours of the loss in a plane through one arm's network."""
    own = [row for row in rows if row["arm"] == arm]
    side = sorted({float(row["x"]) for row in own})
    losses = np.array([float(row["loss"]) for row in own]).reshape(len(side), len(side))
    everything = [float(row["loss"]) for row in rows]
    least = max(min(everything), 1e-4)
    levels = np.geomspace(least, max(*everything, 1.001 * least), 12)
    figure, axes = _axes((4.8, 3.9))
    axes.contourf(side, side, losses.T, levels=levels, cmap="cividis", norm="log", extend="both")
    lines = axes.contour(side, side, losses.T, levels=levels, colors="w", linewidths=0.6)
    axes.clabel(lines, fmt="%.2g", fontsize=8)
    axes.plot(0, 0, MARKERS[arm], color=COLOURS[arm], mec="w", ms=8)
    axes.set_aspect("equal")
    axes.grid(visible=False)
    axes.set_title(NAMES[arm], fontsize=11)
    return _svg(figure)


def confusions(content: Content, arm: str) -> str:
    """Mistakes by label and prediction, summed over seeds; right answers are left out."""
    counts: NDArray[np.int64] = confusion(
        content.labels, content.predictions[arm], len(content.classes)
    )
    np.fill_diagonal(counts, 0)
    figure, axes = _axes((4.8, 4.2))
    axes.imshow(counts, cmap="Blues", vmin=0)
    many = len(counts) > _NAMED_CLASSES
    for label, row in enumerate(counts.tolist()):
        for predicted, count in enumerate(row):
            if count and not many:
                colour = "white" if 2 * count > counts.max() else "black"
                axes.text(
                    predicted, label, f"{count}", ha="center", va="center", fontsize=8, color=colour
                )
    if not many:
        names = [_short(name) for name in content.classes]
        long = max(map(len, names)) > 2
        axes.set_xticks(range(len(names)), names, rotation=90 if long else 0)
        axes.set_yticks(range(len(names)), names)
        if long:
            figure.subplots_adjust(left=0.3, bottom=0.3)
    axes.grid(visible=False)
    axes.set_xlabel("predicted")
    axes.set_ylabel("label")
    axes.set_title(f"{NAMES[arm]}: {counts.sum()} mistakes", fontsize=11)
    return _svg(figure)


def pictures(content: Content, first: str, second: str) -> str | None:
    """Test images on which two arms disagree; None where they never do."""
    found = disagreements(content, first, second, 12)
    if not found:
        return None
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(4.8, 1.75 * -(-len(found) // 4)))
        figure.subplots_adjust(0.02, 0.01, 0.98, 0.9, wspace=0.15, hspace=0.5)
        for place, (index, label, one, other) in enumerate(found):
            axes = figure.add_subplot(-(-len(found) // 4), 4, place + 1)
            image = content.images[index]
            if len(image) == 1:
                axes.imshow(image[0], cmap="gray_r", vmin=0, vmax=255)
            else:
                axes.imshow(image.transpose(1, 2, 0))
            axes.axis("off")
            said = "\n".join(
                [
                    _short(content.classes[label]),
                    _answers(content, first, one),
                    _answers(content, second, other),
                ]
            )
            axes.set_title(said, fontsize=8)
        return _svg(figure)


def _answers(content: Content, arm: str, predictions: Sequence[int]) -> str:
    """What an arm said: by seed where names are short, and otherwise what its seeds said most."""
    names = [content.classes[one] for one in predictions]
    if max(map(len, content.classes)) <= 2:
        return f"{NAMES[arm]}: {' '.join(names)}"
    name, count = Counter(names).most_common(1)[0]
    return f"{NAMES[arm]}: {_short(name)} {count}/{len(names)}"


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def _by_seed(rows: Rows, x: str, y: str) -> list[NDArray[np.float64]]:
    seeds: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if row[y]:
            seeds.setdefault(row["seed"], []).append((float(row[x]), float(row[y])))
    return [np.array(points).T for points in seeds.values()]


def _axes(size: tuple[float, float] = _SIZE, left: float = 0.15) -> tuple[Figure, Axes]:
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=size)
        # By hand: a layout engine takes a third of the time that the drawing takes.
        figure.subplots_adjust(left=left, right=0.98, bottom=0.15, top=0.93)
        return figure, figure.add_subplot()


def _svg(figure: Figure) -> str:
    """The figure as an element for a page: no declaration, no fixed size."""
    text = io.StringIO()
    with mpl.rc_context(_STYLE):
        figure.savefig(text, format="svg", metadata={"Date": None})
    content = text.getvalue()
    element = content[content.index("<svg") :]
    head, _, rest = element.partition(">")
    return re.sub(r' (width|height)="[^"]*"', "", head) + ' role="presentation">' + rest


def with_own_ids(svg: str, name: str) -> str:
    """The element with ``name`` before all its ids, so that several may stand on one page."""
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    return re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", svg)
