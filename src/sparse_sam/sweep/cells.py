"""A sweep's cells: all that is computed, first what chooses, then what is reported.

All of it is arithmetic on names: no cell is computed here, and every one can be named from the
declaration and the fingerprints of the data alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from sparse_sam.data import DataParams
from sparse_sam.errors import SparseSamError
from sparse_sam.sweep.declaration import Arm, Changes, Regime, Sweep
from sparse_sam.sweep.work import Work
from sparse_sam.training import Dense, Environment, identity, key_of

Purpose = Literal["choose", "report"]


@dataclass(frozen=True)
class Known:
    """What must be known to name cells.

    Attributes:
        fingerprints: of the data sets, by their parameters.
        environment: in which cells are computed.
        codes: hashes of the code behind cells, as they become known.
    """

    fingerprints: Mapping[DataParams, str]
    environment: Environment
    codes: dict[tuple[str, ...], str] = field(default_factory=dict)


Chosen = Mapping[tuple[Regime, str], Changes]
"""The candidate of every regime and arm that was chosen."""


@dataclass(frozen=True)
class Cell:
    """One row of the table.

    Attributes:
        purpose: whether it chooses or is reported.
        regime: where on the axes it lies.
        arm: the arm's name.
        candidate: what it tries, or what was chosen.
        seed: of everything random.
        work: what is computed; cells of different names may share it.
        name: SHA-256 of the work's parameters and data.
        key: the same with the code and what it is run on: where its result is kept.
    """

    purpose: Purpose
    regime: Regime
    arm: str
    candidate: Changes
    seed: int
    work: Work
    name: str
    key: str


def data_of(sweep: Sweep) -> list[DataParams]:
    """The data sets that the sweep reads, each once."""
    arm = sweep.arms[0]
    found = (sweep.params(one, arm, arm.candidates[0], 0).data for one in sweep.regimes())
    return list(dict.fromkeys(found))


def choosing_cells(sweep: Sweep, known: Known) -> Iterator[Cell]:
    """Every candidate of the arms that have a choice, for every seed that chooses.

    Where nothing is reported every arm is tried, whether it has a choice or not.
    """
    for regime in sweep.regimes():
        for arm in sweep.arms:
            if len(arm.candidates) > 1 or not sweep.seeds.reporting:
                for candidate in arm.candidates:
                    for seed in sweep.seeds.choosing:
                        yield _cell(sweep, known, "choose", regime, arm, candidate, seed)


def reporting_cells(sweep: Sweep, known: Known, chosen: Chosen) -> Iterator[Cell]:
    """The chosen candidate of every arm that has one, for every seed that is reported."""
    for regime in sweep.regimes():
        for arm in sweep.arms:
            if (regime, arm.name) in chosen:
                candidate = chosen[regime, arm.name]
                for seed in sweep.seeds.reporting:
                    yield _cell(sweep, known, "report", regime, arm, candidate, seed)


def possible_cells(sweep: Sweep, known: Known) -> Iterator[Cell]:
    """Every cell that there could be, whatever is chosen."""
    yield from choosing_cells(sweep, known)
    for regime in sweep.regimes():
        for arm in sweep.arms:
            for candidate in arm.candidates:
                for seed in sweep.seeds.reporting:
                    yield _cell(sweep, known, "report", regime, arm, candidate, seed)


def find(cells: Sequence[Cell], name: str) -> Cell:
    """The cell whose name or key begins so.

    Raises:
        SparseSamError: there is none, or several.
    """
    found = {cell.key: cell for cell in cells if cell.name.startswith(name)} or {
        cell.key: cell for cell in cells if cell.key.startswith(name)
    }
    if len(found) != 1:
        count = "no cell" if not found else f"{len(found)} cells"
        raise SparseSamError(
            f"{count} of this sweep begin with {name!r}. See the column cell of the table for "
            "the names; they change when the declaration or the data change."
        )
    return next(iter(found.values()))


def _cell(
    sweep: Sweep,
    known: Known,
    purpose: Purpose,
    regime: Regime,
    arm: Arm,
    candidate: Changes,
    seed: int,
) -> Cell:
    params = sweep.params(regime, arm, candidate, seed)
    fingerprint, model = known.fingerprints[params.data], params.model
    dense = Dense(fingerprint, model.network, params.train_dense, seed, model.files)
    reported = purpose == "report"
    work = Work(
        dense=dense,
        prune=params.prune,
        arm=arm.arm,
        finetune=params.finetune,
        flatness=sweep.flatness if reported else None,
        tested=reported,
    )
    return Cell(
        purpose,
        regime,
        arm.name,
        candidate,
        seed,
        work,
        identity(work),
        key_of(work, known.environment, known.codes),
    )
