"""``python -m sparse_sam.stages.up_to_date``: are the committed results those of this code?

Compares ``dvc.lock`` with the code, the parameters, and the result files that git holds. It trains
nothing and needs no data: what only DVC's cache holds, and is not here, is not looked at.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sparse_sam.stages.runner import command
from sparse_sam.stages.status import stage_changes

PIPELINE, LOCK = Path("dvc.yaml"), Path("dvc.lock")
KEPT = ("inputs", "metrics", "plots")
"""The folders of results that git holds; the rest is in DVC's cache."""
CURE = (
    "Run `make repro`, look at what changed, and commit dvc.lock with inputs/, metrics/ and plots/."
)


def stale_results() -> list[str]:
    """What does not belong to the committed results, a sentence each; [] if all does.

    Raises:
        SparseSamError: the parameters cannot be read, or DVC does not answer.
    """
    from sparse_sam.config import load_params
    from sparse_sam.files import Contents, read_json
    from sparse_sam.stages.inputs import made_by
    from sparse_sam.tracking import STAGES, layout, repository_root, state_folder

    params = load_params(layout.params)
    contents = Contents(state_folder(repository_root()) / "contents.json")
    said = []
    for stage in STAGES:
        path = layout.inputs(stage)
        before = read_json(path, cure=CURE)
        changed = sorted(_differing(before, made_by(stage, params, contents)))
        if changed:
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            said.append(f"{stage}: changed since its results: {', '.join(changed[:3])}{more}")
    said += [line for line in _of_dvc(list(STAGES)) if line.split(":")[0] not in _named(said)]
    return said + list(_unlike_the_lock(STAGES))


def _named(said: list[str]) -> set[str]:
    return {line.split(":")[0] for line in said}


def _differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """The modules, files and versions that two records of what made a stage differ in."""
    from sparse_sam.files import MISSING

    for part in before.keys() | now.keys():
        old, new = before.get(part), now.get(part)
        if not isinstance(old, Mapping) or not isinstance(new, Mapping):
            if old != new:
                yield part
            continue
        for name in old.keys() | new.keys():
            is_away = part == "files" and new.get(name) == MISSING  # data need not be in CI
            if old.get(name) != new.get(name) and not is_away:
                yield name


def _of_dvc(stages: list[str]) -> Iterator[str]:
    """What ``dvc status`` says of these stages, but for what is only missing here."""
    for stage, changes in stage_changes(stages).items():
        for entry in changes:
            if isinstance(entry, str):  # "changed command"
                yield f"{stage}: {entry} in dvc.yaml"
                continue
            for what, paths in entry.items():
                for path, how in paths.items():
                    if said := _one(what, path, how):
                        yield f"{stage}: {said}"


def _one(what: str, path: str, how: Any) -> str | None:
    """One change of a stage as ``dvc status`` tells it; None if it is only not here."""
    if isinstance(how, dict):  # keys of params.yaml
        return f"{path}: {', '.join(sorted(how))} changed"
    if how in {"deleted", "not in cache"} and Path(path).parts[0] not in KEPT:
        return None
    edited = " (edited by hand?)" if what == "changed outs" and how != "deleted" else ""
    return f"{path} is {how}{edited}"


def _unlike_the_lock(stages: Iterable[str]) -> Iterator[str]:
    """What one of dvc.yaml and dvc.lock lists of a stage, and the other does not.

    ``dvc status`` does not say it: it never looks at what was taken out of dvc.yaml.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    from sparse_sam.errors import SparseSamError

    try:
        declared, locked = (
            YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))["stages"]
            for path in (PIPELINE, LOCK)
        )
        for stage in stages:
            for part in ("deps", "outs", "params"):
                asked, had = _listed(declared[stage], part), _listed(locked.get(stage, {}), part)
                for name in sorted(asked - had):
                    yield f"{stage}: {name} is in {PIPELINE} ({part}) and not in {LOCK}"
                for name in sorted(had - asked):
                    yield f"{stage}: {name} is in {LOCK} ({part}) and not in {PIPELINE}"
    except (OSError, YAMLError, LookupError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[-300:]
        raise SparseSamError(f"{PIPELINE} and {LOCK} cannot be compared: {reason}") from None


def _listed(stage: Mapping[str, Any], part: str) -> set[str]:
    """The names in a part of a stage, as dvc.yaml or dvc.lock writes them."""
    # A metric or a plot is an output, too; dvc.lock calls it one.
    parts = ("outs", "metrics", "plots") if part == "outs" else (part,)
    found: set[str] = set()
    for entry in (one for name in parts for one in _entries(stage.get(name))):
        if isinstance(entry, str):
            found.add(entry)
        elif "path" in entry:  # dvc.lock
            found.add(entry["path"])
        elif part == "params":  # {params.yaml: [keys]}, or of dvc.lock {params.yaml: {key: value}}
            found |= {key for keys in entry.values() for key in keys or ()}
        else:  # {path: settings}
            found |= entry.keys()
    return found


def _entries(listed: Any) -> list[Any]:
    return [listed] if isinstance(listed, Mapping) else list(listed or ())


def main() -> int:
    """Say what is stale; 0 if nothing is, 1 if something is, 2 if it cannot be told."""
    argparse.ArgumentParser(prog=command("up_to_date"), description=__doc__).parse_args()
    from sparse_sam.errors import SparseSamError

    if not LOCK.is_file():
        if found := sorted(str(path) for folder in KEPT for path in Path(folder).glob("*.json")):
            sys.stderr.write(f"error: {LOCK} is missing, and {found[0]} is there. {CURE}\n")
            return 1
        sys.stdout.write("There are no results yet: `make repro` makes them.\n")
        return 0
    try:
        said = stale_results()
    except SparseSamError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    if said:
        lines = "".join(f"  {line}\n" for line in said)
        sys.stderr.write(f"error: the committed results are not of this code:\n{lines}{CURE}\n")
        return 1
    sys.stdout.write("The committed results are those of this code and these parameters.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
