"""Files: whole or not at all, and hashed as DVC hashes them."""

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

import sparse_sam
from sparse_sam.errors import DataError
from sparse_sam.files import atomic as files
from sparse_sam.files.atomic import (
    atomic_folder,
    atomic_path,
    dvc_hash,
    file_hash,
    read_json,
    write_csv,
    write_json,
    write_text,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_whole_and_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folders" / "result.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("result")
        assert temporary.parent == path.parent
        assert not path.exists()
    assert path.read_text() == "result"
    assert names(path.parent) == ["result.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "result.txt"
    path.write_text("old")
    with pytest.raises(error), atomic_path(path) as temporary:  # noqa: PT012
        temporary.write_text("ne")
        raise error
    assert path.read_text() == "old"
    assert names(tmp_path) == ["result.txt"]


def test_an_exception_leaves_nothing_where_nothing_was(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stop"), atomic_path(tmp_path / "result.txt"):
        raise ValueError("stop")
    assert names(tmp_path) == []


def test_a_kill_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "result.txt"
    path.write_text("old")
    code = (
        "import sys, time\nfrom pathlib import Path\n"
        "from sparse_sam.files.atomic import atomic_path\n"
        f"with atomic_path(Path({str(path)!r})) as temporary:\n"
        "    temporary.write_text('ne')\n    print('ready', flush=True)\n    time.sleep(60)\n"
    )
    library = str(Path(sparse_sam.__file__).parent.parent)
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": library},
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGKILL)
    assert path.read_text() == "old"


def test_a_link_to_the_dvc_cache_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    cached, path = tmp_path / "cached", tmp_path / "result.txt"
    cached.write_text("old")
    os.link(cached, path)
    write_text(path, "new")
    assert (cached.read_text(), path.read_text()) == ("old", "new")


def test_a_result_is_as_readable_as_any_file(tmp_path: Path) -> None:
    ordinary = tmp_path / "ordinary"
    ordinary.write_text("")
    write_text(tmp_path / "result", "")
    assert stat.S_IMODE((tmp_path / "result").stat().st_mode) == stat.S_IMODE(
        ordinary.stat().st_mode
    )
    with atomic_folder(tmp_path / "folder"):
        pass
    (tmp_path / "ordinary folder").mkdir()
    assert (tmp_path / "folder").stat().st_mode == (tmp_path / "ordinary folder").stat().st_mode


def test_a_folder_replaces_the_old_one_whole(tmp_path: Path) -> None:
    path = tmp_path / "models" / "sam"
    for generation in ("a", "b"):
        with atomic_folder(path) as folder:
            (folder / generation).write_text(generation)
            assert not (path / generation).exists()
        assert names(path) == [generation]
    assert names(path.parent) == ["sam"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_leaves_the_old_folder(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "models"
    path.mkdir()
    (path / "old").write_text("old")
    with pytest.raises(error), atomic_folder(path) as folder:  # noqa: PT012
        (folder / "new").write_text("half")
        raise error
    assert names(path) == ["old"]
    assert names(tmp_path) == ["models"]


def test_a_folder_that_cannot_be_moved_into_place_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "models"
    path.mkdir()
    (path / "old").write_text("old")
    with pytest.raises(FileNotFoundError), atomic_folder(path) as folder:
        folder.rmdir()
    assert names(path) == ["old"]


def test_json_is_readable_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    value = {"a": [1, 2.5, None], "ρ": "×"}
    write_json(path, value)
    assert read_json(path) == value
    assert path.read_text(encoding="utf-8").startswith('{\n  "a": [')
    assert path.read_bytes().endswith(b"}\n")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_without_numbers_that_are_none(tmp_path: Path, value: float) -> None:
    path = tmp_path / "metrics.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"a": value})
    assert read_json(path) == {"a": 1}


def test_missing_and_damaged_json_name_the_file_and_the_cure(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    with pytest.raises(DataError, match=r"metrics\.json is missing\. Run `make repro`\.$"):
        read_json(path, cure="Run `make repro`.")
    for content in (b"", b'{"a": ', b"\xff\xfe"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"metrics\.json is damaged \(.*\)\. Run it\.$"):
            read_json(path, cure="Run it.")
    with pytest.raises(DataError, match="damaged"):
        read_json(tmp_path)


def test_hashes_are_those_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    assert file_hash(path) == "900150983cd24fb0d6963f7d28e17f72"  # RFC 1321, A.5
    assert file_hash(path, "sha256").startswith("ba7816bf8f01cfea414140de5dae2223")  # FIPS 180-2
    assert dvc_hash(path) == file_hash(path)


def test_a_folder_has_the_hash_that_dvc_gives_it(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    for name in ("b", "a/z", "a-b", "a/é"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    md5 = {name: file_hash(folder / name) for name in ("a-b", "a/z", "a/é", "b")}
    listing = ", ".join(f'{{"md5": "{md5[name]}", "relpath": "{name}"}}' for name in md5)
    listing = listing.replace("é", "\\u00e9")
    (tmp_path / "listing").write_text(f"[{listing}]")
    assert dvc_hash(folder) == file_hash(tmp_path / "listing") + ".dir"


def test_dvc_itself_agrees(tmp_path: Path) -> None:
    pytest.importorskip("dvc_data")
    from dvc_data.hashfile.build import build
    from dvc_data.hashfile.db import HashFileDB
    from dvc_objects.fs.local import LocalFileSystem

    folder = tmp_path / "folder"
    for name in ("b", "a/z", "a-b", "a/é", "a/y/x", "B", "a.b"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    fs = LocalFileSystem()
    cache = HashFileDB(fs, str(tmp_path / "cache"))
    _, _, built = build(cache, str(folder), fs, "md5", dry_run=True)
    assert dvc_hash(folder) == built.hash_info.value


def test_a_reader_never_sees_a_part(tmp_path: Path) -> None:
    # A writer swaps two long contents as fast as it can; every read sees one of them whole.
    path = tmp_path / "result.txt"
    write_text(path, "a" * 100_000)
    code = (
        "import sys\nfrom pathlib import Path\nfrom sparse_sam.files.atomic import write_text\n"
        "print('ready', flush=True)\n"
        f"while True:\n    for letter in 'ab': write_text(Path({str(path)!r}), letter * 100_000)\n"
    )
    library = str(Path(sparse_sam.__file__).parent.parent)
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": library},
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        end, seen = time.monotonic() + 0.5, set()
        while time.monotonic() < end:
            text = path.read_text()
            assert len(text) == 100_000
            seen |= {*text}
        process.kill()
    assert seen == {"a", "b"}


def test_a_table_is_written_as_csv_readers_expect(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    write_csv(path, ["arm", "loss"], [["sgd", 0.1], ["a, b", None]])
    assert path.read_bytes() == b'arm,loss\nsgd,0.1\n"a, b",\n'


HOLD = (
    "import sys, time\nfrom pathlib import Path\n"
    "from sparse_sam.files.atomic import atomic_folder, write_text\n"
    "with atomic_folder(Path(sys.argv[1])) as folder:\n"
    "    (folder / 'weights').write_text('half')\n    print('ready', flush=True)\n"
    "    sys.stdin.readline()\n"
)
LIBRARY = {"PYTHONPATH": str(Path(sparse_sam.__file__).parent.parent)}


def test_a_kill_leaves_what_the_next_writer_removes(tmp_path: Path) -> None:
    path = tmp_path / "models"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        env={**os.environ, **LIBRARY},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with atomic_folder(path):  # beside one that lives
            assert len(names(tmp_path)) == 2
        process.kill()
    assert len(names(tmp_path)) == 2
    with atomic_folder(path):
        pass
    assert names(tmp_path) == ["models"]


def test_a_container_leaves_alone_what_a_process_outside_writes(tmp_path: Path) -> None:
    if subprocess.run(["unshare", "--pid", "--fork", "true"], check=False).returncode:
        pytest.skip("this user may not make a namespace of processes")
    path = tmp_path / "models"
    with atomic_folder(path) as folder:
        (folder / "weights").write_text("whole")
        # A process in there does not see this one, whatever its number.
        inside = subprocess.run(
            ["unshare", "--pid", "--fork", sys.executable, "-c", HOLD, str(path)],
            env={**os.environ, **LIBRARY},
            input=b"\n",
            capture_output=True,
            check=True,
        )
        assert inside.stdout == b"ready\n"
        assert (folder / "weights").read_text() == "whole"
    assert (path / "weights").read_text() == "whole"
    assert names(tmp_path) == ["models"]


def test_what_another_computer_left_is_removed_when_it_has_not_changed_for_a_week(
    tmp_path: Path,
) -> None:
    path, elsewhere = tmp_path / "models", "0" * 12
    left = tmp_path / f".models.{elsewhere}.{2**22 + 1}.abcdefgh.tmp"  # no process has this number
    (left / "new").mkdir(parents=True)
    (left / "new" / "weights").touch()
    longer = tmp_path / f".models.other.{elsewhere}.{2**22 + 1}.abcdefgh.tmp"
    longer.touch()
    ago = time.time() - 8 * 24 * 3600
    for one in (longer, left, left / "new"):  # as they are while only the weights are written
        os.utime(one, (ago, ago))
    with atomic_folder(path):
        assert left.exists()
    os.utime(left / "new" / "weights", (ago, ago))
    with atomic_folder(path):
        assert not left.exists()
    assert names(tmp_path) == [longer.name, "models"]
    write_text(tmp_path / "models.other", "")
    assert names(tmp_path) == ["models", "models.other"]


def test_names_of_temporary_files_say_where_their_writer_runs(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "result") as temporary:
        assert temporary.name.startswith(f".result.{files._here()}.{os.getpid()}.")


def test_json_that_is_nested_too_deeply_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match="is damaged"):
        files.read_json(tmp_path / "deep.json")
