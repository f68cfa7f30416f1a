"""Small sweeps over genuine digits, that take a second."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sparse_sam.sweep.cells import Known, data_of
from sparse_sam.sweep.declaration import Sweep, parse_sweep
from sparse_sam.sweep.sweeping import Data, read_all
from sparse_sam.training.engines import Sequential
from tests.recipes import NOT_DISTILLED, prune_values, sam_values

if TYPE_CHECKING:
    from collections.abc import Callable

    from sparse_sam.training.params import TrainingParams


@pytest.fixture(scope="session")
def declared(
    idx_folder: Path, tiny_net: str, make_recipe: Callable[..., TrainingParams]
) -> Callable[..., dict[str, Any]]:
    """The content of a sweep.yaml: 16 cells that choose and 32 that are reported, but for ..."""

    def make(**changes: Any) -> dict[str, Any]:
        recipe = make_recipe(epochs=1, batch_size=32, momentum=0.9).model_dump()
        content = {
            "name": "small",
            "seeds": {"choosing": [100], "reporting": [0, 1]},
            "search": {"samples": None, "seed": 0},
            "flatness": {"images": 16, "rho": 0.05, "steps": 1},
            "equivalence_margin": 0.005,
            "base": {
                "data": {
                    "source": "idx",
                    "fraction": 1.0,
                    "validation_fraction": 0.25,
                    "split_seed": 0,
                    "test_fraction": 0.2,
                    "channels": None,
                    "image_size": None,
                    "folder": str(idx_folder),
                    "mirror": None,
                },
                "model": {"name": tiny_net, "arguments": {}, "files": [], "checkpoint": None},
                "train_dense": {**recipe, "optimizer": "sgd", "sam": sam_values()},
                "prune": prune_values(),
                "finetune": {
                    "training": dict(recipe),
                    "distillation": NOT_DISTILLED.model_dump(),
                    "sam": sam_values(),
                },
            },
            "axes": {"train_dense.optimizer": ["sgd", "sam"], "prune.sparsity": [0.0, 0.8]},
            "arms": {
                "sgd": arm("sgd", {"finetune.training.lr": [0.02, 0.1]}),
                "sgd_2x": arm("sgd_2x", {}),
                "sam": arm("sam", {"finetune.sam.rho": [0.02, 0.1]}),
                "momentum": {**arm("sam", {}), "fixed": {"finetune.sam.variant": "momentum"}},
            },
        }
        return copy.deepcopy({**content, **changes})

    return make


def arm(name: str, choose: dict[str, Any]) -> dict[str, Any]:
    return {"arm": name, "fixed": {}, "choose": choose}


@pytest.fixture(scope="session")
def small(declared: Callable[..., dict[str, Any]]) -> Sweep:
    return parse_sweep(declared())


def known_as(sweep: Sweep, data: str) -> Known:
    """Every data set of a sweep by one fingerprint, or numbered ones for "numbered"."""
    sets = enumerate(data_of(sweep))
    names = {one: f"data {number}" if data == "numbered" else data for number, one in sets}
    return Known(names, Sequential().environment())


def known_of(sweep: Sweep) -> tuple[Data, Known]:
    """The data sets of a sweep, and what names its cells."""
    data, fingerprints = read_all(sweep)
    return data, Known(fingerprints, Sequential().environment())


Rows = list[dict[str, str]]


def read_table(path: Path) -> Rows:
    """A CSV as its rows by column."""
    import csv

    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
