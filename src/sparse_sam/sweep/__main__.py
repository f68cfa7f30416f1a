"""``python -m sparse_sam.sweep FILE``: run what is not done of a sweep, and write its table."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sparse_sam.errors import SparseSamError
from sparse_sam.files import needed_by
from sparse_sam.redaction import guard_output

with needed_by("python -m sparse_sam.sweep", "sweep"):
    from sparse_sam.sweep.declaration import Sweep, load_sweep

if TYPE_CHECKING:
    from sparse_sam.sweep.sweeping import Swept
    from sparse_sam.training import Engine


def arguments_of() -> argparse.ArgumentParser:
    """The arguments of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m sparse_sam.sweep",
        description=(
            "Compute the cells of a sweep that are not done yet, and write its table "
            "(docs/sweeps.md)."
        ),
    )
    parser.add_argument(
        "file", type=Path, help="the file that declares the sweep, such as sweep.yaml"
    )
    parser.add_argument(
        "--engine", choices=("ray", "sequential"), default="ray", help="what computes the cells"
    )
    parser.add_argument("--address", help="address of a running Ray cluster (default: start one)")
    parser.add_argument("--cores", type=int, help="cores of this machine that a started Ray uses")
    parser.add_argument(
        "--store",
        type=Path,
        help="folder for the sweep and all its results (default: .sparse-sam/sweeps/<name>, with "
        "results in the store)",
    )
    parser.add_argument("--table", type=Path, help="where to write the table (<store>/<name>.csv)")
    parser.add_argument("--cell", metavar="NAME", help="compute this cell again, and print it")
    parser.add_argument("--no-mlflow", action="store_true", help="send nothing to MLflow")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 when every cell is done."""
    asked = arguments_of().parse_args(arguments)
    try:
        sweep = load_sweep(asked.file)
    except SparseSamError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    try:
        if asked.cell:
            from sparse_sam.sweep.one_cell import reproduce

            sys.stdout.write(reproduce(sweep, asked.cell))
            return 0
        return run(sweep, asked)
    except SparseSamError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("stopped; run the same command to continue\n")
        return 130


def run(sweep: Sweep, asked: argparse.Namespace) -> int:
    """Run a sweep, with a line of progress, and say what came of it."""
    from sparse_sam.sweep.progress import Progress
    from sparse_sam.sweep.sending import Sending
    from sparse_sam.sweep.store import Store
    from sparse_sam.sweep.sweeping import run_sweep
    from sparse_sam.sweep.table import write_costs, write_table
    from sparse_sam.tracking import open_store, repository_root, state_folder

    root = repository_root()
    folder = asked.store or state_folder(root) / "sweeps" / sweep.name
    store = Store(folder, None if asked.store else open_store(root))
    with engine_of(asked) as engine, Sending(store, root, idle=asked.no_mlflow):
        swept = run_sweep(sweep, store, engine, Progress(sweep.name, engine.workers))
        for path in filter(None, (store.table(sweep.name), asked.table)):
            write_table(path, sweep, swept.table)
        write_costs(folder / "costs.csv", swept.cells, swept.costs)
    sys.stdout.write(
        f"{sweep.name}: {len(swept.table)} of {len(swept.cells)} cells, {swept.computed} computed "
        f"now; {asked.table or store.table(sweep.name)}\n"
    )
    return _complain(swept, folder)


def _complain(swept: "Swept", folder: Path) -> int:
    """Say what failed; 1 if anything did."""
    for why in dict.fromkeys(swept.failures.values()):
        count = sum(one == why for one in swept.failures.values())
        tasks = "task" if count == 1 else "tasks"
        sys.stderr.write(f"error: {count} {tasks} failed: {why.strip().splitlines()[-1]}\n")
    for (regime, arm), why in swept.lacking.items():
        where = ", ".join(f"{name} = {label}" for name, label in regime.labels)
        sys.stderr.write(f"error: {where}, arm {arm}: no result: {why}\n")
    if swept.failures:
        sys.stderr.write(
            f"Tracebacks are in {folder / 'log.jsonl'}. Run the same command to retry.\n"
        )
    return 1 if swept.failures or swept.lacking else 0


@contextmanager
def engine_of(asked: argparse.Namespace) -> "Iterator[Engine]":
    """The engine that was asked for, and its end."""
    if asked.engine == "sequential":
        from sparse_sam.training import Sequential

        yield Sequential()
        return
    from sparse_sam.training import OnRay

    engine = OnRay(asked.address, asked.cores)
    try:
        yield engine
    finally:
        engine.close()


if __name__ == "__main__":
    guard_output()
    sys.exit(main())
