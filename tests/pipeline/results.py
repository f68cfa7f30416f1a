"""Everything that a pipeline writes, to be compared: every byte but what clocks measured."""

import csv
import json
import re
from pathlib import Path
from typing import Any

from sparse_sam.files.atomic import file_hash

MEASURED = re.compile(r"seconds|latency|_ms$|peak_step_memory")
"""What no two runs measure alike."""


def written(folder: Path) -> dict[str, Any]:
    """Every file that the stages write, by its name: a hash, or numbers without times.

    Journals (which run when) and the report (which shows all of it, and who made it) are left out.
    """
    found: dict[str, Any] = {}
    for pattern in ("data/*.safetensors", "models/*/*", "inputs/*"):
        for path in folder.glob(pattern):
            found[path.relative_to(folder).as_posix()] = file_hash(path)
    for path in folder.glob("metrics/*.json"):
        found[path.relative_to(folder).as_posix()] = without_times(json.loads(path.read_text()))
    for path in folder.glob("plots/*.csv"):
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        found[path.relative_to(folder).as_posix()] = without_times(rows)
    assert len(found) > 20
    return found


def without_times(value: Any) -> Any:
    """The same value without what clocks and allocators measured."""
    if isinstance(value, dict):
        kept = ((key, one) for key, one in value.items() if not MEASURED.search(key))
        return {key: without_times(one) for key, one in kept}
    return [without_times(one) for one in value] if isinstance(value, list) else value


def differing(one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    """The files that are not the same."""
    return {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}
