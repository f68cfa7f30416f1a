"""Two processes under torchrun: the same five steps as DistributedDataParallel in a plain loop."""

from pathlib import Path
from typing import Any

import pytest
from cases import assert_same, distance
from torch import Tensor
from two_processes import FRAMEWORKS, RUNS

from tests.processes import spawned

pytestmark = pytest.mark.frameworks

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return spawned(HERE / "two_processes.py", 2, tmp_path_factory.mktemp("ranks"))


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
