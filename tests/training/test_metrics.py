"""What the training stages publish, from checkpoints and histories worked out by hand."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from sparse_sam.networks.build import build_model
from sparse_sam.pruning.masks import Masks
from sparse_sam.training.checkpoint import Checkpoint
from sparse_sam.training.experiment import Trained
from sparse_sam.training.loop import Epoch
from sparse_sam.training.metrics import (
    layer_counts,
    mean_history,
    sparsity_metrics,
    training_metrics,
)
from sparse_sam.training.origin import Origin

ORIGIN = Origin("mlpnet", (1, 2, 2), tuple("012"), (0.1,), (0.2,), "f", "sam", 0)
FIRST = {"a": torch.tensor([True, False, False, False]), "b": torch.tensor([[True, True]])}
SECOND = {"a": torch.tensor([True, True, False, False]), "b": torch.tensor([[True, False]])}


def checkpoint(masks: dict[str, torch.Tensor] | None) -> Checkpoint:
    if masks is None:
        return Checkpoint.of(build_model("mlpnet", (1, 2, 2), 3), ORIGIN)
    return Checkpoint(ORIGIN, {}, Masks(masks))


def row(epoch: int, **changes: Any) -> Epoch:
    values = Epoch(epoch, 10 * epoch, 2.0 * epoch, 0.1, 0.5, 0.25, 0.75)
    return replace(values, **changes)


def start(**changes: Any) -> Epoch:
    return row(0, **{"learning_rate": None, "train_loss": None, **changes})


def test_a_sparsity_is_counted() -> None:
    assert sparsity_metrics([checkpoint(FIRST), checkpoint(SECOND)]) == {
        "sparsity": 0.5,
        "weights_kept": 3,
        "weights_total": 6,
    }
    assert sparsity_metrics([checkpoint(None)]) == {"sparsity": 0.0}


def test_zeros_that_a_dense_network_was_given_with_count() -> None:
    dense = checkpoint(None)
    weights = [name for name, tensor in dense.state.items() if tensor.dim() == 2]
    total = sum(dense.state[name].numel() for name in weights)
    dense.state[weights[0]][0] = 0.0
    width = dense.state[weights[0]].shape[1]
    assert sparsity_metrics([dense, checkpoint(None)]) == {
        "sparsity": pytest.approx(width / total / 2)
    }


def test_seeds_may_bring_different_numbers_of_zeros_along() -> None:
    fewer = {**FIRST, "a": torch.tensor([True, True, True, False])}
    assert sparsity_metrics([checkpoint(FIRST), checkpoint(fewer)]) == {
        "sparsity": pytest.approx(2 / 6),
        "weights_kept": 4.0,
        "weights_total": 6,
    }


def test_whole_channels_may_differ_in_size_from_seed_to_seed() -> None:
    def channels(*kept: bool) -> dict[str, torch.Tensor]:
        rows = torch.tensor(kept)
        return {
            "a": rows[:2, None].expand(2, 3).contiguous(),
            "b": rows[2:, None].expand(2, 1).contiguous(),
        }

    first, second = channels(True, False, True, True), channels(True, True, True, False)
    assert sparsity_metrics([checkpoint(first), checkpoint(second)]) == {
        "sparsity": 0.25,
        "weights_kept": 6.0,
        "weights_total": 8,
    }


def test_layers_are_counted_for_every_seed() -> None:
    assert layer_counts([checkpoint(FIRST), checkpoint(SECOND)]) == {
        "a": {"weights_total": 4, "weights_kept": [1, 2]},
        "b": {"weights_total": 2, "weights_kept": [2, 1]},
    }
    assert layer_counts([checkpoint(None)]) == {}


def test_an_arms_metrics_are_those_of_its_last_epochs() -> None:
    one = Trained(checkpoint(FIRST), [start(), row(1, validation_accuracy=0.5)])
    other = Trained(
        checkpoint(SECOND),
        [start(), row(1, validation_accuracy=1.0, train_loss=1.5, seconds=3.0)],
    )
    metrics = training_metrics([one, other])
    assert metrics == {
        "validation_accuracy": {"mean": 0.75, "values": [0.5, 1.0]},
        "validation_loss": {"mean": 0.25, "values": [0.25, 0.25]},
        "train_loss": {"mean": 1.0, "values": [0.5, 1.5]},
        "sparsity": 0.5,
        "weights_kept": 3,
        "weights_total": 6,
        "gradient_evaluations": 10,
        "seconds": 2.5,
    }
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics


def test_without_validation_its_metrics_are_null() -> None:
    nothing: dict[str, Any] = {"validation_accuracy": None, "validation_loss": None}
    metrics = training_metrics([Trained(checkpoint(None), [start(**nothing), row(1, **nothing)])])
    assert metrics["validation_accuracy"] is None
    assert metrics["validation_loss"] is None
    assert metrics["train_loss"] == {"mean": 0.5, "values": [0.5]}


def test_a_mean_history_is_a_mean_over_seeds_epoch_by_epoch() -> None:
    one = [start(validation_loss=1.0), row(1, train_loss=0.25, seconds=1.0)]
    other = [start(validation_loss=3.0), row(1, train_loss=0.75)]
    assert mean_history([one, other]) == [
        {
            "gradient_evaluations": 0,
            "seconds": 0,
            "learning_rate": None,
            "train_loss": None,
            "validation_loss": 2.0,
            "validation_accuracy": 0.75,
        },
        {
            "gradient_evaluations": 10,
            "seconds": 1.5,
            "learning_rate": 0.1,
            "train_loss": 0.5,
            "validation_loss": 0.25,
            "validation_accuracy": 0.75,
        },
    ]


def test_histories_of_different_length_are_a_fault() -> None:
    with pytest.raises(ValueError, match="zip"):
        mean_history([[start()], [start(), row(1)]])
