"""One cell of a sweep, computed alone."""

import json
from dataclasses import asdict

from sparse_sam.errors import SparseSamError
from sparse_sam.sweep.cells import find, possible_cells
from sparse_sam.sweep.compute import Result
from sparse_sam.sweep.declaration import Sweep
from sparse_sam.sweep.engines import Done, Failed, Group, Sequential
from sparse_sam.sweep.sweeping import read_all


def reproduce(sweep: Sweep, name: str) -> str:
    """Compute one cell alone, from its data on, and say what was found, with all digits."""
    data, fingerprints = read_all(sweep)
    cell = find(list(possible_cells(sweep, fingerprints)), name)
    group = Group(cell.work.dense, (cell.work,))
    for event in Sequential().run([group], data, lambda _: None):
        if isinstance(event, Failed):
            raise SparseSamError(event.why)
        if isinstance(event, Done) and isinstance(event.found, Result):
            what = {
                "cell": cell.name,
                "purpose": cell.purpose,
                **dict(cell.regime.labels),
                "arm": cell.arm,
                **dict(cell.candidate),
                "seed": cell.seed,
            }
            return json.dumps({**what, **asdict(event.found)}, indent=2) + "\n"
    raise AssertionError("the cell was computed or failed")
