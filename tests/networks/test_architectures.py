"""The networks for images in colour: layers, shapes and beginnings as their papers have them."""

import inspect
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.attention import SDPBackend, sdpa_kernel

from sparse_sam.errors import ConfigError
from sparse_sam.networks.build import build_model
from sparse_sam.networks.network import Network
from sparse_sam.networks.registry import NETWORKS
from sparse_sam.networks.resnet import PaddedIdentity
from sparse_sam.networks.vit import Attention

CIFAR = (3, 32, 32)


def weighted(model: nn.Module) -> list[Any]:
    return [one for one in model.modules() if isinstance(one, nn.Conv2d | nn.Linear)]


@pytest.mark.parametrize(
    ("network", "shape", "parameters"),
    [
        # The papers say 0.27 and 0.85 million (He et al. 2016, table 6) and 15 (Li et al. 2017).
        (Network.of("resnet-20"), CIFAR, 269_722),
        (Network.of("resnet-56"), CIFAR, 853_018),
        # Two convolutions and their BatchNorm more.
        (Network.of("resnet-20", shortcut="B"), CIFAR, 269_722 + 16 * 32 + 64 + 32 * 64 + 128),
        (Network.of("vgg-16-bn"), CIFAR, 14_710_464 + 2 * 4224 + 5130),
        (
            Network.of("vit"),
            (1, 28, 28),
            # patches, positions; blocks of norms, attention, perceptron; norm, head
            (16 * 64 + 64)
            + 49 * 64
            + 6 * (2 * 128 + 4 * 64 * 64 + 3 * 64 + 2 * 64 * 128 + 128 + 64)
            + (128 + 650),
        ),
    ],
    ids=str,
)
def test_how_many_parameters_a_network_has(
    network: Network, shape: tuple[int, int, int], parameters: int
) -> None:
    model = build_model(network, shape, 10)
    assert sum(one.numel() for one in model.parameters()) == parameters


@pytest.mark.parametrize(("name", "layers"), [("resnet-20", 20), ("resnet-56", 56)])
def test_a_residual_network_has_as_many_layers_as_it_is_called(name: str, layers: int) -> None:
    model = build_model(Network.of(name, width=1), CIFAR, 10)
    assert len(weighted(model)) == layers
    assert not any(isinstance(one, nn.Conv2d) and one.bias is not None for one in model.modules())
    projected = build_model(Network.of(name, width=1, shortcut="B"), CIFAR, 10)
    assert len(weighted(projected)) == layers + 2


def test_vgg_has_thirteen_convolutions_and_one_head() -> None:
    model = build_model(Network.of("vgg-16-bn", width=2), CIFAR, 10)
    kinds = [type(one) for one in weighted(model)]
    assert kinds == [nn.Conv2d] * 13 + [nn.Linear]
    widths = [one.weight.shape[0] // 2 for one in weighted(model)[:-1]]
    assert widths == [1, 1, 2, 2, 4, 4, 4, 8, 8, 8, 8, 8, 8]


def test_a_padded_identity_by_hand() -> None:
    maps = torch.arange(18.0).view(1, 2, 3, 3)
    found = PaddedIdentity(2, 3)(maps)
    assert found[0, :2].tolist() == [[[0, 2], [6, 8]], [[9, 11], [15, 17]]]
    assert found.shape == (1, 5, 2, 2)
    assert not found[0, 2:].any()


@settings(max_examples=25)
@given(
    name=st.sampled_from(["resnet-20", "vgg-16-bn"]),
    channels=st.integers(1, 4),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
)
def test_images_may_be_of_any_size(name: str, channels: int, height: int, width: int) -> None:
    shape = (channels, height, width)
    model = build_model(Network.of(name, width=2), shape, 5)
    logits = model(torch.randn(3, *shape))
    assert logits.shape == (3, 5)
    assert logits.isfinite().all()


@given(
    patch=st.integers(1, 8),
    rows=st.integers(1, 5),
    columns=st.integers(1, 5),
    heads=st.integers(1, 3),
    depth=st.integers(1, 2),
)
@settings(max_examples=25)
def test_a_transformer_takes_every_image_that_its_patches_divide(
    patch: int, rows: int, columns: int, heads: int, depth: int
) -> None:
    shape = (2, patch * rows, patch * columns)
    network = Network.of("vit", patch=patch, width=4 * heads, heads=heads, depth=depth, ratio=1)
    model = build_model(network, shape, 5)
    assert model.get_parameter("positions").shape == (rows * columns, 4 * heads)
    assert model(torch.randn(3, *shape)).shape == (3, 5)


def test_a_patch_that_divides_no_image_is_told_which_do() -> None:
    with pytest.raises(ConfigError) as raised:
        build_model("vit", (1, 28, 30), 10)
    assert str(raised.value) == (
        "model.arguments.patch = 4: must divide both sides of the images, 28 × 30; allowed: 1, 2"
    )
    build_model(Network.of("vit", patch=2, depth=1), (1, 28, 30), 10)


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ConfigError, match="heads = 3: must divide the width, which is 64"):
        build_model(Network.of("vit", heads=3), CIFAR, 10)


def test_places_matter_to_a_transformer() -> None:
    """Without learnt positions an image and its patches in another order would be the same."""
    torch.manual_seed(0)
    model = build_model(Network.of("vit", depth=2), CIFAR, 10).eval()
    images = torch.randn(2, *CIFAR)
    moved = images.roll(4, 2)  # by one patch
    with torch.no_grad():
        assert not torch.allclose(model(images), model(moved), atol=1e-4)
        model.get_parameter("positions").zero_()
        torch.testing.assert_close(model(images), model(moved), rtol=1e-4, atol=1e-5)


