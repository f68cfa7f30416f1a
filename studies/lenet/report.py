"""Write the study's report from its results: ``python -m studies.lenet.report``."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sparse_sam.evaluation import ARM_COLOURS, compare_paired
from sparse_sam.files import write_text
from studies.lenet.run import results

HERE = Path(__file__).parent
REPORT, FIGURE = HERE / "REPORT.md", HERE / "errors.svg"
TITLES = {"lenet-300-100": "LeNet-300-100", "lenet-5": "LeNet-5 (20-50-500-10)"}
NAMES = {"sgd_2x": "SGD (2× epochs)", "sam": "SAM"}
PUBLISHED: dict[str, dict[float, tuple[float, str]]] = {
    "lenet-300-100": {
        1: (1.64, "dense"),
        12: (1.59, "Han et al. 2015"),
        56: (1.99, "DNS, Guo et al. 2016"),
        68: (1.92, "Sparse VD, Molchanov et al. 2017"),
    },
    "lenet-5": {
        1: (0.80, "dense"),
        12: (0.77, "Han et al. 2015"),
        111: (0.91, "DNS, Guo et al. 2016"),
        280: (0.75, "Sparse VD, Molchanov et al. 2017"),
    },
}
MISSED = {
    "lenet-5": (
        "For 280×, two weight decays, two ρ and a learning rate of 0.1 were tried; with the last, "
        "training diverges before much is pruned. Time is the limit. SAM trains for fifteen epochs and "
        "SGD for thirty, of which half are left when the last weights are pruned; training and "
        "validation error are still close then. More epochs help LeNet-300-100 at 100×. "
        "They were not tried here, nor were distillation from the dense network or another criterion "
        "or schedule."
    )
}
"""What the results fall short of, and why."""
MARGIN = 0.1
"""The difference in error that counts as none, in points: ten of 10,000 test images."""

Study = Mapping[str, Any]


def compressions(study: Study) -> list[float]:
    """In rising order."""
    return sorted({row["compression"] for row in study["rows"]})


def errors(study: Study, arm: str, compression: float) -> NDArray[np.float64]:
    """Test error by seed, in percent."""
    rows = [r for r in study["rows"] if (r["arm"], r["compression"]) == (arm, compression)]
    return np.array([row["error"] for row in sorted(rows, key=lambda row: row["seed"])])


def dense_errors(study: Study) -> NDArray[np.float64]:
    """Of the dense networks, by seed, in percent."""
    by_seed = {row["seed"]: row["dense_error"] for row in study["rows"]}
    return np.array([by_seed[seed] for seed in sorted(by_seed)])


def report(studies: Sequence[Study]) -> str:
    """The report as Markdown."""
    return "\n".join(_lines(studies)) + "\n"


def _lines(studies: Sequence[Study]) -> Iterator[str]:
    yield "# Error against compression: the LeNets on MNIST"
    yield ""
    yield (
        "The networks are pruned gradually by global magnitude while they are finetuned "
        "(docs/pruning.md), with SAM, or with SGD for twice the epochs, which takes as many gradient "
        "evaluations. Each arm's learning rate, weight decay, random shifts and ρ were chosen on 5,000 "
        "held-out training images, with a seed that is not reported. The networks were then trained on "
        "all 60,000 images and tested once, after the last epoch. The dense networks also see images "
        "shifted by up to a pixel. Compression counts the weights kept, without biases. "
        "`python -m studies.lenet.report` writes this page from `results/`."
    )
    yield ""
    yield "![Test error against compression, every seed a dot](errors.svg)"
    for study in studies:
        yield from _network(study)


def _network(study: Study) -> Iterator[str]:
    published = PUBLISHED[study["network"]]
    yield ""
    yield f"## {TITLES[study['network']]}"
    yield ""
    yield "Test error in %: the mean over seeds, then each seed."
    yield ""
    yield "| × | published | SGD (2× epochs) | SAM | SAM − SGD, 95 % interval |"
    yield "|---|---|---|---|---|"
    known, source = published[1]
    dense = dense_errors(study)
    yield f"| 1 | {known} {source} | {cell(dense)} | | |"
    for compression in compressions(study):
        sgd, sam = (errors(study, arm, compression) for arm in NAMES)
        compared = compare_paired(sam.tolist(), sgd.tolist(), MARGIN)
        low, high = compared["ci95"]
        outside = "{} {}".format(*published[compression]) if compression in published else ""
        yield (
            f"| {compression:g} | {outside} | {cell(sgd)} | {cell(sam)} | "
            f"{compared['mean']:+.2f} [{low:+.2f}, {high:+.2f}] |"
        )
    yield ""
    yield from _against_published(study)
    yield (
        f"These settings were tried for each arm, with their error on held-out images at "
        f"{study['choosing_compression']:g}×. The best of each arm (bold) was used:"
    )
    yield ""
    yield "| arm | lr | weight decay | shift, pixels | ρ | validation error % |"
    yield "|---|---|---|---|---|---|"
    for arm, name in NAMES.items():
        own = [one for one in study["tried"] if one["arm"] == arm]
        least = min(one["validation_error"] for one in own)
        for one in own:
            rho = "" if one["rho"] is None else f"{one['rho']:g}"
            error = f"{one['validation_error']:.2f}"
            error = f"**{error}**" if one["validation_error"] == least else error
            yield (
                f"| {name} | {one['lr']:g} | {one['weight_decay']:g} | {one['shift_pixels']} | "
                f"{rho} | {error} |"
            )


def _against_published(study: Study) -> Iterator[str]:
    published = PUBLISHED[study["network"]]
    for arm, name in NAMES.items():
        below, above = [], []
        for compression in compressions(study):
            if compression in published:
                mean = errors(study, arm, compression).mean()
                better = mean < published[compression][0]
                (below if better else above).append(f"{compression:g}×")
        said = [
            f"{word} the published error at {', '.join(which)}"
            for word, which in (("below", below), ("not below", above))
            if which
        ]
        yield f"{name} is {', and '.join(said)}. The published networks saw no shifted images."
        yield ""
    if study["network"] in MISSED:
        yield MISSED[study["network"]]
        yield ""


def cell(values: NDArray[np.float64]) -> str:
    """The mean of all seeds, then each."""
    return f"{values.mean():.2f} ({' '.join(f'{value:.2f}' for value in values)})"


def draw(studies: Sequence[Study]) -> None:
    """Test error against compression, every seed a dot, and what was published."""
    style: Any = {"svg.fonttype": "none", "svg.hashsalt": "lenet", "font.size": 10.5}
    with mpl.rc_context(style):
        figure = Figure(figsize=(4.8 * len(studies), 3.6), layout="constrained")
        for axes, study in zip(
            figure.subplots(1, len(studies), squeeze=False)[0], studies, strict=True
        ):
            places = compressions(study)
            for arm, shift in zip(NAMES, (0.97, 1.03), strict=True):
                each = [errors(study, arm, one) for one in places]
                x = np.array(places) * shift
                axes.plot(x, [one.mean() for one in each], color=ARM_COLOURS[arm], label=NAMES[arm])
                for at, values in zip(x, each, strict=True):
                    axes.plot([at] * len(values), values, "o", color=ARM_COLOURS[arm], ms=4)
            known = {at: error for at, (error, _) in PUBLISHED[study["network"]].items() if at > 1}
            axes.plot(list(known), list(known.values()), "kx", label="published")
            axes.axhline(
                dense_errors(study).mean(), color="#999999", ls="--", lw=1, label="dense, ours"
            )
            axes.set_xscale("log")
            axes.set_xticks(places, [f"{one:g}×" for one in places])
            axes.minorticks_off()
            axes.set_xlabel("compression: weights / weights kept")
            axes.set_ylabel("test error, %")
            axes.set_title(TITLES[study["network"]], fontsize=10.5)
            axes.grid(axis="y", color="#dddddd")
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
            axes.legend(frameon=False, fontsize=9.2)
        figure.savefig(FIGURE, metadata={"Date": None})


def load() -> list[Study]:
    """The networks that were measured, in the order of the titles, with what was tried before."""
    return [_load(network) for network in TITLES if results("measure", network).is_file()]


def _load(network: str) -> Study:
    chosen, measured = (
        json.loads(results(step, network).read_text(encoding="utf-8"))
        for step in ("choose", "measure")
    )
    return {**measured, "tried": chosen["tried"], "choosing_compression": chosen["compression"]}


if __name__ == "__main__":
    found = load()
    draw(found)
    write_text(REPORT, report(found))
