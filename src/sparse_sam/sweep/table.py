"""A sweep as a tidy table: a row a cell, sorted, the same from every engine.

Numbers stand with all their digits. What took how long where is a table of its own.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

from sparse_sam.files import write_csv
from sparse_sam.sweep.cells import Cell, Chosen
from sparse_sam.sweep.compute import Result
from sparse_sam.sweep.declaration import Scalar, Sweep
from sparse_sam.training import Cost

MEASURES = tuple(field.name for field in fields(Result))
NAME_LENGTH = 16
"""So many digits of a cell's name stand in the table."""


def columns(sweep: Sweep) -> list[str]:
    """The names of the columns."""
    tried = (path for arm in sweep.arms for one in arm.candidates for path, _ in one)
    axes = [axis.name for axis in sweep.axes]
    return ["purpose", *axes, "arm", *dict.fromkeys(tried), "seed", "chosen", *MEASURES, "cell"]


def rows(
    sweep: Sweep, cells: Iterable[Cell], results: Mapping[str, Result], chosen: Chosen
) -> list[list[Any]]:
    """A row for every cell that has a result: choosing first, then in the declaration's order."""
    names = columns(sweep)
    tried = names[names.index("arm") + 1 : names.index("seed")]
    places = _places(sweep)
    found = [cell for cell in cells if cell.key in results]
    found.sort(key=lambda cell: _order(cell, places))
    table = []
    for cell in found:
        labels = [_text(label) for _, label in cell.regime.labels]
        candidate = dict(cell.candidate)
        settings = [_text(candidate[path]) if path in candidate else "" for path in tried]
        taken = int(chosen.get((cell.regime, cell.arm)) == cell.candidate)
        measured = [_text(value) for value in astuple(results[cell.key])]
        name = cell.name[:NAME_LENGTH]
        table.append(
            [cell.purpose, *labels, cell.arm, *settings, cell.seed, taken, *measured, name]
        )
    return table


def write_table(path: Path, sweep: Sweep, table: Sequence[Sequence[Any]]) -> None:
    """Write the table as CSV."""
    write_csv(path, columns(sweep), table)


def write_costs(path: Path, cells: Iterable[Cell], costs: Mapping[str, Cost]) -> None:
    """Write what every cell took, as CSV, in the order of their names."""
    found = sorted({cell.name: costs[cell.key] for cell in cells if cell.key in costs}.items())
    table = [[name[:NAME_LENGTH], round(cost.seconds, 4), cost.worker] for name, cost in found]
    write_csv(path, ["cell", "seconds", "worker"], table)


def _places(sweep: Sweep) -> dict[str, list[Any]]:
    axes = {f"axis {axis.name}": [point.label for point in axis.points] for axis in sweep.axes}
    arms = {f"arm {arm.name}": list(arm.candidates) for arm in sweep.arms}
    return {**axes, **arms, "arms": [arm.name for arm in sweep.arms]}


def _order(cell: Cell, places: Mapping[str, list[Any]]) -> tuple[Any, ...]:
    where = (places[f"axis {name}"].index(label) for name, label in cell.regime.labels)
    arm = places["arms"].index(cell.arm)
    candidate = places[f"arm {cell.arm}"].index(cell.candidate)
    return (cell.purpose, *where, arm, candidate, cell.seed)


def _text(value: Scalar) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    return repr(value) if isinstance(value, float) else str(value)
