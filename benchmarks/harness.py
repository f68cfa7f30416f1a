"""What the benchmarks share: turns, medians with quartiles, the machine, and results by commit.

Everything that is compared runs in turn, in a new random order every round, so that whatever else
the machine does falls on all of it; ratios are taken within a round. A result is a file
``results/<benchmark>/<commit>.json``, and ``compare.py`` shows what became slower since the last.
"""

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"
PAGE = ROOT / "docs" / "performance.md"

Better = Literal["lower", "higher", "neither"]


@dataclass(frozen=True)
class Value:
    """A measured number: median and quartiles over ``count`` repetitions.

    Attributes:
        name: what it is; the same from commit to commit.
        unit: "s", "ms", "×" and so on.
        better: in which direction it improves; "neither" is never called slower.
    """

    name: str
    unit: str
    median: float
    lower: float
    upper: float
    count: int
    better: Better = "lower"


def value(name: str, unit: str, samples: Sequence[float], better: Better = "lower") -> Value:
    """Median and quartiles of ``samples``."""
    if len(samples) > 1:
        lower, median, upper = statistics.quantiles(samples, n=4, method="inclusive")
    else:
        lower = median = upper = samples[0]
    return Value(name, unit, median, lower, upper, len(samples), better)


def in_turn(
    cases: Mapping[str, Callable[[], Any]], rounds: int, warm_up: int = 1
) -> dict[str, list[float]]:
    """Seconds of every case in every round, in a random order within each."""
    order, shuffle = list(cases), random.Random(0)  # noqa: S311
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(warm_up + rounds):
        shuffle.shuffle(order)
        for name in order:
            started = time.perf_counter()
            cases[name]()
            if number >= warm_up:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def ratios(one: Sequence[float], other: Sequence[float]) -> list[float]:
    """Divide one by the other, round by round."""
    return [a / b for a, b in zip(one, other, strict=True)]


def machine(device: torch.device | None = None) -> dict[str, Any]:
    """Where it is measured, without names of hosts or folders."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].partition(":")[2].strip() if names else cpu
    on_gpu = device is not None and device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name() if on_gpu else cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "load": [round(load, 2) for load in os.getloadavg()],
    }


def commit() -> dict[str, str]:
    """The commit that is measured, with a mark if the tree differs from it, and its time."""
    said = _git("log", "-1", "--format=%h %cI").split()
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", "src", "stages")
    return {"commit": said[0] + ("-changed" if changed else ""), "committed": said[1]}


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def table(values: Sequence[Value], where: Mapping[str, Any]) -> str:
    """The values in Markdown, with the machine below."""
    lines = ["| what | median | quartiles | repetitions |", "|---|---|---|---|"]
    for one in values:
        numbers = [f"{number:.3g}" for number in (one.median, one.lower, one.upper)]
        lines.append(
            f"| {one.name} | {numbers[0]} {one.unit} | {numbers[1]}–{numbers[2]} | {one.count} |"
        )
    said = (
        f"{where['device']}, {where['cores']} cores, {where['threads']} threads, torch "
        f"{where['torch']}, Python {where['python']}; load before {where['load']}."
    )
    return "\n".join([*lines, "", said]) + "\n"


def write_between(page: Path, name: str, text: str) -> None:
    """Replace what stands between a benchmark's two marks on a page.

    Raises:
        ValueError: the page has no such marks.
    """
    begin, end = f"<!-- benchmark {name} -->", f"<!-- end of benchmark {name} -->"
    content = page.read_text(encoding="utf-8")
    if begin not in content or end not in content:
        raise ValueError(f"{page.name} has no place for the benchmark {name}")
    head, rest = content.split(begin)
    page.write_text(f"{head}{begin}\n{text}{end}{rest.partition(end)[2]}", encoding="utf-8")


def arguments_of(description: str | None, *, device: bool = False) -> argparse.ArgumentParser:
    """The arguments that every benchmark takes."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="seconds: to see that it works")
    parser.add_argument("--keep", action="store_true", help="keep the result for this commit")
    parser.add_argument("--docs", action="store_true", help="put the table on the page")
    if device:
        parser.add_argument("--device", default="cpu", type=torch.device)
    return parser


def report(
    name: str, values: Sequence[Value], where: Mapping[str, Any], arguments: argparse.Namespace
) -> None:
    """Print the table; keep the numbers and fill the page if that was asked for."""
    text = table(values, where)
    sys.stdout.write(text)
    if arguments.keep:
        made_at = commit()
        result = {
            "benchmark": name,
            **made_at,
            "quick": arguments.quick,
            "machine": dict(where),
            "values": [asdict(one) for one in values],
        }
        folder = RESULTS / name
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{made_at['commit']}.json"
        path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if arguments.docs:
        write_between(PAGE, name, text)
