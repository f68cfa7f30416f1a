"""The benchmarks in short: one table on top of docs/performance.md, and one picture.

    python benchmarks/summary.py              # the last part of `make bench`

Both show the newest kept result of every benchmark, and what was aimed at.
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from harness import PAGE, RESULTS, ROOT, write_between
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

PICTURE = ROOT / "docs" / "images" / "performance.svg"
BLUE, SKY, ORANGE, GREY = "#0072B2", "#56B4E9", "#D55E00", "#999999"
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "benchmarks",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
}

Result = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """A line of the table: a value of a benchmark, said for a reader, and its aim if it has one."""

    benchmark: str
    value: str
    said: str
    aim: str = ""


ROWS = (
    Row(
        "pipeline_seeds",
        "dvc repro / bare process",
        "`make repro` / the same arithmetic in one bare process, 5 seeds",
        "≤ 1.15",
    ),
    Row("pipeline", "dvc repro / bare process", "the same for one seed alone"),
    Row(
        "pipeline",
        "dvc repro, up to the finetuned networks / plain script",
        "the protocol of one seed through DVC and MLflow / a plain PyTorch script",
        "≤ 1",
    ),
    Row(
        "pipeline",
        "dvc repro / plain script",
        "the same with flatness, memory and report, which the script has not",
    ),
    Row(
        "data_path",
        "DataLoader, an image at a time / ours",
        "batches: `DataLoader`, an image at a time / ours",
        "≥ 10",
    ),
    Row("data_path", "DataLoader, tensors / ours", "batches: `DataLoader` over tensors / ours"),
    Row("loops", "ours / Lightning", "an epoch: ours / Lightning's loop"),
    Row(
        "epoch",
        "ours / plain loop",
        "an epoch of a ResNet-20 with crops and flips: ours / a plain PyTorch loop",
        "≤ 0.9",
    ),
    Row("step", "float32, 1 threads: of peak", "a step's share of the peak, one thread"),
    Row("step", "float32, 2 threads: of peak", "a step's share of the peak, two threads"),
    Row(
        "scale", "exponent of time in training images", "exponent of time in training images", "1"
    ),
    Row("scale", "exponent of time in parameters", "exponent of time in parameters", "≤ 1"),
    Row("scale", "exponent of time in seeds", "exponent of time in seeds", "1"),
    Row("scale", "exponent of time in epochs", "exponent of time in epochs", "1"),
    Row(
        "scale", "peak memory with 8 epochs / with 1", "peak memory with 8 epochs / with 1", "1"
    ),
    Row("scale", "peak memory with 8 seeds / with 1", "peak memory with 8 seeds / with 1", "1"),
    Row(
        "scale", "pruning 100 M weights globally", "pruning 100 M weights globally", "< 5 s"
    ),
    Row(
        "scale",
        "pruning 100 M weights globally: peak / weights",
        "its peak memory / the weights'",
        "≤ 3",
    ),
)  # fmt: skip


def newest(results: Path = RESULTS) -> dict[str, Result]:
    """The newest result of every benchmark that has one, but for those of ``--quick``."""
    found: dict[str, Result] = {}
    for path in sorted(results.glob("*/*.json")):
        one = json.loads(path.read_text("utf-8"))
        known = found.get(one["benchmark"])
        if not one["quick"] and (known is None or known["committed"] < one["committed"]):
            found[one["benchmark"]] = one
    return found


def values_of(result: Result) -> dict[str, Mapping[str, Any]]:
    """A result's values by name."""
    return {one["name"]: one for one in result["values"]}


def table(results: Mapping[str, Result]) -> str:
    """The rows in Markdown; one whose benchmark was not run is said to be missing."""
    lines = [
        "| what | median | quartiles | aim | benchmark | commit |",
        "|---|---|---|---|---|---|",
    ]
    for row in ROWS:
        result = results.get(row.benchmark)
        one = values_of(result).get(row.value) if result else None
        numbers = (
            f"{one['median']:.3g} {one['unit']} | {one['lower']:.3g}–{one['upper']:.3g}"
            if one
            else "not measured | "
        )
        commit = result["commit"] if result else ""
        lines.append(f"| {row.said} | {numbers} | {row.aim} | {row.benchmark} | {commit} |")
    return "\n".join([*lines, "", _machines(results) + "."]) + "\n"


def _machines(results: Mapping[str, Result]) -> str:
    """Where what the table shows was measured."""
    shown = {row.benchmark for row in ROWS}
    return "; ".join(sorted({_machine(one) for name, one in results.items() if name in shown}))


def _machine(result: Result) -> str:
    where = result["machine"]
    return f"{where['device']}, {where['cores']} cores, torch {where['torch']}"


def picture(results: Mapping[str, Result]) -> str:
    """Every benchmark's panel, as SVG.

    Raises:
        KeyError: a benchmark that has a panel was never kept.
    """
    with mpl.rc_context(_STYLE):
        # On a page that is 840 pixels wide, words of a wider figure cannot be read.
        figure = Figure(figsize=(9.3, 9), layout="constrained")
        panels = figure.subplot_mosaic("ab;cd;ee", height_ratios=[1, 1, 0.7])
        _pipeline(panels["a"], results)
        _data_path(panels["b"], results["data_path"])
        _step(panels["c"], results["step"])
        _growth(panels["d"], results["scale"])
        _exponents(panels["e"], results["scale"])
        figure.supxlabel(
            f"medians and quartiles; {_machines(results)}",
            fontsize=9,
            color="#555555",
        )
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    return "\n".join(line.rstrip() for line in drawn.getvalue().splitlines()) + "\n"


