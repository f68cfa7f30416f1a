"""Long work outside of the training loop gives signs of life too: it was stopped as if it hung."""

import pytest
import torch
from torch import nn

from sparse_sam.data.tensors import Split
from sparse_sam.networks.batchnorm import reestimate_batchnorm
from sparse_sam.pruning.criteria import Evidence
from sparse_sam.pruning.pruner import Pruner
from sparse_sam.terminal import heard_by


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Flatten(), nn.Linear(16, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 3)
    return nn.Sequential(*layers).eval()


@pytest.mark.parametrize("one_by_one", [False, True])
@pytest.mark.parametrize(("criterion", "stages"), [("obs", 10), ("obs-selection", 10)])
def test_choosing_weights_by_gradients_beats(
    criterion: str,
    stages: int,
    one_by_one: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sparse_sam.pruning.gradients.Weights._is_functional", not one_by_one)
    images = torch.randn(200, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    evidence = Evidence(0, Split(images, torch.arange(200) % 3))
    beats: list[None] = []
    with heard_by(lambda: beats.append(None)):
        Pruner(criterion=criterion).masks(network(), 0.9, evidence=evidence)
    at_once = 1 if one_by_one else 64
    assert len(beats) >= stages * (200 // at_once)


def test_estimating_statistics_anew_beats_once_a_batch() -> None:
    beats: list[None] = []
    with heard_by(lambda: beats.append(None)):
        reestimate_batchnorm(network(), torch.randn(7, 5, 1, 4, 4))
    assert len(beats) == 7
