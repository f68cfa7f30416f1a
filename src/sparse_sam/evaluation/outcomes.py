"""What the gate found, as tables: Markdown for a pull request, columns for a terminal."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TextIO

from sparse_sam.files import needed_by
from sparse_sam.terminal import Style, styled

with needed_by("python -m sparse_sam.evaluation.gate", "pipeline"):
    from tabulate import tabulate

_FAILING = ("WORSE", "MISSING")
_HEADERS = ("metric", "base", "now", "change", "tolerance", "")


@dataclass(frozen=True)
class Row:
    """How one metric did. ``base``, ``now`` and ``tolerance`` are None where they are missing.

    ``new`` is one that there is nothing to compare with: the results are the first, or of what
    gate.yaml accepts.
    """

    metric: str
    base: float | None
    now: float | None
    tolerance: float | None
    outcome: Literal["unchanged", "within", "better", "changed", "new", "WORSE", "MISSING"]

    @property
    def fails(self) -> bool:
        """Whether the gate stays shut for it."""
        return self.outcome in _FAILING


def gate_table(rows: Sequence[Row], base: str) -> str:
    """The rows as a table for a pull request, in Markdown, those that fail first."""
    if not rows:
        return f"**{_headline(rows, base)}**\n"
    lines = [
        f"**{_headline(rows, base)}**",
        "",
        f"| {' | '.join(_HEADERS)}|",
        "|---|---|---|---|---|---|",
    ]
    lines += [f"| {' | '.join((row.metric, *_cells(row)))} |" for row in _sorted(rows)]
    return "\n".join(lines) + "\n"


def terminal_table(rows: Sequence[Row], base: str, stream: TextIO) -> str:
    """The rows in columns that line up, file by file; what fails in red where there is colour."""
    found: list[tuple[str, ...]] = []
    file = ""
    for row in _sorted(rows):
        of, _, metric = row.metric.partition(": ")
        if of != file:
            file = of
            found.append((of,))
        found.append((f"  {metric}", *_cells(row)))
    align = ("left", *["right"] * 4, "left")
    lines = tabulate(
        [(*cells, *[""] * (6 - len(cells))) for cells in found],
        _HEADERS,
        disable_numparse=True,
        colalign=align,
        tablefmt="simple",
        preserve_whitespace=True,
    ).splitlines()
    shown = [
        styled(line, "error", stream) if line.endswith(_FAILING) else line
        for line in map(str.rstrip, lines if rows else [])
    ]
    style: Style = "error" if any(row.fails for row in rows) else "answer"
    head = styled(_headline(rows, base), style, stream)
    return "\n".join([head, *([""] if rows else []), *shown]) + "\n"


def _headline(rows: Sequence[Row], base: str) -> str:
    if not rows:
        return f"No results, here or in {base}: there is nothing to compare."
    count = Counter(row.outcome for row in rows)
    failed = sum(row.fails for row in rows)
    said = [f"{failed or 'none'} of {len(rows)} worse or missing", f"{count['better']} better"]
    said += [f"{count['changed']} changed"] if count["changed"] else []
    said += [f"{count['new']} new, with nothing to compare with"] if count["new"] else []
    return f"Metrics against {base}: {', '.join(said)}."


def _sorted(rows: Sequence[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: not row.fails)


def _cells(row: Row) -> tuple[str, ...]:
    """All but the metric's name."""
    change = "" if row.base is None or row.now is None else f"{row.now - row.base:+.6g}"
    return (_number(row.base), _number(row.now), change, _number(row.tolerance), row.outcome)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
