"""Keys: equal for what is equal, and different for all that makes a difference."""

import ast
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sparse_sam
from sparse_sam.config import Params
from sparse_sam.errors import SparseSamError
from sparse_sam.sweep import code_version as code
from sparse_sam.sweep.cells import (
    Cell,
    choosing_cells,
    data_of,
    find,
    possible_cells,
    reporting_cells,
)
from sparse_sam.sweep.declaration import FlatnessParams, Sweep, parse_sweep
from sparse_sam.sweep.sweeping import read_all
from sparse_sam.sweep.work import Dense, Work, identity, key_of
from sparse_sam.training.params import DenseParams, FinetuneParams
from tests.recipes import prune_params, sam_params

LIBRARY = Path(sparse_sam.__file__).parent


def fingerprints(sweep: Sweep) -> dict[Any, str]:
    return {one: f"data {number}" for number, one in enumerate(data_of(sweep))}


@pytest.fixture(scope="module")
def cells(small: Sweep) -> list[Cell]:
    return list(possible_cells(small, fingerprints(small)))


def test_cells_are_those_of_the_declaration(small: Sweep) -> None:
    known = fingerprints(small)
    choosing = list(choosing_cells(small, known))
    assert len(choosing) == 4 * (2 + 2)
    chosen = {
        (regime, arm.name): arm.candidates[-1]
        for regime in small.regimes()
        for arm in small.arms
        if arm.name != "sgd"
    }
    reported = list(reporting_cells(small, known, chosen))
    assert len(reported) == 4 * 3 * 2  # nothing was chosen for sgd
    assert {cell.work.tested for cell in choosing} == {False}
    assert {cell.work.tested for cell in reported} == {True}
    assert {cell.work.flatness for cell in choosing} == {None}
    possible = {cell.key for cell in possible_cells(small, known)}
    assert {cell.key for cell in (*choosing, *reported)} < possible


def test_a_cell_is_found_by_the_beginning_of_its_name(cells: list[Cell]) -> None:
    for cell in cells:
        assert find(cells, cell.name[:16]).key == cell.key
        assert find(cells, cell.key).name == cell.name
    with pytest.raises(SparseSamError, match=f"{len(cells)} cells of this sweep begin with ''"):
        find(cells, "")


def test_different_cells_have_different_keys(cells: list[Cell]) -> None:
    assert len({cell.key for cell in cells}) == len(cells)
    assert len({cell.work for cell in cells}) == len(cells)


