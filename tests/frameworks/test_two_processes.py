"""Two processes under torchrun: the same five steps as DistributedDataParallel in a plain loop."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import assert_same, distance
from torch import Tensor
from two_processes import FRAMEWORKS, RUNS

pytestmark = pytest.mark.frameworks

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    folder = tmp_path_factory.mktemp("ranks")
    source = str(HERE.parents[1] / "src")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"),
            *("2", str(HERE / "two_processes.py"), str(folder)),
        ],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([source, *sys.path]),
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
        },
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(2)]


def learnt(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without BatchNorm's statistics, which are of each process's own examples."""
    return {
        name: one for name, one in state.items() if name.endswith(("original", "weight", "bias"))
    }


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize(("accumulate", "together"), RUNS)
def test_five_steps_are_those_of_a_plain_loop(
    ranks: list[Any], framework: str, accumulate: int, together: bool
) -> None:
    for rank in ranks:
        plainly = rank["plain", accumulate, together]
        assert_same(rank[framework, accumulate, together], plainly)
    one, other = (rank[framework, accumulate, together] for rank in ranks)
    assert len(learnt(one)) == 5
    assert distance(learnt(one), learnt(other)) == 0  # all processes have the same network


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_one_epsilon_for_all_gives_the_network_of_one_process(
    ranks: list[Any], framework: str, accumulate: int
) -> None:
    alone = learnt(ranks[0]["alone", accumulate])
    together, apart = (learnt(ranks[0][framework, accumulate, one]) for one in (True, False))
    assert_same(together, alone, 1e-6)
    assert distance(together, apart) > 1e-3  # an ε of each process's own examples
