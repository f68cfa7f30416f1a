"""An export does what the network does, on the whole test set, and is as small as it says."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.torch
import torch

from sparse_sam.data.dataset import Dataset
from sparse_sam.data.params import DataParams
from sparse_sam.data.raw import RawData
from sparse_sam.data.stratify import build_dataset
from sparse_sam.data.tensors import TestData
from sparse_sam.errors import CheckpointError, ConfigError, ExportError, SparseSamError
from sparse_sam.export import onnxfile
from sparse_sam.export.manifest import DENSE, MANIFEST, NARROW, ONNX, SPARSE, load_manifest
from sparse_sam.export.model_card import CARD
from sparse_sam.export.network_files import (
    export_network,
    header_bytes,
    load_dense,
    load_sparse,
    packed_bytes,
    pixels_of,
)
from sparse_sam.export.selection import select_best
from sparse_sam.networks.build import build_model
from sparse_sam.training.checkpoint import Checkpoint
from tests.trained_networks import trained, write_data

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Shipped:
    folder: Path
    manifest: dict[str, Any]
    checkpoint: Checkpoint
    data: TestData

    def logits(self) -> torch.Tensor:
        with torch.no_grad():
            return self.checkpoint.build().eval()(self.data.test.taken(slice(None)))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def dataset(digits: RawData, data_params: Callable[..., DataParams]) -> Dataset:
    return build_dataset(digits, data_params())


@pytest.fixture(scope="module")
def shipped(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Shipped:
    """A classifier with 95 % of its weights pruned."""
    folder = tmp_path_factory.mktemp("shipped")
    data = write_data(folder / "data.safetensors", dataset)
    checkpoint = trained("classifier", dataset, 0.95)
    manifest = export_network(checkpoint, data, folder / "export", {"path": "somewhere"})
    return Shipped(folder / "export", manifest, checkpoint, data)


def test_the_network_of_these_tests_has_learned(shipped: Shipped) -> None:
    predictions = shipped.logits().argmax(1)
    accuracy = float((predictions == shipped.data.test.labels).double().mean())
    assert accuracy > 0.6
    assert len(predictions.unique()) == 10
    source = shipped.data.info.source
    assert shipped.manifest["test"] == {"images": 1000, "accuracy": accuracy, "source": source}


def test_sparse_is_a_small_part_of_dense(shipped: Shipped) -> None:
    dense, sparse = (shipped.manifest["files"][name]["raw"] for name in (DENSE, SPARSE))
    assert sparse < 0.12 * dense
    assert sparse == (shipped.folder / SPARSE).stat().st_size


def test_the_bytes_are_those_of_the_documented_formula(shipped: Shipped) -> None:
    page = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    assert "8 + H + Σ dense + Σ (4k + min(⌈n/8⌉, 4k) + 8d)" in page
    with (shipped.folder / SPARSE).open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    by_hand = 8 + header
    masks = shipped.checkpoint.masks
    assert masks is not None
    for name, tensor in shipped.checkpoint.state.items():
        if name in masks:
            n, k = masks[name].numel(), int(masks[name].sum())
            by_hand += 4 * k + min(math.ceil(n / 8), 4 * k) + 8 * tensor.dim()
        else:
            by_hand += tensor.numel() * tensor.element_size()
    path = shipped.folder / SPARSE
    assert path.stat().st_size == by_hand == header_bytes(path) + packed_bytes(shipped.checkpoint)


def test_sparse_brings_back_the_same_bits(shipped: Shipped) -> None:
    loaded = load_sparse(shipped.folder / SPARSE)
    assert loaded.origin == shipped.checkpoint.origin
    with torch.no_grad():
        assert torch.equal(
            loaded.build().eval()(shipped.data.test.taken(slice(None))), shipped.logits()
        )
    assert loaded.masks is not None
    assert loaded.masks.sparsity == pytest.approx(0.95, abs=1e-4)


def test_dense_gives_the_same_outputs(shipped: Shipped) -> None:
    model, origin = load_dense(shipped.folder / DENSE)
    assert (origin.mean, origin.std) == (shipped.data.info.mean, shipped.data.info.std)
    with torch.no_grad():
        assert torch.equal(model(shipped.data.test.taken(slice(None))), shipped.logits())
    plain = build_model("classifier", (1, 28, 28), 10)
    plain.load_state_dict(safetensors.torch.load_file(shipped.folder / DENSE))  # without our code


def test_onnx_gives_the_same_predictions_for_bytes(shipped: Shipped, digits: RawData) -> None:
    """From the file alone, and from the pixels as they were before any of our code saw them."""
    runtime = onnxruntime.InferenceSession(shipped.folder / ONNX)
    pixels = digits.test_images
    assert np.array_equal(pixels, pixels_of(shipped.data))
    labels, logits, names = runtime.run(None, {"pixels": pixels})
    assert names.tolist() == [str(label) for label in labels]
    assert np.array_equal(labels, shipped.logits().argmax(1).numpy())
    np.testing.assert_allclose(logits, shipped.logits().numpy(), rtol=1e-3, atol=1e-3)
    for size in (1, 3):  # the number of images is free
        assert np.array_equal(runtime.run(["label"], {"pixels": pixels[:size]})[0], labels[:size])


def test_onnx_tells_nothing_of_this_machine(shipped: Shipped) -> None:
    content = (shipped.folder / ONNX).read_bytes()
    assert b".py" not in content
    assert str(ROOT).encode() not in content
    proto = onnx.load(shipped.folder / ONNX)
    assert [one.type.tensor_type.shape.dim[0].dim_param for one in proto.graph.input] == ["batch"]


def test_removed_channels_are_gone_from_narrow_and_onnx(dataset: Dataset, shipped: Shipped) -> None:
    folder = shipped.folder.parent / "channels"
    checkpoint = trained("lenet-300-100", dataset, 0.7, channels=True)
    manifest = export_network(checkpoint, shipped.data, folder, {})
    assert manifest["channels_removed"] == {"1": 210, "3": 70}
    model, _ = load_dense(folder / NARROW)
    assert [tuple(one.shape) for one in model.parameters() if one.dim() > 1] == [
        (90, 784),
        (30, 90),
        (10, 30),
    ]
    weights = 4 * (90 * 784 + 90 + 30 * 90 + 30 + 10 * 30 + 10)
    assert manifest["files"][NARROW]["raw"] - header_bytes(folder / NARROW) == weights
    assert manifest["files"][ONNX]["raw"] == pytest.approx(weights, rel=0.03)
    again = export_network(checkpoint, shipped.data, folder, {})
    assert again == manifest  # the same network gives the same bytes


def test_a_wrong_file_is_not_done(
    shipped: Shipped, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The ONNX file gets another normalisation: what was there stays, nothing is left behind."""
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "old").write_text("old")
    right = onnxfile.save_onnx

    def wrong(path: Path, network: onnxfile.FromPixels, *more: Any) -> None:
        path.write_bytes(b"")
        std = [float(network.scale.std)]
        right(path, onnxfile.FromPixels(network.network, [5.0], std), *more)

    monkeypatch.setattr(onnxfile, "save_onnx", wrong)
    small = replace(shipped.checkpoint.origin, model="mlpnet")
    torch.manual_seed(0)
    checkpoint = Checkpoint.of(build_model("mlpnet", (1, 28, 28), 10), small)
    with pytest.raises(ExportError, match=r"model\.onnx does not match the network: \d+ of"):
        export_network(checkpoint, shipped.data, tmp_path / "export", {})
    assert [one.name for one in tmp_path.rglob("*")] == ["export", "old"]


