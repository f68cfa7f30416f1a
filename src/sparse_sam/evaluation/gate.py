"""``python -m sparse_sam.evaluation.gate``: have the metrics become worse than the base revision's?

What is compared, in which direction and how far it may move, is declared in ``gate.yaml``. Prints
a Markdown table; exits with 1 when a metric is worse by more than that, or missing on either side.

Results of other data or of another network than the base's are no better and no worse: they are
refused, unless ``gate.yaml`` accepts what they are of. The first results of a repository pass.
"""

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from sparse_sam.errors import ConfigError, SparseSamError
from sparse_sam.files import why_not, write_text

RULES = Path("gate.yaml")
NO_COMMIT = "no commit"
"""The revision before the first, which holds nothing."""
Tolerance = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_DOWNLOAD, _SUMMARY = "metrics/download.json", "metrics/summary.json"
_COMPRESSION = "metrics/compression.json"
_IDENTITY = frozenset({_DOWNLOAD, _SUMMARY, _COMPRESSION})
"""The files that say what results are of."""


class Rule(BaseModel):
    """One entry of ``gate.yaml``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str
    metric: str
    better: Literal["higher", "lower"]
    absolute: Tolerance | None = None
    noise: Tolerance | None = None

    @model_validator(mode="after")
    def _has_a_tolerance(self) -> Self:
        if self.absolute is None and self.noise is None:
            raise ValueError("a tolerance is needed: absolute, noise, or both")
        return self


class Accepted(BaseModel):
    """What results may be of though the base's are of something else: a change on purpose."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: str | None = None
    network: str | None = None


class Rules(BaseModel):
    """The whole of ``gate.yaml``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    metrics: Annotated[tuple[Rule, ...], Field(min_length=1)]
    accept: Accepted = Accepted()


@dataclass(frozen=True)
class Subject:
    """What results are of, as far as they say it: "" where they do not.

    Attributes:
        data: fingerprint of the data set.
        source: its name.
        network: its name, and how large it is.
    """

    data: str
    source: str
    network: str

    @classmethod
    def of(cls, contents: Mapping[str, Any]) -> Self:
        """Read it from the content of files by name."""
        size = _said(contents, _COMPRESSION, "multiply_adds", "dense")
        network = _said(contents, _SUMMARY, "model")
        return cls(
            _said(contents, _DOWNLOAD, "fingerprint"),
            _said(contents, _SUMMARY, "dataset"),
            f"{network} ({size} multiply-adds)" if network and size else network,
        )


def _said(contents: Mapping[str, Any], file: str, *keys: str) -> str:
    content = contents.get(file)
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    return "" if content is None else str(content)


@dataclass(frozen=True)
class Row:
    """How one metric did. ``base``, ``now`` and ``tolerance`` are None where they are missing.

    ``new`` is one that there is nothing to compare with: the results are the first, or of what
    gate.yaml accepts.
    """

    metric: str
    base: float | None
    now: float | None
    tolerance: float | None
    outcome: Literal["same", "within", "better", "new", "WORSE", "MISSING"]

    @property
    def fails(self) -> bool:
        """Whether the gate stays shut for it."""
        return self.outcome in {"WORSE", "MISSING"}


def load_rules(path: Path) -> Rules:
    """Read ``gate.yaml``. Raises ConfigError, with a line for every fault."""
    try:
        return Rules.model_validate(YAML(typ="safe", pure=True).load(path.read_text("utf-8")))
    except FileNotFoundError:
        raise ConfigError(f"{path} is missing. Run from the repository's root.") from None
    except (YAMLError, ValueError) as error:
        if not isinstance(error, ValidationError):
            raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
        lines = [
            f"{path}: {'.'.join(map(str, fault['loc']))} = {fault['input']!r}: {fault['msg']}"
            for fault in error.errors()
        ]
        raise ConfigError("\n".join(lines)) from None


def compare_metrics(rules: Rules, base: Mapping[str, Any], now: Mapping[str, Any]) -> list[Row]:
    """A row for every metric that a rule names in either revision.

    Args:
        rules: what is compared.
        base: the base revision's content by file name; a file that is not there is left out.
        now: the workspace's.
    """
    rows: list[Row] = []
    for rule in rules.metrics:
        before = dict(_find(base.get(rule.file), rule.metric.split(".")))
        after = dict(_find(now.get(rule.file), rule.metric.split(".")))
        names = list(dict.fromkeys([*before, *after])) or [rule.metric]
        rows += [
            _row(rule, f"{rule.file}: {name}", before.get(name), after.get(name)) for name in names
        ]
    return rows


def differences(rules: Rules, base: Subject, now: Subject) -> list[str]:
    """What results are of and the base's are not, in words, but for what the rules accept."""
    found = []
    if (base.data, base.source) != (now.data, now.source) and now.data != rules.accept.data:
        ours, theirs = (f"{one.source or 'unnamed'}, {one.data or '?'}" for one in (now, base))
        found.append(f"of other data: {ours} (the base's: {theirs})")
    if now.network not in {base.network, rules.accept.network}:
        ours, theirs = (one.network or "one that is not named" for one in (now, base))
        found.append(f"of another network: {ours} (the base's: {theirs})")
    return found


