"""A store that comes from elsewhere: names lead nowhere, numbers are numbers, code is not named."""

import copy
import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparse_sam.errors import DataError, SparseSamError
from sparse_sam.sweep.cells import find, possible_cells
from sparse_sam.sweep.declaration import Sweep
from sparse_sam.sweep.sending import Sender
from sparse_sam.sweep.store import CELL, Store
from sparse_sam.sweep.sweeping import run_sweep
from sparse_sam.tracking.mlflow_store import Tracker
from sparse_sam.training.checkpoint import Checkpoint
from sparse_sam.training.diverged import Diverged
from sparse_sam.training.engines import Cost, Sequential
from sparse_sam.training.made_by import key_of
from tests.sweep.conftest import known_of


@pytest.fixture(scope="module")
def filled(small: Sweep, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("filled") / "store"
    run_sweep(small, Store(folder), Sequential())
    return folder


@pytest.fixture
def store(filled: Path, tmp_path: Path) -> Store:
    shutil.copytree(filled, tmp_path / "store")
    (tmp_path / "secret.csv").write_text("secret")
    return Store(tmp_path / "store")


def change(path: Path, act: Callable[[Any], Any]) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps(act(content) or content))


def assert_refused(path: Path, read: Callable[[], Any], said: str) -> None:
    with pytest.raises(DataError) as raised:
        read()
    assert str(raised.value).startswith(f"{path} is damaged (")
    assert said in str(raised.value)
    assert "Delete it; " in str(raised.value)


def put(*place: str | int, value: Any) -> Callable[[Any], Any]:
    def act(content: Any) -> None:
        for name in place[:-1]:
            content = content[name]
        content[place[-1]] = value

    return act


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (put("name", value="../secret"), "name: "),
        (put("name", value="/etc/hostname"), "name: "),
        (put("identity", value="x' OR '1' = '1"), "identity: "),
        (put("identity", value="0" * 64), "identity: it belongs to another sweep"),
        (put("cells", 0, "key", value="../../secret"), "cells.0.key: "),
        (put("cells", 0, "purpose", value="exec"), "cells.0.purpose: "),
        (put("cells", 0, "arm", value="../x"), "cells.0.arm: "),
        (put("cells", 0, "seed", value="0"), "cells.0.seed: "),
        (put("cells", 0, "params", value={"a": ["b"]}), "cells.0.params.a"),
        (put("model", value="subprocess:Popen"), "model: "),
        (lambda _: ["a"], "its content: "),
    ],
)
def test_a_plan_that_no_sweep_writes_sends_nothing(
    act: Callable[[Any], Any],
    said: str,
    store: Store,
    empty_store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    (plan,) = (store.folder / "sweeps").glob("*.json")
    change(plan, act)
    assert_refused(plan, Sender(store, Tracker(tmp_path)).send, said)
    assert not [one for one in (tmp_path / "mlartifacts").rglob("*") if one.is_file()]


def rewrite(store: Store, key: str, act: Callable[[Any], Any]) -> None:
    """Change what a store says of a cell, and seal it again, as who can write there may do."""
    about = copy.deepcopy(store.results.about(CELL, key))
    changed = act(about) or about
    store.results.drop(CELL, key)
    store.results.keep(CELL, key, changed)


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (put("result", "test_accuracy", value="0.99"), "result.test_accuracy: "),
        (put("result", "diverged", value=0), "result.diverged: "),
        (put("result", "more", value=1), "result.more: "),
        (put("cost", "seconds", value=-1), "cost.seconds: "),
        (put("cost", "ended", value=1e300), "cost.ended: "),
        (put("cost", "worker", value=["node"]), "cost.worker: "),
        (lambda content: {"result": content["result"]}, ": Field required"),
    ],
)
def test_a_cell_that_no_sweep_writes_counts_as_not_there(
    act: Callable[[Any], Any], said: str, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    key = min(store.finished())
    assert store.record(key)
    rewrite(store, key, act)
    assert store.record(key) is None
    warned = capsys.readouterr().err
    assert warned.startswith(f"warning: {store.cell_path(key)} is not a valid result (")
    assert said in warned
    assert key not in store.finished()


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "another's"])
def test_a_damaged_cell_is_computed_again(
    damage: str, store: Store, small: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = run_sweep(small, store, Sequential())
    assert expected.computed == 0
    key, other = sorted(store.finished())[:2]
    path, content = store.cell_path(key), bytearray(store.cell_path(key).read_bytes())
    place = content.index(b"validation_accuracy") + 24  # a digit of it
    content[place] ^= 1
    written = {
        "flipped": bytes(content),
        "cut": bytes(content[:place]),
        "empty": b"",
        "another's": store.cell_path(other).read_bytes(),
    }
    path.write_bytes(written[damage])
    again = run_sweep(small, store, Sequential())
    assert (again.computed, again.table) == (1, expected.table)
    assert f"warning: {path} is damaged (" in capsys.readouterr().err


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)


@given(data=st.data())
def test_whatever_a_cell_says_it_is_read_or_left_out(data: st.DataObject, filled: Path) -> None:
    store = Store(filled)
    path = store.cell_path(min(store.finished()))
    before = path.read_bytes()
    about = store.results.about(CELL, path.stem)
    assert about
    part = data.draw(st.sampled_from([about, about["result"], about["cost"]]))
    part[data.draw(st.sampled_from([*part, "extra"]))] = data.draw(VALUES | st.lists(VALUES))
    store.results.drop(CELL, path.stem)
    try:
        with suppress(ValueError):  # what JSON cannot say cannot be kept
            store.results.keep(CELL, path.stem, about)
        if record := store.record(path.stem):
            assert isinstance(record[0].diverged, bool)
            assert record[1].seconds >= 0
    finally:
        path.write_bytes(before)


def test_a_dense_network_of_a_store_is_of_the_declared_network(
    store: Store, small: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    data, known = known_of(small)
    dense = next(possible_cells(small, known)).work.dense
    key, expected = key_of(dense, known.environment), data.origin(dense)
    assert isinstance(store.dense(key, dense, expected), Checkpoint)
    assert store.dense(key, dense, replace(expected, model="os:system")) is None
    said = capsys.readouterr().err
    assert f"is of the network {dense.model}; the caller" in said
    assert "trained again" in said


def test_a_network_that_diverged_says_why_and_nothing_else(store: Store, small: Sweep) -> None:
    data, known = known_of(small)
    dense = next(possible_cells(small, known)).work.dense
    key, why = "0" * 64, Diverged("the loss became infinite")
    store.keep_dense(key, dense, why, Cost(1.0, "here", 2.0))
    assert store.dense(key, dense, data.origin(dense)) == why


def test_a_cell_is_named_by_what_the_declaration_makes(small: Sweep) -> None:
    _, known = known_of(small)
    cells = list(possible_cells(small, known))
    assert find(cells, cells[0].name) == cells[0]
    for name in ("../../secret", "/etc/hostname", "x.json"):
        with pytest.raises(SparseSamError, match="no cell of this sweep begin"):
            find(cells, name)
