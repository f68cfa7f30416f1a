"""Every network, pruned in every structure, is exported and verified, on any number of threads."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparse_sam.data.params import DataParams
from sparse_sam.data.raw import RawData
from sparse_sam.data.stratify import build_dataset
from sparse_sam.data.tensors import Split, TestData
from sparse_sam.errors import ExportError
from sparse_sam.export import network_files as exports
from sparse_sam.export.compression import folded
from sparse_sam.export.manifest import DENSE, NARROW, SPARSE
from sparse_sam.export.network_files import TOLERANCE, export_network, load_dense, verify
from sparse_sam.networks.build import build_model
from sparse_sam.networks.network import Network
from sparse_sam.networks.registry import NETWORKS
from sparse_sam.pruning.criteria import Evidence
from sparse_sam.pruning.masks import attach
from sparse_sam.pruning.pruner import Pruner
from sparse_sam.training.checkpoint import Checkpoint
from sparse_sam.training.origin import Origin
from tests.every_network import small
from tests.recipes import prune_params
from tests.trained_networks import write_data

STRUCTURES = {"unstructured": 0.9, "2:4": 0.5, "channels": 0.6}
THREADS = (1, 2, 8)
IMAGES = 200
LENET = Network.of("lenet-5")
CONVOLUTIONAL = """
from torch import nn

def with_batchnorm(image_shape, num_classes):
    return nn.Sequential(
        nn.Conv2d(image_shape[0], 8, 3, stride=2, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.BatchNorm2d(16),
        nn.SiLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, num_classes),
    )
"""


@dataclass(frozen=True)
class Exported:
    folder: Path
    checkpoint: Checkpoint
    data: TestData
    manifest: dict[str, Any]


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Network]]:
    folder = tmp_path_factory.mktemp("nets")
    (folder / "convolutional_nets_for_tests.py").write_text(CONVOLUTIONAL)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        own = Network.of("convolutional_nets_for_tests:with_batchnorm")
        yield [*map(small, NETWORKS), own]


@pytest.fixture(scope="module")
def data(
    digits: RawData, data_params: Callable[..., DataParams], tmp_path_factory: Any
) -> TestData:
    path = tmp_path_factory.mktemp("data") / "data.safetensors"
    whole = write_data(path, build_dataset(digits, data_params()))
    test = whole.test
    return TestData(Split(test.images[:IMAGES], test.labels[:IMAGES], test.scale), whole.info)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def pruned(network: Network, structure: str, data: TestData) -> Checkpoint:
    """A random network, BatchNorm as after a training, pruned by magnitude."""
    info = data.info
    torch.manual_seed(0)
    model = build_model(network, info.image_shape, info.num_classes)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 2)
                module.bias.normal_()
                module.running_mean.normal_()  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    seen = Evidence(0, None, info.image_shape)
    params = prune_params(structure=structure, sparsity=STRUCTURES[structure])
    attach(model, Pruner.of(params).masks(model, params.sparsity, seen))
    origin = Origin(
        network, info.image_shape, info.classes, info.mean, info.std, info.fingerprint, "sam", 0
    )
    return Checkpoint.of(model, origin)


@pytest.fixture(scope="module")
def exported(data: TestData, tmp_path_factory: Any) -> Any:
    """Exports by network and structure, each made once."""
    made: dict[tuple[Network, str], Exported] = {}

    def one(network: Network, structure: str) -> Exported:
        if (network, structure) not in made:
            folder = tmp_path_factory.mktemp("exported") / "export"
            checkpoint = pruned(network, structure, data)
            manifest = export_network(checkpoint, data, folder, {})
            made[network, structure] = Exported(folder, checkpoint, data, manifest)
        return made[network, structure]

    return one


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("place", range(len([*NETWORKS]) + 1), ids=[*NETWORKS, "one's own"])
def test_every_network_and_structure(
    place: int,
    structure: str,
    networks: list[Network],
    exported: Callable[[Network, str], Exported],
) -> None:
    one = exported(networks[place], structure)
    files = one.manifest["files"]
    assert NARROW in files or structure != "channels"
    assert {file["ties"] for file in files.values()} == {0}
    named = {} if networks[place].name in NETWORKS else {"model": networks[place]}
    model, _ = load_dense(one.folder / DENSE, **named)
    plain = folded(one.checkpoint).state_dict()
    assert list(plain) == list(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert bits(tensor) == bits(plain[name])
    for count in THREADS:
        torch.set_num_threads(count)
        again = verify(one.folder, one.checkpoint, one.data)
        assert {name: found.accuracy for name, found in again.items()} == {
            name: file["accuracy"] for name, file in files.items()
        }


@pytest.mark.parametrize("count", THREADS)
def test_an_export_is_made_on_any_number_of_threads(
    count: int, data: TestData, tmp_path: Path
) -> None:
    torch.set_num_threads(count)
    checkpoint = pruned(LENET, "channels", data)
    assert export_network(checkpoint, data, tmp_path / "export", {})["channels_removed"]


def test_a_loaded_network_keeps_its_layout_in_memory(
    exported: Callable[[Network, str], Exported],
) -> None:
    """LeNet-5's channels lie side by side, by which a CPU chooses its kernels."""
    one = exported(LENET, "unstructured")
    model, _ = load_dense(one.folder / DENSE)
    assert isinstance(model, nn.Sequential)
    fresh = build_model("lenet-5", (1, 28, 28), 10)
    assert [p.stride() for p in model.parameters()] == [p.stride() for p in fresh.parameters()]
    narrow, _ = load_dense(exported(LENET, "channels").folder / NARROW)
    weight = narrow.get_parameter("2.weight")
    assert weight.is_contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        images = one.data.test.taken(slice(None))
        assert torch.equal(model(images), folded(one.checkpoint)(images))


