"""Figures of what the networks get wrong."""

from collections import Counter
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from sparse_sam.evaluation.report.content import Content, confusion, disagreements
from sparse_sam.evaluation.report.drawing import INK, PAPER, STYLE, axes_of, svg
from sparse_sam.evaluation.shown_arms import ARM_NAMES

_NAMED_CLASSES, _LONGEST_NAME = 30, 14
"""Of more classes a table of mistakes has no numbers; longer names are cut."""


def confusion_difference(content: Content, first: str, second: str) -> str:
    """How many more mistakes the first arm makes than the second, by label and prediction.

    Over all seeds; right answers are left out.
    """
    classes = len(content.classes)
    counts = confusion(content.labels, content.predictions[first], classes) - confusion(
        content.labels, content.predictions[second], classes
    )
    np.fill_diagonal(counts, 0)
    figure, axes = axes_of((4.8, 4.2))
    most = max(int(np.abs(counts).max()), 1)
    # Blue where the first arm makes fewer mistakes, red where it makes more.
    axes.imshow(counts, cmap="RdBu_r", vmin=-most, vmax=most)
    many = len(counts) > _NAMED_CLASSES
    for label, row in enumerate(counts.tolist()):
        for predicted, count in enumerate(row):
            if count and not many:
                colour = PAPER if abs(count) > 0.6 * most else INK
                said = f"{count:+d}".replace("-", "−")
                axes.text(
                    predicted, label, said, ha="center", va="center", fontsize=8, color=colour
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
    more = f"{int(counts.sum()):+d}".replace("-", "−")
    axes.set_title(f"{ARM_NAMES[first]} − {ARM_NAMES[second]}: {more} mistakes", fontsize=11)
    return svg(figure)


def pictures(content: Content, first: str, second: str) -> str | None:
    """Test images that one of two arms gets right in more seeds; None where there are none.

    A wrong answer is in brackets.
    """
    found = disagreements(content, first, second, 12)
    if not found:
        return None
    with mpl.rc_context(STYLE):
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
                    _answers(content, first, label, one),
                    _answers(content, second, label, other),
                ]
            )
            axes.set_title(said, fontsize=8)
        return svg(figure)


def _answers(content: Content, arm: str, label: int, predictions: Sequence[int]) -> str:
    """What an arm said: by seed where names are short, and otherwise what its seeds said most."""
    who = ARM_NAMES[arm].split(" (")[0]
    if max(map(len, content.classes)) <= 2:
        return f"{who}: {' '.join(_answer(content, label, one) for one in predictions)}"
    answer, count = Counter(predictions).most_common(1)[0]
    return f"{who}: {_answer(content, label, answer)} {count}/{len(predictions)}"


def _answer(content: Content, label: int, answer: int) -> str:
    name = _short(content.classes[answer])
    return name if answer == label else f"({name})"


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
