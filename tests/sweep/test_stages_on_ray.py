"""``dvc repro`` whose arms and seeds train on a cluster, of which a node dies."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.pipeline.conftest import LATER, SMALL, Clone, finished, make_clone
from tests.pipeline.results import differing, written
from tests.pipeline.test_caching import ALL, arms, repro, trainings
from tests.sweep.clusters import Cluster

__all__ = ["finished", "make_clone"]
pytestmark = [pytest.mark.sweep, pytest.mark.timeout(1200)]

SEEDS = (0, 1, 2)
LONG = {**SMALL, "seeds": [*SEEDS], "train_dense.epochs": 60, "finetune.training.epochs": 30}


def works(node: Any) -> bool:
    """Whether a node computes a task now: Ray names processes after what they do."""
    try:
        family = psutil.Process(node.pid).children(recursive=True)
        return any(word.startswith("ray::_do") for one in family for word in one.cmdline())
    except psutil.NoSuchProcess:
        return False


def test_a_node_that_dies_changes_no_byte(make_clone: Callable[..., Clone]) -> None:
    here = make_clone("here", LONG)
    assert repro(here)[1] == arms(*ALL, seeds=SEEDS)
    there = make_clone("there", LONG)
    with Cluster(str(there.path / "src")) as cluster:
        second = cluster.add()
        there.set(engine={"name": "ray", "address": cluster.address})
        there.env |= cluster.env | {"PYTHONPATH": str(there.path / "src")} | LATER
        process = there.start("dvc", "repro")
        deadline = time.monotonic() + 300
        while not works(cluster.nodes[second]):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        cluster.kill(second)
        assert process.wait(900) == 0
        assert differing(written(there.path), written(here.path)) == set()
        trained = [trainings(there, stage)[0] for stage in ("train_dense", "finetune_sam")]
        assert trained == [arms("dense", seeds=SEEDS), arms("sam", seeds=SEEDS)]
    # Without the cluster, what it trained is taken; where it was trained is not in the key.
    there.set(engine={"name": "processes"})
    there.run("dvc", "repro", "--force", **LATER)
    assert not trainings(there, "finetune_sgd")[0]
    assert differing(written(there.path), written(here.path)) == set()


OWN = '''"""A network of one's own, beside the pipeline."""
from torch import nn


def net(image_shape, num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, num_classes))
'''


def test_a_cluster_that_begins_here_knows_ones_own_network(
    make_clone: Callable[..., Clone],
) -> None:
    params = {**SMALL, "model.name": "own_net:net", "engine": {"name": "ray", "address": None}}
    clone = make_clone("own", params)
    (clone.path / "own_net.py").write_text(OWN)
    assert repro(clone)[1] == arms(*ALL, seeds=(0, 1))
    before = written(clone.path)
    clone.set(engine={"name": "processes"})
    empty = str(clone.path.parent / "empty")
    shutil.rmtree(clone.path / "runs")  # or what lies here would be put into the empty store
    clone.run("dvc", "repro", "--force", **LATER, SPARSE_SAM_STORE=empty)
    assert trainings(clone, "finetune_sgd")[0]
    assert differing(written(clone.path), before) == set()


def test_what_cannot_be_is_said(make_clone: Callable[..., Clone], tmp_path: Path) -> None:
    clone = make_clone("nowhere", {**SMALL, "engine": {"name": "ray", "address": "127.0.0.1:1"}})
    done = clone.run("dvc", "repro", fails=True, **LATER)
    assert "error: nothing answers at 127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr
    clone.set(threads=64, engine={"name": "ray", "address": None})
    done = clone.run("python", "-m", "stages.train_dense", fails=True, **LATER)
    assert "has no node of 64 cores" in done.stderr
    clone.set(threads=1, train_dense__lr=1e6)
    done = clone.run("python", "-m", "stages.train_dense", fails=True, **LATER)
    assert "error: " in done.stderr
    assert "Traceback" not in done.stderr
    clone.set(device="cuda")
    done = clone.run("python", "-m", "stages.train_dense", fails=True, **LATER)
    assert "params.yaml: device = 'cuda': engine ray trains on the CPUs" in done.stderr
