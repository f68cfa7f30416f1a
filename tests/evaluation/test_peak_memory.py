"""Peak memory, against what a step must hold at least."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from sparse_sam.evaluation.peak_memory import step_memory
from sparse_sam.networks.network import Network
from sparse_sam.pruning.masks import Masks, attach
from sparse_sam.training.checkpoint import Checkpoint
from sparse_sam.training.origin import Origin
from sparse_sam.training.params import FinetuneParams
from tests.recipes import NOT_DISTILLED, sam_params

WIDE = """
from torch import nn

def wide(image_shape, num_classes, hidden=16):
    return nn.Sequential(nn.Flatten(), nn.Linear(1024, hidden), nn.ReLU(), nn.Linear(hidden, 10))
"""
WEIGHTS = 4 * 1024 * 8192  # bytes of the first layer: 32 MiB


@pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="only Linux tells a process its peak"
)
def test_sam_needs_the_weights_once_more_than_sgd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_recipe: Any
) -> None:
    (tmp_path / "wide_net_for_tests.py").write_text(WIDE)
    monkeypatch.syspath_prepend(str(tmp_path))
    from wide_net_for_tests import wide

    network = Network.of("wide_net_for_tests:wide", hidden=8192)
    classes = tuple("0123456789")
    origin = Origin(network, (1, 32, 32), classes, (0.13,), (0.31,), "0123abcd", "pruned", 4)
    model = wide((1, 32, 32), 10, **network.arguments)
    attach(model, Masks({"1.weight": torch.arange(1024 * 8192).view(8192, 1024) % 2 == 0}))
    params = FinetuneParams(
        training=make_recipe(batch_size=16), distillation=NOT_DISTILLED, sam=sam_params()
    )
    with step_memory(Checkpoint.of(model, origin), params) as result:
        found = result()
    assert list(found) == ["sgd", "sgd_2x", "sam"]
    sgd, sgd_2x, sam = found.values()
    assert sgd is not None
    assert sam is not None
    assert sgd_2x == sgd
    # Weights, the mask, their product and the gradient at least; and no multiple of it.
    assert 4 * WEIGHTS < sgd < 8 * WEIGHTS
    assert 0.8 * WEIGHTS < sam - sgd < 3 * WEIGHTS


def test_where_it_cannot_be_measured_it_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_recipe: Any
) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "no python"))
    origin = Origin(
        "mlpnet", (1, 2, 2), tuple("0123456789"), (0.13,), (0.31,), "0123abcd", "pruned", 4
    )
    params = FinetuneParams(training=make_recipe(), distillation=NOT_DISTILLED, sam=sam_params())
    pruned = Checkpoint(origin, {"weight": torch.ones(2)}, None)
    with step_memory(pruned, params) as result:
        assert result() == {"sgd": None, "sgd_2x": None, "sam": None}


def children() -> set[str]:
    """The processes that this one has begun."""
    return {
        child
        for task in Path("/proc/self/task").iterdir()
        for child in (task / "children").read_text().split()
    }


def test_a_process_that_fails_gives_none_and_one_that_nobody_asks_ends(make_recipe: Any) -> None:
    origin = Origin(
        "mlpnet", (1, 2, 2), tuple("0123456789"), (0.13,), (0.31,), "0123abcd", "pruned", 4
    )
    params = FinetuneParams(training=make_recipe(), distillation=NOT_DISTILLED, sam=sam_params())
    pruned = Checkpoint(origin, {"weight": torch.ones(2)}, None)  # no network has this state
    before = children()
    with step_memory(pruned, params) as result:
        assert set(result().values()) == {None}
    with step_memory(pruned, params):
        pass
    assert children() == before
