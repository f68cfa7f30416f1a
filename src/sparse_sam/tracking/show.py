"""``python -m sparse_sam.tracking.show``: the comparison, and what is new in it.

New is what differs from the last commit: parameters from its ``params.yaml``, accuracies from its
``metrics/summary.json``. So a result is compared with one that somebody kept, however often the
experiment ran since; once it is committed itself, there is nothing more to say.
"""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sparse_sam.config import Params, load_params, parse_params
from sparse_sam.errors import ConfigError, SparseSamError
from sparse_sam.evaluation import (
    IDENTITY,
    Subject,
    accuracy_changes,
    base_content,
    comparison_table,
    workspace_content,
)
from sparse_sam.files import gaps, needed_by, printable, read_json
from sparse_sam.redaction import guard_output
from sparse_sam.terminal import styled, wrapped
from sparse_sam.tracking.naming import committed_parameters, committed_revision, differences
from sparse_sam.tracking.paths import layout
from sparse_sam.tracking.stages import STAGES

with needed_by("python -m sparse_sam.tracking.show", "pipeline"):
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

SUMMARY = Path("metrics/summary.json")
BESIDE = tuple(Path(f"metrics/{name}.json") for name in ("flatness", "cost", "compression"))
"""What was measured beside the summary, or was not."""
LOCK = Path("dvc.lock")
REPORT, MODELS = Path("reports/report.html"), Path("models")
_MOST = 12


def main() -> int:
    """Print the table, what is new in it, where the results lie, and what to do next."""
    try:
        summary = read_json(SUMMARY, cure="Run `make repro`.")
        before = _committed_summary()
        table = comparison_table(summary, before)
        changes = accuracy_changes(summary, before)
    except SparseSamError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except (KeyError, TypeError, AttributeError):
        sys.stderr.write(f"error: {SUMMARY} is of another version. Run `make repro`.\n")
        return 1
    answer = printable(summary["answer"])
    table = wrapped(table, sys.stdout)
    answer = wrapped(answer, sys.stdout)
    sys.stdout.write(f"\n{table.replace(answer, styled(answer, 'answer'), 1)}\n\n")
    news = list(_news())
    if changes:
        news.append("change: in points, since the committed result (metrics/summary.json in git)")
    sys.stdout.write("".join(f"{line}\n" for line in [*news, *[""] * bool(news)]))
    for path in filter(Path.is_file, BESIDE):
        try:
            for why, names in gaps(read_json(path, cure="Run `make repro`.")).items():
                sys.stdout.write(wrapped(f"Not measured: {names}: {why}\n", sys.stdout))
        except SparseSamError as error:
            sys.stderr.write(f"warning: {error}\n")
    # Git has neither: they are missing in a new clone.
    report = f"{REPORT}, one file that opens in any browser" if REPORT.is_file() else _missing("it")
    models = f"{MODELS}/" if any(MODELS.glob("*/")) else _missing("them")
    sys.stdout.write(
        f"The report: {report}\n"
        f"Results: {SUMMARY} and metrics/; curves: plots/; checkpoints: {models}\n"
        "Compare the runs in MLflow: make ui prints the address\n"
    )
    return 0


def _missing(what: str) -> str:
    return f"not here; run `make repro` to make {what}"


def _committed_summary() -> Mapping[str, Any] | None:
    """The result that git has, if it is of the same data and network; None if it is not."""
    try:
        base = base_content(committed_revision(), IDENTITY)
        if not Subject.of(base).is_that_of(Subject.of(workspace_content(IDENTITY))):
            return None
        found: Mapping[str, Any] = base[SUMMARY.as_posix()]
        _ = [float(of["accuracy"]["mean"]) for of in found["arms"].values()]
    except (ConfigError, LookupError, ValueError, TypeError, AttributeError):
        return None  # there is none, or it is of another version
    return found


def _news() -> Iterator[str]:
    """Which parameters differ: those of the results from git's, and the file's from both."""
    try:
        now = load_params(layout.params)
    except ConfigError:
        if layout.params.exists():
            yield f"{layout.params} cannot be read; `make repro` says why."
        return
    used, committed = _of_the_results() or now, committed_parameters()
    if committed is not None:
        changed = _changes(used, committed, "committed")
        if changed:
            yield "Parameters that differ from the committed ones:"
            yield from changed
    changed = _changes(now, used, "these results")
    if changed:
        yield f"{layout.params} was changed since; `make repro` brings the results up to date:"
        yield from changed


def _of_the_results() -> Params | None:
    """The parameters that the results were made with, as DVC noted them; None if it did not."""
    yaml = YAML(typ="safe", pure=True)
    try:
        values, lock = (yaml.load(path.read_text("utf-8")) for path in (layout.params, LOCK))
        for stage in STAGES:
            for key, value in lock["stages"][stage]["params"][str(layout.params)].items():
                *sections, last = key.split(".")
                place = values
                for section in sections:
                    place = place[section]
                place[last] = value
        return parse_params(values)
    except (OSError, UnicodeError, YAMLError, KeyError, TypeError, AttributeError, ConfigError):
        return None


def _changes(now: Params, before: Params, called: str) -> list[str]:
    """A line for every parameter that is another, with the value before."""
    old = before.flat()
    changed = differences(now, before)
    lines = [
        f"  {key} = {_shown(value)} ({called}: {_shown(old.get(key))})"
        for key, value in changed.items()
    ]
    return lines if len(lines) <= _MOST else [*lines[:_MOST], f"  and {len(lines) - _MOST} more"]


def _shown(value: Any) -> str:
    return "null" if value is None else printable(value)


if __name__ == "__main__":
    guard_output()
    sys.exit(main())
