"""``python -m sparse_sam.evaluation.table``: the comparison, as a table on the terminal."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from sparse_sam.errors import SparseSamError
from sparse_sam.files import gaps, read_json

SUMMARY = Path("metrics/summary.json")
BESIDE = tuple(Path(f"metrics/{name}.json") for name in ("flatness", "cost", "compression"))
"""What was measured beside the summary, or was not."""
_LABELS = {
    "dense": "dense",
    "pruned": "pruned, not finetuned",
    "sgd": "{base}, equal epochs",
    "sgd_2x": "{base}, equal compute (2x epochs)",
    "sam": "SAM",
    "sam_vs_sgd": "SAM - {base} at equal epochs",
    "sam_vs_sgd_2x": "SAM - {base} at equal compute",
}
# Variants of SAM that need fewer gradients than two a step cost less than twice the epochs.
_UNEQUAL = {
    "sgd_2x": "{base}, 2x epochs",
    "sam_vs_sgd_2x": "SAM - {base} at 2x epochs",
}


def comparison_table(summary: Mapping[str, Any]) -> str:
    """The summary as text: arms, then paired differences in percentage points."""
    seeds, counts = summary["seeds"], summary["arms"]
    equal = counts["sam"]["gradient_evaluations"] == counts["sgd_2x"]["gradient_evaluations"]
    base = summary.get("base_optimizer", "SGD")  # it was the only one
    chosen = _LABELS if equal else {**_LABELS, **_UNEQUAL}
    labels = {name: label.format(base=base) for name, label in chosen.items()}
    title = (
        f"{summary['model']} on {summary['dataset']}, {len(seeds)} seed{'s' * (len(seeds) != 1)}"
        f"{'' if base == 'SGD' else f', base optimizer {base}'}: mean with 95 % confidence interval"
    )
    arms = [
        [
            labels[arm],
            _mean_and_margin(of["accuracy"]),
            f"{of['sparsity']:.2%}",
            of["gradient_evaluations"],
            f"{of['seconds']:.1f}",
        ]
        for arm, of in summary["arms"].items()
    ]
    differences = [
        [labels[name], *_difference(compared)] for name, compared in summary["comparisons"].items()
    ]
    return "\n".join(
        [
            title,
            "",
            _table(
                ["arm", "test accuracy %", "sparsity", "gradient evaluations", "seconds a seed"],
                arms,
            ),
            "",
            _table(["paired difference", "points", "95 % interval", "p"], differences),
            "",
            *(compared["verdict"] for compared in summary["comparisons"].values()),
        ]
    )


def _table(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    align = ("left", *["right"] * (len(headers) - 1))
    return tabulate(rows, headers, disable_numparse=True, colalign=align, tablefmt="simple")


def _mean_and_margin(accuracy: Mapping[str, Any]) -> str:
    mean, interval = 100 * accuracy["mean"], accuracy["ci95"]
    if interval is None:
        return f"{mean:.2f}"
    return f"{mean:.2f} ± {50 * (interval[1] - interval[0]):.2f}"


def _difference(compared: Mapping[str, Any]) -> tuple[str, str, str]:
    mean, interval, p = 100 * compared["mean"], compared["ci95"], compared["p_value"]
    if interval is None:
        return f"{mean:+z.2f}", "one seed has none", ""
    low, high = (100 * bound for bound in interval)
    return f"{mean:+z.2f}", f"[{low:+z.2f}, {high:+z.2f}]", f"{p:.3f}" if p >= 0.001 else "< 0.001"


def main() -> int:
    """Print the table, where the results lie, and what to do next."""
    try:
        table = comparison_table(read_json(SUMMARY, cure="Run `make repro`."))
    except SparseSamError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except (KeyError, TypeError, AttributeError):
        sys.stderr.write(f"error: {SUMMARY} is of another version. Run `make repro`.\n")
        return 1
    print(f"\n{table}\n")
    for path in filter(Path.is_file, BESIDE):
        try:
            for why, names in gaps(read_json(path, cure="Run `make repro`.")).items():
                print(f"Not measured: {names}: {why}")
        except SparseSamError as error:
            sys.stderr.write(f"warning: {error}\n")
    print("The report: reports/report.html, one file that opens in any browser")
    print(f"Results: {SUMMARY} and metrics/; curves: plots/; checkpoints: models/")
    print("Compare the runs in MLflow: make ui, then open http://127.0.0.1:5000")
    return 0


if __name__ == "__main__":
    sys.exit(main())
