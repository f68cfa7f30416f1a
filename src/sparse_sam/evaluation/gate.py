"""``python -m sparse_sam.evaluation.gate``: are the metrics worse than those of a base revision?

``gate.yaml`` declares which metrics are compared, in which direction, and with which tolerance.
Prints a table, aligned on a terminal and in Markdown elsewhere. Exits with 1 if a metric is worse
by more than its tolerance, or missing on either side.

Results of other data or of another network than the base's cannot be compared: they are refused,
unless ``gate.yaml`` accepts that data or network. The first results of a repository pass.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from sparse_sam.errors import ConfigError, SparseSamError
from sparse_sam.evaluation.outcomes import Row, gate_table, terminal_table
from sparse_sam.evaluation.revisions import base_content, base_revision, workspace_content
from sparse_sam.evaluation.subject import IDENTITY, Subject
from sparse_sam.files import git_says, needed_by, why_not, write_text
from sparse_sam.redaction import guard_output
from sparse_sam.terminal import is_live

with needed_by("python -m sparse_sam.evaluation.gate", "pipeline"):
    from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

RULES = Path("gate.yaml")
Tolerance = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Rule(BaseModel):
    """One entry of ``gate.yaml``.

    A ``cost`` that falls is "changed" and not "better": who trains less pays less. One that rises
    by more than it may is worse, as of any other metric.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str
    metric: str
    better: Literal["higher", "lower"]
    absolute: Tolerance | None = None
    noise: Tolerance | None = None
    cost: bool = False

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
    if not now.is_of_data(base) and now.data != rules.accept.data:
        ours, theirs = (f"{one.source or 'unnamed'}, {one.data or '?'}" for one in (now, base))
        found.append(f"of other data: {ours} (the base's: {theirs})")
    if not now.is_of_network(base) and now.sized_network != rules.accept.network:
        ours, theirs = (one.sized_network or "one that is not named" for one in (now, base))
        found.append(f"of another network: {ours} (the base's: {theirs})")
    return found


def _refusal(revision: str, differing: Sequence[str], base: Subject, now: Subject) -> str:
    """Why results are not compared, and how a change that is meant is accepted."""
    changed = {
        "data": "" if now.is_of_data(base) else now.data,
        "network": "" if now.is_of_network(base) else now.sized_network,
    }
    lines = [f"  {name}: {json.dumps(value)}" for name, value in changed.items() if value]
    return (
        f"these results cannot be compared with those of {revision[:10]}: they are "
        f"{' and '.join(differing)}. Compare with a revision of the same data and network "
        f"(BASE=REV). If the change is intended, accept it in {RULES} and commit that with the "
        "results: this commit is then not compared, and later ones are compared with it.\n"
        + "\n".join(["accept:", *lines])
    )


def changed_rules(rules: Rules, revision: str) -> str:
    """Which rules the base has and this revision has not, for whoever reviews a change; or ""."""
    text = git_says("show", f"{revision}:./{RULES}")
    try:
        base = Rules.model_validate(YAML(typ="safe", pure=True).load(text)) if text else rules
    except (YAMLError, ValueError):
        return f"\n**{RULES} of the base could not be read.**\n"
    gone = [rule for rule in base.metrics if rule not in rules.metrics]
    said = [f"- {one.file}: {one.metric}, {one.better}, " + _allowed(one) for one in gone]
    head = f"\n**{RULES} changes or removes rules of the base. The base's are:**\n\n"
    return head + "\n".join(said) + "\n" if said else ""


def _allowed(rule: Rule) -> str:
    given = {"absolute": rule.absolute, "noise": rule.noise}
    return ", ".join(f"{name} {value:g}" for name, value in given.items() if value is not None)


def check_gate(base: str | None = None) -> tuple[list[Row], str]:
    """Compare the metrics in the working directory with a base revision's, as gate.yaml says.

    Gives the rows and the revision that was compared with. Raises ConfigError if it cannot be told,
    and if the results are of other data or of another network, which the rules do not accept.
    """
    rules = load_rules(RULES)
    files = frozenset(rule.file for rule in rules.metrics)
    revision = base_revision(base, files | IDENTITY)
    before, after = base_content(revision, files), workspace_content(files)
    if not before:  # a rule that finds nothing is MISSING also where it has nothing to find
        return [_as_new(row) for row in compare_metrics(rules, {}, after) if after], revision
    then = Subject.of(base_content(revision, IDENTITY))
    now = Subject.of(workspace_content(IDENTITY))
    if differing := differences(rules, then, now):
        raise ConfigError(_refusal(revision, differing, then, now))
    rows = compare_metrics(rules, before, after)
    return rows if now.is_that_of(then) else [_as_new(row) for row in rows], revision


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
        return Row(name, base, now, tolerance, "unchanged")
    if abs(gain) <= tolerance + 1e-12:
        return Row(name, base, now, tolerance, "within")
    if gain < 0:
        return Row(name, base, now, tolerance, "WORSE")
    return Row(name, base, now, tolerance, "changed" if rule.cost else "better")


def _value(found: Any) -> float | None:
    """A number, or the mean of a mapping that has one."""
    value = found.get("mean") if isinstance(found, dict) else found
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def _standard_error(name: str, before: Any, after: Any) -> float:
    """That of the difference of two means over seeds, which may not be the same seeds.

    Both sides are taken to spread as the base does. A seed that collapsed would widen the spread of
    the new values, and with it what they are allowed.
    """
    base: list[float] = []
    shares = 0.0
    for side, found in (("base", before), ("workspace", after)):
        values = found.get("values") if isinstance(found, dict) else None
        numbers = [_value(one) for one in values] if isinstance(values, list) else []
        known = [one for one in numbers if one is not None]
        if len(known) < max(2, len(numbers)):
            raise ConfigError(
                f"{RULES}: noise needs values of two or more seeds, each a number, but {name} of "
                f"the {side} has {values}; use absolute there"
            )
        base = base or known
        shares += 1 / len(known)
    mean = sum(base) / len(base)
    return math.sqrt(sum((v - mean) ** 2 for v in base) / (len(base) - 1) * shares)


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
    shown = terminal_table(rows, revision[:10], sys.stdout) if is_live(sys.stdout) else table
    loosened = changed_rules(load_rules(RULES), revision)
    sys.stdout.write(shown + loosened)
    table += loosened
    if options.output:
        write_text(options.output, table)
    return int(any(row.fails for row in rows))


if __name__ == "__main__":
    guard_output()
    sys.exit(main())
