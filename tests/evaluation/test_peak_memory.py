"""Peak memory, against what a step must hold at least."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from sparse_sam.evaluation.peak_memory import step_memory
from sparse_sam.files.unmeasured import NotMeasured
from sparse_sam.networks.network import Network
from sparse_sam.pruning.masks import Masks, attach
from sparse_sam.training.checkpoint import Checkpoint
from sparse_sam.training.origin import Origin
from sparse_sam.training.params import FinetuneParams
from tests.hard_networks import moody
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
    with step_memory() as measure:
        found = measure(Checkpoint.of(model, origin), params, 120.0)()
    assert list(found) == ["sgd", "sgd_2x", "sam"]
    sgd, sgd_2x, sam = found.values()
    assert isinstance(sgd, int)
    assert isinstance(sam, int)
    assert sgd_2x == sgd
    late = params.model_copy(update={"sam": sam_params(variant="late", after=1000)})
    with step_memory() as measure:
        found = measure(Checkpoint.of(model, origin), late, 120.0)()
    assert abs(found["sam"] - sam) < 0.2 * WEIGHTS  # of a step that ascends
    # Weights, the mask, their product and the gradient at least; and no multiple of it.
    assert 4 * WEIGHTS < sgd < 8 * WEIGHTS
    assert 0.8 * WEIGHTS < sam - sgd < 3 * WEIGHTS


def of_all(why: str) -> dict[str, NotMeasured]:
    return dict.fromkeys(("sgd", "sgd_2x", "sam"), NotMeasured(why))


def why_none(found: dict[str, int | NotMeasured]) -> str:
    """The one reason for which no arm was measured."""
    (gap,) = set(found.values())
    assert isinstance(gap, NotMeasured)
    assert list(found) == ["sgd", "sgd_2x", "sam"]
    return gap.why


def test_where_no_process_can_be_started_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_recipe: Any
) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "no python"))
    origin = Origin(
        "mlpnet", (1, 2, 2), tuple("0123456789"), (0.13,), (0.31,), "0123abcd", "pruned", 4
    )
    params = FinetuneParams(training=make_recipe(), distillation=NOT_DISTILLED, sam=sam_params())
    pruned = Checkpoint(origin, {"weight": torch.ones(2)}, None)
    with step_memory() as measure:
        assert why_none(measure(pruned, params, 120.0)()).startswith("FileNotFoundError: ")
    monkeypatch.setattr("sparse_sam.evaluation.peak_memory._FORGET", tmp_path / "nothing")
    with step_memory() as measure:
        assert "this system does not report" in why_none(measure(pruned, params, 120.0)())


@pytest.mark.parametrize(
    ("mood", "why"),
    [
        ("killed", "a step's process was killed, possibly because memory ran out"),
        ("key", "KeyError: 'gradient'"),
        ("chatty", None),
        ("slow", "took longer than its budget of 1 s (evaluate.budget_seconds.step_memory)"),
    ],
)
def test_a_network_that_fails_there_is_said_to_and_one_that_prints_is_measured(
    mood: str, why: str | None, monkeypatch: pytest.MonkeyPatch, make_recipe: Any
) -> None:
    monkeypatch.setenv("MOOD", mood)
    network, classes = "tests.hard_networks:moody", tuple("0123456789")
    origin = Origin(network, (1, 2, 2), classes, (0.13,), (0.31,), "0123abcd", "pruned", 4)
    params = FinetuneParams(training=make_recipe(), distillation=NOT_DISTILLED, sam=sam_params())
    pruned = Checkpoint.of(moody((1, 2, 2), 10), origin)
    before = children()
    with step_memory() as measure:
        found = measure(pruned, params, 1.0 if mood == "slow" else 120.0)()
    assert children() == before
    if why is None:
        assert all(isinstance(one, int) for one in found.values())
    else:
        assert found == of_all(why)


def test_a_mistake_of_ours_there_is_one_here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], make_recipe: Any
) -> None:
    classes = tuple("0123456789")
    origin = Origin("mlpnet", (1, 2, 2), classes, (0.13,), (0.31,), "0123abcd", "pruned", 4)
    pruned = Checkpoint(origin, {"weight": torch.ones(2)}, None)
    params = FinetuneParams(training=make_recipe(), distillation=NOT_DISTILLED, sam=sam_params())
    monkeypatch.setattr(
        "sparse_sam.evaluation.peak_memory._OPTIMIZERS", {"sgd": 7, "sgd_2x": 7, "sam": 7}
    )
    monkeypatch.setattr(FinetuneParams, "model_dump", lambda *_, **__: {"no": "recipe"})
    with (
        step_memory() as measure,
        pytest.raises(subprocess.CalledProcessError),
    ):
        measure(pruned, params, 120.0)()
    assert "Traceback" in capsys.readouterr().err


def children() -> set[str]:
    """The processes that this one has begun."""
    return {
        child
        for task in Path("/proc/self/task").iterdir()
        for child in (task / "children").read_text().split()
    }


def test_a_process_that_fails_says_why_and_one_that_nobody_asks_ends(make_recipe: Any) -> None:
    origin = Origin(
        "mlpnet", (1, 2, 2), tuple("0123456789"), (0.13,), (0.31,), "0123abcd", "pruned", 4
    )
    params = FinetuneParams(training=make_recipe(), distillation=NOT_DISTILLED, sam=sam_params())
    pruned = Checkpoint(origin, {"weight": torch.ones(2)}, None)  # no network has this state
    before = children()
    with step_memory() as measure:
        assert "do not fit the current model mlpnet" in why_none(measure(pruned, params, 120.0)())
    with step_memory():
        pass
    with step_memory() as measure:
        measure(pruned, params, 120.0)
    with step_memory() as measure:
        assert measure(pruned, params, 0.0)() == of_all(
            "its budget is 0 s (evaluate.budget_seconds.step_memory)"
        )
    assert children() == before
