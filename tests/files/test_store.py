"""A store that several use, and that breaks: a result is whole and right, or it is not there."""

import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_sam.errors import DataError
from sparse_sam.files.store import Store

KEY, OTHER = "a" * 64, "b" * 64
ABOUT = {"accuracy": 0.9375, "who": "ρ"}
CONTENT = bytes(range(256)) * 300


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "network.bin"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def store(tmp_path: Path, file: Path) -> Store:
    made = Store(tmp_path / "store")
    made.keep("training", KEY, ABOUT, {"network": file})
    return made


def blob(store: Store) -> Path:
    (found,) = store.blobs_of("training", KEY)
    return found


def test_what_was_kept_is_taken(store: Store, tmp_path: Path) -> None:
    place = tmp_path / "taken" / "network.bin"
    assert store.take("training", KEY, {"network": place}) == ABOUT
    assert place.read_bytes() == CONTENT
    assert store.about("training", KEY) == ABOUT
    assert store.keys("training") == {KEY}
    assert store.about("training", OTHER) is None
    assert store.about("cell", KEY) is None
    assert store.keys("cell") == set()


def test_a_store_that_is_not_there_is_empty(tmp_path: Path) -> None:
    store = Store(tmp_path / "none")
    assert store.about("training", KEY) is None
    assert store.keys("training") == set()
    assert list(store.files()) == []
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "key", ["", "../x", "A" * 64, "a" * 63, "a" * 64 + "\n", f"{'a' * 60}/../"]
)
def test_what_is_no_key_names_no_file(key: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not the key of a result"):
        Store(tmp_path).about("training", key)
    assert not list(tmp_path.iterdir())


def assert_lost_and_made_sound(store: Store, file: Path, tmp_path: Path, said: str) -> None:
    """A damaged result counts as not there, and keeping it again is all that it takes."""
    place = tmp_path / "taken.bin"
    place.write_bytes(b"before")
    assert store.take("training", KEY, {"network": place}) is None
    assert place.read_bytes() == b"before"
    assert said in SAID[-1]
    store.keep("training", KEY, ABOUT, {"network": file})
    assert store.take("training", KEY, {"network": place}) == ABOUT
    assert place.read_bytes() == CONTENT


SAID: list[str] = []


@pytest.fixture(autouse=True)
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the store says, also within examples of hypothesis."""
    SAID[:] = [""]
    monkeypatch.setattr("sparse_sam.files.store._say", SAID.append)
    return SAID


def drawn(store_folder: Path, data: st.DataObject) -> tuple[Store, Path]:
    """A store of its own, and one of its files, damaged somewhere."""
    store = Store(store_folder / f"{time.time_ns()}")
    source = store_folder / "source.bin"
    source.write_bytes(CONTENT)
    store.keep("training", KEY, ABOUT, {"network": source})
    path = data.draw(st.sampled_from([store.entry_path("training", KEY), blob(store)]))
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    return store, path


@settings(max_examples=150)
@given(data=st.data())
def test_a_flipped_or_missing_byte_is_never_a_wrong_result(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "damaged"
    folder.mkdir(exist_ok=True)
    store, path = drawn(folder, data)
    place = folder / "taken.bin"
    place.unlink(missing_ok=True)
    found = store.take("training", KEY, {"network": place})
    # (A blank at the end of an entry is no part of what it says.)
    assert found in (None, ABOUT)
    if found is None:
        assert not place.exists()
        assert str(path) in SAID[-1]
        store.keep("training", KEY, ABOUT, {"network": folder / "source.bin"})
        assert store.take("training", KEY, {"network": place}) == ABOUT
    assert place.read_bytes() == CONTENT


ENTRIES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "no JSON": lambda path: path.write_text("{"),
    "no text": lambda path: path.write_bytes(b"\xff\xfe"),
    "deep": lambda path: path.write_text("[" * 100_000),
    "a list": lambda path: path.write_text("[]"),
    "no seal": lambda path: path.write_text(json.dumps({"header": {}, "digests": {}})),
    "a number": lambda path: path.write_text("3"),
    "NaN": lambda path: path.write_text(path.read_text().replace("0.9375", "NaN")),
}


@pytest.mark.parametrize("damage", ENTRIES)
def test_an_entry_that_nothing_can_be_read_from(
    damage: str, store: Store, file: Path, tmp_path: Path
) -> None:
    path = store.entry_path("training", KEY)
    ENTRIES[damage](path)
    assert_lost_and_made_sound(store, file, tmp_path, f"{path} is damaged (")


def sealed(content: Any) -> str:
    text = json.dumps(content)
    return sha256(text.encode()).hexdigest() + text


@pytest.mark.parametrize(
    "change",
    [
        {"key": OTHER},
        {"kind": "cell"},
        {"digests": {"network": "../../../secret"}},
        {"digests": {"network": 3}},
        {"digests": [1]},
        {"digests": {}},
        {"version": 2},
        {"version": "1"},
        {"digests": {"network": "c" * 64}},
        {"about": 3},
    ],
)
def test_an_entry_that_somebody_wrote_leads_nowhere(
    change: dict[str, Any], store: Store, file: Path, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("secret")
    path = store.entry_path("training", KEY)
    content = json.loads(path.read_text()[64:])
    part = {name: content.pop(name) for name in ("header", "digests")}
    assert not content
    digests = change.get("digests", part["digests"])
    header = {name: one for name, one in change.items() if name != "digests"}
    path.write_text(sealed({"header": part["header"] | header, "digests": digests}))
    assert_lost_and_made_sound(store, file, tmp_path, " is damaged (")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("what", ["pipe", "folder", "link nowhere", "link elsewhere", "gone"])
@pytest.mark.parametrize("which", ["entry", "blob"])
def test_something_else_in_a_files_place(
    what: str, which: str, store: Store, file: Path, tmp_path: Path
) -> None:
    path = store.entry_path("training", KEY) if which == "entry" else blob(store)
    path.unlink()
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
        (path / "notes").write_text("in a folder")
    elif what.startswith("link"):
        target = tmp_path / "elsewhere"
        if what == "link elsewhere":
            target.write_bytes(CONTENT[:-1] + b"x")
        path.symlink_to(target)
    place = tmp_path / "taken.bin"
    assert store.take("training", KEY, {"network": place}) is None
    assert not place.exists()
    store.keep("training", KEY, ABOUT, {"network": file})
    assert store.take("training", KEY, {"network": place}) == ABOUT
    assert place.read_bytes() == CONTENT


@pytest.mark.parametrize("which", ["entry", "blob"])
def test_a_folder_in_a_files_place_makes_way_for_what_is_kept(
    which: str, store: Store, file: Path, tmp_path: Path
) -> None:
    path = store.entry_path("training", KEY) if which == "entry" else blob(store)
    path.unlink()
    path.mkdir()
    assert store.blobs_of("training", KEY) == []
    store.keep("training", KEY, ABOUT, {"network": file})
    assert store.take("training", KEY, {"network": tmp_path / "taken.bin"}) == ABOUT


def test_a_folder_that_lies_elsewhere_is_not_removed(
    store: Store, file: Path, tmp_path: Path
) -> None:
    elsewhere, folder = tmp_path / "elsewhere", blob(store).parent
    folder.rename(elsewhere)
    folder.symlink_to(elsewhere)
    theirs = elsewhere / blob(store).name
    theirs.unlink()
    theirs.mkdir()
    place = tmp_path / "taken.bin"
    assert store.take("training", KEY, {"network": place}) is None
    with pytest.raises(OSError, match="directory"):
        store.keep("training", KEY, ABOUT, {"network": file})
    assert theirs.is_dir()


def test_an_entry_that_is_too_large_is_refused_unread(
    store: Store, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = store.entry_path("training", KEY)
    with path.open("r+b") as entry:
        entry.truncate(30 * 2**30)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", lambda *_, **__: pytest.fail("it was read"))
        assert store.about("training", KEY) is None
    assert "is damaged (the entry is larger than 64 MB)" in SAID[-1]
    with pytest.raises(OSError, match="larger than 64 MB"):
        store.keep("training", KEY, {"much": "x" * 2**26}, {"network": file})
    store.keep("training", KEY, ABOUT, {"network": file})
    assert store.take("training", KEY, {"network": tmp_path / "taken.bin"}) == ABOUT


def test_a_file_that_changes_while_it_is_kept_is_an_error_of_writing(
    store: Store, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparse_sam.files.store.file_hash", lambda *_: "c" * 64)
    with pytest.raises(OSError, match="its content has changed"):
        store.keep("training", OTHER, ABOUT, {"network": file})
    assert store.about("training", OTHER) is None


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that every user of this computer can enter."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


@contextmanager
def nobody() -> Iterator[None]:
    """Be a user for whom modes count."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


@pytest.mark.parametrize("which", ["store", "entries", "entry", "blobs", "blob"])
@pytest.mark.parametrize("remote", [False, True])
def test_what_may_not_be_read_is_said_once_and_counts_as_not_there(
    which: str, remote: bool, public: Path
) -> None:
    (public / "file").write_bytes(CONTENT)
    store = Store(public / "store", Elsewhere() if remote else None)
    store.keep("training", KEY, ABOUT, {"network": public / "file"})
    entry, network = store.entry_path("training", KEY), blob(store)
    barred = {
        "store": store.folder,
        "entries": entry.parent,
        "entry": entry,
        "blobs": network.parent,
        "blob": network,
    }[which]
    barred.chmod(0)
    place = public / "taken.bin"
    try:
        with nobody():
            for _ in range(2):
                assert store.take("training", KEY, {"network": place}) is None
            store.share("training", KEY)
            path = network if which.startswith("blob") else entry
            (line,) = SAID[1:]
            assert line == (
                "the store continues without a file that cannot be read: "
                f"{path} (Permission denied)"
            )
            if not which.startswith("blob"):
                with pytest.raises(PermissionError):
                    store.blobs_of("training", KEY)
            # Whose folder it is can replace the file: then it is sound; others cannot write.
            with suppress(PermissionError):
                store.keep("training", KEY, ABOUT, {"network": public / "file"})
    finally:
        barred.chmod(0o700)
    assert network.read_bytes() == CONTENT
    assert Store(store.folder).take("training", KEY, {"network": place}) == ABOUT


def test_the_same_key_with_other_bytes_is_said_and_the_first_stays(
    store: Store, tmp_path: Path
) -> None:
    other = tmp_path / "other.bin"
    other.write_bytes(b"other")
    store.keep("training", KEY, ABOUT, {"network": other})
    assert "when it was computed again; the first result is kept" in SAID[-1]
    store.take("training", KEY, {"network": tmp_path / "taken.bin"})
    assert (tmp_path / "taken.bin").read_bytes() == CONTENT


def test_two_results_share_a_file_and_dropping_one_leaves_it(
    store: Store, file: Path, tmp_path: Path
) -> None:
    store.keep("training", OTHER, {}, {"network": file})
    assert len(list(store.files())) == 1
    store.drop("training", KEY)
    assert store.about("training", KEY) is None
    assert store.take("training", OTHER, {"network": tmp_path / "taken.bin"}) == {}


# Many at once, and some that die


def _write_many(folder: Path, file: Path, number: int) -> None:
    store = Store(folder)
    for key in range(40):
        store.keep("cell", f"{key:064x}", {"key": key}, {"network": file})
        store.keep("cell", f"{1000 * (number + 1) + key:064x}", {"key": key})
        assert store.about("cell", f"{key:064x}") == {"key": key}


def test_writers_at_once(tmp_path: Path, file: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [
        context.Process(target=_write_many, args=(tmp_path / "store", file, number))
        for number in range(4)
    ]
    for one in writers:
        one.start()
    for one in writers:
        one.join()
    assert [one.exitcode for one in writers] == [0] * 4
    store = Store(tmp_path / "store")
    assert len(store.keys("cell")) == 40 + 4 * 40
    assert all(store.about("cell", key) for key in store.keys("cell"))
    assert len(list(store.files())) == 1


KEEPING = """
import sys
from pathlib import Path
from sparse_sam.files.store import Store
store, file = Store(Path(sys.argv[1])), Path(sys.argv[2])
print("begun", flush=True)
for number in range(10**6):
    file.write_bytes(number.to_bytes(4, "big") * 50_000)
    store.keep("training", f"{number:064x}", {"number": number}, {"network": file})
"""


@pytest.mark.parametrize("delay", [0.0, 0.003, 0.01, 0.03, 0.1])
def test_a_writer_that_is_killed_leaves_nothing_that_counts(tmp_path: Path, delay: float) -> None:
    folder = tmp_path / "store"
    process = subprocess.Popen(
        [sys.executable, "-c", KEEPING, str(folder), str(tmp_path / "file.bin")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
    )
    assert process.stdout
    assert process.stdout.readline() == b"begun\n"
    while not Store(folder).keys("training"):
        time.sleep(0.001)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    store, place = Store(folder), tmp_path / "taken.bin"
    for key in store.keys("training"):
        number = int(key, 16)
        assert store.take("training", key, {"network": place}) == {"number": number}
        assert place.read_bytes() == number.to_bytes(4, "big") * 50_000
    assert SAID == [""]


def _keep_within(limit: int, folder: Path, file: Path) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        Store(folder).keep("training", OTHER, ABOUT, {"network": file})
    except OSError:
        os._exit(7)
    os._exit(0)


@pytest.mark.parametrize("limit", [0, 10, 1000, len(CONTENT) - 1])
def test_a_disk_that_takes_no_more_leaves_what_was_there(
    limit: int, store: Store, tmp_path: Path
) -> None:
    file = tmp_path / "more.bin"
    file.write_bytes(CONTENT[::-1])
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_keep_within, args=(limit, store.folder, file))
    process.start()
    process.join()
    assert process.exitcode == 7
    assert store.about("training", OTHER) is None
    assert store.take("training", KEY, {"network": tmp_path / "taken.bin"}) == ABOUT
    assert not [path for path in store.files() if path.suffix == ".tmp"]


# Behind a remote


class Elsewhere:
    """A remote in memory, that may be away."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.pushed: list[str] = []
        self.is_away = False

    def pull(self, name: str, place: Path) -> bool:
        self._ask()
        if name in self.files:
            place.write_bytes(self.files[name])
        return name in self.files

    def push(self, name: str, file: Path, *, replace: bool = False) -> None:
        self._ask()
        if replace or name not in self.files:
            self.pushed.append(name)
            self.files[name] = file.read_bytes()

    def _ask(self) -> None:
        if self.is_away:
            raise ConnectionError("nobody answers")


def test_what_is_kept_is_pushed_and_what_lacks_is_pulled(tmp_path: Path, file: Path) -> None:
    remote, place = Elsewhere(), tmp_path / "taken.bin"
    Store(tmp_path / "one", remote).keep("training", KEY, ABOUT, {"network": file})
    assert len(remote.files) == 2
    other = Store(tmp_path / "other", remote)
    assert other.about("training", OTHER) is None
    assert other.take("training", KEY, {"network": place}) == ABOUT
    assert place.read_bytes() == CONTENT
    remote.files.clear()
    assert other.take("training", KEY, {"network": place}) == ABOUT


def test_what_is_damaged_here_comes_from_there_and_the_other_way_round(
    tmp_path: Path, file: Path
) -> None:
    remote, place = Elsewhere(), tmp_path / "taken.bin"
    store = Store(tmp_path / "one", remote)
    store.keep("training", KEY, ABOUT, {"network": file})
    blob(store).write_bytes(b"damaged")
    assert store.take("training", KEY, {"network": place}) == ABOUT
    assert place.read_bytes() == CONTENT
    for name in remote.files:
        remote.files[name] = remote.files[name][:-9]
    other = Store(tmp_path / "other", remote)
    assert other.take("training", KEY, {"network": tmp_path / "not there"}) is None
    assert not (tmp_path / "not there").exists()


@pytest.mark.parametrize("damaged", ["entries", "blobs"])
@pytest.mark.parametrize("again", [CONTENT, CONTENT[::-1]])
def test_what_is_damaged_at_a_remote_is_replaced_by_what_is_computed_again(
    damaged: str, again: bytes, tmp_path: Path, file: Path
) -> None:
    remote, place = Elsewhere(), tmp_path / "taken.bin"
    Store(tmp_path / "one", remote).keep("training", KEY, ABOUT, {"network": file})
    (name,) = (name for name in remote.files if name.startswith(damaged))
    remote.files[name] = remote.files[name][:-9]
    other = Store(tmp_path / "other", remote)
    assert other.take("training", KEY, {"network": place}) is None
    other.about("training", KEY)  # which is no look at its files
    file.write_bytes(again)
    other.keep("training", KEY, ABOUT, {"network": file})
    third = Store(tmp_path / "third", remote)
    assert third.take("training", KEY, {"network": place}) == ABOUT
    assert place.read_bytes() == again
    # From then on it is as sound as any: nothing is pushed twice.
    remote.pushed.clear()
    for store in (other, third):
        store.share("training", KEY)
        store.keep("training", KEY, ABOUT, {"network": file})
    assert remote.pushed == []


def test_what_is_damaged_only_here_replaces_nothing_there(tmp_path: Path, file: Path) -> None:
    remote = Elsewhere()
    store = Store(tmp_path / "one", remote)
    store.keep("training", KEY, ABOUT, {"network": file})
    blob(store).write_bytes(b"damaged")
    assert store.take("training", KEY, {"network": tmp_path / "taken.bin"}) == ABOUT
    remote.pushed.clear()
    store.share("training", KEY)
    assert remote.pushed == []


def test_a_folder_that_takes_nothing_from_a_remote_is_said(
    tmp_path: Path, file: Path, public: Path
) -> None:
    remote = Elsewhere()
    Store(tmp_path / "one", remote).keep("training", KEY, ABOUT, {"network": file})
    folder = public / "store"
    folder.mkdir(mode=0o555)
    with nobody():
        assert Store(folder, remote).about("training", KEY) is None
    (line,) = SAID[1:]
    assert line.startswith(f"the store continues without its remote: {folder}: ")


def test_a_remote_that_is_away_is_said_once_and_done_without(tmp_path: Path, file: Path) -> None:
    remote = Elsewhere()
    store = Store(tmp_path / "one", remote)
    remote.is_away = True
    assert store.about("training", KEY) is None
    store.keep("training", KEY, ABOUT, {"network": file})
    assert store.about("training", KEY) == ABOUT
    assert SAID[1:] == ["the store continues without its remote: nobody answers"]
    remote.is_away = False
    Store(tmp_path / "one", remote).share("training", KEY)
    assert len(remote.files) == 2
