"""A file never chooses what code runs, and says nothing of itself that is believed unread."""

import json
import math
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from sparse_sam.data.dataset import DataInfo
from sparse_sam.errors import CheckpointError, SparseSamError
from sparse_sam.export.channels import narrow
from sparse_sam.export.compression import folded
from sparse_sam.export.network_files import load_dense, load_sparse, save_dense, save_sparse
from sparse_sam.files import sealing, tensorfile
from sparse_sam.files.tensorfile import TensorFileError
from sparse_sam.networks.build import build_model
from sparse_sam.networks.network import Network
from sparse_sam.networks.registry import NETWORKS
from sparse_sam.pruning.masks import Masks, attach
from sparse_sam.tracking.paths import layout
from sparse_sam.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from sparse_sam.training.origin import Origin
from tests.every_network import ANY_SIZE, small

ORIGIN = Origin("mlpnet", (1, 4, 4), tuple("012"), (0.13,), (0.31,), "0123abcd", "sam", 4)
KINDS = ("checkpoint", "dense", "narrow", "packed")
MODULE = """
from pathlib import Path

Path(__file__).with_name("imported").touch()

def call(*given):
    Path(__file__).with_name("called").touch()
"""

Load = Callable[..., Any]


def sparse_network(origin: Origin) -> Checkpoint:
    """A registered network with half the channels of its first weighted layer pruned."""
    torch.manual_seed(0)
    model = build_model(origin.model, origin.image_shape, origin.num_classes)
    layers = (nn.Linear, nn.Conv2d)
    layer = next(name for name, one in model.named_modules() if isinstance(one, layers))
    name, weight = f"{layer}.weight", model.get_parameter(f"{layer}.weight")
    kept = torch.ones_like(weight, dtype=torch.bool)
    kept[: len(kept) // 2] = False
    attach(model, Masks({name: kept}))
    return Checkpoint.of(model, origin)


def write(folder: Path, origin: Origin = ORIGIN) -> dict[str, Path]:
    """One network as every kind of file that names its network."""
    paths = {kind: folder / f"{kind}.safetensors" for kind in KINDS}
    checkpoint = sparse_network(origin)
    save_checkpoint(paths["checkpoint"], checkpoint)
    plain = folded(checkpoint)
    save_dense(paths["dense"], plain, origin)
    narrowed = narrow(plain, origin.image_shape)
    assert narrowed.removed or not isinstance(plain, nn.Sequential)
    save_dense(paths["narrow"], narrowed.model, origin)
    save_sparse(paths["packed"], checkpoint)
    return paths


def load(kind: str, path: Path, **named: Any) -> Origin:
    """Load a file as its kind is loaded, and build its network."""
    if kind in {"dense", "narrow"}:
        model, origin = load_dense(path, **named)
        assert not any(one.is_meta for one in model.state_dict().values())
        return origin
    if kind == "packed":
        checkpoint = load_sparse(path, **named)
    else:
        expected = {"arm": "sam", "seed": 4, "dataset": "0123abcd", "stage": "finetune_sam"}
        checkpoint = load_checkpoint(path, **expected, **named)
    checkpoint.build()
    return checkpoint.origin


def header_of(path: Path) -> dict[str, Any]:
    """All that is sealed: the header, and the tensors' digests."""
    with safe_open(path, framework="pt") as file:
        sealed = file.metadata()[sealing.HEADER]
    return json.loads(sealed[64:])  # type: ignore[no-any-return]


def reseal(path: Path, content: Any, to: Path) -> Path:
    """The same tensors under another header, sealed as well as ours: anybody can do that."""
    text = content if isinstance(content, str) else json.dumps(content)
    save_file(load_file(path), to, {sealing.HEADER: sealing._sha256(text.encode()) + text})
    return to


def with_origin(path: Path, to: Path, **changes: Any) -> Path:
    content = header_of(path)
    content["header"]["origin"] |= changes
    return reseal(path, content, to)


@pytest.fixture(scope="module")
def marker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where a module that can be imported says so: ``imported``, and ``called``."""
    folder = tmp_path_factory.mktemp("marker")
    (folder / "marker_for_tests.py").write_text(MODULE)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Sound files, which were loaded once: what torch imports late is there."""
    paths = write(tmp_path_factory.mktemp("files"))
    for kind, path in paths.items():
        assert load(kind, path) == ORIGIN
    return paths


def traces(marker: Path) -> list[str]:
    return sorted(path.name for path in marker.iterdir() if path.suffix != ".py")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", ["subprocess:Popen", "marker_for_tests:call"])
def test_a_file_does_not_choose_what_is_called(
    kind: str, model: str, files: dict[str, Path], marker: Path, tmp_path: Path
) -> None:
    command = ["touch", str(marker / "started")]
    path = with_origin(files[kind], tmp_path / "file", model=model, image_shape=command)
    with pytest.raises(CheckpointError) as raised:
        load(kind, path)
    assert str(raised.value).startswith(str(path))
    path = with_origin(files[kind], tmp_path / "file", model=model)
    with pytest.raises(CheckpointError) as raised:
        load(kind, path)
    said = str(raised.value)
    assert said.startswith(str(path))
    assert model in said
    assert 'model="package.module:factory"' in said
    assert traces(marker) == []
    assert "marker_for_tests" not in sys.modules


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_of_ones_own_is_named_by_the_caller(
    kind: str, tiny_net: str, tmp_path: Path
) -> None:
    origin = replace(ORIGIN, model=tiny_net)
    path = write(tmp_path, origin)[kind]
    assert load(kind, path, model=tiny_net) == origin
    other = "mlpnet" if kind == "dense" else tiny_net.replace("with_", "without_")
    with pytest.raises(CheckpointError, match=r"the caller, or model\.name") as raised:
        load(kind, path, model=other)
    assert tiny_net in str(raised.value)
    assert other in str(raised.value)
    with pytest.raises(CheckpointError, match="A file may not choose what code runs"):
        load(kind, path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_has_the_arguments_that_its_file_says(kind: str, tmp_path: Path) -> None:
    network = Network.of("vgg-16-bn", width=2)
    scale = {"mean": (0.13,) * 3, "std": (0.31,) * 3}
    origin = replace(ORIGIN, model=network, image_shape=(3, 4, 4), **scale)
    path = write(tmp_path, origin)[kind]
    assert load(kind, path) == load(kind, path, model=network) == origin
    for other in ("vgg-16-bn", Network.of("vgg-16-bn", width=3), Network.of("vit", width=2)):
        with pytest.raises(CheckpointError, match=r"the caller, or model\.name") as raised:
            load(kind, path, model=other)
        assert str(network) in str(raised.value)
        assert str(other) in str(raised.value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "arguments",
    [
        *({"width": 3}, {"width": 1025}, {"width": 0}, {"width": "2"}, {"width": 2.0}, {}),
        *({"width": 2, "depth": 10**9}, {"image_shape": [1]}, {"factory": "subprocess:Popen"}),
    ],
)
def test_arguments_that_do_not_fit_are_refused(
    kind: str, arguments: dict[str, Any], tmp_path: Path
) -> None:
    scale = {"mean": (0.13,) * 3, "std": (0.31,) * 3}
    network = Network.of("vgg-16-bn", width=2)
    origin = replace(ORIGIN, model=network, image_shape=(3, 4, 4), **scale)
    path = with_origin(write(tmp_path, origin)[kind], tmp_path / "file", arguments=arguments)
    if kind in {"dense", "narrow"} and arguments in ({"width": 3}, {}):
        return  # (it may be a narrow form of these)
    with pytest.raises(CheckpointError):
        load(kind, path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_does_not_choose_one_of_torchvisions_networks(
    kind: str, files: dict[str, Path], tmp_path: Path
) -> None:
    before = set(sys.modules)
    for arguments in ({}, {"weights": "DEFAULT"}, {"width_per_group": 10**9}):
        path = with_origin(
            files[kind], tmp_path / "file", model="torchvision:resnet18", arguments=arguments
        )
        with pytest.raises(CheckpointError, match="may not choose what code runs"):
            load(kind, path)
    assert set(sys.modules) == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_registered_network_may_be_named_and_must_be_that(
    kind: str, files: dict[str, Path]
) -> None:
    assert load(kind, files[kind], model="mlpnet") == ORIGIN
    with pytest.raises(CheckpointError, match=r"mlpnet.*lenet-300-100"):
        load(kind, files[kind], model="lenet-300-100")


BAD = [
    *[("model", bad) for bad in (None, 3, ["mlpnet"], "", "a b:c", "os.system", "..:x", "a:b:c")],
    *[("image_shape", bad) for bad in (None, 3, "148", [1, 4], [1, 4, 4, 1], [1, 4, 0])],
    *[("image_shape", bad) for bad in ([1, 4, -4], [1, 4, 4.0], [1, 4, True], [1, 4, 2**31])],
    *[("classes", bad) for bad in (3, [], None, "cat", [3], ["a", "a"], ["\x1b[31m"], ["x" * 101])],
    *[("classes", bad) for bad in ([""], [["a"]], list(map(str, range(10_001))))],
    *[("mean", [bad]) for bad in (math.nan, math.inf, "0", None, True, [0.1], 10**400)],
    *[("std", [bad]) for bad in (0, -0.3, math.nan, math.inf, "1", None, 10**400)],
    *[(name, bad) for name in ("mean", "std") for bad in (0.5, [], [0.5] * 3, "0", None)],
    *[("dataset", bad) for bad in (None, 3, ["0123abcd"], "a\x1b[31m", "a" * 1000)],
    *[("arm", bad) for bad in (None, 3, "adam", "../sam", ["sam"])],
    *[("arguments", bad) for bad in (None, 3, [], "width=8", {"a": {}}, {"a b": 1}, {"": 1})],
    *[("arguments", bad) for bad in ({"a": math.nan}, {"a": "\x1b[31m"}, {"a": "x" * 3000})],
    *[("arguments", bad) for bad in ({"a": 10**400}, {"a": [[[[[0]]]]]}, {"a": [0] * 5000})],
    *[("seed", bad) for bad in (None, -1, 4.0, True, "4", 2**32)],
]


@pytest.mark.parametrize(("field", "bad"), BAD, ids=lambda one: repr(one)[:20])
@pytest.mark.parametrize("kind", KINDS)
def test_a_field_that_cannot_be_is_named(
    kind: str, field: str, bad: Any, files: dict[str, Path], tmp_path: Path
) -> None:
    path = with_origin(files[kind], tmp_path / "file", **{field: bad})
    with pytest.raises(CheckpointError) as raised:
        load(kind, path)
    said = str(raised.value)
    assert said.startswith(f"{path} is damaged (origin.{field} = ")
    assert "\x1b" not in said
    assert len(said) < 500


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("field", ORIGIN.content())
def test_a_field_that_is_missing_is_named(
    kind: str, field: str, files: dict[str, Path], tmp_path: Path
) -> None:
    content = header_of(files[kind])
    del content["header"]["origin"][field]
    with pytest.raises(CheckpointError, match=rf"is damaged \(origin\.{field} is missing\)"):
        load(kind, reseal(files[kind], content, tmp_path / "file"))
    path = with_origin(files[kind], tmp_path / "file", **{f"{field}_2": 1})
    with pytest.raises(CheckpointError, match=rf"is damaged \(origin\.{field}_2 is unknown\)"):
        load(kind, path)


SPECIAL = st.sampled_from(
    [
        *("subprocess:Popen", "os:system", "marker_for_tests:call", "marker_for_tests", "../../x"),
        *("touch called", "mlpnet", "lenet-5", "classifier", [1, 1000000, 1000000], 10**30),
        *("torchvision:resnet18", "vit", {"width": 8}, {"width": 1024, "depth": 100}),
        math.nan,
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | SPECIAL,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
PLACES = [
    *[("header", "origin", field) for field in (*ORIGIN.content(), "arguments")],
    *[("header",), ("header", "origin"), ("header", "kind"), ("header", "version")],
    *[("digests",), ("digests", "a tensor"), ()],
]


def changed(content: Any, place: tuple[str, ...], value: Any) -> Any:
    if not place:
        return value
    inner = next(iter(content)) if place[0] == "a tensor" else place[0]
    return {**content, inner: changed(content.get(inner), place[1:], value)}


@given(kind=st.sampled_from(KINDS), place=st.sampled_from(PLACES), value=JSON, twice=SPECIAL)
def test_whatever_a_sealed_header_says_it_is_loaded_or_refused(
    kind: str,
    place: tuple[str, ...],
    value: Any,
    twice: Any,
    files: dict[str, Path],
    marker: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    content = changed(header_of(files[kind]), place, value)
    if place[:1] == ("header",) and place[1:] not in {(), ("origin",)}:
        content["header"]["origin"]["model"] = twice
    path = tmp_path_factory.getbasetemp() / "header.safetensors"
    reseal(files[kind], content, path)
    for name in NETWORKS:  # whose own modules may be loaded by now
        NETWORKS.load(name)
    modules = set(sys.modules)
    said = ""
    try:
        assert load(kind, path).model.name in NETWORKS
    except (CheckpointError, TensorFileError) as error:
        said = str(error)
    assert not said or str(path) in said or re.search("do not fit the (current )?model", said)
    assert set(sys.modules) == modules
    assert traces(marker) == []


TYPES = [torch.float8_e4m3fn, torch.float8_e5m2, torch.float16, torch.float64, torch.complex64]
TYPES += [torch.bfloat16, torch.uint16, torch.uint64, torch.int8, torch.bool]
OTHERWISE: list[Callable[[torch.Tensor], torch.Tensor | None]] = [
    *(lambda one, dtype=dtype: one.float().to(dtype) for dtype in TYPES),  # type: ignore[misc]
    lambda one: one.reshape(-1).clone(),
    lambda one: one.unsqueeze(0).clone(),
    lambda one: one.flatten()[:0].clone(),
    lambda one: one.flatten()[0].clone(),
    lambda _: None,
]


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_a_sealed_tensor_is_it_is_loaded_or_refused(
    kind: str, files: dict[str, Path], tmp_path: Path
) -> None:
    """Of another type, of another shape, or not there."""
    content, header = load_file(files[kind]), header_of(files[kind])["header"]
    path, refused = tmp_path / "file", 0
    for name, act in product(content, OTHERWISE):
        given = {**content, name: act(content[name])}
        tensors = {name: one for name, one in given.items() if one is not None}
        own = {"kind": header["kind"], "version": header["version"]}
        tensorfile.save_tensors(path, tensors, **own, header={"origin": header["origin"]})
        try:
            load(kind, path)
        except (CheckpointError, TensorFileError):
            refused += 1
    assert refused > len(content) * len(TYPES) / 2


@pytest.mark.parametrize("kind", ["dense", "narrow"])
def test_no_tensor_of_a_loaded_network_is_made_up(kind: str, tmp_path: Path) -> None:
    path = write(tmp_path, replace(ORIGIN, model="classifier", image_shape=(1, 8, 8)))[kind]
    content = load_file(path)
    del content["3.num_batches_tracked"]
    own = {"kind": "dense network", "version": 2}
    header = {"origin": header_of(path)["header"]["origin"]}
    tensorfile.save_tensors(path, content, **own, header=header)
    with pytest.raises(CheckpointError, match=r"only one of the two has 3\.num_batches_tracked"):
        load_dense(path)


def test_a_checkpoint_is_of_the_images_that_the_data_set_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    origin = replace(ORIGIN, image_shape=(1, 5, 5))
    save_checkpoint(Path("models/sam/seed-4.safetensors"), sparse_network(origin))
    info = DataInfo("here", "0123abcd", (1, 5, 5), tuple("012"), (0.13,), (0.31,), {}, {})
    assert layout.load_arm("sam", 4, info, "mlpnet").origin == origin
    for changes in (
        {"image_shape": (1, 4, 4)},
        {"classes": tuple("abc")},
        {"mean": (0.2,)},
        {"std": (0.2,)},
    ):
        with pytest.raises(
            CheckpointError, match=r"seed-4\.safetensors was trained on images of"
        ) as raised:
            layout.load_arm("sam", 4, replace(info, **changes), "mlpnet")
        assert "Run `dvc repro finetune_sam`, or `dvc checkout`" in str(raised.value)
    with pytest.raises(CheckpointError, match=r"the caller, or model\.name and mod"):
        layout.load_arm("sam", 4, info, "lenet-300-100")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"header": 1' + "0" * 5000 + "}", "\ud800"[:0]])
def test_a_header_that_no_parser_takes_is_refused(
    text: str, files: dict[str, Path], tmp_path: Path
) -> None:
    path = reseal(files["dense"], text, tmp_path / "file")
    with pytest.raises(TensorFileError, match="is damaged"):
        load("dense", path)


LARGE = """
import resource, sys, time
from pathlib import Path
from sparse_sam.errors import SparseSamError
from tests.test_trust import load
import sparse_sam.export.channels, torch

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

try:
    load(sys.argv[1], Path(sys.argv[2]), **{})
    print("sound file loaded")
except SparseSamError as error:
    print("sound file", error)
before, began = peak(), time.perf_counter()
for path in sys.argv[3:]:
    try:
        load(sys.argv[1], Path(path))
        print(path, "was loaded")
    except SparseSamError as error:
        pass
print("bytes", peak() - before)
print("seconds", time.perf_counter() - began)
"""


@pytest.mark.parametrize("kind", KINDS)
def test_a_header_does_not_make_loading_take_memory(kind: str, tmp_path: Path) -> None:
    """In a process of its own, which may take a tenth of what the headers ask for."""
    given, fitting = [], []
    for model in NETWORKS:
        (folder := tmp_path / model).mkdir()
        origin = replace(ORIGIN, model=small(model), image_shape=(1, 28, 28))
        sound = write(folder, origin)[kind]
        for number, changes in enumerate(
            (
                {"image_shape": [1, 1000000, 1000000]},
                {"image_shape": [1000000, 28, 28], "mean": [0.1] * 10**6, "std": [0.1] * 10**6},
                {"image_shape": [1, 2000, 2000]},
                {"classes": list(map(str, range(10_000)))},
            )
        ):
            path = with_origin(sound, folder / f"{number}", **changes)
            given.append(str(path))
            if model in ANY_SIZE and number in {0, 2}:  # whose weights are of no size of images
                fitting.append(f"{path} was loaded")
    done = subprocess.run(
        [sys.executable, "-c", LARGE, kind, str(sound), *given],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent.parent,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30, 6 * 2**30)),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    sound_line, *others, taken, seconds = done.stdout.splitlines()
    assert sound_line == "sound file loaded"
    assert others == fitting
    assert int(taken.split()[1]) < 256 * 2**20  # 60 MiB of it are modules that torch imports late
    assert float(seconds.split()[1]) < 30


def test_a_packed_tensor_is_no_larger_than_it_can_be(
    files: dict[str, Path], tmp_path: Path
) -> None:
    """A shape and one position would otherwise take as much memory as they say."""
    content = load_file(files["packed"])
    name = next(key.partition("/")[2] for key in content if key.startswith("values/"))
    huge = {
        f"shape/{name}": torch.tensor([2**20, 2**20]),
        f"values/{name}": torch.ones(1),
        f"index/{name}": torch.zeros(1, dtype=torch.int32),
    }
    sealed = header_of(files["packed"])["header"]
    del content[f"bits/{name}"]
    path = tmp_path / "file"
    header = {"origin": sealed["origin"]}
    tensorfile.save_tensors(path, content | huge, kind="packed network", version=2, header=header)
    with pytest.raises(CheckpointError, match=r"it has 1\.1e\+12 weights"):
        load_sparse(path)
    for shape in (torch.tensor([2**62, 2**62]), torch.tensor([-4, -40]), torch.ones(2)):
        content[f"shape/{name}"] = shape
        tensors = content | huge | {f"shape/{name}": shape}
        tensorfile.save_tensors(path, tensors, kind="packed network", version=2, header=header)
        with pytest.raises(SparseSamError, match=r"are damaged|it has"):
            load_sparse(path)
