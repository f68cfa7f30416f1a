"""What nothing in a clone names: seen in a real repository of git and DVC, and never too much."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Literal
from unittest.mock import Mock

import pytest

from sparse_sam.errors import SparseSamError
from sparse_sam.files import Store
from sparse_sam.tracking import unused as module
from sparse_sam.tracking.journal import Journal
from sparse_sam.tracking.unused import main, named_keys, unused

PIPELINE = """
stages:
  train_dense:
    cmd: cp journal.jsonl runs/train_dense.jsonl
    deps: [journal.jsonl]
    outs: [runs/train_dense.jsonl]
"""
COMMITTED = ("on main", "on a branch", "tagged", "an experiment")
LONGEST = "nobody's either"


def key(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def keys(*names: str) -> set[str]:
    return {key(name) for name in names}


def write_journal(path: Path, *names: str) -> None:
    """The journal of a stage that did these trainings, as a stage writes it."""
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    open_journal(path, *names).end("FINISHED")


def open_journal(path: Path, *names: str) -> Journal:
    journal = Journal(path, stage="train_dense", params={}, tags={}, launcher={})
    for seed, name in enumerate(names):
        journal.child(f"dense seed {seed}", {"arm": "dense", "seed": seed, "training": key(name)})
    return journal


def git(clone: Path, *arguments: str) -> None:
    command = ["git", *arguments]
    subprocess.run(command, cwd=clone, check=True, capture_output=True, timeout=120)


def dvc(clone: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "dvc", *arguments, "-q"]
    subprocess.run(command, cwd=clone, check=True, capture_output=True, timeout=120)


def begin(clone: Path, *settings: str) -> None:
    """DVC in a folder of git's, with the pipeline."""
    dvc(clone, "init", *settings)
    (clone / "dvc.yaml").write_text(PIPELINE)
    (clone / "runs").mkdir()
    (clone / "runs" / ".gitignore").write_text("/train_dense.jsonl\n")
    (clone / ".gitignore").write_text("*.lock\n!dvc.lock\n/.sparse-sam\n")


def begin_git(folder: Path) -> None:
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    git(folder, "config", "user.email", "nobody@example.org")
    git(folder, "config", "user.name", "Nobody")


def run(clone: Path, name: str) -> None:
    """Run the pipeline, so that a training of this name was done."""
    write_journal(clone / "journal.jsonl", name)
    dvc(clone, "repro")