def as_torch_has_it(own: Attention, width: int) -> nn.MultiheadAttention:
    peer = nn.MultiheadAttention(width, own.heads, batch_first=True)
    with torch.no_grad():
        parts = (own.query, own.key, own.value)
        peer.in_proj_weight.copy_(torch.cat([one.weight for one in parts]))
        biases = [own.query.bias, torch.zeros(width), own.value.bias]
        peer.in_proj_bias.copy_(torch.cat(biases))
        peer.out_proj.load_state_dict(own.project.state_dict())
    return peer


@pytest.mark.parametrize(("width", "heads", "tokens"), [(8, 2, 5), (6, 1, 1), (12, 12, 9)])
def test_attention_is_that_of_torch(width: int, heads: int, tokens: int) -> None:
    torch.manual_seed(0)
    own = Attention(width, heads)
    peer = as_torch_has_it(own, width)
    inputs = torch.randn(4, tokens, width)
    expected, _ = peer(inputs, inputs, inputs, need_weights=False)
    torch.testing.assert_close(own(inputs), expected, rtol=1e-4, atol=1e-5)
    # A bias of the key would change nothing, and could not be trained.
    with torch.no_grad():
        peer.in_proj_bias[width : 2 * width] = 3.0
        again, _ = peer(inputs, inputs, inputs, need_weights=False)
    torch.testing.assert_close(again, expected, rtol=1e-3, atol=1e-4)


def test_attention_has_second_derivatives() -> None:
    torch.manual_seed(0)
    layer = Attention(4, 2).double()
    inputs = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    with sdpa_kernel(SDPBackend.MATH):
        assert gradcheck(layer, (inputs,))
        assert gradgradcheck(layer, (inputs,))


def deviation(weight: torch.Tensor) -> float:
    return float(weight.detach().double().square().mean().sqrt())


@pytest.mark.parametrize("name", ["resnet-20", "vgg-16-bn"])
def test_convolutions_begin_as_he_et_al_have_them(name: str) -> None:
    torch.manual_seed(0)
    for layer in weighted(build_model(Network.of(name, width=16), CIFAR, 10)):
        if isinstance(layer, nn.Conv2d):
            inputs = layer.weight[0].numel()
            near = 5 / math.sqrt(2 * layer.weight.numel())
            assert deviation(layer.weight) == pytest.approx(math.sqrt(2 / inputs), rel=near)


def test_heads_and_biases_begin_as_is_said() -> None:
    torch.manual_seed(0)
    vgg: Any = build_model(Network.of("vgg-16-bn", width=32), CIFAR, 10)
    assert deviation(vgg[-1].weight) == pytest.approx(0.01, rel=0.1)
    vit: Any = build_model("vit", CIFAR, 10)
    assert deviation(vit.positions) == pytest.approx(1.0, rel=0.1)
    for layer in weighted(vit):
        rows, columns = len(layer.weight), layer.weight[0].numel()
        area = layer.weight[0, 0].numel() if layer.weight.dim() > 2 else 1
        bound = math.sqrt(6 / (rows * area + columns))
        assert bound * 0.9 < float(layer.weight.detach().abs().max()) <= bound
    for model in (vgg, vit, build_model("resnet-20", CIFAR, 10)):
        biases = [one for name, one in model.named_parameters() if name.endswith("bias")]
        assert biases
        assert not any(one.any() for one in biases)


LEARNED: dict[str, Callable[[], Network]] = {
    "resnet-20": lambda: Network.of("resnet-20", width=4),
    "vgg-16-bn": lambda: Network.of("vgg-16-bn", width=4),
    "vit": lambda: Network.of("vit", width=16, depth=2, heads=2),
}


@pytest.mark.parametrize("name", LEARNED)
def test_a_network_learns_where_a_bright_spot_is(name: str) -> None:
    torch.manual_seed(0)
    labels = torch.arange(64) % 4
    images = 0.1 * torch.randn(64, 3, 16, 16)
    for image, label in zip(images, labels.tolist(), strict=True):
        row, column = 8 * (label // 2), 8 * (label % 2)
        image[label % 3, row : row + 8, column : column + 8] += 1
    model = build_model(LEARNED[name](), (3, 16, 16), 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(80):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.2


PAGE = Path(__file__).resolve().parents[2] / "docs" / "extending.md"


def counted(name: str, shape: tuple[int, int, int]) -> str:
    with torch.device("meta"):
        model = build_model(name, shape, 10)
    return f"{sum(one.numel() for one in model.parameters()):,}"


def as_written(argument: inspect.Parameter) -> str:
    """A name and its default, as the page has them: YAML's."""
    default = argument.default
    return f"`{argument.name}` {str(default).lower() if isinstance(default, bool) else default}"


def test_the_page_lists_every_network_with_its_parameters_and_arguments() -> None:
    text = PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w-]+)` \| ([\d,]+) \| ([\d,]+) \| (.*?) \| ", text, re.MULTILINE)
    assert [row[0] for row in rows] == list(NETWORKS)
    for name, grey, colour, arguments in rows:
        assert grey == counted(name, (1, 28, 28)), name
        assert colour == counted(name, CIFAR), name
        _, _, *others = inspect.signature(NETWORKS.load(name)).parameters.values()
        assert arguments == (", ".join(map(as_written, others)) or "none")
