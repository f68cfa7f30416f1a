"""``python -m sparse_sam.stages.status``: what ``make repro`` would run, and why, in plain words.

It asks ``dvc status`` and shortens the answer to a line for each stage; ``--verbose`` shows DVC's
own lines below. Run ``python -m sparse_sam.stages.inputs`` first: DVC does not look at code.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sparse_sam.stages.runner import command, explained

_GONE = {"deleted", "not in cache"}
_NAMED = 2
"""How many files or parameters a line names; of more, it gives the number."""


def in_words(found: Mapping[str, Any], stages: Sequence[str]) -> str:
    """What ``dvc status --json`` found, for a person; lines that end with a line feed.

    Args:
        found: by stage, what changed, as DVC tells it.
        stages: all stages, in the order in which they run.
    """
    stale = [stage for stage in stages if found.get(stage)]
    if not stale:
        return "Nothing is out of date: `make repro` would run no stage.\n"
    which = f"all {len(stages)}" if len(stale) == len(stages) else f"{len(stale)} of {len(stages)}"
    lines = [f"`make repro` would run {which} stages:"]
    lines += [f"  {stage}, because {'; '.join(_reasons(found[stage]))}" for stage in stale]
    if stale[-1] != stages[-1]:
        lines.append("Later stages run too if what they read changes.")
    return "".join(f"{line}\n" for line in lines)


def _reasons(changes: Sequence[Any]) -> Iterator[str]:
    """Why a stage would run, each reason once."""
    found = [one for entry in changes for one in _flat(entry)]
    of = {how: [name for kind, name in found if kind == how] for how, _ in found}
    if "code" in of:
        yield "its code, packages or files changed"
    if "command" in of:
        yield "its entry in dvc.yaml changed"
    if keys := of.get("parameter"):
        yield f"{_few(keys)} changed in params.yaml"
    for how in ("missing", "changed"):
        if paths := of.get(how):
            yield f"{_few(paths)} {'is' if len(paths) == 1 else 'are'} {how}"


def _flat(entry: Any) -> Iterator[tuple[str, str]]:
    """What changed of one entry of DVC's, each with its kind."""
    if isinstance(entry, str):  # "changed command"
        yield "command", entry
        return
    for path, how in ((path, how) for of in entry.values() for path, how in of.items()):
        if isinstance(how, dict):  # keys of params.yaml
            yield from (("parameter", key) for key in how)
        elif path.startswith("inputs/"):
            yield "code", path
        else:
            yield "missing" if how in _GONE else "changed", path


def _few(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    if len(names) <= _NAMED:
        return " and ".join(names)
    return f"{', '.join(names[:_NAMED])} and {len(names) - _NAMED} more"


def stage_changes(stages: Sequence[str]) -> dict[str, Sequence[Any]]:
    """By stage, what changed. Raises SparseSamError if DVC does not answer."""
    from sparse_sam.errors import SparseSamError

    said = dvc_status(stages, "--json")
    try:
        found = json.loads(said)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise SparseSamError(f"`dvc status` does not answer in JSON: {said[-300:]}")
    return {stage: found[stage] for stage in stages if stage in found}


def dvc_status(stages: Sequence[str], *options: str) -> str:
    """What ``dvc status`` prints. Raises SparseSamError if it does not answer."""
    from sparse_sam.errors import SparseSamError

    done = subprocess.run(
        [sys.executable, "-m", "dvc", "status", *options, *stages],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    if done.returncode:
        reason = " ".join(done.stderr.split())[-300:]
        raise SparseSamError(f"`dvc status` does not answer: {reason}")
    return done.stdout


def main() -> None:
    """Print it."""
    parser = argparse.ArgumentParser(prog=command("status"), description=__doc__)
    parser.add_argument("--verbose", action="store_true", help="show DVC's own lines, too")
    verbose = parser.parse_args().verbose
    from sparse_sam.redaction import guard_output
    from sparse_sam.tracking import STAGES

    guard_output()
    with explained():
        stages = list(STAGES)
        sys.stdout.write(in_words(stage_changes(stages), stages))
        sys.stdout.write(f"\n{dvc_status(stages)}" if verbose else "")


if __name__ == "__main__":
    main()
