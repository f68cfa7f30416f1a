"""What a report is made of, as it comes from the stages' files and from the evaluation."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = list[dict[str, str]]


@dataclass(frozen=True)
class Provenance:
    """Which run made a stage's results: its journal's identity, commit, and DVC's hashes.

    Attributes:
        ended: when, in milliseconds since 1970; None if its journal does not say.
        machine: on what it ran, in words.
        params: those that the stage ran with, flat.
    """

    stage: str
    run: str
    commit: str
    dirty: bool
    outputs: dict[str, str]
    ended: int | None = None
    machine: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Content:
    """Everything that the report shows.

    Of what was measured beside the summary some may be missing, and say why (``files.why_not``).

    Attributes:
        summary: ``metrics/summary.json``.
        params: those that make a difference, flat.
        fingerprint: of the data set.
        histories: by finetuned arm, the rows of ``plots/<arm>.csv``.
        provenance: a row for every stage whose journal is there.
        compression: ``metrics/compression.json``, or None.
        cost: ``metrics/cost.json``, or None.
        flatness: ``metrics/flatness.json``, or None.
        slices: the rows of ``plots/loss_slice.csv``.
        surfaces: the rows of ``plots/loss_surface.csv``.
        labels: of the test images, (N,).
        predictions: by arm, (seeds, N).
        images: the test images, uint8 (N, channels, height, width).
        classes: their names, in the order of the labels.
        changed: what parameters differ from those that a project begins with, in short.
        is_ticket: whether the arm ``pruned`` has initial weights under its masks, not trained ones.
        came_sparse: whether the dense network was given with the zeros that are its masks.
    """

    summary: Mapping[str, Any]
    params: Mapping[str, Any]
    fingerprint: str
    histories: Mapping[str, Rows]
    provenance: Sequence[Provenance]
    compression: Mapping[str, Any] | None
    cost: Mapping[str, Any] | None
    flatness: Mapping[str, Any] | None
    slices: Rows
    surfaces: Rows
    labels: NDArray[np.int64]
    predictions: Mapping[str, NDArray[np.int64]]
    images: NDArray[np.uint8]
    classes: Sequence[str]
    changed: str | None = None
    is_ticket: bool = False
    came_sparse: bool = False


def read_rows(path: Path) -> Rows:
    """The rows of a CSV file; [] if it is not there."""
    if not path.is_file():
        return []
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def confusion(
    labels: NDArray[np.int64], predictions: NDArray[np.int64], classes: int
) -> NDArray[np.int64]:
    """Counts by (label, prediction), summed over seeds. ``predictions`` is (seeds, N)."""
    counts = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(counts, (np.broadcast_to(labels, predictions.shape), predictions), 1)
    return counts


def disagreements(
    content: Content, first: str, second: str, most: int
) -> list[tuple[int, int, list[int], list[int]]]:
    """Test images on which two arms differ most: index, label, each arm's predictions by seed."""
    one, other = content.predictions[first], content.predictions[second]
    right = (one == content.labels).sum(0) - (other == content.labels).sum(0)
    order = np.argsort(-np.abs(right), kind="stable")[:most]
    return [
        (int(i), int(content.labels[i]), one[:, i].tolist(), other[:, i].tolist())
        for i in order
        if right[i]
    ]