def test_another_data_set_is_refused(shipped: Shipped, tmp_path: Path) -> None:
    origin = replace(shipped.checkpoint.origin, dataset="another")
    checkpoint = Checkpoint(origin, shipped.checkpoint.state, shipped.checkpoint.masks)
    with pytest.raises(CheckpointError, match="trained on another data set"):
        export_network(checkpoint, shipped.data, tmp_path / "export", {})


@pytest.mark.parametrize("name", [DENSE, SPARSE, NARROW, ONNX, CARD])
@pytest.mark.parametrize("fault", ["flipped", "missing"])
def test_a_file_that_changed_is_named(
    shipped: Shipped, tmp_path: Path, name: str, fault: str
) -> None:
    for file in (DENSE, SPARSE, NARROW, ONNX, CARD, MANIFEST):
        (tmp_path / file).write_bytes((shipped.folder / file).read_bytes())
    assert load_manifest(tmp_path) == json.loads(json.dumps(shipped.manifest))
    content = bytearray((tmp_path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / name).write_bytes(content)
    if fault == "missing":
        (tmp_path / name).unlink()
    with pytest.raises(ExportError, match=re.escape(name)):
        load_manifest(tmp_path)
    if name not in (ONNX, CARD):
        with pytest.raises(SparseSamError, match=re.escape(name)):
            (load_sparse if name == SPARSE else load_dense)(tmp_path / name)


def metrics(accuracy: list[float], loss: list[float] | None = None) -> dict[str, Any]:
    loss = loss or [0.5] * len(accuracy)
    return {
        name: {"mean": sum(values) / len(values), "values": values}
        for name, values in (("validation_accuracy", accuracy), ("validation_loss", loss))
    }


def test_the_best_on_validation_is_chosen() -> None:
    both = {"sgd": metrics([0.8, 0.99, 0.7]), "sam": metrics([0.9, 0.92, 0.92], [1.0, 0.3, 0.2])}
    assert select_best(both, [3, 5, 8]) == ("sam", 8)
    assert select_best(both, [3, 5, 8], arm="sgd") == ("sgd", 5)
    assert select_best(both, [3, 5, 8], seed=3) == ("sam", 3)
    assert select_best({}, [3, 5, 8], "sgd_2x", 5) == ("sgd_2x", 5)
    with pytest.raises(ConfigError, match=r"SEED=4 was not trained; allowed: 3, 5, 8"):
        select_best(both, [3, 5, 8], seed=4)
    with pytest.raises(ConfigError, match=r"no validation accuracy.*ARM=… SEED=…"):
        select_best({"sam": {"validation_accuracy": None}}, [3])
    with pytest.raises(ConfigError, match=r"3 seeds, but params\.yaml names 2"):
        select_best(both, [3, 5])
