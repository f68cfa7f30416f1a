"""Write the study's report from its results: ``python -m studies.notebook.report``."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sparse_sam.files import write_text
from studies.notebook.faults import VARIANTS

HERE = Path(__file__).parent
REPORT, FIGURE = HERE / "REPORT.md", HERE / "faults.svg"
FAULTS = ("stale optimizer", "no mask", "BatchNorm pruned")
TITLES = {
    "mnist-sample": "mnist-sample: 5,000 digits",
    "mnist-10": "mnist-10: 10 % of MNIST, the notebook's data",
}
NOTEBOOK = {"dense": 0.9768, "pruned": 0.9422, "sgd": 0.9468, "sam": 0.9778}
"""What the notebook printed."""

Study = Mapping[str, Any]


def rows_of(study: Study, sparsity: float, variant: str) -> list[Mapping[str, Any]]:
    """The rows of one variant, in the order of the seeds."""
    return [
        row for row in study["rows"] if row["sparsity"] == sparsity and row["variant"] == variant
    ]


def accuracies(rows: Sequence[Mapping[str, Any]], arm: str) -> NDArray[np.float64]:
    """Test accuracy by seed, in percent."""
    values = [row[arm] if arm in {"dense", "pruned"} else row[arm]["test_accuracy"] for row in rows]
    return 100 * np.array(values)


def gains(study: Study, sparsity: float, variant: str, against: str = "sgd") -> Any:
    """SAM − SGD by seed, in points."""
    rows = rows_of(study, sparsity, variant)
    return accuracies(rows, "sam") - accuracies(rows, against)


def report(studies: Sequence[Study]) -> str:
    """The report as Markdown."""
    return "\n".join(_lines(studies)) + "\n"


def _lines(studies: Sequence[Study]) -> Iterator[str]:
    claim = 100 * (NOTEBOOK["sam"] - NOTEBOOK["sgd"])
    yield "# A published notebook's faults, one at a time"
    yield ""
    yield (
        f"A published notebook prunes a network to 50 %, finetunes it with SGD and with SAM, and "
        f"reports +{claim:.1f} points for SAM. This study runs its faults one at a time and together, "
        "beside the corrected protocol. Every seed has one dense network, and every variant sees the "
        "same batches. `faults.py` holds the faults; the library itself refuses the first one, and "
        "commits the others only on request. `python -m studies.notebook.report` writes this page "
        "from `results/`."
    )
    for study in studies:
        yield ""
        yield f"**{TITLES[study['dataset']]}.** {_conclusion(study)}"
    yield ""
    yield "![SAM − SGD by variant; every seed a dot](faults.svg)"
    for study in studies:
        yield from _dataset(study)
    yield ""
    yield "## What each fault does"
    yield ""
    yield (
        "- **Stale optimizer**: no weight of the SGD arm moves (checked bit for bit). Only BatchNorm's "
        "running statistics do, and validation accuracy stands still after the first epoch, as the "
        "notebook's does at 0.930. SAM is then compared with a network that was never finetuned, so "
        "everything that finetuning recovers counts as SAM's gain."
    )
    yield (
        "- **No mask**: the finetuned networks are dense. That raises both arms alike, most at high "
        "sparsity, and the accuracy reported for a sparse network is that of a dense one."
    )
    yield (
        "- **BatchNorm pruned**: half of the channels are silenced. Alone, this hardly changes the "
        "comparison, because SGD with a fresh optimizer recovers from it as SAM does. But it deepens "
        "the one-shot drop, which a stale optimizer credits to SAM. Together, the two make the "
        "notebook's number."
    )
    yield (
        "- **One seed, unequal cost**: in the tables, the differences of single seeds scatter around 0 "
        "by more than the mean difference. At equal compute (SGD for twice the epochs) the mean is "
        "lower still."
    )


def _conclusion(study: Study) -> str:
    low, _ = _sparsities(study)
    right, wrong = gains(study, low, "corrected").mean(), gains(study, low, "all together").mean()
    cured = gains(study, low, "all but stale optimizer").mean()
    return (
        f"At {low:.0%} sparsity, SAM − SGD is {wrong:+.2f} points with all faults, {cured:+.2f} "
        f"without the stale optimizer but with all others, and {right:+.2f} without any fault; at "
        f"equal compute it is then {gains(study, low, 'corrected', 'sgd_2x').mean():+.2f}."
    )


def _sparsities(study: Study) -> list[float]:
    return sorted({row["sparsity"] for row in study["rows"]})


def _dataset(study: Study) -> Iterator[str]:
    yield ""
    yield f"## {TITLES[study['dataset']]}"
    images = ", ".join(f"{count:,} {part}" for part, count in study["images"].items())
    yield ""
    yield f"Images: {images}. Seeds: {', '.join(map(str, study['seeds']))}. The tables show test accuracy in %, as means over seeds."
    for sparsity in _sparsities(study):
        yield ""
        yield f"### {sparsity:.0%} sparsity"
        yield ""
        yield (
            "| variant | dense | pruned | SGD | SGD (2× epochs) | SAM | SAM − SGD | by seed | "
            "SAM − SGD (2× epochs) | sparsity after SAM | SGD's weights moved |"
        )
        yield "|---|---|---|---|---|---|---|---|---|---|---|"
        for variant in VARIANTS:
            yield _row(study, sparsity, variant)
        yield ""
        yield "| fault | added alone, it changes SAM − SGD by | removed from all, it lowers SAM − SGD by |"
        yield "|---|---|---|"
        right = gains(study, sparsity, "corrected").mean()
        wrong = gains(study, sparsity, "all together").mean()
        for fault in FAULTS:
            alone = gains(study, sparsity, fault).mean() - right
            removed = wrong - gains(study, sparsity, f"all but {fault}").mean()
            yield f"| {fault} | {alone:+.2f} | {removed:+.2f} |"


def _row(study: Study, sparsity: float, variant: str) -> str:
    rows = rows_of(study, sparsity, variant)
    means = [
        f"{accuracies(rows, arm).mean():.2f}" for arm in ("dense", "pruned", "sgd", "sgd_2x", "sam")
    ]
    each = gains(study, sparsity, variant)
    moved = {row["sgd"]["weights_moved"] for row in rows}
    after = np.mean([row["sam"]["sparsity"] for row in rows])
    cells = [
        variant,
        *means,
        f"{each.mean():+.2f}",
        " ".join(f"{gain:+.1f}" for gain in each),
        f"{gains(study, sparsity, variant, 'sgd_2x').mean():+.2f}",
        f"{after:.0%}",
        "yes" if moved == {True} else "no" if moved == {False} else "some",
    ]
    return f"| {' | '.join(cells)} |"


def draw(studies: Sequence[Study]) -> None:
    """SAM − SGD by variant at the notebook's sparsity, every seed a dot."""
    style: Any = {"svg.fonttype": "none", "svg.hashsalt": "notebook", "font.size": 10}
    with mpl.rc_context(style):
        figure = Figure(figsize=(4.6 * len(studies), 3.4), layout="constrained")
        all_axes = figure.subplots(1, len(studies), sharey=True, squeeze=False)[0]
        for axes, study in zip(all_axes, studies, strict=True):
            low = _sparsities(study)[0]
            axes.axvline(0, color="black", lw=0.8)
            claim = 100 * (NOTEBOOK["sam"] - NOTEBOOK["sgd"])
            axes.axvline(claim, color="#999999", ls="--", lw=1)
            axes.text(claim + 0.1, 2.5, "the notebook", va="center", fontsize=9, color="#555555")
            for place, variant in enumerate(VARIANTS):
                each = gains(study, low, variant)
                axes.plot(each, [place] * len(each), "o", color="#0072B2", ms=4, alpha=0.7)
                axes.plot(each.mean(), place, "D", color="#D55E00", ms=7)
            axes.set_yticks(range(len(VARIANTS)), list(VARIANTS))
            axes.set_title(TITLES[study["dataset"]], fontsize=10)
            axes.set_xlabel(f"SAM − SGD in points, at {low:.0%} sparsity")
            axes.grid(axis="x", color="#dddddd")
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
        all_axes[0].invert_yaxis()
        figure.savefig(FIGURE, metadata={"Date": None})


def load() -> list[Study]:
    """The results that there are, in the order of the titles."""
    paths = [HERE / "results" / f"{dataset}.json" for dataset in TITLES]
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.is_file()]


if __name__ == "__main__":
    found = load()
    draw(found)
    write_text(REPORT, report(found))
