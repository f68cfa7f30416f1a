"""Keys: equal for what is equal, and different for all that makes a difference."""

import ast
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sparse_sam
from sparse_sam.config import Params
from sparse_sam.errors import ConfigError, DivergenceError, SparseSamError
from sparse_sam.files import code_of
from sparse_sam.sweep import compute
from sparse_sam.sweep.cells import Cell, choosing_cells, find, possible_cells, reporting_cells
from sparse_sam.sweep.declaration import FlatnessParams, Sweep, parse_sweep
from sparse_sam.sweep.work import Work
from sparse_sam.training.engines import Sequential
from sparse_sam.training.experiment import Trained
from sparse_sam.training.made_by import Dense, code_hash, identity, key_of
from sparse_sam.training.params import DenseParams, FinetuneParams
from tests.recipes import NOT_DISTILLED, prune_params, sam_params
from tests.sweep.conftest import known_as, known_of

LIBRARY = Path(sparse_sam.__file__).parent
HERE = Sequential().environment()
ELSEWHERE: list[dict[str, Any]] = [
    *({}, {"version": "0"}, {"machine": "z80"}, {"device": "cuda"}, {"kernels": "abacus"}),
    {"threads": 2},
]


@pytest.fixture(scope="module")
def cells(small: Sweep) -> list[Cell]:
    return list(possible_cells(small, known_as(small, "numbered")))


def test_arguments_of_networks_are_an_axis_like_others(
    declared: Callable[..., dict[str, Any]],
) -> None:
    content = declared(axes={"model.arguments.width": [4, 8], "prune.sparsity": [0.5]})
    content["base"]["model"] |= {"name": "vgg-16-bn"}
    sweep = parse_sweep(content)
    cells = list(possible_cells(sweep, known_as(sweep, "numbered")))
    keys: dict[int, set[str]] = {4: set(), 8: set()}
    for cell in cells:
        keys[cell.work.dense.model.arguments["width"]].add(cell.key)
    assert len(keys[4]) == len(keys[8]) > 0
    assert not keys[4] & keys[8]
    content["axes"]["model.arguments.width"] = [4, 0]
    with pytest.raises(ConfigError, match=r"model\.arguments\.width = 0: must be a whole number"):
        parse_sweep(content)


def test_cells_are_those_of_the_declaration(small: Sweep) -> None:
    known = known_as(small, "numbered")
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
    other = list(possible_cells(small, known_as(small, "other")))
    assert not {cell.key for cell in cells} & {cell.key for cell in other}
    work = cells[0].work
    keys = []
    for version in ("a", "b", "a"):
        monkeypatch.setattr("sparse_sam.training.made_by.code_of", lambda _, is_=version: is_)
        keys.append(key_of(work, HERE))
    assert keys[0] == keys[2] != keys[1]
    assert len({key_of(work, replace(HERE, **one)) for one in ELSEWHERE}) == len(ELSEWHERE)
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
    finetune = FinetuneParams(
        training=make(**draw(RECIPE)), distillation=NOT_DISTILLED, sam=sam_params(draw(RHO))
    )
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
    assert key_of(one, HERE) == key_of(dataclasses.replace(one), HERE)


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
OBSERVERS = (
    *("sparse_sam.config", "sparse_sam.errors", "sparse_sam.redaction", "sparse_sam.sweep"),
    "sparse_sam.terminal",
)
ASIDE = {
    *("sparse_sam.networks.params", "sparse_sam.evaluation.params"),
    *("sparse_sam.export", "sparse_sam.export.params"),  # a section, which no cell has
    "sparse_sam.training.engine_params",
    *("sparse_sam.training.kept", "sparse_sam.training.engines"),
    *("sparse_sam.training.made_by", "sparse_sam.files.code", "sparse_sam.files.store"),
    *("sparse_sam.files.content", "sparse_sam.files.sections"),
    # What reads the data set of one cell; its fingerprint is of what was read.
    *("sparse_sam.data.idx", "sparse_sam.data.sources", "sparse_sam.data.outer"),
    *("sparse_sam.data.prepare", "sparse_sam.data.loading", "sparse_sam.data.from_datasets"),
    *("sparse_sam.data.image_folder", "sparse_sam.data.pictures", "sparse_sam.data.mapped"),
    "sparse_sam.data.depth",
    "sparse_sam.files.front_door",  # by which names are found, whatever is behind them
    "sparse_sam.training.worker",  # which tells of an epoch, and computes nothing
}


