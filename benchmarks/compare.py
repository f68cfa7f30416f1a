"""What became slower since the last commit with results on the same machine.

    python benchmarks/compare.py              # exits with 1 if something did: `make bench-compare`

A number is called slower when the whole range between its quartiles lies on the worse side of the
earlier range, and its median is more than 5 % worse: what differs by less is the machine's noise.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import RESULTS

LEAST = 0.05
_SAME = ("device", "cores", "threads", "torch")

Result = Mapping[str, Any]


def verdict(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """``slower``, ``faster`` or ``alike``, of two measurements of one value."""
    if old["better"] == "neither":
        return "alike"
    sign = 1 if old["better"] == "lower" else -1
    change = sign * (new["median"] - old["median"])
    if abs(change) <= LEAST * abs(old["median"]):
        return "alike"
    apart = new["lower"] > old["upper"] or new["upper"] < old["lower"]
    return ("slower" if change > 0 else "faster") if apart else "alike"


def last_two(results: Sequence[Result]) -> tuple[Result, Result] | None:
    """The newest result and the one before it on the same machine; None without one."""
    ordered = sorted(results, key=lambda one: one["committed"])
    for old in reversed(ordered[:-1]):
        new = ordered[-1]
        alike = all(old["machine"].get(key) == new["machine"].get(key) for key in _SAME)
        if alike and old["quick"] == new["quick"] and old["commit"] != new["commit"]:
            return old, new
    return None


def changes(old: Result, new: Result) -> Iterator[tuple[str, str, str]]:
    """Verdict, name and a line to read, for every value that both hold."""
    before = {one["name"]: one for one in old["values"]}
    for one in new["values"]:
        if one["name"] in before:
            was = before[one["name"]]
            line = (
                f"{new['benchmark']}: {one['name']}: {was['median']:.3g} "
                f"({was['lower']:.3g}–{was['upper']:.3g}) → {one['median']:.3g} "
                f"({one['lower']:.3g}–{one['upper']:.3g}) {one['unit']}, "
                f"{old['commit']} → {new['commit']}"
            )
            yield verdict(was, one), one["name"], line


def main() -> None:
    """Print what changed beyond noise; exit with 1 if something became slower."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    folders = sorted(path for path in parser.parse_args().results.iterdir() if path.is_dir())
    slower = False
    for folder in folders:
        results = [json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))]
        pair = last_two(results)
        if pair is None:
            sys.stdout.write(f"{folder.name}: nothing to compare with on this machine\n")
            continue
        found = list(changes(*pair))
        for said, _, line in found:
            if said != "alike":
                sys.stdout.write(f"{said.upper()} {line}\n")
        slower = slower or any(said == "slower" for said, *_ in found)
        alike = sum(said == "alike" for said, *_ in found)
        sys.stdout.write(f"{folder.name}: {alike} of {len(found)} values alike\n")
    sys.exit(1 if slower else 0)


if __name__ == "__main__":
    main()
