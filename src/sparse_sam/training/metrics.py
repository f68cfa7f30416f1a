"""What the training stages publish as metrics: plain means and every seed's value.

Kept apart from ``sparse_sam.evaluation``, so that a better interval or test retrains nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from statistics import fmean
from typing import Any

from torch import Tensor

from sparse_sam.pruning import prunable_parameters
from sparse_sam.training.checkpoint import Checkpoint
from sparse_sam.training.experiment import Trained
from sparse_sam.training.loop import Epoch


def sparsity_metrics(checkpoints: Sequence[Checkpoint]) -> dict[str, float]:
    """The share of prunable weights that are 0, and the counts, which all seeds share.

    Dense networks have no counts; zeros that one was given with count, too.

    Where the seeds keep different numbers, as with whole channels of different sizes or with zeros
    that given networks brought along, the weights that are kept are a mean over the seeds.
    """
    if not checkpoints[0].masks:
        return {"sparsity": fmean(_share_of_zeros(one) for one in checkpoints)}
    masks = [one.masks for one in checkpoints if one.masks]
    counts = {one.kept for one in masks}
    total = masks[0].total
    kept = masks[0].kept if len(counts) == 1 else fmean(one.kept for one in masks)
    return {
        "sparsity": (total - kept) / total,
        "weights_kept": kept,
        "weights_total": total,
    }


def _share_of_zeros(checkpoint: Checkpoint) -> float:
    """The share of the weights that can be pruned that are 0, in [0, 1]."""
    weights = prunable_parameters(checkpoint.build()).values()
    total = sum(one.numel() for one in weights)
    return 1 - sum(int(one.count_nonzero()) for one in weights) / total if total else 0.0


def layer_counts(checkpoints: Sequence[Checkpoint]) -> dict[str, dict[str, Any]]:
    """Weights kept in every pruned tensor: the total, and each seed's count."""
    masks: list[Mapping[str, Tensor]] = [checkpoint.masks or {} for checkpoint in checkpoints]
    return {
        name: {
            "weights_total": mask.numel(),
            "weights_kept": [int(other[name].sum()) for other in masks],
        }
        for name, mask in masks[0].items()
    }


def training_metrics(trained: Sequence[Trained]) -> dict[str, Any]:
    """An arm's results on the validation part over seeds, and what it cost a seed."""
    last = [one.history[-1] for one in trained]
    metrics: dict[str, Any] = {}
    for name in ("validation_accuracy", "validation_loss", "train_loss"):
        values = [getattr(row, name) for row in last]
        metrics[name] = None if None in values else {"mean": fmean(values), "values": values}
    return {
        **metrics,
        **sparsity_metrics([one.checkpoint for one in trained]),
        "gradient_evaluations": last[0].gradient_evaluations,
        "seconds": round(fmean(row.seconds for row in last), 4),
    }


def mean_history(histories: Sequence[Sequence[Epoch]]) -> list[dict[str, float | None]]:
    """The values after 0, 1, ... epochs, as means over the seeds; None where a value is None."""
    names = [field.name for field in fields(Epoch) if field.name != "epoch"]
    rows = []
    for epoch in zip(*histories, strict=True):
        columns = {name: [asdict(row)[name] for row in epoch] for name in names}
        rows.append(
            {name: None if None in values else fmean(values) for name, values in columns.items()}
        )
    return rows


def history_table(
    histories: Mapping[int, Sequence[Epoch]],
) -> tuple[list[str], list[list[float | None]]]:
    """Columns and rows of ``plots/<arm>.csv``: a row for every seed and epoch."""
    rows = [[seed, *asdict(row).values()] for seed, history in histories.items() for row in history]
    return ["seed", *(field.name for field in fields(Epoch))], rows
