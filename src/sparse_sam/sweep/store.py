"""A sweep's results on disk, as they come: one file a cell, whole or not at all.

::

    STORE/cells/<key>.json           what a cell found, and what it was
    STORE/dense/<key>.safetensors    a dense network that cells share, or <key>.json: it diverged
    STORE/sweeps/<identity>.json     a sweep's cells, for whoever shows them
    STORE/<name>.csv                 its table
    STORE/log.jsonl                  what was begun, done and failed, and when
    STORE/lock                       held while a sweep writes here

Keys are hashes of what makes a result, so sweeps may share a store, and a file that is there is
never computed again. Nothing here is pickled.
"""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sparse_sam.errors import SparseSamError
from sparse_sam.files import write_json
from sparse_sam.redaction import redacted_values
from sparse_sam.sweep.compute import Diverged, Result
from sparse_sam.sweep.records import read_diverged, read_plan, read_record
from sparse_sam.sweep.work import Dense, Work
from sparse_sam.training import DENSE, Checkpoint, load_checkpoint, save_checkpoint


@dataclass(frozen=True)
class Cost:
    """What computing a cell took, and where it was done: never compared.

    Attributes:
        seconds: of the worker, with all that the cell needed.
        worker: node and process.
        ended: seconds since 1970.
    """

    seconds: float
    worker: str
    ended: float


class Store:
    """A folder of results. Reading takes no lock; writing is one process's at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("cells", "dense", "sweeps"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Be the one who writes. Raises SparseSamError if another process does."""
        lock = FileLock(self.folder / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise SparseSamError(
                f"another sweep is writing to {self.folder}. Wait for it, or give --store another "
                "folder."
            ) from None
        try:
            yield
        finally:
            lock.release()

    def finished(self) -> set[str]:
        """The keys of all cells that are done."""
        return {path.stem for path in (self.folder / "cells").glob("*.json")}

    def record(self, key: str) -> tuple[Result, Cost]:
        """What a finished cell found. Raises DataError if its file is damaged."""
        result, cost = read_record(self.cell_path(key))
        return result, Cost(**cost)

    def keep(self, key: str, work: Work, result: Result, cost: Cost) -> None:
        """Write what a cell found."""
        content = {
            "key": key,
            "work": work.content(),
            "result": asdict(result),
            "cost": asdict(cost),
        }
        write_json(self.cell_path(key), content)
        self.log("done", key, seconds=cost.seconds, worker=cost.worker)

    def dense(self, key: str, dense: Dense) -> Checkpoint | Diverged | None:
        """A dense network that is there already. Raises CheckpointError if its file is damaged."""
        diverged, path = self._dense_paths(key)
        if diverged.is_file():
            return read_diverged(diverged)
        if not path.is_file():
            return None
        return load_checkpoint(
            path,
            arm=DENSE,
            seed=dense.seed,
            dataset=dense.data,
            stage="train_dense",
            model=dense.model,
        )

    def keep_dense(self, key: str, found: Checkpoint | Diverged, cost: Cost) -> None:
        """Write a dense network, or that there is none."""
        diverged, path = self._dense_paths(key)
        if isinstance(found, Diverged):
            write_json(diverged, asdict(found))
        else:
            save_checkpoint(path, found)
        self.log("dense done", key, seconds=cost.seconds, worker=cost.worker)

    def plan(self, identity: str, content: dict[str, Any]) -> None:
        """Write down what a sweep consists of."""
        write_json(self.folder / "sweeps" / f"{identity}.json", content)

    def plans(self) -> list[dict[str, Any]]:
        """What every sweep of this store consists of. Raises DataError, naming file and key."""
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
        return self.folder / "cells" / f"{key}.json"

    def table(self, name: str) -> Path:
        """Where a sweep's table is, or will be."""
        return self.folder / f"{name}.csv"

    def _dense_paths(self, key: str) -> tuple[Path, Path]:
        folder = self.folder / "dense"
        return folder / f"{key}.json", folder / f"{key}.safetensors"
