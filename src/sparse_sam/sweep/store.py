"""A sweep's folder: which cells it is made of, what became of them, and where their results are.

::

    FOLDER/sweeps/<identity>.json     a sweep's cells, for whoever shows them
    FOLDER/<name>.csv                 its table
    FOLDER/log.jsonl                  what was begun, done and failed, and when
    FOLDER/lock                       held while a sweep writes here

Results lie in a store of ``files.Store``, under keys that are hashes of what makes them: sweeps and
stages share it, and what is there is never computed again. Nothing here is pickled.
"""

import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import ValidationError

from sparse_sam import files
from sparse_sam.errors import SparseSamError
from sparse_sam.files import first_fault, write_json
from sparse_sam.redaction import redacted_values
from sparse_sam.sweep.compute import Result
from sparse_sam.sweep.records import parse_record, read_plan
from sparse_sam.sweep.work import Work
from sparse_sam.training import (
    Checkpoint,
    Cost,
    Dense,
    Diverged,
    Kept,
    Origin,
    Trained,
    keep_trained,
    keep_training,
    take_training,
)

CELL = "cell"
"""The kind of a cell's result."""


class Store:
    """A sweep's folder, and the store of results. Reading takes no lock; a folder has one writer.

    Args:
        folder: the sweep's.
        results: where results are kept; None keeps them in the same folder.
    """

    def __init__(self, folder: Path, results: files.Store | None = None) -> None:
        self.folder = folder
        self.results = results or files.Store(folder)
        (folder / "sweeps").mkdir(parents=True, exist_ok=True)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Be the one who writes. Raises SparseSamError if another process does."""
        lock = FileLock(self.folder / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise SparseSamError(
                f"another sweep is writing to {self.folder}. Wait for it to end, or choose "
                "another folder with --store."
            ) from None
        try:
            yield
        finally:
            lock.release()

    def finished(self) -> set[str]:
        """The keys of all cells that are done."""
        return self.results.keys(CELL)

    def record(self, key: str) -> tuple[Result, Cost] | None:
        """What a finished cell found; None if it is not there or not sound, which is said."""
        about = self.results.about(CELL, key)
        if about is None:
            return None
        try:
            return parse_record(about)
        except ValidationError as error:
            sys.stderr.write(
                f"warning: {self.cell_path(key)} is not a valid result "
                f"({first_fault(error)}); it is computed again\n"
            )
            self.results.drop(CELL, key)
            return None

    def keep(self, key: str, work: Work, result: Result, cost: Cost) -> None:
        """Write what a cell found."""
        about = {"work": work.content(), "result": asdict(result), "cost": asdict(cost)}
        self.results.keep(CELL, key, about)
        self.log("done", key, seconds=cost.seconds, worker=cost.worker)

    def dense(self, key: str, dense: Dense, expected: Origin) -> Checkpoint | Diverged | None:
        """A dense network that is there already, a stage's or a sweep's."""
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder) / "taken"
            kept = take_training(self.results, key, place, expected, dense.recipe.epochs)
        return kept.checkpoint if isinstance(kept, Kept) else kept

    def keep_dense(self, key: str, dense: Dense, found: Trained | Diverged, cost: Cost) -> None:
        """Write a dense network, or that there is none."""
        if isinstance(found, Diverged):
            keep_training(self.results, key, dense.content(), found, None, cost)
        else:
            keep_trained(self.results, key, dense.content(), found, cost)
        self.log("dense done", key, seconds=cost.seconds, worker=cost.worker)

    def plan(self, identity: str, content: dict[str, Any]) -> None:
        """Write down what a sweep consists of."""
        write_json(self.folder / "sweeps" / f"{identity}.json", content)

    def plans(self) -> list[dict[str, Any]]:
        """What every sweep of this folder consists of. Raises DataError, naming file and key."""
        return [read_plan(path) for path in sorted((self.folder / "sweeps").glob("*.json"))]

    def log(self, event: str, key: str, **more: Any) -> None:
        """Add a line to the log."""
        known = redacted_values(more)  # tracebacks among it
        line = json.dumps({"event": event, "key": key, "time": round(time.time(), 3), **known})
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def events(self) -> Sequence[dict[str, Any]]:
        """The whole lines of the log."""
        path = self.folder / "log.jsonl"
        if not path.is_file():
            return []
        found = []
        for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                found.append(json.loads(line))
            except (ValueError, RecursionError):  # the writer was killed within it
                continue
        return found

    def cell_path(self, key: str) -> Path:
        """Where a cell's result is, or will be."""
        return self.results.entry_path(CELL, key)

    def table(self, name: str) -> Path:
        """Where a sweep's table is, or will be."""
        return self.folder / f"{name}.csv"
