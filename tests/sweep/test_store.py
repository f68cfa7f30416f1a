"""A store that comes from elsewhere: names lead nowhere, numbers are numbers, code is not named."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparse_sam.errors import CheckpointError, DataError, SparseSamError
from sparse_sam.sweep.cells import find, possible_cells
from sparse_sam.sweep.compute import Diverged
from sparse_sam.sweep.declaration import Sweep
from sparse_sam.sweep.engines import Sequential
from sparse_sam.sweep.sending import Sender
from sparse_sam.sweep.store import Store
from sparse_sam.sweep.sweeping import read_all, run_sweep
from sparse_sam.tracking.mlflow_store import Tracker
from sparse_sam.training.checkpoint import Checkpoint


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
    assert "Delete it: " in str(raised.value)


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
        (put("identity", value="0" * 64), "identity: it is another sweep's"),
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


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (put("result", "test_accuracy", value="0.99"), "result.test_accuracy: "),
        (put("result", "diverged", value=0), "result.diverged: "),
        (put("result", "more", value=1), "result.more: "),
        (put("cost", "seconds", value=-1), "cost.seconds: "),
        (put("cost", "ended", value=1e300), "cost.ended: "),
        (put("cost", "worker", value=["node"]), "cost.worker: "),
        (put("key", value="0" * 64), "key: it is another's"),
        (lambda content: {"result": content["result"]}, ": Field required"),
        (lambda _: None, ""),
    ],
)
def test_a_cell_that_no_sweep_writes_is_refused(
    act: Callable[[Any], Any], said: str, store: Store
) -> None:
    key = min(store.finished())
    path = store.cell_path(key)
    store.record(key)
    if said:
        change(path, act)
    else:
        path.write_text("{")
    assert_refused(path, lambda: store.record(key), said)


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)


@given(data=st.data())
def test_whatever_a_cell_says_it_is_read_or_refused(data: st.DataObject, filled: Path) -> None:
    store = Store(filled)
    path = store.cell_path(min(store.finished()))
    before = path.read_text()
    content = json.loads(before)
    part = data.draw(st.sampled_from([content, content["result"], content["cost"]]))
    part[data.draw(st.sampled_from([*part, "extra"]))] = data.draw(VALUES | st.lists(VALUES))
    said = ""
    try:
        path.write_text(json.dumps(content))
        result, cost = store.record(path.stem)
        assert isinstance(result.diverged, bool)
        assert cost.seconds >= 0
    except DataError as error:
        said = str(error)
    finally:
        path.write_text(before)
    assert not said or (said.startswith(f"{path} is damaged (") and said.isprintable())


def test_a_dense_network_of_a_store_is_of_the_declared_network(store: Store, small: Sweep) -> None:
    _, fingerprints = read_all(small)
    path = next((store.folder / "dense").glob("*.safetensors"))
    (seed,) = re.findall(r'"seed\\": (\d+)', path.read_bytes()[:5000].decode(errors="replace"))
    dense = next(
        cell.work.dense for cell in possible_cells(small, fingerprints) if cell.seed == int(seed)
    )
    assert isinstance(store.dense(path.stem, dense), Checkpoint)
    with pytest.raises(CheckpointError, match=f"is of the network {dense.model}, not of os:system"):
        store.dense(path.stem, replace(dense, model="os:system"))


def test_a_network_that_diverged_says_why_and_nothing_else(store: Store) -> None:
    path = store.folder / "dense" / "0.json"
    path.write_text(json.dumps({"why": "the loss became infinite"}))
    assert store.dense("0", None) == Diverged("the loss became infinite")  # type: ignore[arg-type]
    for content in ({"why": 3}, {"why": "x", "model": "os:system"}, ["x"], {}):
        path.write_text(json.dumps(content))
        assert_refused(path, lambda: store.dense("0", None), "")  # type: ignore[arg-type]


def test_a_cell_is_named_by_what_the_declaration_makes(small: Sweep) -> None:
    _, fingerprints = read_all(small)
    cells = list(possible_cells(small, fingerprints))
    assert find(cells, cells[0].name) == cells[0]
    for name in ("../../secret", "/etc/hostname", "x.json"):
        with pytest.raises(SparseSamError, match="no cell of this sweep begin"):
            find(cells, name)
