"""Releases, in a real git repository with a real build."""

import os
import subprocess
import sys
import time
import zipfile
from datetime import date
from pathlib import Path

import pytest

from tools.release import (
    CHANGELOG,
    CITATION,
    VERSION_FILE,
    ReleaseError,
    changelog,
    check_version,
    citation,
    release,
)

TODAY = date(2027, 3, 1)
ROOT = Path(__file__).resolve().parents[2]
BUILD = (sys.executable, "-c", "from setuptools import build_meta; build_meta.build_wheel('dist')")
"""What `pip wheel` calls, with the setuptools that is here: pip would fetch one."""
FILES = {
    "pyproject.toml": """
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"
[project]
name = "sparse-sam"
dynamic = ["version"]
[tool.setuptools.dynamic]
version = { attr = "sparse_sam.__version__" }
[tool.setuptools.packages.find]
where = ["src"]
""",
    VERSION_FILE: '"""A library."""\n\nimport nowhere\n\n__version__ = "0.1.0"\n',
    CHANGELOG: "# Changes\n\n## 0.1.0 (unreleased)\n\n- Everything.\n",
    CITATION: "title: sparse-sam\nversion: 0.1.0\nlicense: MIT\n",
    ".gitignore": "/dist/\n/build/\n*.egg-info/\n",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / "repository" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    git(tmp_path / "repository", "init", "-q", "-b", "main")
    git(tmp_path / "repository", "config", "user.name", "test")
    git(tmp_path / "repository", "config", "user.email", "test@example.com")
    commit(tmp_path / "repository")
    return tmp_path / "repository"


def git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def commit(root: Path, **files: str) -> None:
    for name, text in files.items():
        (root / name).write_text(text)
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "work")


def state(root: Path) -> tuple[str, ...]:
    """All that a release could leave behind."""
    asked = (("log", "--all", "--format=%H"), ("tag",), ("status", "--porcelain", "--ignored"))
    return (*(git(root, *one) for one in asked), git(root, "worktree", "list"))


def test_a_release_and_the_next_one(root: Path) -> None:
    said = release(root, "0.1.0", TODAY, BUILD)
    assert "git push --atomic origin main v0.1.0" in said
    assert "unreleased" not in said
    assert git(root, "status", "--porcelain") == ""
    assert git(root, "log", "-1", "--format=%s") == "Release 0.1.0"
    assert git(root, "rev-parse", "v0.1.0^{commit}") == git(root, "rev-parse", "HEAD")
    assert "## 0.1.0 (2027-03-01)\n\n- Everything." in (root / CHANGELOG).read_text()
    assert "version: 0.1.0\ndate-released: 2027-03-01\n" in (root / CITATION).read_text()

    notes = (root / CHANGELOG).read_text().replace("## 0", "## Unreleased\n\n- More.\n\n## 0", 1)
    commit(root, **{CHANGELOG: notes})
    release(root, "0.2.0", TODAY, BUILD)
    assert git(root, "tag").split() == ["v0.1.0", "v0.2.0"]
    assert (root / CITATION).read_text().count("date-released") == 1
    assert '__version__ = "0.2.0"' in (root / VERSION_FILE).read_text()
    with zipfile.ZipFile(root / "dist" / "sparse_sam-0.2.0-py3-none-any.whl") as wheel:
        assert b"Version: 0.2.0\n" in wheel.read("sparse_sam-0.2.0.dist-info/METADATA")
        assert b'__version__ = "0.2.0"' in wheel.read("sparse_sam/__init__.py")
    assert len(git(root, "worktree", "list").splitlines()) == 1


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("0.0.9", "older than 0.1.0"),
        ("v0.2.0", "write the version as 0.2.0"),
        ("0.2.0+here", "write the version as 0.2.0"),
        ("next", "is no version"),
        ("--help", "is no version"),
    ],
)
def test_a_wrong_version_is_refused(root: Path, wanted: str, said: str) -> None:
    before = state(root)
    with pytest.raises(ReleaseError, match=said):
        release(root, wanted, TODAY, BUILD)
    assert state(root) == before


def test_a_version_that_exists_or_is_not_newer_is_refused() -> None:
    tags = ["v0.1.0", "v0.3.0rc1", "v-nightly"]
    with pytest.raises(ReleaseError, match="exists: it is tagged"):
        check_version("0.1.0", "0.1.0", tags)
    with pytest.raises(ReleaseError, match=r"not newer than v0\.3\.0rc1"):
        check_version("0.2.0", "0.1.0", tags)
    with pytest.raises(ReleaseError, match=r"not newer than v0\.1\.0"):
        check_version("0.1", "0.1.0", ["v0.1.0"])
    check_version("0.3.0", "0.1.0", tags)


def test_a_tree_that_is_not_clean_and_a_detached_head_are_refused(root: Path) -> None:
    (root / "new.txt").write_text("")
    before = state(root)
    with pytest.raises(ReleaseError, match=r"not clean:\n\?\? new.txt"):
        release(root, "0.2.0", TODAY, BUILD)
    assert state(root) == before
    (root / "new.txt").unlink()
    git(root, "checkout", "-q", "--detach")
    with pytest.raises(ReleaseError, match="detached"):
        release(root, "0.2.0", TODAY, BUILD)


@pytest.mark.parametrize(
    ("notes", "said"),
    [
        ("# Changes\n\n## Unreleased\n\n## 0.0.1 (2026-01-01)\n\n- Old.\n", "is empty"),
        ("# Changes\n\n## Unreleased\n\n### SAM\n", "is empty"),
        ("# Changes\n\n## 0.1.0 (2026-01-01)\n\n- Old.\n", "does not begin with"),
        ("# Changes\n", "does not begin with"),
    ],
)
def test_a_release_of_nothing_is_refused(root: Path, notes: str, said: str) -> None:
    commit(root, **{CHANGELOG: notes})
    before = state(root)
    with pytest.raises(ReleaseError, match=said):
        release(root, "0.2.0", TODAY, BUILD)
    assert state(root) == before


