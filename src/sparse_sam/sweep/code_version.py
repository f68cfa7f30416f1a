"""Which version of the code computes a cell: a hash over the files that its numbers depend on."""

import hashlib
import json
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sparse_sam.files import own_code

_LIBRARY = Path(__file__).parents[1]
COMPUTING = ("files", "data", "networks", "pruning", "sam", "training", "evaluation/flatness")
"""The rooms that ``sweep.compute`` is made of; the others check, name, write or show."""


def code_version(parameters: Any) -> str:
    """SHA-256 of torch's version, of the rooms behind a cell, and of code of the user's own.

    Args:
        parameters: what the cell is made of, as plain values; code that they name counts.
    """
    own = json.dumps(own_code(parameters), sort_keys=True)
    return hashlib.sha256(f"{_library_version()} {own}".encode()).hexdigest()


@cache
def _library_version() -> str:
    digest = hashlib.sha256(f"torch {version('torch')}".encode())
    for path in files():
        name = path.relative_to(_LIBRARY).as_posix()
        digest.update(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}".encode())
    return digest.hexdigest()


def files() -> list[Path]:
    """The library's files that a cell's numbers depend on."""
    rooms = [_LIBRARY / room for room in COMPUTING]
    # What a front door offers, its stub says.
    found = [path for room in rooms for kind in ("*.py", "*.pyi") for path in room.rglob(kind)]
    return sorted([*found, _LIBRARY / "sweep" / "compute.py"])
