"""``python -m sparse_sam.tracking.compare``: the pipeline's runs in MLflow, as a table.

A row a run, newest first: the parameters that differ among them, and what came out.
"""

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sparse_sam.errors import SparseSamError
from sparse_sam.evaluation import base_in_words, p_in_words, signed
from sparse_sam.files import printable
from sparse_sam.redaction import guard_output
from sparse_sam.tracking.naming import CHANGE_NO_RESULT
from sparse_sam.tracking.pipelines import launcher, repository_root

_MEASURES = ("SAM %", "difference", "95 % interval", "corrected p")
_BASE = "finetune.training.base_optimizer"
_LONGEST = 24


def table(runs: Sequence[Any]) -> str:
    """Runs of MLflow as text; only the parameters in which two of them differ."""
    from tabulate import tabulate

    hidden = tuple(f"{name}." for name in CHANGE_NO_RESULT)
    named = {key for run in runs for key in run.data.params if not f"{key}.".startswith(hidden)}
    differ = sorted(key for key in named if len({run.data.params.get(key) for run in runs}) > 1)
    rows = [
        [
            printable(run.info.run_name),
            f"{datetime.fromtimestamp(run.info.start_time / 1000, UTC):%Y-%m-%d %H:%M}",
            *(_cut(run.data.params.get(key, "")) for key in differ),
            *_measured(run.data.metrics),
        ]
        for run in runs
    ]
    headers = [
        "run",
        "began (UTC)",
        *map(_short, differ),
        f"{_base(runs)} (2× epochs) %",
        *_MEASURES,
    ]
    align = ["left"] * (2 + len(differ)) + ["right"] * (1 + len(_MEASURES))
    return str(tabulate(rows, headers, disable_numparse=True, colalign=align, tablefmt="simple"))


def _base(runs: Sequence[Any]) -> str:
    """What SAM is compared with: one base optimizer by its name, several without."""
    names = {run.data.params.get(_BASE, "sgd") for run in runs}
    return base_in_words(printable(names.pop())) if len(names) == 1 else "base optimizer"


def _measured(metrics: Mapping[str, float]) -> list[str]:
    metrics = {name: value for name, value in metrics.items() if math.isfinite(value)}
    low, high = (metrics.get(f"sam_vs_sgd_2x.{end}") for end in ("low", "high"))
    interval = "" if low is None or high is None else f"[{signed(low)}, {signed(high)}]"
    accuracies = (metrics.get(f"test_accuracy.{arm}") for arm in ("sgd_2x", "sam"))
    shares = ["" if one is None else f"{100 * one:.2f}" for one in accuracies]
    difference, p = metrics.get("sam_vs_sgd_2x.points"), metrics.get("sam_vs_sgd_2x.p")
    return [
        *shares,
        "" if difference is None else signed(difference),
        interval,
        "" if p is None else p_in_words(p),
    ]


def _cut(value: str) -> str:
    text = printable(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _short(key: str) -> str:
    return key.replace("finetune.training.", "").replace("finetune.", "")


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m sparse_sam.tracking.compare", description=__doc__
    )
    parser.add_argument("--most", type=int, default=20, help="of how many runs; the newest 20")
    most = parser.parse_args().most
    from sparse_sam.tracking.mlflow_store import Tracker, as_tracking_error

    try:
        tracker = Tracker(repository_root())
        with as_tracking_error(tracker.shown):
            found = tracker.client.search_runs(
                [tracker.experiment(launcher())],
                "tags.`sparse_sam.kind` = 'pipeline' and attributes.status = 'FINISHED'",
                order_by=["attributes.start_time DESC"],
                max_results=max(1, min(most, 1000)),
            )
    except SparseSamError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    if not found:
        sys.stdout.write(f"MLflow at {tracker.shown} has no finished run yet: make repro.\n")
        return 0
    sys.stdout.write(
        f"{table(found)}\n\nDifferences are SAM − {_base(found)} (2× epochs), in points. "
        "Everything else: make ui\n"
    )
    return 0


if __name__ == "__main__":
    guard_output()
    sys.exit(main())
