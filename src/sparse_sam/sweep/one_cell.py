"""One cell of a sweep, computed alone."""

import json
from dataclasses import asdict

from sparse_sam.sweep import compute
from sparse_sam.sweep.cells import Known, find, possible_cells
from sparse_sam.sweep.declaration import Sweep
from sparse_sam.sweep.sweeping import read_all
from sparse_sam.training import Sequential, Trained, one_thread


def reproduce(sweep: Sweep, name: str) -> str:
    """Compute one cell alone, from its data on, and say what was found, with all digits."""
    data, fingerprints = read_all(sweep)
    known = Known(fingerprints, Sequential().environment())
    cell = find(list(possible_cells(sweep, known)), name)
    work, training = cell.work, data.training[cell.work.dense.data]
    with one_thread():
        dense = compute.dense_network(work.dense, training)
        network = dense.checkpoint if isinstance(dense, Trained) else dense
        test = data.test[work.dense.data] if work.tested else None
        found = compute.measure(work, network, training, test)
    what = {
        "cell": cell.name,
        "purpose": cell.purpose,
        **dict(cell.regime.labels),
        "arm": cell.arm,
        **dict(cell.candidate),
        "seed": cell.seed,
    }
    return json.dumps({**what, **asdict(found)}, indent=2) + "\n"