def test_data_code_and_choice_make_a_difference(
    small: Sweep, cells: list[Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = list(possible_cells(small, dict.fromkeys(data_of(small), "other")))
    assert not {cell.key for cell in cells} & {cell.key for cell in other}
    work = cells[0].work
    keys = []
    for version in ("a", "b", "a"):
        monkeypatch.setattr("sparse_sam.sweep.work.code_version", lambda _, is_=version: is_)
        keys.append(key_of(work))
    assert keys[0] == keys[2] != keys[1]
    assert identity(work) == identity(dataclasses.replace(work))
    assert identity(dataclasses.replace(work, tested=True)) != identity(work)


# Drawn parameters

RECIPE = st.fixed_dictionaries(
    {
        "epochs": st.integers(1, 9),
        "batch_size": st.integers(2, 99),
        "lr": st.floats(1e-3, 1),
        "momentum": st.floats(0.1, 0.9),
        "weight_decay": st.floats(0, 0.1),
        "schedule": st.sampled_from(["constant", "cosine"]),
    }
)
RHO = st.floats(0, 1)


@st.composite
def works(draw: Any, make: Any) -> Work:
    recipe = make(**draw(RECIPE)).model_dump()
    dense = DenseParams(
        **recipe, optimizer=draw(st.sampled_from(["sgd", "sam"])), sam=sam_params(draw(RHO))
    )
    finetune = FinetuneParams(training=make(**draw(RECIPE)), sam=sam_params(draw(RHO)))
    flatness = FlatnessParams(images=8, rho=draw(st.floats(0.01, 1)), steps=1)
    return Work(
        dense=Dense(draw(st.text(max_size=3)), "mlpnet", dense, draw(st.integers(0, 3))),
        prune=prune_params(sparsity=draw(st.floats(0, 0.99))),
        arm=draw(st.sampled_from(["sgd", "sgd_2x", "sam"])),
        finetune=finetune,
        flatness=draw(st.sampled_from([None, flatness])),
        tested=draw(st.booleans()),
    )


@given(data=st.data())
def test_works_are_equal_exactly_when_their_names_are(
    data: st.DataObject, make_recipe: Callable[..., Any]
) -> None:
    one = data.draw(works(make_recipe))
    other = data.draw(st.sampled_from([one, data.draw(works(make_recipe))]))
    assert (identity(one) == identity(other)) == (one.content() == other.content())
    assert key_of(one) == key_of(dataclasses.replace(one))


@given(data=st.data(), rho=RHO)
def test_what_an_arm_does_not_use_makes_no_difference(
    data: st.DataObject, rho: float, make_recipe: Callable[..., Any]
) -> None:
    work = data.draw(works(make_recipe))
    other = work.finetune.model_copy(update={"sam": sam_params(rho)})
    same = identity(dataclasses.replace(work, finetune=other)) == identity(work)
    assert same == (work.arm != "sam" or rho == work.finetune.sam.rho)
    recipe = work.dense.recipe.model_copy(update={"sam": sam_params(rho)})
    dense = dataclasses.replace(work.dense, recipe=recipe)
    same = identity(dense) == identity(work.dense)
    assert same == (work.dense.recipe.optimizer == "sgd" or rho == work.dense.recipe.sam.rho)


# The version of the code


ONE_CELL = """
import json, sys
from sparse_sam.sweep.declaration import parse_sweep
from sparse_sam.sweep.one_cell import reproduce

reproduce(parse_sweep(json.loads(sys.argv[1])), sys.argv[2])
modules = sys.modules.items()
print(json.dumps({name: one.__file__ for name, one in modules if name.startswith("sparse_sam")}))
"""
# They read, check, name or write, and make no number of a cell: every value that they pass on is
# hashed, and statistics are over seeds.
OBSERVERS = {
    *("sparse_sam", "sparse_sam.config", "sparse_sam.errors", "sparse_sam.redaction"),
    *("sparse_sam.evaluation", "sparse_sam.evaluation.params", "sparse_sam.evaluation.statistics"),
}


def test_the_code_behind_a_cell_is_what_computing_one_loads(
    declared: Callable[..., dict[str, Any]],
) -> None:
    """With SAM before and after pruning, tested, and its sharpness measured."""
    content = declared()
    content["base"]["model"]["name"] = "mlpnet"
    sweep = parse_sweep(content)
    _, known = read_all(sweep)
    cells = possible_cells(sweep, known)
    (cell, *_) = (
        one
        for one in cells
        if (one.purpose, one.arm, dict(one.regime.labels)["train_dense.optimizer"])
        == ("report", "momentum", "sam")
    )
    done = subprocess.run(
        [sys.executable, "-c", ONE_CELL, json.dumps(content), cell.name],
        env={**os.environ, "PYTHONPATH": str(LIBRARY.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    loaded = {name: Path(file) for name, file in json.loads(done.stdout).items()}
    rooms = {name.split(".")[1] for name in loaded if "." in name}
    assert not rooms & {"export", "tracking"}
    computing = {
        path
        for name, path in loaded.items()
        if name not in OBSERVERS and not name.startswith("sparse_sam.sweep")
    }
    assert computing | {LIBRARY / "sweep" / "compute.py"} <= set(code.files())
    # And every room that counts is one that a cell needs.
    assert {LIBRARY / room for room in code.COMPUTING} <= {
        folder for path in computing for folder in path.parents
    }


def test_a_new_table_or_report_is_no_other_version() -> None:
    found = {path.relative_to(LIBRARY).as_posix() for path in code.files()}
    assert {
        "sweep/compute.py",
        "training/experiment.py",
        "training/loop.py",
        "sam/optimizer.py",
        "pruning/criteria.py",
        "evaluation/flatness/sharpness.py",
        "networks/build.py",
        "data/stratify.py",
    } <= found
    assert not found & {
        "sweep/table.py",
        "sweep/on_ray.py",
        "sweep/store.py",
        "sweep/declaration.py",
        "tracking/mlflow_store.py",
        "evaluation/report/render.py",
        "config.py",
    }
    assert all((LIBRARY / name).is_file() for name in found)


def test_another_line_of_code_is_another_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = code._library_version.__wrapped__
    before = version()
    shutil.copytree(LIBRARY, tmp_path / "sparse_sam")
    monkeypatch.setattr(code, "_LIBRARY", tmp_path / "sparse_sam")
    assert version() == before  # wherever it is installed
    for name in ("sweep/table.py", "evaluation/report/render.py"):
        with (tmp_path / "sparse_sam" / name).open("a") as file:
            file.write("# more\n")
    assert version() == before
    with (tmp_path / "sparse_sam" / "training" / "loop.py").open("a") as file:
        file.write("# more\n")
    changed = version()
    assert changed != before
    (tmp_path / "sparse_sam" / "training" / "new.py").write_text("")
    assert len({before, changed, version()}) == 3
    monkeypatch.setattr(code, "version", lambda package: f"another {package}")
    assert len({before, changed, version()}) == 3


def test_another_line_of_ones_own_code_is_another_version(
    cells: list[Cell], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the parameters name it: a network, a criterion, a schedule, a variant, ..."""
    lines = "class criterion:\n    scores = pooled = None\n"
    (tmp_path / "mine.py").write_text(f"a = 1\n{lines}")
    (tmp_path / "other.py").write_text("a = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    work = cells[0].work
    own = [
        dataclasses.replace(work, dense=dataclasses.replace(work.dense, model="mine:net")),
        dataclasses.replace(work, prune=prune_params(criterion="mine:criterion")),
    ]
    before = [key_of(one) for one in own]
    assert before == [key_of(one) for one in own]
    (tmp_path / "other.py").write_text("a = 2\n")
    assert before == [key_of(one) for one in own]
    builtin = key_of(work)
    (tmp_path / "mine.py").write_text(f"a = 2\n{lines}")
    assert not set(before) & {key_of(one) for one in own}
    assert key_of(work) == builtin


def test_only_one_module_knows_ray() -> None:
    knows = {
        path.name
        for path in LIBRARY.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import) and any(name.name == "ray" for name in node.names)
    }
    assert knows == {"on_ray.py"}


def test_all_parameters_but_those_a_sweep_sets_are_in_the_content(cells: list[Cell]) -> None:
    """A new section of params.yaml must be part of a work, or be named as one that is not."""
    assert set(Params.model_fields) == {
        *("seeds", "data", "model", "train_dense"),  # in the dense network's
        *("prune", "finetune"),
        *("device", "threads", "save_every_steps", "evaluate"),  # the same in every cell
    }
    content = cells[0].work.content()
    assert set(content) == {"dense", "prune", "arm", "finetune", "flatness", "tested"}
    assert set(content["dense"]) == {"data", "model", "recipe", "seed"}


def test_a_node_with_another_version_refuses(cells: list[Cell]) -> None:
    from sparse_sam.sweep import on_ray

    with pytest.raises(SparseSamError, match="another version of sparse-sam"):
        on_ray._prepare(cells[0].work, "another")