def commit(clone: Path, name: str) -> None:
    run(clone, name)
    git(clone, "add", "-A")
    git(clone, "commit", "-q", "-m", name)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with a result on every kind of name that git has, and another in its workspace."""
    clone = tmp_path_factory.mktemp("template") / "clone"
    begin_git(clone)
    begin(clone)
    commit(clone, "on main")
    run(clone, "an experiment")
    dvc(clone, "exp", "save", "-n", "tried")
    git(clone, "checkout", "-q", "-f", "-b", "other")
    commit(clone, "on a branch")
    git(clone, "checkout", "-q", "--detach")
    commit(clone, "tagged")
    git(clone, "tag", "-a", "kept", "-m", "kept")
    git(clone, "checkout", "-q", "main")
    write_journal(clone / "runs" / "train_dense.jsonl", "in the workspace")
    return clone


@pytest.fixture
def clone(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    copied = tmp_path / "clone"
    shutil.copytree(template, copied, symlinks=True)
    monkeypatch.delenv("SPARSE_SAM_STORE")
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.chdir(copied)
    return copied


@pytest.fixture
def store(clone: Path) -> Store:
    return Store(clone / ".sparse-sam" / "store")


def keep(store: Store, names: Iterable[str], kind: str = "training") -> None:
    """Keep a result of each name, with a file that holds it."""
    for name in names:
        file = store.folder.parent / "file"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(1000 * name)
        task = {"arm": "sgd", "model": "mlpnet", "seed": 3}
        store.keep(kind, key(name), {"task": task}, {"checkpoint": file})
        file.unlink()


def removed_keys(clone: Path, store: Store) -> set[str]:
    """The keys whose entries would be removed."""
    return {
        path.stem for one in unused(clone, store) for path in one.files if path.suffix == ".json"
    }


def test_everything_that_git_and_the_workspace_name_is_used(clone: Path, store: Store) -> None:
    assert named_keys(clone) == keys(*COMMITTED, "in the workspace")
    keep(store, [*COMMITTED, "in the workspace", "nobody's"])
    (found,) = unused(clone, store)
    assert found.what == "training sgd mlpnet seed 3"
    entry, (blob,) = (
        store.entry_path("training", key("nobody's")),
        store.blobs_of("training", key("nobody's")),
    )
    assert set(found.files) == {entry, blob}
    assert found.size == entry.stat().st_size + blob.stat().st_size


@pytest.mark.parametrize(
    ("arguments", "lost"),
    [
        (["git", "branch", "-D", "other"], {"on a branch"}),
        (["git", "tag", "-d", "kept"], {"tagged"}),
        (["dvc", "exp", "remove", "tried"], {"an experiment"}),
        (["rm", "runs/train_dense.jsonl"], {"in the workspace"}),
        (["rm", "-r", ".dvc/cache"], set(COMMITTED)),
    ],
)
def test_a_name_that_is_gone_names_nothing(
    arguments: list[str], lost: set[str], clone: Path, store: Store
) -> None:
    keep(store, [*COMMITTED, "in the workspace"])
    assert removed_keys(clone, store) == set()
    command = [sys.executable, "-m", *arguments] if arguments[0] == "dvc" else arguments
    subprocess.run(command, cwd=clone, check=True, capture_output=True)
    assert removed_keys(clone, store) == keys(*lost)


def new_journal(clone: Path) -> Path:
    """Where the journal of a stage is that was just begun."""
    folder = clone / ".sparse-sam" / "pipelines" / "20260101T000000.000000-0123456789"
    folder.mkdir(parents=True)
    return folder / "train_dense.0.jsonl"


@pytest.mark.parametrize("ended", ["KILLED", "FAILED", None])
def test_a_stage_that_did_not_come_to_its_end_names_what_it_had_done(
    ended: Literal["KILLED", "FAILED"] | None, clone: Path, store: Store
) -> None:
    keep(store, ["done before"])
    path = new_journal(clone)
    open_journal(path, "done before").end(ended or "FINISHED")
    if ended is None:  # it was killed, within a line
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(lines[:-1]) + lines[-1][:9])
    assert removed_keys(clone, store) == set()
    week = 7 * 24 * 3600
    os.utime(path, (0, time.time() - week + 60))
    assert removed_keys(clone, store) == set()
    os.utime(path, (0, time.time() - week - 60))
    assert removed_keys(clone, store) == keys("done before")


def test_what_a_stage_keeps_meanwhile_is_used(
    clone: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(store, ["meanwhile", "nobody's"])
    (blob,) = store.blobs_of("training", key("meanwhile"))
    os.utime(blob, (0, 0))
    store.drop("training", key("meanwhile"))  # its file is left, from long ago

    def reading(root: Path) -> set[str]:
        found = named_keys(root)
        keep(store, ["meanwhile"])
        return found

    monkeypatch.setattr(module, "named_keys", reading)
    (found,) = unused(clone, store)
    assert found.files[0] == store.entry_path("training", key("nobody's"))


def test_a_lock_of_many_commits_is_read_once(
    clone: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        git(clone, "commit", "-q", "--allow-empty", "-m", f"{number}")
        git(clone, "tag", f"tag-{number}")
    ask, parse = Mock(wraps=module.git_says), Mock(wraps=module._keys_behind)
    monkeypatch.setattr(module, "git_says", ask)
    monkeypatch.setattr(module, "_keys_behind", parse)
    assert named_keys(clone) == keys(*COMMITTED, "in the workspace")
    # (Of the four commits, and of the workspace, whose lock is that of one of them.)
    assert parse.call_count == len(COMMITTED)
    assert ask.call_count == 2 + len(COMMITTED)


def test_a_stage_that_runs_names_what_it_has_done(clone: Path, store: Store) -> None:
    keep(store, ["running"])
    journal = open_journal(new_journal(clone), "running")
    assert removed_keys(clone, store) == set()
    journal.end("FINISHED")
    # Its journal is in runs/ now, or what it did was thrown away.
    assert removed_keys(clone, store) == keys("running")


def write_plan(clone: Path, cells: Iterable[str], dense: Iterable[str]) -> Path:
    path = clone / ".sparse-sam" / "sweeps" / "regimes" / "sweeps" / f"{key('a sweep')}.json"
    path.parent.mkdir(parents=True)
    plan = {"cells": [{"key": key(one)} for one in cells], "dense": [key(one) for one in dense]}
    path.write_text(json.dumps(plan))
    return path


def test_a_sweep_names_its_cells_and_dense_networks(clone: Path, store: Store) -> None:
    keep(store, ["dense", "another dense"])
    keep(store, ["cell", "another cell"], kind="cell")
    plan = write_plan(clone, ["cell"], ["dense"])
    assert removed_keys(clone, store) == keys("another dense", "another cell")
    plan.unlink()
    assert len(removed_keys(clone, store)) == 4


def test_the_cache_may_lie_elsewhere(clone: Path, store: Store, tmp_path: Path) -> None:
    keep(store, COMMITTED)
    (clone / ".dvc" / "cache").rename(tmp_path / "cache")
    assert removed_keys(clone, store) == keys(*COMMITTED)
    dvc(clone, "cache", "dir", "--local", str(tmp_path / "cache"))
    assert removed_keys(clone, store) == set()


def test_a_project_may_lie_below_the_repository(tmp_path: Path) -> None:
    begin_git(tmp_path / "whole")
    project = tmp_path / "whole" / "project"
    project.mkdir()
    begin(project, "--subdir")
    commit(project, "on main")
    git(project, "checkout", "-q", "-b", "other")
    commit(project, "on a branch")
    assert named_keys(project) == keys("on main", "on a branch")


def test_without_git_the_workspace_is_all_that_names(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    clone.mkdir()
    begin(clone, "--no-scm")
    run(clone, "in the workspace")
    assert named_keys(clone) == keys("in the workspace")


def lose_git(clone: Path) -> None:
    (clone / ".git" / "HEAD").write_text("lost")


def damage_journal(clone: Path) -> None:
    (clone / "runs" / "train_dense.jsonl").write_text("{}\n")


def damage_plan(clone: Path) -> None:
    write_plan(clone, [], []).write_text("[]")


@pytest.mark.parametrize("damage", [lose_git, damage_journal, damage_plan])
def test_where_a_name_cannot_be_read_nothing_is_unused(
    damage: object, clone: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(store, [*COMMITTED, "nobody's"])
    assert callable(damage)
    damage(clone)
    with pytest.raises(SparseSamError):
        unused(clone, store)
    assert command("--remove") == 1
    assert capsys.readouterr().err.startswith("error: ")
    assert len(store.keys("training")) == len(COMMITTED) + 1


@pytest.mark.parametrize(
    "lock", ["", "[]", "stages: 3", "stages: {a: {outs: [3]}}", "stages: {a: {outs: }}", "{", "\0"]
)
def test_a_lock_that_nobody_wrote_names_nothing(lock: str, clone: Path) -> None:
    (clone / "dvc.lock").write_text(lock)
    assert named_keys(clone) == keys(*COMMITTED, "in the workspace")  # the commits are left


def test_a_file_of_several_results_stays_with_the_one_that_is_named(
    clone: Path, store: Store
) -> None:
    keep(store, ["on main", "nobody's"])
    (shared,) = store.blobs_of("training", key("on main"))
    copied = store.folder / "copied"
    shutil.copy(shared, copied)
    for name in ("one", "another"):
        store.keep("training", key(name), {}, {"checkpoint": copied})
    found = unused(clone, store)
    assert shared not in {path for one in found for path in one.files}
    assert len(found) == 3
    # A file of two that nothing names goes, and counts, once.
    copied.write_text("theirs")
    for name in ("two", "three"):
        store.keep("training", key(name), {}, {"checkpoint": copied})
    files = [path for one in unused(clone, store) for path in one.files]
    assert len(files) == len(set(files)) == 3 + 1 + 2 + 1


def test_what_killed_writers_left_is_unused_when_it_is_old(clone: Path, store: Store) -> None:
    keep(store, ["on main"])
    (blob,) = store.blobs_of("training", key("on main"))
    entries = store.folder / "entries" / "training"
    left = [blob.with_name("f" * 64), blob.with_name(".x.tmp"), entries / ".x.json.tmp"]
    for path in left:
        path.write_text("half")
    assert unused(clone, store) == []
    for path in (*left, blob):
        os.utime(path, (0, time.time() - 3700))
    assert {path for one in unused(clone, store) for path in one.files} == set(left)


def test_what_was_saved_on_its_way_is_unused_when_it_is_done(clone: Path, store: Store) -> None:
    keep(store, ["on main"])
    points = clone / ".sparse-sam" / "resume"
    points.mkdir()
    for name in ("on main", "not done"):
        (points / f"{key(name)}.safetensors").write_text(name)
    (found,) = unused(clone, store)
    assert found.files == (points / f"{key('on main')}.safetensors",)


def command(*arguments: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["unused", *arguments])
        return main()


def test_shown_first_and_removed_on_request(
    clone: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(store, [*COMMITTED, "nobody's", LONGEST])
    assert command() == 0
    shown = capsys.readouterr().out
    assert "2 that nothing here names" in shown
    assert "`make gc REMOVE=yes` removes them" in shown
    assert shown.splitlines()[0].endswith(f"seed 3, {key(LONGEST)[:16]}…")
    assert len(store.keys("training")) == len(COMMITTED) + 2
    assert command("--remove") == 0
    assert "2 removed" in capsys.readouterr().out
    assert store.keys("training") == keys(*COMMITTED)
    for name in COMMITTED:
        place = clone / "taken"
        assert store.take("training", key(name), {"checkpoint": place})
        assert place.read_text() == 1000 * name
    assert command() == 0
    assert capsys.readouterr().out.endswith("nothing: this clone names all of it\n")


def test_a_folder_that_may_be_others_is_only_looked_at(
    clone: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SPARSE_SAM_STORE", str(tmp_path / "shared"))
    store = Store(tmp_path / "shared")
    keep(store, ["another clone's"])
    assert command() == 0
    assert command("--remove") == 1
    assert "Nothing was removed; with SHARED=yes it is" in capsys.readouterr().err
    assert store.keys("training") == keys("another clone's")
    assert command("--remove", "--shared") == 0
    assert store.keys("training") == set()