def _refusal(revision: str, differing: Sequence[str], base: Subject, now: Subject) -> str:
    """Why results are not compared, and how a change that is meant is accepted."""
    changed = {
        "data": now.data if (base.data, base.source) != (now.data, now.source) else "",
        "network": now.network if base.network != now.network else "",
    }
    lines = [f"  {name}: {json.dumps(value)}" for name, value in changed.items() if value]
    return (
        f"the results here are not compared with those of {revision[:10]}, for they are "
        f"{' and '.join(differing)}. Compare with a revision that has the same (BASE=REV). Or, if "
        f"the change is meant, accept it in {RULES}, and commit that with the results: nothing is "
        "compared then, and later changes are compared with these.\n"
        + "\n".join(["accept:", *lines])
    )


def gate_table(rows: Sequence[Row], base: str) -> str:
    """The rows as a table for a pull request, those that fail first."""
    if not rows:
        return f"**No results, here or in {base}: there is nothing to compare.**\n"
    failed = sum(row.fails for row in rows)
    better = sum(row.outcome == "better" for row in rows)
    new = sum(row.outcome == "new" for row in rows)
    counts = f"{failed or 'none'} of {len(rows)} worse or missing, {better} better"
    counts += f", {new} new, with nothing to compare with" if new else ""
    lines = [
        f"**Metrics against {base}: {counts}.**",
        "",
        "| metric | base | now | change | tolerance | |",
        "|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: not row.fails):
        change = "" if row.base is None or row.now is None else f"{row.now - row.base:+.6g}"
        cells = [row.metric, _number(row.base), _number(row.now), change, _number(row.tolerance)]
        lines.append(f"| {' | '.join(cells)} | {row.outcome} |")
    return "\n".join(lines) + "\n"


def check_gate(base: str | None = None) -> tuple[list[Row], str]:
    """Compare the metrics in the working directory with a base revision's, as gate.yaml says.

    Gives the rows and the revision that was compared with. Raises ConfigError if it cannot be told,
    and if the results are of other data or of another network, which the rules do not accept.
    """
    rules = load_rules(RULES)
    revision = base_revision(base)
    files = frozenset(rule.file for rule in rules.metrics)
    before, after = _base_content(revision, files), _workspace_content(files)
    if not before:  # a rule that finds nothing is MISSING also where it has nothing to find
        return [_as_new(row) for row in compare_metrics(rules, {}, after) if after], revision
    then = Subject.of(_base_content(revision, _IDENTITY))
    now = Subject.of(_workspace_content(_IDENTITY))
    if differing := differences(rules, then, now):
        raise ConfigError(_refusal(revision, differing, then, now))
    rows = compare_metrics(rules, before, after)
    return [_as_new(row) for row in rows] if then != now else rows, revision


def base_revision(named: str | None) -> str:
    """The commit to compare with. Raises ConfigError if there is no such revision.

    Without a name it is where this branch left the main branch; on the main branch itself, the
    commit before; where that is the first, or none was made yet, ``NO_COMMIT``.
    """
    if named:
        found = _git("rev-parse", "--verify", "--quiet", f"{named}^{{commit}}")
        if not found:
            raise ConfigError(f"--base {named}: git knows no such revision")
        return found
    head = _git("rev-parse", "--verify", "--quiet", "HEAD")
    for branch in ("origin/main", "main"):
        base = _git("merge-base", "HEAD", branch)
        if base and base != head:
            return base
    before = _git("rev-parse", "--verify", "--quiet", "HEAD^")
    if before:
        return before
    # "false" in a whole repository; nothing outside of one; in a shallow one the base may be cut.
    if _git("rev-parse", "--is-shallow-repository") != "false":
        raise ConfigError("there is no base revision to compare with; name one with --base")
    return NO_COMMIT


def _as_new(row: Row) -> Row:
    """The row of a metric that has nothing to be compared with; missing here, it is missing."""
    return row if row.now is None else replace(row, tolerance=None, outcome="new")


def _find(content: Any, path: Sequence[str], name: str = "") -> Iterator[tuple[str, Any]]:
    """Everything that a dotted path leads to, with its own name."""
    if not path:
        yield name, content
    elif isinstance(content, dict):
        for key in content if path[0] == "*" else [path[0]]:
            if key in content:
                yield from _find(content[key], path[1:], f"{name}.{key}" if name else key)


def _row(rule: Rule, name: str, before: Any, after: Any) -> Row:
    base, now = _value(before), _value(after)
    if base is None or now is None:
        why = why_not(after) or why_not(before)
        if why is not None:
            name = f"{name} (not measured: {why})".replace("|", "\\|")
        return Row(name, base, now, None, "MISSING")
    tolerance = rule.absolute or 0.0
    if rule.noise is not None:
        error = _standard_error(name, before, after)
        tolerance = max(tolerance, rule.noise * error)
    gain = now - base if rule.better == "higher" else base - now
    if gain == 0:
        return Row(name, base, now, tolerance, "same")
    if abs(gain) <= tolerance + 1e-12:
        return Row(name, base, now, tolerance, "within")
    return Row(name, base, now, tolerance, "better" if gain > 0 else "WORSE")


def _value(found: Any) -> float | None:
    """A number, or the mean of a mapping that has one."""
    value = found.get("mean") if isinstance(found, dict) else found
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def _standard_error(name: str, before: Any, after: Any) -> float:
    """That of the difference of two means over seeds, which may not be the same seeds."""
    variance = 0.0
    for side, found in (("base", before), ("workspace", after)):
        values = found.get("values") if isinstance(found, dict) else None
        if not isinstance(values, list) or len(values) < 2:
            raise ConfigError(
                f"{RULES}: noise needs the values of two or more seeds, and {name} of the {side} "
                "has none; allowed there: absolute"
            )
        mean = sum(values) / len(values)
        variance += sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values)
    return math.sqrt(variance)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def _base_content(revision: str, files: frozenset[str]) -> dict[str, Any]:
    contents = {file: _git("show", f"{revision}:./{file}") for file in files}
    return {file: json.loads(text) for file, text in contents.items() if text}


def _workspace_content(files: frozenset[str]) -> dict[str, Any]:
    found = {}
    for file in files:
        try:
            found[file] = json.loads(Path(file).read_text(encoding="utf-8"))
        except FileNotFoundError:
            continue
        except ValueError as error:
            raise ConfigError(f"{file} is damaged ({error}). Run `make repro`.") from None
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare and print: 0 if nothing is worse, 1 if something is, 2 if it cannot be told."""
    parser = argparse.ArgumentParser(
        prog="python -m sparse_sam.evaluation.gate", description=__doc__
    )
    parser.add_argument("--base", metavar="REV", help="the revision to compare with")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the table there too")
    options = parser.parse_args(arguments)
    try:
        rows, revision = check_gate(options.base)
    except SparseSamError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    table = gate_table(rows, revision[:10])
    sys.stdout.write(table)
    if options.output:
        write_text(options.output, table)
    return int(any(row.fails for row in rows))


if __name__ == "__main__":
    sys.exit(main())
