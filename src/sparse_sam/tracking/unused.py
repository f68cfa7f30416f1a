"""``python -m sparse_sam.tracking.unused``: what the store holds that this clone does not name.

Named is a result by the journals of the workspace and of every branch, tag and experiment whose
``dvc.lock`` leads to them in DVC's cache, by a stage that is running or did not come to its end
lately, and by every sweep of the clone. All else is shown with its size, and removed on request; it
is computed again when needed.
"""

import argparse
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparse_sam.files import needed_by

with needed_by("python -m sparse_sam.tracking.unused", "pipeline"):
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

from sparse_sam.errors import ConfigError, DataError, SparseSamError
from sparse_sam.files import Store, git_says, read_json
from sparse_sam.redaction import guard_output, redacted
from sparse_sam.terminal import bytes_in_words
from sparse_sam.tracking.journal import is_running, read_events
from sparse_sam.tracking.pipelines import repository_root, state_folder
from sparse_sam.tracking.stages import STAGES
from sparse_sam.tracking.stores import is_shared, open_store
from sparse_sam.tracking.trainings import keys_in

KINDS = ("training", "cell")
_KEY = re.compile('"training": "([0-9a-f]{64})"')
_YOUNG_SECONDS = 3600.0
"""A file without an entry that is younger may be one that is being kept."""
_GOES_ON_SECONDS = 7 * 24 * 3600.0
"""So long a stage that was killed, or failed, is expected to go on from what it had finished."""


@dataclass(frozen=True)
class Unused:
    """Something that nothing names.

    Attributes:
        what: in words.
        size: in bytes, of what goes with it.
        files: what is removed.
    """

    what: str
    size: int
    files: tuple[Path, ...]


def unused(root: Path, store: Store) -> list[Unused]:
    """What of a store, and of the places where trainings are saved, nothing of a clone names.

    Raises:
        SparseSamError: a file that names results is damaged, or git fails: then nothing can be said
            to be unused.
    """
    # First what there is, and then its names: a stage names a result before it keeps it.
    everything = _everything(store)
    named = named_keys(root)
    came = set(_everything(store)) - set(everything)
    used = came.union(one for one in everything if one[1] in named)
    claimed = {path for one in used for path in store.blobs_of(*one)}
    found = []
    for kind, key in everything:
        if key not in named:
            own = set(store.blobs_of(kind, key)) - claimed
            claimed |= own  # of two results with the same network it goes with the first
            files = [store.entry_path(kind, key), *sorted(own)]
            found.append(_unused(_described(kind, store, key), files))
    left = (path for path in store.files() if path not in claimed and _is_old(path))
    found.extend(_unused("left by a writer that was killed", [path]) for path in left)
    points = sorted((state_folder(root) / "resume").glob("*.safetensors"))
    over = (path for path in points if store.about("training", path.stem) is not None)
    found.extend(_unused("saved on its way, and done since", [path]) for path in over)
    return found


def _everything(store: Store) -> list[tuple[str, str]]:
    return [(kind, key) for kind in KINDS for key in sorted(store.keys(kind))]


def named_keys(root: Path) -> set[str]:
    """The keys of all results that a clone names. Raises SparseSamError."""
    named = set(_workspace_keys(root))
    cache = _cache(root)
    for lock in _locks(root):
        named.update(_keys_behind(cache, lock))
    for plan in (state_folder(root) / "sweeps").glob("*/sweeps/*.json"):
        cure = "Delete it: the sweep writes it when it is run again."
        content = read_json(plan, cure)
        try:
            named.update(cell["key"] for cell in content["cells"])
            named.update(content.get("dense", ()))
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{plan} is damaged ({error!r}). {cure}") from None
    return named


def _workspace_keys(root: Path) -> Iterator[str]:
    # (First those of stages that may be running: when one ends, its journal goes to runs/.)
    for path in (state_folder(root) / "pipelines").glob("*/*.jsonl"):
        with suppress(FileNotFoundError):
            yield from _keys_under_way(path)
    for stage in STAGES.values():
        if (root / stage.journal).is_file():
            yield from keys_in(read_events(root / stage.journal))


def _keys_under_way(path: Path) -> Iterator[str]:
    """The keys in the journal of a stage that is running, or lately did not come to its end."""
    running = is_running(path)
    if running or time.time() - path.stat().st_mtime < _GOES_ON_SECONDS:
        events = read_events(path)
        ends = [one["status"] for one in events if one["event"] == "end"]
        if running or "FINISHED" not in ends:
            yield from keys_in(events)


