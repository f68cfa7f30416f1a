"""Write the study's report from its results: ``python -m studies.compression.report``."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sparse_sam.errors import SparseSamError
from sparse_sam.evaluation import ARM_COLOURS, compare_paired, signed
from sparse_sam.files import write_text
from sparse_sam.training import SAM_ARM, SGD_2X_ARM
from studies.compression.run import (
    HERE,
    Study,
    best,
    load_study,
    measured_key,
    rows_of,
    tried_key,
)
from studies.lenet.report import MARGIN, NAMES, TITLES, cell
from studies.lenet.run import ARMS
from studies.rows import Row

REPORT, FIGURE = HERE / "REPORT.md", HERE / "errors.svg"


class Published(NamedTuple):
    """A figure from outside: test error in percent, its standard error, and whose it is."""

    error: float
    spread: float | None
    source: str


_SPARSE_MOMENTUM = "sparse momentum (Dettmers and Zettlemoyer 2019)"
PUBLISHED: Mapping[str, Mapping[float, Published]] = {
    "lenet-300-100": {
        12: Published(1.426, 0.020, _SPARSE_MOMENTUM),
        20: Published(1.53, 0.020, _SPARSE_MOMENTUM),
        50: Published(1.99, 0.019, _SPARSE_MOMENTUM),
        100: Published(2.36, 0.044, _SPARSE_MOMENTUM),
    },
    "lenet-5": {
        50: Published(0.760, 0.022, _SPARSE_MOMENTUM),
        100: Published(0.830, 0.040, _SPARSE_MOMENTUM),
        200: Published(1.144, 0.024, _SPARSE_MOMENTUM),
        280: Published(0.75, None, "sparse variational dropout (Molchanov et al. 2017)"),
    },
}


@dataclass(frozen=True)
class Results:
    """What one network has come to."""

    study: Study

    @cached_property
    def rows(self) -> Mapping[tuple[Any, ...], Row]:
        """Every row that counts."""
        return {measured_key(row): row for row in rows_of(self.study, "measure")}

    def errors(self, shift: int, compression: float, arm: str) -> NDArray[np.float64]:
        """Test error by seed, in percent. Raises SparseSamError if a seed is missing."""
        return self._of("error", shift, compression, arm)

    def dense_errors(self, shift: int) -> NDArray[np.float64]:
        """Of the dense networks, by seed, in percent."""
        return self._of("dense_error", shift, self.study.own["compressions"][0], ARMS[0])

    def _of(self, name: str, shift: int, compression: float, arm: str) -> NDArray[np.float64]:
        at = (shift, compression, arm)
        keys = [
            (self.study.digest, shift, seed, compression, arm)
            for seed in self.study.values["seeds"]
        ]
        if not self.rows.keys() >= set(keys):
            network = self.study.network
            raise SparseSamError(
                f"{network}: not every seed of {at} is there: run `python -m "
                f"studies.compression.run measure {network}`"
            )
        return np.array([self.rows[key][name] for key in keys])


def page(found: Sequence[Results]) -> str:
    """The report as Markdown."""
    return "\n".join(_lines(found)) + "\n"


def _lines(found: Sequence[Results]) -> Iterator[str]:
    yield "# Error against compression: the LeNets on MNIST, trained long"
    yield ""
    yield (
        "The networks are pruned gradually while they are finetuned, by global magnitude, and the "
        "last weights of LeNet-5 by obs (docs/pruning.md); with SAM, or with SGD for twice the "
        "epochs, which takes as many gradient evaluations. LeNet-5 is rectified after its "
        "convolutions too, as sparse momentum's is, and each of its compressions begins where the one "
        "before ended. LeNet-300-100's arms took the best of their candidates, tried on 5,000 "
        "held-out training images with a seed that is not reported; once with training "
        "images shifted by up to a pixel, and once without, as the published networks were trained "
        "as far as is known. The networks were then trained on all 60,000 images and tested once, "
        "after the last epoch. Compression counts the weights kept, without biases. That SAM and "
        "SGD differ is no claim of this study: one choice of few serves all seeds, so the intervals "
        "are too narrow (studies/map is made for that). `python -m studies.compression.report` "
        "writes this page from `results/`."
    )
    yield ""
    yield "![Test error against compression, every seed a dot](errors.svg)"
    for one in found:
        yield ""
        yield f"## {TITLES.get(one.study.network, one.study.network)}"
        for shift in one.study.values["shifts"]:
            yield ""
            yield from _condition(one, shift)
        yield ""
        yield from _tried(one)


def condition(shift: int) -> str:
    """What is done to training images."""
    return f"shifted by up to {shift} pixel" if shift else "not shifted"


def _condition(one: Results, shift: int) -> Iterator[str]:
    yield f"### Images {condition(shift)}"
    yield ""
    dense = cell(one.dense_errors(shift))
    yield f"Test error in %: the mean over seeds, then each seed. The dense networks have {dense}."
    yield ""
    yield (
        "| × | kept | published (± standard error) | SGD (2× epochs) | SAM | at or below the published | "
        "SAM − SGD, points, 95 % interval |"
    )
    yield "|---" * 7 + "|"
    published = PUBLISHED.get(one.study.network, {})
    for compression in one.study.own["compressions"]:
        by_arm = {arm: one.errors(shift, compression, arm) for arm in ARMS}
        sgd, sam = (by_arm[arm].tolist() for arm in (SGD_2X_ARM, SAM_ARM))
        compared = compare_paired(sam, sgd, MARGIN)
        low, high = compared["ci95"]
        outside = published.get(compression)
        below = [NAMES[arm] for arm in ARMS if outside and by_arm[arm].mean() <= outside.error]
        yield (
            f"| {compression:g} | {100 / compression:.3g} % | {_outside(outside)} | "
            f"{cell(by_arm[SGD_2X_ARM])} | {cell(by_arm[SAM_ARM])} | "
            f"{(' and '.join(below) or 'neither') if outside else ''} | "
            f"{signed(compared['mean'])} [{signed(low)}, {signed(high)}] |"
        )


def _outside(one: Published | None) -> str:
    if one is None:
        return ""
    spread = "" if one.spread is None else f" ± {one.spread:.3f}"
    return f"{one.error:g}{spread}, {one.source}"


def _tried(one: Results) -> Iterator[str]:
    study = one.study
    known = {tried_key(row): row for row in rows_of(study, "choose")}
    if not study.to_try():
        for one_of in study.candidates():
            values = f"lr {one_of.lr:g}, weight decay {one_of.weight_decay:g}"
            rho = "" if one_of.rho is None else f", ρ {one_of.rho:g}"
            yield f"{NAMES[one_of.arm]}: {values}{rho}; chosen before, on held-out images."
            yield ""
        return
    yield (
        f"Tried at {study.own['choosing_compression']:g}×, with the error on held-out images; "
        "each arm's best (bold) was used:"
    )
    yield ""
    yield "| images | arm | lr | weight decay | distillation | ρ | error, % | gradients |"
    yield "|---" * 8 + "|"
    for row in known.values():
        chosen = best(study, row["shift"], row["arm"])
        is_best = all(row[name] == value for name, value in vars(chosen).items())
        error = f"**{row['error']:.2f}**" if is_best else f"{row['error']:.2f}"
        rho = "" if row["rho"] is None else f"{row['rho']:g}"
        yield (
            f"| {condition(row['shift'])} | {NAMES[row['arm']]} | {row['lr']:g} | "
            f"{row['weight_decay']:g} | {row['distillation']:g} | {rho} | {error} | "
            f"{row.get('gradient_evaluations', 0):,} |"
        )


def draw(found: Sequence[Results]) -> None:
    """Test error against compression, every seed a dot, and what was published."""
    style: Any = {"svg.fonttype": "none", "svg.hashsalt": "compression", "font.size": 10.5}
    shifts = found[0].study.values["shifts"]
    with mpl.rc_context(style):
        figure = Figure(figsize=(4.8 * len(shifts), 3.6 * len(found)), layout="constrained")
        grid = figure.subplots(len(found), len(shifts), squeeze=False, sharey="row")
        for row, one in zip(grid, found, strict=True):
            for axes, shift in zip(row, shifts, strict=True):
                _draw(axes, one, shift)
        figure.savefig(FIGURE, metadata={"Date": None})


def _draw(axes: Any, one: Results, shift: int) -> None:
    places = one.study.own["compressions"]
    for arm, aside in zip(ARMS, (0.97, 1.03), strict=True):
        each = [one.errors(shift, at, arm) for at in places]
        x = np.array(places) * aside
        axes.plot(x, [values.mean() for values in each], color=ARM_COLOURS[arm], label=NAMES[arm])
        for at, values in zip(x, each, strict=True):
            axes.plot([at] * len(values), values, "o", color=ARM_COLOURS[arm], ms=4)
    published = PUBLISHED.get(one.study.network, {})
    known = {at: published[at].error for at in places if at in published}
    axes.plot(list(known), list(known.values()), "kx", label="published")
    dense = one.dense_errors(shift).mean()
    axes.axhline(dense, color="#999999", ls="--", lw=1, label="dense, ours")
    axes.set_xscale("log")
    axes.set_xticks(places, [f"{at:g}×" for at in places])
    axes.minorticks_off()
    axes.set_xlabel("compression: weights / weights kept")
    axes.set_ylabel("test error, %")
    title = TITLES.get(one.study.network, one.study.network)
    axes.set_title(f"{title}, images {condition(shift)}", fontsize=10.5)
    axes.grid(axis="y", color="#dddddd")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9.2)


def main() -> int:
    """Write the report of the networks that were measured."""
    found = [Results(load_study(network)) for network in TITLES]
    try:
        draw(found)
        write_text(REPORT, page(found))
    except SparseSamError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