def _bars(
    axes: Axes, bars: Sequence[tuple[str, Mapping[str, Any], str]], unit: str, title: str
) -> None:
    """Horizontal bars, the first on top: label, value, colour."""
    for place, (_, one, colour) in enumerate(bars):
        spread = [[one["median"] - one["lower"]], [one["upper"] - one["median"]]]
        axes.barh(place, one["median"], color=colour, xerr=spread, ecolor="#222222", capsize=2)
        axes.annotate(
            f"{one['median']:.3g}",
            (one["upper"], place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
    axes.set_yticks(range(len(bars)), [label for label, *_ in bars])
    axes.invert_yaxis()
    axes.grid(axis="x")
    axes.margins(x=0.15)
    axes.set_xlabel(unit)
    axes.set_title(title)


def _pipeline(axes: Axes, results: Mapping[str, Result]) -> None:
    one, many = values_of(results["pipeline"]), values_of(results["pipeline_seeds"])
    part = "dvc repro, up to the finetuned networks"
    bars = [
        ("5 seeds: dvc repro", many["dvc repro"], BLUE),
        ("bare process", many["bare process"], GREY),
        ("1 seed: dvc repro", one["dvc repro"], BLUE),
        ("bare process", one["bare process"], GREY),
        ("up to finetuned: dvc repro", one[part], BLUE),
        ("plain script", one["plain script"], ORANGE),
        ("bare process", one["bare process, without flatness"], GREY),
    ]
    _bars(axes, bars, "seconds", "The pipeline")


def _data_path(axes: Axes, result: Result) -> None:
    values = values_of(result)
    labels = {
        "ours": ("ours", BLUE),
        "DataLoader, tensors": ("DataLoader,\ntensors", ORANGE),
        "DataLoader, an image at a time, 2 workers": ("an image at a time,\n2 workers", ORANGE),
        "DataLoader, an image at a time": ("an image\nat a time", ORANGE),
    }
    bars = [
        (label, values[f"{name}, 3500 images"], colour) for name, (label, colour) in labels.items()
    ]
    _bars(axes, bars, "milliseconds (logarithmic)", "The batches of an epoch of 3500 images")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _step(axes: Axes, result: Result) -> None:
    values = values_of(result)
    threads = sorted({name.split(", ")[1].split()[0] for name in values if name.endswith("of peak")
                      and name.startswith("float32, ") and name.count(",") == 1})  # fmt: skip
    bars = []
    for count in threads:
        for name, colour in (
            ("float32", BLUE),
            ("peak of float32", GREY),
            ("bfloat16 autocast", SKY),
            ("peak of bfloat16", GREY),
        ):
            thread = "thread" if count == "1" else "threads"
            label = name.replace(" autocast", "")
            shown = f"{count} {thread}: {label}" if name == "float32" else label
            bars.append((shown, values[f"{name}, {count} threads"], colour))
    _bars(axes, bars, "GFLOP/s", "A training step of classifier")


_AXES = {
    "training images": (BLUE, "o"),
    "parameters": (ORANGE, "D"),
    "seeds": (SKY, "s"),
    "epochs": ("#CC79A7", "v"),
}


def _growth(axes: Axes, result: Result) -> None:
    values = values_of(result)
    for name, (colour, marker) in _AXES.items():
        points = sorted(
            (float(key.split(" = ")[1]), one["median"])
            for key, one in values.items()
            if key.startswith(f"{name} = ")
        )
        (size, seconds), *_ = points
        axes.plot(
            [one / size for one, _ in points],
            [one / seconds for _, one in points],
            marker=marker,
            color=colour,
            label=name,
        )
    axes.plot([1, 9], [1, 9], color="#222222", lw=0.8, ls=":", label="linear")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks([1, 2, 4, 8], ["1", "2", "4", "8"])
    axes.set_yticks([1, 2, 4, 8], ["1", "2", "4", "8"])
    axes.set_xlabel("size, as a multiple of the smallest")
    axes.set_title("Time, as a multiple of the smallest's")
    axes.grid()
    axes.legend(frameon=False)


def _exponents(axes: Axes, result: Result) -> None:
    values = values_of(result)
    for place, (name, (colour, marker)) in enumerate(_AXES.items()):
        one = values[f"exponent of time in {name}"]
        spread = [[one["median"] - one["lower"]], [one["upper"] - one["median"]]]
        axes.errorbar(one["median"], place, xerr=spread, marker=marker, color=colour, capsize=3)
        axes.annotate(
            f"{one['median']:.2f}",
            (one["median"], place),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
            fontsize=9,
        )
    axes.axvline(1, color="#222222", lw=0.8, ls=":")
    axes.set_yticks(range(len(_AXES)), list(_AXES))
    axes.set_ylim(len(_AXES) - 0.5, -0.7)
    axes.set_xlim(0, 1.3)
    axes.set_xlabel("exponent of time (1 is linear)")
    axes.set_title("How time grows")
    axes.grid(axis="x")


def main() -> None:
    """Write the table and the picture."""
    results = newest()
    write_between(PAGE, "summary", table(results))
    PICTURE.write_text(picture(results), encoding="utf-8")


if __name__ == "__main__":
    main()
