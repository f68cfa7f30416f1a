"""Where the pipeline's files lie, and a network read from there."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sparse_sam.tracking.stages import MADE_BY

if TYPE_CHECKING:
    from sparse_sam.data import DataInfo
    from sparse_sam.networks import Network
    from sparse_sam.training import Checkpoint


@dataclass(frozen=True)
class Layout:
    """Paths relative to the repository's root, in which every stage runs."""

    params: Path = Path("params.yaml")
    dataset: Path = Path("data/dataset.safetensors")
    summary: Path = Path("metrics/summary.json")
    slices: Path = Path("plots/loss_slice.csv")
    surfaces: Path = Path("plots/loss_surface.csv")
    report: Path = Path("reports/report.html")

    def models(self, arm: str) -> Path:
        """The folder of an arm's checkpoints."""
        return Path("models") / arm

    def checkpoint(self, arm: str, seed: int) -> Path:
        """One seed's checkpoint of an arm."""
        return self.models(arm) / f"seed-{seed}.safetensors"

    def export(self, arm: str, seed: int) -> Path:
        """The folder of an exported network; not an output of DVC."""
        return Path("exports") / f"{arm}-seed-{seed}"

    def history(self, arm: str) -> Path:
        """An arm's training history: a row for every seed and epoch."""
        return Path("plots") / f"{arm}.csv"

    def inputs(self, stage: str) -> Path:
        """What a stage is made by beside parameters and data: hashes of code and outer files."""
        return Path("inputs") / f"{stage}.json"

    def metrics(self, stage: str) -> Path:
        """A stage's metrics."""
        return Path("metrics") / f"{stage}.json"

    def load_arm(
        self, arm: str, seed: int, info: "DataInfo", model: "str | Network"
    ) -> "Checkpoint":
        """One seed's network of an arm, from this data set and of this network.

        Raises:
            CheckpointError: it is not there, or not the one that params.yaml and the data ask for.
        """
        # Here, for it imports torch, which who only asks for a path need not wait for.
        from sparse_sam.training import load_expected, origin_of

        expected = origin_of(model, info, arm, seed)
        return load_expected(self.checkpoint(arm, seed), expected, stage=MADE_BY[arm])


layout = Layout()
"""The one that there is."""
