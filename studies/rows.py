"""Results as rows of a file, one for each network: what was stopped goes on, on any machine."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from sparse_sam.errors import SparseSamError
from sparse_sam.files import read_json, write_json, write_text
from sparse_sam.training import Environment, run_jobs

Row = dict[str, Any]
Key = Callable[[Row], tuple[Any, ...]]
Told = Callable[[Row], None]

CPU = torch.device("cpu")
_OTHERS = {"fingerprint": "other images", "declared": "another declaration"}


def read_rows(path: Path) -> list[Row]:
    """The rows of a file, in the order in which they were made; none if there is no file."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return [json.loads(line) for line in text.splitlines()]


class Rows:
    """The rows of a file by what they are of; the file is whole after each.

    Attributes:
        by_key: the rows.
    """

    def __init__(self, path: Path, key: Key) -> None:
        self._path, self._key = path, key
        self.by_key = {key(row): row for row in read_rows(path)}

    def take(self, row: Row) -> None:
        """Keep a row, in the place of one of the same."""
        self.by_key[self._key(row)] = row
        self._path.parent.mkdir(parents=True, exist_ok=True)
        lines = (json.dumps(one, separators=(",", ":")) for one in self.by_key.values())
        write_text(self._path, "".join(f"{line}\n" for line in lines))

    def make(
        self, work: Callable[[Any, Told], Any], jobs: Sequence[Any], *, side_by_side: bool = True
    ) -> None:
        """Do jobs, as ``run_jobs`` does, and keep every row that they tell of."""
        with tqdm(desc="networks", initial=len(self.by_key), disable=None) as progress:

            def take(_: Any, row: Row) -> None:
                self.take(row)
                progress.update()

            run_jobs(work, jobs, on_report=take, side_by_side=side_by_side)


def digest_of(values: Any) -> str:
    """Twelve digits that name what is declared."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def check_kept(path: Path, made_of: Mapping[str, str]) -> None:
    """Keep beside the rows what they are made of, so that no others are mixed with them.

    Raises:
        SparseSamError: the rows are of something else.
    """
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, dict(made_of))
    kept = read_json(path)
    for name, value in made_of.items():
        if kept.get(name) != value:
            raise SparseSamError(
                f"{path}: the rows beside it are of {_OTHERS[name]} ({name} {kept.get(name)}, and "
                f"here {value}): give the same, or remove the folder to begin anew"
            )


def machine(device: torch.device = CPU) -> str:
    """What kind of processor and torch made a row: digits are those of its kind."""
    here = Environment.here(device, 1)
    return f"{here.version} {here.kernels}"