@pytest.mark.parametrize("flip", [1e-30, -0.0])
def test_a_bit_of_dense_that_differs_is_refused(
    flip: float, exported: Callable[[Network, str], Exported], tmp_path: Path
) -> None:
    """Outputs are the same to the bit; the tensors are not."""
    one = exported(Network.of("mlpnet"), "unstructured")
    for file in one.folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    model = folded(one.checkpoint)
    with torch.no_grad():
        weight = model.get_parameter("1.weight")
        place = tuple((weight == 0).nonzero()[0])
        weight[place] = flip
    assert math.copysign(1, float(weight.detach()[place])) == math.copysign(1, flip)
    exports.save_dense(tmp_path / DENSE, model, one.checkpoint.origin)
    with pytest.raises(
        ExportError, match=r"dense\.safetensors: 1\.weight differs from the network's"
    ):
        verify(tmp_path, one.checkpoint, one.data)


def logits(*rows: tuple[float, ...]) -> Tensor:
    return torch.tensor(rows)


def test_a_tie_at_rounding_may_go_either_way_and_is_counted() -> None:
    expected = logits((10, 1, 0), (4, 4 + 1e-6, 0), (4, 4 - 1e-6, 0), (1, 0, 10))
    found = logits((10, 1, 0), (4 + 1e-6, 4, 0), (4, 4 - 1e-6, 0), (1, 0, 10))
    labels = torch.tensor([0, 0, 0, 2])
    one = exports._compare(SPARSE, found, expected, labels)
    assert (one.ties, one.accuracy) == (1, 1.0)
    assert one.largest_difference == pytest.approx(1e-6, rel=0.1)
    assert exports._compare(SPARSE, expected, expected, labels).ties == 0


def test_another_prediction_that_is_no_tie_is_refused() -> None:
    limit = TOLERANCE * 10
    expected = logits((10, 1, 0), (4, 4 - 1.5 * limit, 0))
    found = logits((10, 1, 0), (4 - 0.8 * limit, 4 - 0.7 * limit, 0))
    with pytest.raises(ExportError, match="1 of 2 predictions"):
        exports._compare(SPARSE, found, expected, torch.tensor([0, 0]))
    far = logits((10, 1, 0), (4 + 1.1 * limit, 4 - 1.5 * limit, 0))
    with pytest.raises(ExportError, match=r"0 of 2 predictions.*by up to 0\.011"):
        exports._compare(SPARSE, far, expected, torch.tensor([0, 0]))
    nan = logits((10, 1, 0), (4, math.nan, 0))
    with pytest.raises(ExportError, match="does not match the network"):
        exports._compare(SPARSE, nan, expected, torch.tensor([0, 0]))