def _locks(root: Path) -> set[str]:
    """The texts of ``dvc.lock`` in the workspace, and in all commits that a name leads to."""
    texts = set()
    with suppress(FileNotFoundError):
        texts.add((root / "dvc.lock").read_text(encoding="utf-8"))
    commits = git_says("for-each-ref", "--format=%(objectname)", folder=root)
    if commits is None and not any((one / ".git").exists() for one in (root, *root.parents)):
        return texts
    # Many commits have the same lock, which is one object of git's then, and read once.
    asked = "".join(f"{commit}:./dvc.lock\n" for commit in (commits or "").split())
    told = git_says(
        "cat-file", "--batch-check=%(objecttype) %(objectname)", folder=root, given=asked
    )
    lines = [line.split() for line in (told or "").splitlines()]
    blobs = {one[1] for one in lines if one[0] == "blob"}
    locks = [git_says("cat-file", "blob", one, folder=root) for one in blobs]
    read = [lock for lock in locks if lock is not None]
    if commits is None or told is None or len(read) < len(locks):
        raise SparseSamError(
            "git does not say which branches there are, or what they hold, so nothing can be said "
            "to be unused. See what `git for-each-ref` and `git fsck` say."
        )
    return texts.union(read)


def _cache(root: Path) -> Path:
    """DVC's cache, wherever it is (`dvc cache dir`)."""
    from dvc.config import Config
    from dvc.exceptions import DvcException

    own = root / ".dvc"
    try:
        return Path(Config(dvc_dir=str(own))["cache"].get("dir", own / "cache")) / "files" / "md5"
    except DvcException as error:
        raise ConfigError(f"{own}: {redacted(str(error))}") from None


def _keys_behind(cache: Path, lock: str) -> Iterator[str]:
    """The keys in the journals that a ``dvc.lock`` names, where DVC's cache has them."""
    try:
        read: Any = YAML(typ="safe", pure=True).load(lock) or {}
        stages = read.get("stages", {}).values()
        outputs = [one for stage in stages for one in stage.get("outs", [])]
        found = [(str(one.get("md5", "")), str(one.get("path", ""))) for one in outputs]
    except (YAMLError, AttributeError, TypeError):
        return
    for digest, path in found:
        if re.fullmatch("[0-9a-f]{32}", digest) and path.endswith(".jsonl"):
            cached = cache / digest[:2] / digest[2:]
            with suppress(FileNotFoundError):
                yield from _KEY.findall(cached.read_text(encoding="utf-8", errors="replace"))


def _described(kind: str, store: Store, key: str) -> str:
    about = store.about(kind, key) or {}
    task: Any = about.get("task") or about.get("work") or {}
    dense = task.get("dense", task)
    words = [kind, task.get("arm", "dense"), dense.get("model", "?"), f"seed {dense.get('seed')}"]
    return " ".join(map(str, words))


def _unused(what: str, files: Sequence[Path]) -> Unused:
    size = 0
    for path in files:
        with suppress(OSError):
            size += path.stat().st_size
    return Unused(what, size, tuple(files))


def _is_old(path: Path) -> bool:
    with suppress(OSError):
        return time.time() - path.stat().st_mtime > _YOUNG_SECONDS
    return False


def main() -> int:
    """Show, and remove if that is asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m sparse_sam.tracking.unused", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--remove", action="store_true", help="remove what is shown")
    parser.add_argument(
        "--shared", action="store_true", help="also from a store that others may use"
    )
    asked = parser.parse_args()
    try:
        root = repository_root()
        store = open_store(root)
        if is_shared() and not store.folder.is_dir():
            raise SparseSamError(
                f"SPARSE_SAM_STORE: {store.folder} is no folder: there is no store"
            )
        if asked.remove and is_shared() and not asked.shared:
            raise SparseSamError(
                f"{store.folder} may be shared, and what other clones name is not known here. "
                "Nothing was removed; with SHARED=yes it is."
            )
        found = unused(root, store)
        for one in sorted(found, key=lambda one: -one.size):
            sys.stdout.write(
                f"{bytes_in_words(one.size):>10}  {one.what}, {one.files[0].name[:16]}…\n"
            )
            for path in one.files if asked.remove else ():
                path.unlink(missing_ok=True)
    except (SparseSamError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    total = bytes_in_words(sum(one.size for one in found))
    if asked.remove:
        said = f"{len(found)} removed, {total}"
    elif found:
        said = f"{len(found)} that nothing here names, {total}; `make gc REMOVE=yes` removes them"
    else:
        said = "nothing: this clone names all of it"
    sys.stdout.write(f"{store.folder}: {said}\n")
    return 0


if __name__ == "__main__":
    guard_output()
    sys.exit(main())
