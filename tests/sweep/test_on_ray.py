"""Ray as the engine: real clusters of real nodes, killed while they work."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sparse_sam.sweep.declaration import parse_sweep
from sparse_sam.sweep.store import Store
from sparse_sam.sweep.sweeping import run_sweep
from sparse_sam.sweep.table import write_table
from sparse_sam.training.engines import Sequential
from tests.sweep.conftest import read_table

pytestmark = [pytest.mark.sweep, pytest.mark.timeout(600)]

SOURCE = Path(__file__).resolve().parents[2] / "src"


@pytest.fixture(scope="module")
def pythonpath(tiny_net: str) -> str:
    """Where every process finds the library and the networks of the tests."""
    module = sys.modules.get("tiny_nets_for_tests")
    folder = next(path for path in sys.path if (Path(path) / "tiny_nets_for_tests.py").is_file())
    assert module is None or Path(str(module.__file__)).parent == Path(folder)
    return os.pathsep.join([str(SOURCE), folder])


@pytest.fixture(scope="module")
def content(declared: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """48 cells of about a third of a second, and 6 dense networks."""
    content = declared()
    content["base"]["data"] |= {"source": "mnist-sample", "folder": None}
    content["base"]["model"]["name"] = "mlpnet"
    for section in (content["base"]["train_dense"], content["base"]["finetune"]["training"]):
        section |= {"epochs": 2, "batch_size": 64}
    return content


@pytest.fixture(scope="module")
def file(content: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("declared") / "sweep.yaml"
    path.write_text(json.dumps(content))
    return path


@pytest.fixture(scope="module")
def expected(content: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The table of a sequential run."""
    folder = tmp_path_factory.mktemp("expected")
    sweep = parse_sweep(content)
    swept = run_sweep(sweep, Store(folder / "store"), Sequential())
    assert len(swept.table) == 48
    write_table(folder / "table.csv", sweep, swept.table)
    return (folder / "table.csv").read_bytes()


@pytest.fixture
def start(pythonpath: str, file: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Start the command on the sweep; what still runs at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def begin(store: Path, *more: str, **env: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "sparse_sam.sweep", str(file), "--store", str(store)]
        process = subprocess.Popen(
            [*command, "--no-mlflow", *more],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": pythonpath, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def wait_for(
    what: Callable[[], bool], process: "subprocess.Popen[str]", seconds: float = 180
) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _has_more_than(store: Path, events: int) -> bool:
    return len(Store(store).events()) > events


def workers(store: Path) -> Counter[str]:
    """How many cells each node did so far."""
    events = Store(store).events()
    return Counter(one["worker"].split()[1] for one in events if one["event"] == "done")


def test_a_node_that_dies_loses_only_what_it_was_running(
    start: Callable[..., "subprocess.Popen[str]"], pythonpath: str, expected: bytes, tmp_path: Path
) -> None:
    from tests.sweep.clusters import Cluster

    store = tmp_path / "store"
    with Cluster(pythonpath) as cluster:
        second = cluster.add()
        process = start(store, "--address", cluster.address, **cluster.env)
        wait_for(lambda: len(workers(store)) == 2 and workers(store).total() >= 12, process)
        cluster.kill(second)
        at_death = Store(store).finished()
        assert len(at_death) < 48 - 4
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, said
    assert "48 of 48 cells, 48 computed now" in said
    assert (store / "small.csv").read_bytes() == expected
    done = Counter(one["key"] for one in Store(store).events() if one["event"] == "done")
    assert set(done.values()) == {1}
    both = workers(store)
    assert len(both) == 2
    assert min(both.values()) >= 3, both


def test_a_node_that_comes_later_works_too(
    start: Callable[..., "subprocess.Popen[str]"], pythonpath: str, expected: bytes, tmp_path: Path
) -> None:
    from tests.sweep.clusters import Cluster

    store = tmp_path / "store"
    with Cluster(pythonpath) as cluster:
        process = start(store, "--address", cluster.address, **cluster.env)
        wait_for(lambda: workers(store).total() >= 1, process)
        cluster.add()
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, said
    assert (store / "small.csv").read_bytes() == expected
    assert len(workers(store)) == 2


@pytest.mark.parametrize("engine", ["sequential", "ray"])
def test_a_sweep_that_is_killed_computes_no_finished_cell_twice(
    start: Callable[..., "subprocess.Popen[str]"], expected: bytes, tmp_path: Path, engine: str
) -> None:
    store, dice = tmp_path / "store", random.Random(engine)
    kept: dict[str, float] = {}
    kills = 0
    while True:
        marks = len(Store(store).events())
        finished = Store(store).finished()
        process = start(store, "--engine", engine)
        patience = dice.uniform(0.1, 4.0)
        if kills < 4:
            # A random time after it computed something, or at its very start.
            if kills:
                wait_for(partial(_has_more_than, store, marks), process)
            try:
                process.wait(patience)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += 1
        said, _ = process.communicate(timeout=300)
        begun = [one["key"] for one in Store(store).events()[marks:] if one["event"] == "begun"]
        assert not finished & set(begun)
        for key, written in kept.items():
            assert Store(store).cell_path(key).stat().st_mtime_ns == written
        kept |= {
            key: Store(store).cell_path(key).stat().st_mtime_ns for key in Store(store).finished()
        }
        if process.returncode == 0:
            break
    assert kills >= 2
    assert "48 of 48 cells" in said
    assert (store / "small.csv").read_bytes() == expected
    done = Counter(one["key"] for one in Store(store).events() if one["event"] == "done")
    assert set(done.values()) == {1}
    assert len(Store(store).finished()) == 48


FRAGILE = """
from pathlib import Path
from tiny_nets_for_tests import with_batchnorm

HERE = Path(__file__).parent

def calls(name):
    with (HERE / name).open("a") as file:
        file.write("x")
        return file.tell()

def always(image_shape, num_classes):
    calls("always")
    raise ZeroDivisionError("this network is broken")

def once(image_shape, num_classes):
    if calls("once") == 1:
        raise OSError("only the first time")
    return with_batchnorm(image_shape, num_classes)
"""


def test_what_fails_is_tried_again_and_then_told(
    declared: Callable[..., dict[str, Any]], tiny_net: str, pythonpath: str, tmp_path: Path
) -> None:
    (tmp_path / "fragile_nets.py").write_text(FRAGILE)
    content = declared(seeds={"choosing": [], "reporting": [0]})
    names = [tiny_net, "fragile_nets:always", "fragile_nets:once"]
    content["axes"] = {"model.name": names}
    content["arms"] = {name: content["arms"][name] for name in ("sgd_2x", "momentum")}
    (tmp_path / "sweep.yaml").write_text(json.dumps(content))
    store = tmp_path / "store"
    command = [sys.executable, "-m", "sparse_sam.sweep", str(tmp_path / "sweep.yaml"), "--store"]
    done = subprocess.run(
        [*command, str(store), "--no-mlflow"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([pythonpath, str(tmp_path)])},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 1
    assert "4 of 6 cells" in done.stdout
    assert "ZeroDivisionError: this network is broken" in done.stderr
    assert (tmp_path / "always").read_text() == "xx"
    assert {row["model.name"] for row in read_table(store / "small.csv")} == {names[0], names[2]}


def test_a_cluster_that_is_not_there_is_said(
    start: Callable[..., "subprocess.Popen[str]"], tmp_path: Path
) -> None:
    process = start(tmp_path / "store", "--address", "127.0.0.1:1")
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "error: nothing answers at 127.0.0.1:1" in said
