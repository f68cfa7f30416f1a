"""Files outside, by content: no change is missed, and what has not changed is not read again."""

import os
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from sparse_sam.files.content import MISSING, Contents


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "images"
    for name in ("cats/1.png", "cats/2.png", "dogs/1.png", ".hidden"):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_bytes(name.encode())
    return made


def test_a_file_is_its_bytes(folder: Path) -> None:
    assert Contents().of(folder / ".hidden") == sha256(b".hidden").hexdigest()
    assert Contents().of(folder / "none") == MISSING


CHANGES: dict[str, Callable[[Path], object]] = {
    "a byte": lambda f: (f / "cats/1.png").write_bytes(b"cats/1.pnG"),
    "a name": lambda f: (f / "cats/1.png").rename(f / "cats/3.png"),
    "a folder's name": lambda f: (f / "cats").rename(f / "birds"),
    "two exchanged": lambda f: [
        (f / "cats/1.png").rename(f / "x"),
        (f / "dogs/1.png").rename(f / "cats/1.png"),
        (f / "x").rename(f / "dogs/1.png"),
    ],
    "one more": lambda f: (f / "dogs/2.png").write_bytes(b""),
    "one less": lambda f: (f / "dogs/1.png").unlink(),
    "a hidden one": lambda f: (f / ".hidden").write_bytes(b"x"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("remembers", [False, True])
def test_every_change_is_seen(change: str, remembers: bool, folder: Path, tmp_path: Path) -> None:
    memory = tmp_path / "memory.json" if remembers else None
    settle(folder)
    before = asked(folder, memory)
    assert asked(folder, memory) == before
    CHANGES[change](folder)
    assert asked(folder, memory) != before


def settle(folder: Path) -> None:
    """Wait until the files are old enough to be remembered."""
    time.sleep(2.1)
    assert all(time.time() - path.stat().st_ctime > 2 for path in folder.rglob("*"))


def asked(folder: Path, memory: Path | None) -> str:
    contents = Contents(memory)
    found = contents.of(folder)
    contents.remember()
    return found


def test_a_change_with_the_same_size_and_the_times_put_back_is_seen(
    folder: Path, tmp_path: Path
) -> None:
    memory, path = tmp_path / "memory.json", folder / "cats/1.png"
    settle(folder)
    before, about = asked(folder, memory), path.stat()
    path.write_bytes(b"cats/1.pnG")
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert path.stat().st_mtime_ns == about.st_mtime_ns
    assert asked(folder, memory) != before


def test_what_has_not_changed_is_not_read_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = tmp_path / "memory.json"
    settle(folder)
    before = asked(folder, memory)
    monkeypatch.setattr("sparse_sam.files.content.file_hash", lambda *_: "read again")
    assert asked(folder, memory) == before
    (folder / "cats/1.png").touch()
    assert asked(folder, memory) != before


def test_what_changed_in_this_moment_is_not_remembered(folder: Path, tmp_path: Path) -> None:
    """It may change once more within the same tick of the clock."""
    memory = tmp_path / "memory.json"
    asked(folder, memory)
    assert not memory.exists()


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '{"x": 1}', '{"x": [1, 2]}'])
def test_a_damaged_memory_is_none(content: str, folder: Path, tmp_path: Path) -> None:
    memory = tmp_path / "memory.json"
    expected = asked(folder, None)
    memory.write_text(content.replace("x", str((folder / ".hidden").absolute())))
    assert asked(folder, memory) == expected


@pytest.mark.timeout(30)
def test_links_circles_and_pipes(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "far.png").write_bytes(b"far")
    before = asked(folder, None)
    (folder / "circle").symlink_to(folder)
    (folder / "nowhere").symlink_to(tmp_path / "none")
    os.mkfifo(folder / "pipe")
    assert asked(folder, None) == before
    (folder / "link").symlink_to(outside)
    linked = asked(folder, None)
    assert linked != before
    (outside / "far.png").write_bytes(b"FAR")
    assert asked(folder, None) != linked
    assert Contents().of(folder / "pipe") == MISSING
