"""Where everything lies, relative to the repository's root, and what each stage depends on."""

from pathlib import Path

PARAMS = Path("params.yaml")
DATASET = Path("data/dataset.safetensors")
SUMMARY = Path("metrics/summary.json")

STAGE_PARAMS = {
    "download": ("data",),
    "train_dense": ("seeds", "device", "threads", "model", "train_dense"),
    "prune": ("seeds", "threads", "prune"),
    "finetune_sgd": ("seeds", "device", "threads", "prune", "finetune.training"),
    "finetune_sam": ("seeds", "device", "threads", "prune", "finetune.training", "finetune.sam"),
    "evaluate": ("seeds", "device", "threads", "finetune.training", "finetune.sam", "evaluate"),
}
"""The parameters, or sections of them, that each stage reads; dvc.yaml says the same."""

SLICE = Path("plots/loss_slice.csv")
SURFACE = Path("plots/loss_surface.csv")
REPORT = Path("reports/report.html")

BEFORE_EVALUATE = ("download", "train_dense", "prune", "finetune_sgd", "finetune_sam")


def models(arm: str) -> Path:
    """The folder of an arm's checkpoints."""
    return Path("models") / arm


def checkpoint(arm: str, seed: int) -> Path:
    """One seed's checkpoint of an arm."""
    return models(arm) / f"seed-{seed}.safetensors"


def export(arm: str, seed: int) -> Path:
    """The folder of an exported network; not an output of DVC."""
    return Path("exports") / f"{arm}-seed-{seed}"


def history(arm: str) -> Path:
    """An arm's training history: a row for every seed and epoch."""
    return Path("plots") / f"{arm}.csv"


def metrics(stage: str) -> Path:
    """A stage's metrics."""
    return Path("metrics") / f"{stage}.json"


def run(stage: str) -> Path:
    """The journal of the run that made a stage's outputs."""
    return Path("runs") / f"{stage}.jsonl"
