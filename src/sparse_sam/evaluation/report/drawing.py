"""What all figures share: axes, SVG whose text is text, and colours that a page's style can turn.

Equal numbers give equal bytes. What is drawn in black and in ``GRID`` follows the page, dark or
light; ``INK`` and ``PAPER`` stand on colours of our own and stay, and ``GREY`` is seen on both.
What says something has a contrast of 3:1 with the page (``tools.check_pages``); grid lines do not.
"""

import io
import re
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sparse_sam.evaluation.shown_arms import ARM_COLOURS, ARM_MARKERS, ARM_NAMES

GRID, INK, PAPER, GREY = "#dddddd", "#111111", "#fefefe", "#808080"
SIZE = (4.8, 3.3)
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "sparse-sam",
    "font.family": "sans-serif",
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.unicode_minus": True,
    "grid.color": GRID,
    "axes.axisbelow": True,
}


def axes_of(size: tuple[float, float] = SIZE, left: float = 0.15) -> tuple[Figure, Axes]:
    """A figure of one part, without a layout engine, which takes a third of the drawing's time."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=size)
        figure.subplots_adjust(left=left, right=0.98, bottom=0.15, top=0.93)
        return figure, figure.add_subplot()


def looks(arm: str) -> dict[str, Any]:
    """An arm's colour, marker and name, for a plot."""
    return {"color": ARM_COLOURS[arm], "marker": ARM_MARKERS[arm], "label": ARM_NAMES[arm]}


def svg(figure: Figure) -> str:
    """The figure as an element for a page: no declaration, no fixed size, no background."""
    text = io.StringIO()
    with mpl.rc_context(STYLE):
        figure.savefig(text, format="svg", metadata={"Date": None}, transparent=True)
    content = text.getvalue()
    element = content[content.index("<svg") :]
    head, _, rest = element.partition(">")
    return re.sub(r' (width|height)="[^"]*"', "", head) + ' role="presentation">' + rest


def with_own_ids(element: str, name: str) -> str:
    """The element with ``name`` before all its ids, so that several may stand on one page."""
    element = re.sub(r'\bid="', f'id="{name}-', element)
    return re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", element)
