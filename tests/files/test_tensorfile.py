"""Tensor files: the same content gives the same bytes, and damage is an error."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from sparse_sam.files import tensorfile
from sparse_sam.files.rows import pieces
from sparse_sam.files.sealing import save_arrays
from sparse_sam.files.tensorfile import TensorFileError

CURE = "Run `dvc repro download`."
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool]


def example() -> dict[str, Tensor]:
    return {
        "train/images": torch.arange(12, dtype=torch.uint8).view(3, 2, 2),
        "train/labels": torch.tensor([0, 1, 2]),
        "test/images": torch.zeros(1, 2, 2, dtype=torch.uint8),
        "scale": torch.tensor(0.5),
    }


def save(path: Path, tensors: dict[str, Tensor] | None = None, **header: Any) -> Path:
    content = example() if tensors is None else tensors
    tensorfile.save_tensors(path, content, kind="dataset", version=2, header=header)
    return path


def load(path: Path, **changes: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    return tensorfile.load_tensors(
        path, **{"kind": "dataset", "version": 2, "cure": CURE, **changes}
    )


def assert_refused(path: Path, reason: str, **changes: Any) -> None:
    with pytest.raises(TensorFileError) as raised:
        load(path, **changes)
    message = str(raised.value)
    assert message.startswith(str(path))
    assert message.endswith(CURE)
    assert reason in message


@pytest.mark.parametrize("dtype", [one for one in DTYPES if one is not torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3, 4)], ids=str)
def test_arrays_are_written_as_tensors_are(
    dtype: torch.dtype, shape: tuple[int, ...], tmp_path: Path
) -> None:
    tensors = {**example(), "one": torch.rand(shape).mul(9).to(dtype)}
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    arrays["train/images"] = arrays["train/images"].transpose(1, 2, 0).copy().transpose(2, 0, 1)
    assert not arrays["train/images"].flags.c_contiguous
    path = tmp_path / "arrays"
    save_arrays(path, arrays, kind="dataset", version=2, header={"a": 1})
    assert path.read_bytes() == save(tmp_path / "tensors", tensors, a=1).read_bytes()
    loaded, _ = load(path)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("row", [1, 1000, 5_000_000])
def test_arrays_of_several_pieces_are_written_as_one(row: int, tmp_path: Path) -> None:
    count = 11_000_000 // row
    bytes_ = np.arange(count * row, dtype=np.uint32).astype(np.uint8).reshape(count, row)
    arrays = {"a": bytes_, "b": bytes_.T}
    save_arrays(tmp_path / "arrays", arrays, kind="dataset", version=2, header={})
    tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    assert (tmp_path / "arrays").read_bytes() == save(tmp_path / "tensors", tensors).read_bytes()
    for name, array in arrays.items():
        assert b"".join(map(bytes, pieces(array))) == array.tobytes(), name
        assert all(one.nbytes <= max(2**20, array[:1].nbytes) for one in pieces(array))


def test_tensors_of_bytes_may_stay_in_the_file(tmp_path: Path) -> None:
    path = save(tmp_path / "file")
    loaded, header = load(path)
    there, again = load(path, mapped=True)
    assert header == again
    assert there.keys() == loaded.keys()
    assert all(torch.equal(there[name], tensor) for name, tensor in loaded.items())
    assert all(there[name].dtype == tensor.dtype for name, tensor in loaded.items())


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    tensors, header = load(save(tmp_path / "file", source="mnist", mean=0.13))
    assert header == {"kind": "dataset", "version": 2, "source": "mnist", "mean": 0.13}
    assert tensors.keys() == example().keys()
    for name, tensor in example().items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)


@given(
    dtype=st.sampled_from(DTYPES),
    shape=st.lists(st.integers(0, 3), max_size=3),
    transposed=st.booleans(),
)
def test_any_type_shape_and_stride(
    dtype: torch.dtype, shape: list[int], transposed: bool, tmp_path_factory: Any
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    tensor = (torch.randn(shape) * 10).to(dtype)
    tensor = tensor.permute(list(reversed(range(tensor.dim())))) if transposed else tensor
    loaded = load(save(path, {"one": tensor}))[0]["one"]
    assert loaded.dtype == dtype
    assert loaded.shape == tensor.shape
    assert torch.equal(loaded, tensor)


def test_equal_content_gives_equal_bytes_whatever_its_order(tmp_path: Path) -> None:
    first = save(tmp_path / "first", example(), a=1, b="x")
    swapped = dict(reversed(example().items()))
    second = save(tmp_path / "second", swapped, b="x", a=1)
    assert first.read_bytes() == second.read_bytes()
    other = save(tmp_path / "other", example(), a=1, b="y")
    assert first.read_bytes() != other.read_bytes()


def test_a_part_is_loaded_by_its_prefix(tmp_path: Path) -> None:
    path = save(tmp_path / "file")
    assert load(path, prefixes=("train/",))[0].keys() == {"train/images", "train/labels"}
    assert load(path, prefixes=("test/", "scale"))[0].keys() == {"test/images", "scale"}
    assert load(path, prefixes=("validation/",))[0] == {}


def test_any_safetensors_reader_reads_the_tensors(tmp_path: Path) -> None:
    with safe_open(save(tmp_path / "file"), framework="pt") as file:
        assert torch.equal(file.get_tensor("train/labels"), torch.tensor([0, 1, 2]))


def test_another_kind_and_another_version_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "file")
    assert_refused(path, "is a dataset, not a checkpoint", kind="checkpoint")
    assert_refused(path, "has format version 2; this version of sparse-sam reads 1", version=1)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert_refused(tmp_path / "file", "is missing")
    assert_refused(tmp_path, "is missing")


def test_a_file_of_another_tool_is_refused(tmp_path: Path) -> None:
    save_file(example(), tmp_path / "plain")
    assert_refused(tmp_path / "plain", "is not a sparse-sam dataset")
    save_file(example(), tmp_path / "named", {"sparse_sam": "{}"})
    assert_refused(tmp_path / "named", "is damaged")


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path("unpickled").touch, ())


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "file"
    if zipped:
        torch.save({"weight": Payload()}, path)
    else:
        path.write_bytes(pickle.dumps(Payload()))
    assert_refused(path, "is damaged")
    assert not Path("unpickled").exists()


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    whole = save(tmp_path / "whole", a=1).read_bytes()
    path = tmp_path / "file"
    for size in [*range(0, len(whole), 17), len(whole) - 1]:
        path.write_bytes(whole[:size])
        assert_refused(path, "is damaged")
    path.write_bytes(whole + b"\0")
    assert_refused(path, "is damaged")


@given(data=st.data())
def test_a_file_with_any_byte_changed_is_refused(
    data: st.DataObject, tmp_path_factory: Any
) -> None:
    path = tmp_path_factory.getbasetemp() / "changed.safetensors"
    content = bytearray(save(path, mean=0.13).read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    before = content[position]
    content[position] = data.draw(st.integers(0, 255).filter(lambda byte: byte != before))
    path.write_bytes(content)
    if chr(before).isspace() and chr(content[position]).isspace():
        return  # padding after the JSON header: nothing has changed
    assert_refused(path, "")


def test_a_tensor_that_was_swapped_for_another_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "file")
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    swapped = example() | {"train/labels": torch.tensor([0, 2, 1])}
    save_file(swapped, path, metadata)
    assert_refused(path, "train/labels has changed")
    for same_bytes in (
        example()["train/labels"].view(torch.float64),
        torch.tensor([[0], [1], [2]]),
    ):
        save_file(example() | {"train/labels": same_bytes}, path, metadata)
        assert_refused(path, "train/labels has changed")
    save_file({**example(), "more": torch.zeros(1)}, path, metadata)
    assert_refused(path, "its list of tensors has changed")
    fewer = example()
    del fewer["scale"]
    save_file(fewer, path, metadata)
    assert_refused(path, "its list of tensors has changed", prefixes=("train/",))


@pytest.mark.parametrize(
    ("tensors", "header"),
    [
        ({"weight": torch.zeros(2)}, {"mean": float("nan")}),
        ({"weight": torch.zeros(2)}, {"path": Path()}),
        ({"weight": torch.empty(2, device="meta")}, {}),
        ({"weight": torch.zeros(2, 2).to_sparse()}, {}),
    ],
)
def test_what_cannot_be_saved_leaves_the_old_file(
    tmp_path: Path, tensors: dict[str, Tensor], header: dict[str, Any]
) -> None:
    path = save(tmp_path / "file", a=1)
    before = path.read_bytes()
    with pytest.raises((ValueError, TypeError, RuntimeError)):
        save(path, tensors, **header)
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_saving_takes_no_reference(tmp_path: Path) -> None:
    weight = torch.zeros(2, requires_grad=True)
    path = save(tmp_path / "file", {"weight": weight})
    with torch.no_grad():
        weight += 1
    assert not load(path)[0]["weight"].any()
    assert not load(path)[0]["weight"].requires_grad


def test_tensors_that_share_memory_are_written_each(tmp_path: Path) -> None:
    shared = torch.arange(6.0)
    same: dict[str, Any] = {"kind": "test", "version": 1}
    tensorfile.save_tensors(
        tmp_path / "f", {"a": shared, "b": shared, "c": shared[2:]}, header={}, **same
    )
    found, _ = tensorfile.load_tensors(tmp_path / "f", cure="", **same)
    assert found["a"].tolist() == found["b"].tolist() == shared.tolist()
    assert found["c"].tolist() == [2.0, 3.0, 4.0, 5.0]