def test_all_code_that_computing_a_cell_loads_is_in_its_key(
    declared: Callable[..., dict[str, Any]],
) -> None:
    """With SAM before and after pruning, tested, and its sharpness measured."""
    content = declared()
    content["base"]["model"]["name"] = "mlpnet"
    sweep = parse_sweep(content)
    _, known = known_of(sweep)
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
    loaded = set(json.loads(done.stdout))
    assert not {
        name
        for name in loaded - ASIDE
        if name.startswith(("sparse_sam.export", "sparse_sam.tracking"))
    }
    counted = set(code_of(cell.work.code()))
    computing = {
        name for name in loaded if not name.startswith(OBSERVERS) and not name.endswith(".registry")
    }
    assert computing - counted <= ASIDE, computing - counted - ASIDE
    assert {"sparse_sam.sam.momentum", "sparse_sam.sweep.compute"} <= counted
    others = ("gsam", "asam", "periodic", "late", "counted")
    assert not {f"sparse_sam.sam.{name}" for name in others} & counted


def test_a_cell_whose_sharpness_is_no_number_is_not_lost(
    small: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, known = known_of(small)
    cell = next(one for one in possible_cells(small, known) if one.purpose == "report")
    data, test = read.training[cell.work.dense.data], read.test[cell.work.dense.data]
    dense = compute.dense_network(cell.work.dense, data)
    assert isinstance(dense, Trained)
    whole = compute.measure(cell.work, dense.checkpoint, data, test)
    assert whole.sharpness is not None

    def diverges(*_: object) -> None:
        raise DivergenceError("the loss is nan")

    monkeypatch.setattr(compute, "sharpness", diverges)
    assert compute.measure(cell.work, dense.checkpoint, data, test) == replace(
        whole, sharpness=None
    )


def test_a_new_table_or_report_is_no_other_code(cells: list[Cell]) -> None:
    found = set(code_of(cells[0].work.code()))
    assert {
        *("sparse_sam.sweep.compute", "sparse_sam.training.experiment"),
        *("sparse_sam.training.loop", "sparse_sam.pruning.criteria"),
        *("sparse_sam.evaluation.flatness.sharpness", "sparse_sam.networks.build"),
        "sparse_sam.data.stratify",
    } <= found
    assert not found & {
        *("sparse_sam.sweep.table", "sparse_sam.training.on_ray", "sparse_sam.sweep.store"),
        *("sparse_sam.sweep.declaration", "sparse_sam.tracking.mlflow_store"),
        *("sparse_sam.evaluation.report.render", "sparse_sam.config"),
    }


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
    before = [key_of(one, HERE) for one in own]
    assert before == [key_of(one, HERE) for one in own]
    (tmp_path / "other.py").write_text("a = 2\n")
    assert before == [key_of(one, HERE) for one in own]
    builtin = key_of(work, HERE)
    (tmp_path / "mine.py").write_text(f"a = 2\n{lines}")
    assert not set(before) & {key_of(one, HERE) for one in own}
    assert key_of(work, HERE) == builtin


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
        # The same in every cell, or in no key.
        *("device", "threads", "save_every_steps", "engine", "evaluate", "registry"),
    }
    content = cells[0].work.content()
    assert set(content) == {"dense", "prune", "arm", "finetune", "flatness", "tested"}
    assert set(content["dense"]) == {"data", "model", "recipe", "seed"}


def test_a_node_with_other_code_or_of_another_kind_refuses(cells: list[Cell]) -> None:
    from sparse_sam.training import on_ray

    roots = cells[0].work.code()
    good = on_ray._Expected(HERE, code_hash(roots), roots, {})
    on_ray._check(good, 1)
    with pytest.raises(SparseSamError, match="another version of sparse-sam"):
        on_ray._check(good._replace(code="another"), 1)
    with pytest.raises(SparseSamError, match="weights is missing on this node"):
        on_ray._check(good._replace(files={"weights": "0" * 64}), 1)
    with pytest.raises(SparseSamError, match="nodes of this cluster differ"):
        on_ray._check(good._replace(environment=replace(HERE, kernels="abacus")), 1)
