"""Files outside, by content: no change is missed, and what has not changed is not read again."""

import os
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_sam.files import content
from sparse_sam.files.content import MISSING, Contents

SETTLED = content._SETTLED_NANOSECONDS


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
    settle()
    before = asked(folder, memory)
    assert asked(folder, memory) == before
    CHANGES[change](folder)
    assert asked(folder, memory) != before


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are old enough to be remembered after a moment: two seconds each add up."""
    monkeypatch.setattr(content, "_SETTLED_NANOSECONDS", 5 * 10**7)


def settle() -> None:
    """Wait until what was written is old enough to be remembered."""
    time.sleep(0.1)


def asked(folder: Path, memory: Path | None) -> str:
    contents = Contents(memory)
    found = contents.of(folder)
    contents.remember()
    return found


def test_a_change_with_the_same_size_and_the_times_put_back_is_seen(
    folder: Path, tmp_path: Path
) -> None:
    memory, path = tmp_path / "memory.json", folder / "cats/1.png"
    settle()
    before, about = asked(folder, memory), path.stat()
    path.write_bytes(b"cats/1.pnG")
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert path.stat().st_mtime_ns == about.st_mtime_ns
    assert asked(folder, memory) != before


def test_what_has_not_changed_is_not_read_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = tmp_path / "memory.json"
    settle()
    before = asked(folder, memory)
    monkeypatch.setattr("sparse_sam.files.content.file_hash", lambda *_: "read again")
    assert asked(folder, memory) == before
    (folder / "cats/1.png").touch()
    assert asked(folder, memory) != before


def test_what_changed_in_this_moment_is_not_remembered(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may change once more within the same tick of the clock, of two seconds on some disks."""
    monkeypatch.setattr(content, "_SETTLED_NANOSECONDS", SETTLED)
    assert SETTLED >= 2 * 10**9
    memory = tmp_path / "memory.json"
    asked(folder, memory)
    assert not memory.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"x": 1}', '{"x": [1, 2]}'])
def test_a_damaged_memory_is_none(text: str, folder: Path, tmp_path: Path) -> None:
    memory = tmp_path / "memory.json"
    expected = asked(folder, None)
    memory.write_text(text.replace("x", str((folder / ".hidden").absolute())))
    assert asked(folder, memory) == expected


@settings(max_examples=60)
@given(data=st.data())
def test_no_byte_of_a_memory_that_flips_makes_another_hash(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "remembered"
    if not folder.exists():
        folder.mkdir()
        (folder / "1.png").write_bytes(b"1")
        settle()
        asked(folder, folder.parent / "sound.json")
    sound = (folder.parent / "sound.json").read_bytes()
    damaged = bytearray(sound)
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    memory = folder.parent / "damaged.json"
    memory.write_bytes(damaged)
    assert asked(folder, memory) == asked(folder, None)
    assert memory.read_bytes() == sound


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
    (folder / "itself").symlink_to(folder / "itself")
    assert asked(folder, None) != linked
    assert Contents().of(folder / "itself") == MISSING


def test_a_folder_that_two_links_lead_to_is_there_twice(folder: Path) -> None:
    """A source that reads class folders reads it twice."""
    found = [asked(folder, None)]
    for name in ("birds", "fish"):
        (folder / name).symlink_to(folder / "cats")
        found.append(asked(folder, None))
    (folder / "fish").rename(folder / "frogs")
    found.append(asked(folder, None))
    (folder / "birds").unlink()
    found.append(asked(folder, None))
    assert len(set(found)) == 5


def test_a_name_that_is_no_text_is_one(folder: Path, tmp_path: Path) -> None:
    """As archives of other systems leave them."""
    before, memory = asked(folder, None), tmp_path / "memory.json"
    for name in (b"\xff.png", b"\xfe.png"):
        (folder / os.fsdecode(name)).write_bytes(b"1")
        settle()
        found = asked(folder, memory)
        assert found != before
        assert asked(folder, memory) == asked(folder, None) == found
        before = found
        (folder / os.fsdecode(name)).unlink()
