"""Downloads, from a real server that fails in the ways that servers do."""

import hashlib
import socket
import threading
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparse_sam.data import downloads
from sparse_sam.data.idx import NAMES, read_folder
from sparse_sam.data.loading import load_raw
from sparse_sam.data.params import DataParams
from sparse_sam.data.torchvision_files import import_torchvision, resources
from sparse_sam.errors import DataError
from sparse_sam.files.atomic import file_hash

# Seconds that a user waits for a server are too long for a test.
fetch = partial(downloads.fetch, timeout=0.2, pause=0.01)
CURE = (
    "Set data.mirror to a URL or folder that has the file, or set data.source to idx or "
    "mnist-sample."
)


class Server(ThreadingHTTPServer):
    """Serves a folder in many ways: the first part of a path says in which."""

    block_on_close = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.asked: Counter[str] = Counter()
        self.logins: list[str | None] = []
        self.other = ""
        self.closing = threading.Event()

    def mirror(self, manner: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{manner}/"


class Handler(BaseHTTPRequestHandler):
    """One manner to a method."""

    server: Server

    def do_GET(self) -> None:
        _, manner, name = self.path.split("/")
        self.server.asked[manner] += 1
        if manner.isdigit():
            self.send_error(int(manner))
        else:
            self.content = (self.server.folder / name).read_bytes()
            getattr(self, manner)()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""

    def begin(self, **headers: object) -> None:
        self.send_response(200)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def good(self) -> None:
        self.begin(Content_Length=len(self.content))
        self.wfile.write(self.content)

    def moved(self) -> None:
        self.send_response(302)
        self.send_header("Location", self.path.replace("moved", "good"))
        self.end_headers()

    def locked(self) -> None:
        """As good, for who says a login; it is remembered what each said."""
        said = self.headers.get("Authorization")
        self.server.logins.append(said)
        if said == "Basic " + b64encode(b"ann:Tr0ub4dor").decode():
            self.good()
        else:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="digits"')
            self.end_headers()

    def within(self) -> None:
        self.moved_to(self.path.replace("within", "locked"))

    def away(self) -> None:
        self.moved_to(self.server.other + self.path.replace("away", "locked"))

    def moved_to(self, url: str) -> None:
        self.send_response(302)
        self.send_header("Location", url)
        self.end_headers()

    def no_length(self) -> None:
        self.begin()
        self.wfile.write(self.content)

    def wrong(self) -> None:
        self.content = self.content[:-1] + b"?"
        self.good()

    def cut(self) -> None:
        self.begin(Content_Length=len(self.content))
        self.wfile.write(self.content[: len(self.content) // 2])

    def cut_chunks(self) -> None:
        self.protocol_version = "HTTP/1.1"
        self.begin(Transfer_Encoding="chunked")
        self.wfile.write(
            f"{len(self.content):x}\r\n".encode() + self.content[: len(self.content) // 2]
        )
        self.close_connection = True

    def stall(self) -> None:
        self.begin(Content_Length=len(self.content))
        self.wfile.write(self.content[: len(self.content) // 2])
        self.server.closing.wait(60)

    def silent(self) -> None:
        self.server.closing.wait(60)

    def nonsense(self) -> None:
        self.wfile.write(b"220 this is another protocol\r\n")

    def busy_once(self) -> None:
        if self.server.asked["busy_once"] == 1:
            self.send_error(429)
        else:
            self.good()


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], Server]]:
    # Where a proxy stands between this machine and the network, it is not asked for these.
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    servers = []

    def start(folder: Path) -> Server:
        server = Server(folder)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        servers.append((server, thread))
        return server

    yield start
    for server, thread in servers:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def server(serve: Callable[[Path], Server], idx_folder: Path) -> Server:
    return serve(idx_folder)


@pytest.fixture(scope="module")
def files(idx_folder: Path) -> downloads.Resources:
    """The four files and their digests, in the order of torchvision's lists."""
    return [(f"{name}.gz", file_hash(idx_folder / f"{name}.gz")) for name in NAMES.values()]


@pytest.fixture(scope="module")
def refused() -> Iterator[str]:
    """A mirror at a port that is taken and not listened on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/"


def assert_whole(folder: Path, files: downloads.Resources) -> None:
    """Exactly these files lie there: no part of one, and no temporary one."""
    assert {path.name: file_hash(path) for path in folder.iterdir()} == dict(files)


@pytest.mark.parametrize("manner", ["good", "moved", "no_length"])
def test_a_data_set_is_downloaded(
    server: Server,
    files: downloads.Resources,
    tmp_path: Path,
    manner: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "not" / "yet" / "there"
    fetch(files, [server.mirror(manner)], folder)
    assert_whole(folder, files)
    assert len(read_folder(folder)[0]["train_images"]) == 200
    assert server.asked[manner] == 4
    # No progress bar where no terminal shows it.
    assert capfd.readouterr() == ("", "")


FAULTS = [
    pytest.param("404", "HTTP 404 Not Found", 1, id="404"),
    pytest.param("403", "HTTP 403 Forbidden", 1, id="403"),
    pytest.param("500", "HTTP 500 Internal Server Error (3 tries)", 3, id="500"),
    pytest.param("429", "HTTP 429 Too Many Requests (3 tries)", 3, id="429"),
    pytest.param("wrong", "wrong checksum: MD5 ", 1, id="wrong checksum"),
    pytest.param("cut", "the connection was lost after ", 3, id="cut"),
    pytest.param("cut_chunks", "IncompleteRead(", 3, id="cut within a chunk"),
    pytest.param("stall", "timed out (3 tries)", 3, id="stalled"),
    pytest.param("silent", "timed out (3 tries)", 3, id="silent"),
    pytest.param("nonsense", "220 this is another protocol", 3, id="another protocol"),
]


@pytest.mark.parametrize(("manner", "fault", "tries"), FAULTS)
def test_a_mirror_that_fails_is_left_for_the_next(
    server: Server, files: downloads.Resources, tmp_path: Path, manner: str, fault: str, tries: int
) -> None:
    start = time.monotonic()
    fetch(files[:1], [server.mirror(manner), server.mirror("good")], tmp_path)
    # A server that stalls is left after the time that was given, not after its own.
    assert time.monotonic() - start < 10
    assert_whole(tmp_path, files[:1])
    assert server.asked == {manner: tries, "good": 1}


@pytest.mark.parametrize(("manner", "fault", "tries"), FAULTS)
def test_when_every_mirror_fails_the_error_says_how_each_did(
    server: Server,
    files: downloads.Resources,
    refused: str,
    tmp_path: Path,
    manner: str,
    fault: str,
    tries: int,
) -> None:
    mirror = server.mirror(manner)
    with pytest.raises(DataError) as raised:
        fetch(files, [mirror, refused, "s3://bucket"], tmp_path)
    first, *lines, last = str(raised.value).splitlines()
    assert first == f"{files[0][0]} could not be downloaded:"
    assert lines[0].startswith(f"  {mirror}: ")
    assert fault in lines[0]
    assert lines[1].startswith(f"  {refused}: ")
    assert lines[1].endswith("Connection refused (3 tries)")
    assert lines[2:] == ["  s3://bucket: s3:// is not supported; use http, https, file or a folder"]
    assert last == CURE
    assert not list(tmp_path.iterdir())


def test_an_error_that_passes_needs_no_other_mirror(
    server: Server, files: downloads.Resources, tmp_path: Path
) -> None:
    fetch(files[:1], [server.mirror("busy_once")], tmp_path)
    assert_whole(tmp_path, files[:1])


def test_wrong_checksums_everywhere_are_named(
    server: Server, files: downloads.Resources, tmp_path: Path
) -> None:
    name, digest = files[0]
    old = tmp_path / name
    old.write_bytes(b"what was there before")
    with pytest.raises(DataError) as raised:
        fetch(files, [server.mirror("wrong"), server.mirror("wrong")], tmp_path)
    content = (server.folder / name).read_bytes()[:-1] + b"?"
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    assert f"wrong checksum: MD5 {found}, expected {digest}\n" in str(raised.value)
    assert old.read_bytes() == b"what was there before"


def test_a_file_that_lies_there_whole_needs_no_network(
    server: Server, files: downloads.Resources, refused: str, tmp_path: Path
) -> None:
    fetch(files, [server.mirror("good")], tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    fetch(files, [refused], tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_a_damaged_file_is_replaced_and_its_neighbours_are_kept(
    server: Server, files: downloads.Resources, tmp_path: Path
) -> None:
    fetch(files, [server.mirror("good")], tmp_path)
    (tmp_path / files[2][0]).write_bytes(b"damaged")
    fetch(files, [server.mirror("good")], tmp_path)
    assert_whole(tmp_path, files)
    assert server.asked["good"] == len(files) + 1


def test_a_mirror_may_be_a_folder_or_a_file_url(
    files: downloads.Resources, idx_folder: Path, tmp_path: Path
) -> None:
    for number, mirror in enumerate([str(idx_folder), idx_folder.as_uri(), idx_folder.name]):
        folder = tmp_path / str(number)
        fetch(files, [mirror], folder, root=idx_folder.parent)
        assert_whole(folder, files)


def test_a_folder_that_lacks_the_file_is_asked_once(
    files: downloads.Resources, tmp_path: Path
) -> None:
    start = time.monotonic()
    with pytest.raises(DataError) as raised:
        fetch(files, [str(tmp_path / "empty")], tmp_path / "cache", pause=60)
    assert time.monotonic() - start < 30
    assert "No such file or directory" in str(raised.value)
    assert "tries" not in str(raised.value)


@pytest.mark.parametrize(
    "mirror", ["~nobody-has-this-name/digits", "nul\0", "loop"], ids=["nobody", "nul", "loop"]
)
def test_what_is_neither_url_nor_folder_is_refused(
    files: downloads.Resources, tmp_path: Path, mirror: str
) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(DataError, match=r"data\.mirror = |loop: "):
        fetch(files, [mirror], tmp_path / "cache", root=tmp_path)
    assert not list(tmp_path.glob("cache/*"))


def test_a_cache_that_cannot_be_written_is_not_the_mirrors_fault(
    server: Server, files: downloads.Resources, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError) as raised:
        fetch(files, [server.mirror("good")], tmp_path / "file" / "folder")
    message = str(raised.value)
    assert message.startswith(str(tmp_path / "file" / "folder" / files[0][0]))
    assert "cannot be written: " in message
    assert message.endswith("or set SPARSE_SAM_CACHE to another folder.")


def test_the_source_mnist_comes_from_the_mirror_that_is_named_and_only_once(
    serve: Callable[[Path], Server],
    files: downloads.Resources,
    idx_folder: Path,
    data_params: Callable[..., DataParams],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(import_torchvision().datasets.MNIST, "resources", files)
    monkeypatch.setenv("SPARSE_SAM_CACHE", str(tmp_path))
    server = serve(idx_folder)
    params = data_params(source="mnist", mirror=server.mirror("good"))
    raw = load_raw(params)
    for key, array in read_folder(idx_folder)[0].items():
        np.testing.assert_array_equal(getattr(raw, key).reshape(array.shape), array)
    assert raw.files == {name: file_hash(tmp_path / "mnist" / name, "sha256") for name, _ in files}
    assert_whole(tmp_path / "mnist", files)
    load_raw(params)
    assert server.asked == {"good": 4}


LOGIN = "machine 127.0.0.1 login ann password Tr0ub4dor\n"


@pytest.fixture
def netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's file of logins, as ~/.netrc is."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NETRC", raising=False)
    path = tmp_path / ".netrc"
    path.write_text(LOGIN)
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("manner", ["locked", "within"])
def test_a_mirror_that_asks_for_a_login_gets_the_users(
    server: Server, files: downloads.Resources, netrc: Path, tmp_path: Path, manner: str
) -> None:
    fetch(files, [server.mirror(manner)], tmp_path / "cache")
    assert_whole(tmp_path / "cache", files)


def test_the_file_of_logins_may_lie_elsewhere(
    server: Server,
    files: downloads.Resources,
    netrc: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    netrc.rename(tmp_path / "logins")
    monkeypatch.setenv("NETRC", str(tmp_path / "logins"))
    fetch(files[:1], [server.mirror("locked")], tmp_path / "cache")
    assert_whole(tmp_path / "cache", files[:1])


def test_a_login_does_not_go_along_to_another_host(
    serve: Callable[[Path], Server],
    files: downloads.Resources,
    idx_folder: Path,
    netrc: Path,
    tmp_path: Path,
) -> None:
    first, second = serve(idx_folder), serve(idx_folder)
    # The same computer by another name, and by another port.
    for other in (f"http://localhost:{second.server_port}", second.mirror("")[:-2]):
        first.other = other
        second.logins.clear()
        with pytest.raises(DataError, match="HTTP 401"):
            fetch(files[:1], [first.mirror("away")], tmp_path / "cache")
        assert second.logins == [None]


def test_a_login_is_for_its_host_only_and_for_no_default(
    server: Server, files: downloads.Resources, netrc: Path, tmp_path: Path
) -> None:
    for text in (
        LOGIN.replace("127.0.0.1", "example.org"),
        LOGIN.replace("machine 127.0.0.1", "default"),
    ):
        netrc.write_text(text)
        with pytest.raises(DataError, match="HTTP 401") as raised:
            fetch(files[:1], [server.mirror("locked")], tmp_path / "cache")
        assert "put the login into ~/.netrc, as `machine HOST login NAME" in str(raised.value)
    assert server.logins == [None, None]


@pytest.mark.parametrize("broken", ["machine 127.0.0.1 login ann passwort Tr0ub4dor\n", "\xff"])
def test_logins_that_cannot_be_read_stop_only_who_needs_them_and_are_not_shown(
    server: Server, files: downloads.Resources, netrc: Path, tmp_path: Path, broken: str
) -> None:
    netrc.write_bytes(broken.encode("latin-1"))
    fetch(files[:1], [server.mirror("good")], tmp_path / "cache")
    with pytest.raises(DataError, match=r"HTTP 401 .*; ~/\.netrc.* cannot be used") as raised:
        fetch(files[1:2], [server.mirror("locked")], tmp_path / "cache")
    assert "Tr0ub" not in str(raised.value)


def test_logins_that_others_may_read_are_not_used(
    server: Server, files: downloads.Resources, netrc: Path, tmp_path: Path
) -> None:
    netrc.chmod(0o644)
    with pytest.raises(DataError, match="chmod 600"):
        fetch(files[:1], [server.mirror("locked")], tmp_path / "cache")
    assert server.logins == [None]


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST", "KMNIST"])
def test_torchvision_lists_the_files_that_the_reader_reads(name: str) -> None:
    files, mirrors = resources(name)
    assert sorted(file for file, _ in files) == sorted(f"{file}.gz" for file in NAMES.values())
    assert all(len(bytes.fromhex(digest)) == 16 for _, digest in files)
    assert mirrors
    assert all(mirror.startswith(("http://", "https://")) for mirror in mirrors)


def test_official_files_pass_torchvisions_checksums_and_others_do_not(
    serve: Callable[[Path], Server], shared_mnist: Path, tmp_path: Path
) -> None:
    server = serve(shared_mnist)
    files, _ = resources("MNIST")
    images = [file for file in files if file[0] == "train-images-idx3-ubyte.gz"]
    others = [file for file in files if file not in images]
    fetch(others, [server.mirror("good")], tmp_path, timeout=10)
    assert_whole(tmp_path, others)
    # The digits there are all genuine, but not in the official order.
    with pytest.raises(DataError, match=f"wrong checksum: MD5 [0-9a-f]+, expected {images[0][1]}"):
        fetch(images, [server.mirror("good")], tmp_path, timeout=10)
    assert_whole(tmp_path, others)
