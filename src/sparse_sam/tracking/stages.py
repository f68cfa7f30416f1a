"""The pipeline's table: every stage, the arms that it makes, what it reads, writes and follows.

``dvc.yaml`` and ``MLproject`` say the same to their tools, and tests compare them with this; all
else that must know the stages asks here.
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class PipelineStage:
    """One row.

    Attributes:
        name: of the stage, its script and its entry point.
        after: the stages whose outputs it reads, directly.
        params: the parameters, or sections of them, that its numbers depend on.
        arms: the arms whose networks it makes; the first is its main arm.
        outputs: what it writes beside its journal, from the repository's root.
    """

    name: str
    after: tuple[str, ...]
    params: tuple[str, ...]
    arms: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def journal(self) -> Path:
        """Where a finished stage leaves the journal of its run, as an output of DVC."""
        return Path("runs") / f"{self.name}.jsonl"

    @property
    def before(self) -> tuple[str, ...]:
        """All stages whose outputs it depends on, in the pipeline's order."""
        near = set(self.after)
        return tuple(
            name
            for name, stage in STAGES.items()
            if name in near or any(name in STAGES[one].before for one in near)
        )


_TRAINING = ("seeds", "device", "threads")
_FINETUNING = ("finetune.training", "finetune.distillation")

STAGES = {
    stage.name: stage
    for stage in (
        PipelineStage(
            "download",
            after=(),
            params=("data",),
            arms=(),
            outputs=("data/dataset.safetensors", "metrics/download.json"),
        ),
        PipelineStage(
            "train_dense",
            after=("download",),
            params=(*_TRAINING, "model", "train_dense"),
            arms=("dense",),
            outputs=("models/dense", "plots/dense.csv", "metrics/train_dense.json"),
        ),
        PipelineStage(
            "prune",
            after=("download", "train_dense"),
            params=("seeds", "threads", "prune"),
            arms=("pruned",),
            outputs=("models/pruned", "metrics/prune.json"),
        ),
        PipelineStage(
            "finetune_sgd",
            after=("download", "train_dense", "prune"),
            params=(*_TRAINING, "prune", *_FINETUNING),
            arms=("sgd", "sgd_2x"),
            outputs=(
                *("models/sgd", "models/sgd_2x", "plots/sgd.csv", "plots/sgd_2x.csv"),
                "metrics/finetune_sgd.json",
            ),
        ),
        PipelineStage(
            "finetune_sam",
            after=("download", "train_dense", "prune"),
            params=(*_TRAINING, "prune", *_FINETUNING, "finetune.sam"),
            arms=("sam",),
            outputs=("models/sam", "plots/sam.csv", "metrics/finetune_sam.json"),
        ),
        PipelineStage(
            "evaluate",
            after=("download", "train_dense", "prune", "finetune_sgd", "finetune_sam"),
            params=(*_TRAINING, *_FINETUNING, "finetune.sam", "evaluate"),
            arms=(),
            outputs=(
                *("metrics/evaluate.json", "metrics/summary.json", "metrics/flatness.json"),
                *("metrics/compression.json", "metrics/cost.json"),
                *("plots/loss_slice.csv", "plots/loss_surface.csv", "reports"),
            ),
        ),
    )
}
"""By name, in the pipeline's order."""

MADE_BY = {arm: stage.name for stage in STAGES.values() for arm in stage.arms}
"""The stage that makes the networks of an arm; all arms, in the pipeline's order."""
