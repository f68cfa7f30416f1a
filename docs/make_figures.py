"""Bring the README up to date with metrics/summary.json: ``make figures``.

Draws docs/images/accuracy.png and writes the table of ``make show`` into README.md.
"""

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt

from sparse_sam.evaluation import ARM_COLOURS, ARM_NAMES, comparison_table
from sparse_sam.files import write_text


def write_table(summary: dict[str, Any]) -> None:
    """Put the table between its marks in the README."""
    page = Path("README.md")
    before, _, rest = page.read_text(encoding="utf-8").partition("-->\n")
    _, mark, after = rest.partition("<!-- end of result -->")
    write_text(page, f"{before}-->\n```\n{comparison_table(summary)}\n```\n{mark}{after}")


def draw(summary: dict[str, Any]) -> None:
    """Draw every arm: each seed a dot, the mean and its 95 % interval beside them."""
    mpl.use("Agg")
    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for place, (arm, of) in enumerate(summary["arms"].items()):
        values = [100 * value for value in of["accuracy"]["values"]]
        spread = [0.06 * (index - (len(values) - 1) / 2) for index in range(len(values))]
        axes.scatter(
            [place - 0.15 + s for s in spread], values, s=22, color=ARM_COLOURS[arm], alpha=0.6
        )
        mean, interval = 100 * of["accuracy"]["mean"], of["accuracy"]["ci95"]
        if interval:
            low, high = (100 * bound for bound in interval)
            error = [[mean - low], [high - mean]]
            axes.errorbar([place + 0.2], [mean], error, fmt="D", color=ARM_COLOURS[arm], capsize=4)
        axes.annotate(f"{mean:.2f}", (place + 0.26, mean), va="center", fontsize=9)
    axes.set_xticks(
        range(len(ARM_NAMES)), [ARM_NAMES[arm].replace(" (", "\n(") for arm in summary["arms"]]
    )
    axes.set_xlim(-0.5, len(ARM_NAMES) - 0.3)
    axes.set_ylabel("test accuracy, %")
    seeds = len(summary["seeds"])
    sparsity = summary["arms"]["sam"]["sparsity"]
    axes.set_title(
        f"{summary['model']} on {summary['dataset']}, {sparsity:.0%} sparse, {seeds} seeds",
        fontsize=10,
    )
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig("docs/images/accuracy.png", dpi=160, metadata={"Software": None})


def main() -> None:
    """Bring picture and table up to date."""
    summary = json.loads(Path("metrics/summary.json").read_text(encoding="utf-8"))
    write_table(summary)
    draw(summary)


if __name__ == "__main__":
    main()
