"""Where results are kept: in the clone, in a folder of several, behind a real remote of DVC."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sparse_sam.errors import ConfigError
from sparse_sam.files import Store
from sparse_sam.tracking.stores import is_shared, open_store

KEY, ABOUT, CONTENT = "a" * 64, {"accuracy": 0.9375}, bytes(range(256)) * 100
Clone = Callable[[str], Path]


def dvc(clone: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "dvc", *arguments, "-q"]
    subprocess.run(command, cwd=clone, check=True, capture_output=True, timeout=120)


@pytest.fixture(scope="module")
def new_clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One with a remote; to be copied, for making one takes seconds."""
    clone = tmp_path_factory.mktemp("new") / "clone"
    clone.mkdir()
    subprocess.run(["git", "init", "-q"], cwd=clone, check=True)
    dvc(clone, "init")
    dvc(clone, "remote", "add", "shared", "../remote")  # which is beside the clone
    return clone


@pytest.fixture
def make_clone(tmp_path: Path, new_clone: Path) -> Clone:
    """Clones whose remote ``shared`` is one folder."""

    def make(name: str) -> Path:
        shutil.copytree(new_clone, tmp_path / name)
        return tmp_path / name

    return make


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "network.bin"
    path.write_bytes(CONTENT)
    return path


def test_where_the_variable_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPARSE_SAM_STORE")
    assert open_store(tmp_path).folder == tmp_path / ".sparse-sam" / "store"
    assert not is_shared()
    monkeypatch.setenv("SPARSE_SAM_STORE", "")
    assert open_store(tmp_path).folder == tmp_path / ".sparse-sam" / "store"
    assert not is_shared()
    for named, folder in {
        "/scratch/results": Path("/scratch/results"),
        "../results": tmp_path / "../results",
        "~/results": Path.home() / "results",
    }.items():
        monkeypatch.setenv("SPARSE_SAM_STORE", named)
        assert open_store(tmp_path).folder == folder
        assert is_shared()


def test_nobodys_home_is_an_error_of_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARSE_SAM_STORE", "~no-such-user/results")
    with pytest.raises(ConfigError) as raised:
        open_store(tmp_path)
    assert str(raised.value) == (
        "SPARSE_SAM_STORE = '~no-such-user/results': there is no such user's home. It must be a "
        "folder, or remote:NAME with one of DVC's remotes (dvc remote list)"
    )


def test_two_clones_share_what_either_computes(
    make_clone: Clone, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARSE_SAM_STORE", "remote:shared")
    assert not is_shared()
    first, second = (open_store(make_clone(name)) for name in ("first", "second"))
    assert first.folder != second.folder
    assert second.about("training", KEY) is None
    first.keep("training", KEY, ABOUT, {"network": file})
    places = {"network": tmp_path / "taken.bin"}
    assert second.take("training", KEY, places) == ABOUT
    assert places["network"].read_bytes() == CONTENT
    second.keep("cell", KEY, {"of": "second"})
    assert first.about("cell", KEY) == {"of": "second"}
    # DVC's own files beside them are not touched, nor theirs by DVC.
    kept = [path for path in (tmp_path / "remote").rglob("*") if path.is_file()]
    assert len(kept) == 3
    assert all(path.is_relative_to(tmp_path / "remote" / "sparse-sam") for path in kept)
    # And what was pulled is there without the remote.
    os.rename(tmp_path / "remote", tmp_path / "away")  # noqa: PTH104
    assert Store(second.folder).take("training", KEY, places) == ABOUT


def test_a_folder_that_several_clones_name_needs_no_remote(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARSE_SAM_STORE", str(tmp_path / "shared"))
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    open_store(tmp_path / "one").keep("training", KEY, ABOUT, {"network": file})
    assert open_store(tmp_path / "other").about("training", KEY) == ABOUT


def test_what_is_damaged_in_a_clone_is_taken_from_the_remote(
    make_clone: Clone,
    file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SPARSE_SAM_STORE", "remote:shared")
    store = open_store(make_clone("clone"))
    store.keep("training", KEY, ABOUT, {"network": file})
    entry, (blob,) = store.entry_path("training", KEY), store.blobs_of("training", KEY)
    for path in (entry, blob):
        path.write_bytes(path.read_bytes()[:-9] + b"x")
        assert store.take("training", KEY, {"network": tmp_path / "taken.bin"}) == ABOUT
        assert (tmp_path / "taken.bin").read_bytes() == CONTENT
        assert f"warning: {path} is damaged" in capsys.readouterr().err


def test_a_remote_that_holds_damage_gives_nothing(
    make_clone: Clone, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARSE_SAM_STORE", "remote:shared")
    open_store(make_clone("first")).keep("training", KEY, ABOUT, {"network": file})
    for path in (tmp_path / "remote" / "sparse-sam" / "blobs").rglob("*"):
        if path.is_file():
            path.chmod(0o644)
            path.write_bytes(b"damaged")
    second, place = open_store(make_clone("second")), tmp_path / "taken.bin"
    assert second.take("training", KEY, {"network": place}) is None
    assert not place.exists()
    second.keep("training", KEY, ABOUT, {"network": file})
    assert second.take("training", KEY, {"network": place}) == ABOUT
    assert place.read_bytes() == CONTENT
    # And the remote is sound again, for others.
    third = open_store(make_clone("third"))
    assert third.take("training", KEY, {"network": place}) == ABOUT


def test_an_unknown_remote_is_named_with_those_that_there_are(
    make_clone: Clone, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone = make_clone("clone")
    dvc(clone, "remote", "add", "--local", "mine", "s3://bucket/x")
    monkeypatch.setenv("SPARSE_SAM_STORE", "remote:sharde")
    with pytest.raises(ConfigError) as raised:
        open_store(clone)
    assert str(raised.value) == (
        "SPARSE_SAM_STORE = 'remote:sharde': this clone has no such remote (it has mine, shared). "
        "Add it: dvc remote add sharde URL"
    )
    monkeypatch.setenv("SPARSE_SAM_STORE", "remote:")
    with pytest.raises(ConfigError, match="Add it: dvc remote add NAME URL"):
        open_store(clone)


def test_without_dvc_there_is_no_remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSE_SAM_STORE", "remote:shared")
    with pytest.raises(ConfigError, match="it has none"):
        open_store(tmp_path)


def test_a_damaged_configuration_of_dvc_is_named(
    make_clone: Clone, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone = make_clone("clone")
    (clone / ".dvc" / "config").write_text("[remote")
    monkeypatch.setenv("SPARSE_SAM_STORE", "remote:shared")
    with pytest.raises(ConfigError, match=r"\.dvc: config file error"):
        open_store(clone)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("gs://bucket/x", "requires 'dvc-gs' to be installed"),  # which is no dependency
        ("{tmp_path}/file/below", "Not a directory"),  # where no folder can be made
    ],
)
def test_a_remote_that_cannot_be_used_is_said_once_and_done_without(
    url: str,
    said: str,
    make_clone: Clone,
    file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").write_text("no folder")
    clone = make_clone("clone")
    dvc(clone, "remote", "add", "away", url.format(tmp_path=tmp_path))
    monkeypatch.setenv("SPARSE_SAM_STORE", "remote:away")
    store, place = open_store(clone), tmp_path / "taken.bin"
    assert store.about("training", KEY) is None
    store.keep("training", KEY, ABOUT, {"network": file})
    assert store.take("training", KEY, {"network": place}) == ABOUT
    assert place.read_bytes() == CONTENT
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: the store continues without its remote: ")
    assert said in line
