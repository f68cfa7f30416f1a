"""Keys: equal for what is equal, and different for all that makes a difference."""

import ast
import dataclasses
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
from sparse_sam.sweep.declaration import FlatnessParams, Sweep
from sparse_sam.sweep.work import Dense, Work, identity, key_of
from sparse_sam.training.params import DenseParams, FinetuneParams
from tests.recipes import prune_params, sam_params


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


def test_data_code_and_choice_make_a_difference(small: Sweep, cells: list[Cell]) -> None:
    other = list(possible_cells(small, dict.fromkeys(data_of(small), "other")))
    assert not {cell.key for cell in cells} & {cell.key for cell in other}
    work = cells[0].work
    assert key_of(work, "a") != key_of(work, "b")
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
    assert key_of(one, "code") == key_of(dataclasses.replace(one), "code")


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


def test_the_code_behind_a_cell_is_what_it_imports() -> None:
    found = set(code.files())
    assert {
        "sparse_sam.sweep.compute",
        "sparse_sam.training.experiment",
        "sparse_sam.training.loop",
        "sparse_sam.sam.optimizer",
        "sparse_sam.pruning.criteria",
        "sparse_sam.evaluation.flatness.sharpness",
        "sparse_sam.networks.build",
    } <= found
    assert not found & {
        "sparse_sam.sweep.table",
        "sparse_sam.sweep.on_ray",
        "sparse_sam.sweep.store",
        "sparse_sam.sweep.declaration",
        "sparse_sam.tracking.mlflow_store",
        "sparse_sam.report",
        "sparse_sam.config",
    }


def test_another_line_of_code_is_another_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text("a = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    version = code.code_version.__wrapped__
    own, builtin = version("mine:net"), version("mlpnet")
    assert own == version("mine:net") != builtin == version("lenet-5")
    (tmp_path / "mine.py").write_text("a = 2\n")
    assert version("mine:net") != own
    real = code.files()
    changed = tmp_path / "changed.py"
    changed.write_text(real["sparse_sam.training.loop"].read_text() + "\n# more\n")
    monkeypatch.setattr(code, "files", lambda: {**real, "sparse_sam.training.loop": changed})
    assert version("mlpnet") != builtin


def test_only_one_module_knows_ray() -> None:
    folder = Path(sparse_sam.__file__).parent
    knows = {
        path.name
        for path in folder.rglob("*.py")
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


def test_a_node_with_another_version_refuses() -> None:
    from sparse_sam.sweep import on_ray

    with pytest.raises(SparseSamError, match="another version of sparse-sam"):
        on_ray._prepare("mlpnet", "another")
