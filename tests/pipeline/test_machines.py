"""The stages on machines of other sizes than this one: they end, and with the same bits."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.pipeline.conftest import LATER, SMALL, STAGES, Clone

pytestmark = [pytest.mark.pipeline, pytest.mark.slow]


def run_stages(clone: Clone, cores: int, **params: Any) -> dict[str, str]:
    """All stages with so many cores; what they made. A stage that hangs runs into the limit."""
    clone.set(**params)
    for stage in STAGES:
        clone.run("python", "-m", f"stages.{stage}", SPARSE_SAM_CORES=str(cores), **LATER)
    return clone.hashes()


@pytest.mark.parametrize(
    ("cores", "threads", "seeds"), [(3, 2, 1), (8, 4, 2), (16, 3, 5), (64, 5, 12)]
)
def test_every_stage_ends_on_machines_of_any_size(
    make_clone: Callable[..., Clone], cores: int, threads: int, seeds: int
) -> None:
    hashes = run_stages(make_clone("size"), cores, threads=threads, seeds=list(range(seeds)))
    assert len(hashes) == 5 * seeds


def test_bits_do_not_depend_on_cores_or_on_the_other_seeds(
    make_clone: Callable[..., Clone],
) -> None:
    small = {**SMALL, "model.name": "classifier", "data.fraction": 0.1}
    one = run_stages(make_clone("one", small), 1, seeds=[3])
    many = run_stages(make_clone("many", small), 16, seeds=[0, 3, 1])
    assert one == {name: digest for name, digest in many.items() if "seed-3" in name}