@pytest.mark.parametrize(
    "build", [("false",), ("true",), (sys.executable, "-c", "import sys; sys.exit('no disk')")]
)
def test_a_build_that_fails_leaves_nothing(root: Path, build: tuple[str, ...]) -> None:
    before = state(root)
    with pytest.raises(ReleaseError):
        release(root, "0.2.0", TODAY, build)
    assert state(root) == before


def test_a_branch_that_moved_meanwhile_leaves_no_tag(root: Path) -> None:
    moved = f"git -C '{root}' commit -q --allow-empty -m meanwhile; exec \"$@\""
    with pytest.raises(ReleaseError, match="main cannot be moved"):
        release(root, "0.2.0", TODAY, ("sh", "-c", moved, "sh", *BUILD))
    assert git(root, "tag") == ""
    assert git(root, "log", "-1", "--format=%s") == "meanwhile"
    assert git(root, "status", "--porcelain") == ""


@pytest.mark.parametrize("name", ["pre-commit", "post-checkout"])
def test_a_hook_that_refuses_leaves_nothing(root: Path, name: str) -> None:
    hook = root / ".git" / "hooks" / name
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho no >&2\nexit 1\n")
    hook.chmod(0o755)
    before = state(root)
    with pytest.raises(ReleaseError, match="no"):
        release(root, "0.2.0", TODAY, BUILD)
    assert state(root) == before


def test_a_wheel_that_cannot_be_kept_leaves_nothing(root: Path) -> None:
    commit(root, **{".gitignore": "dist\n/build/\n*.egg-info/\n"})
    (root / "dist").write_text("")
    before = state(root)
    with pytest.raises(ReleaseError, match="the wheel cannot be put into"):
        release(root, "0.2.0", TODAY, BUILD)
    assert state(root) == before
    (root / "dist").unlink()
    (root / "dist" / "sparse_sam-0.2.0-py3-none-any.whl").mkdir(parents=True)
    before = state(root)
    with pytest.raises(ReleaseError, match="is a folder"):
        release(root, "0.2.0", TODAY, BUILD)
    assert state(root) == before


@pytest.mark.parametrize("lock", ["refs/heads/main.lock", "index.lock"])
def test_a_branch_or_tree_that_is_locked_stays_as_it_was(root: Path, lock: str) -> None:
    before = state(root)
    locks = f": > '{root}/.git/{lock}'; exec \"$@\""
    with pytest.raises(ReleaseError, match="main cannot be moved"):
        release(root, "0.2.0", TODAY, ("sh", "-c", locks, "sh", *BUILD))
    (root / ".git" / lock).unlink()
    assert state(root) == before


def test_another_branch_that_is_checked_out_meanwhile_is_not_moved(root: Path) -> None:
    switches = f"git -C '{root}' checkout -q -b other; exec \"$@\""
    with pytest.raises(ReleaseError, match="other was checked out meanwhile, not main"):
        release(root, "0.2.0", TODAY, ("sh", "-c", switches, "sh", *BUILD))
    assert git(root, "rev-parse", "other") == git(root, "rev-parse", "main")
    assert git(root, "tag") == ""


def commits(root: Path) -> int:
    """How many there are, in worktrees too; 0 while one is being made, which git cannot read."""
    counted = subprocess.run(
        ["git", "-C", str(root), "log", "--format=%H", "--reflog", "--all"],
        capture_output=True,
        text=True,
        check=False,
    )
    return len(counted.stdout.split())


def test_one_that_is_ended_leaves_nothing(root: Path) -> None:
    (root / "Makefile").write_text("wheel:\n\tsleep 20\n")
    commit(root)
    before = state(root)
    command = [sys.executable, "-m", "tools.release", "0.2.0"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    started = subprocess.Popen(
        command, cwd=root, env=environment, stderr=subprocess.PIPE, text=True
    )
    while started.poll() is None and commits(root) < 3:
        time.sleep(0.05)
    started.terminate()
    assert "it was ended; there is no release" in started.communicate(timeout=30)[1]
    assert state(root) == before


def test_files_and_programs_that_are_missing_are_named(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / CITATION).unlink()
    commit(root)
    with pytest.raises(ReleaseError, match=r"CITATION\.cff cannot be read: No such file"):
        release(root, "0.2.0", TODAY, BUILD)
    monkeypatch.setenv("PATH", str(root / "nowhere"))
    with pytest.raises(ReleaseError, match="`git` cannot be run: No such file"):
        release(root, "0.2.0", TODAY, BUILD)


def test_a_version_that_is_skipped_is_named(root: Path) -> None:
    said = release(root, "0.2.0", TODAY, BUILD)
    assert "called these changes 0.1.0 (unreleased). They are 0.2.0's now" in said
    assert "## 0.2.0 (2027-03-01)\n\n- Everything." in (root / CHANGELOG).read_text()


def test_it_fits_the_files_of_this_project() -> None:
    text = {name: (ROOT / name).read_text() for name in (CHANGELOG, CITATION)}
    said = changelog("# Changes\n\n## Unreleased\n\n- x\n\n" + text[CHANGELOG], "9.0.0", TODAY)
    assert "## 9.0.0 (2027-03-01)" in said
    assert "version: 9.0.0\ndate-released: 2027-03-01\n" in citation(text[CITATION], "9.0.0", TODAY)
