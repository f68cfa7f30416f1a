"""Where the time of a step goes that is neither gradients nor the base optimizer's.

    python benchmarks/sam_profile.py lenet-300-100 --variant sam

Medians over the steps, in microseconds; a part is timed from the host, on a CPU.
"""

import argparse
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
from sam_step import CASES, ROWS, Row, Runner, ours

from sparse_sam.sam import VARIANTS, Perturbation, vectors

WARM_UP = 20

PARTS: dict[str, tuple[Any, str]] = {
    "norm of the gradient": (vectors, "vector_norm"),
    "copy of the weights": (Perturbation, "_remember"),
    "move to w + ε": (vectors, "add_scaled_"),
    "return to w": (Perturbation, "end"),
}


def timed(function: Callable[..., Any], spent: list[float]) -> Callable[..., Any]:
    """The function, adding the seconds that it takes to the last item of ``spent``."""

    def timing(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        result = function(*args, **kwargs)
        spent[-1] += time.perf_counter() - started
        return result

    return timing


def profile(model: str, row: Row, steps: int) -> dict[str, float]:
    """Microseconds a step by part: the passes, the base optimizer, the parts above, the rest."""
    runner = Runner(model, row, torch.device("cpu"))
    for _ in range(WARM_UP):
        runner.run()
    runner.costs.clear()
    spent: dict[str, list[float]] = defaultdict(list)
    patches = [
        patch.object(owner, name, timed(getattr(owner, name), spent[part]))
        for part, (owner, name) in PARTS.items()
    ]
    for one in patches:
        one.start()
    for _ in range(steps):
        for times in spent.values():
            times.append(0.0)
        runner.run()
    for one in patches:
        one.stop()
    rows = {"gradients": [cost.passes for cost in runner.costs]}
    rows["base optimizer"] = [cost.base for cost in runner.costs]
    rows |= spent
    known = [sum(values) for values in zip(*rows.values(), strict=True)]
    totals = [cost.total for cost in runner.costs]
    rows["the rest, in Python"] = [t - k for t, k in zip(totals, known, strict=True)]
    rows["whole step"] = totals
    return {part: 1e6 * statistics.median(values) for part, values in rows.items()}


def main() -> None:
    """Print the parts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", choices=CASES)
    parser.add_argument("--variant", choices=VARIANTS, default="sam")
    parser.add_argument("--steps", type=int, default=500)
    arguments = parser.parse_args()
    own = {"after": 0} if arguments.variant == "late" else {}  # it has no default
    row = ROWS["SAM"] if arguments.variant == "sam" else Row(ours(arguments.variant, **own))
    parts = profile(arguments.model, row, arguments.steps)
    for part, microseconds in parts.items():
        share = 100 * microseconds / parts["whole step"]
        sys.stdout.write(f"| {part} | {microseconds:.0f} | {share:.1f} % |\n")


if __name__ == "__main__":
    main()
