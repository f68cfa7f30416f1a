"""Channels are gone from networks that are no sequence, and these compute what they did."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sparse_sam.errors import CheckpointError
from sparse_sam.export.channels import Narrowed, narrow
from sparse_sam.export.network_files import load_dense, save_dense
from sparse_sam.export.onnxfile import FromPixels, predict_onnx, save_onnx
from sparse_sam.export.widths import fit
from sparse_sam.networks.build import build_model
from sparse_sam.networks.network import Network
from sparse_sam.training.origin import Origin

SHAPE = (3, 9, 9)
CLASSES = tuple("0123456")
HEADS = {"head", "fc", "46"}
ACTIVATIONS: list[Callable[[], nn.Module]] = [
    nn.ReLU,
    lambda: nn.ReLU(inplace=True),
    nn.SiLU,
    nn.Sigmoid,
    lambda: nn.LeakyReLU(0.2, inplace=True),
]
NETWORKS = [
    Network.of("resnet-20", width=6),
    Network.of("resnet-20", width=6, shortcut="B"),
    Network.of("vgg-16-bn", width=4),
    Network.of("vit", width=8, depth=2, heads=2, patch=3),
    Network.of("torchvision:resnet18"),
]


class Block(nn.Module):
    """As residual networks have it, with all that may be otherwise; ``plan`` says what."""

    def __init__(self, inputs: int, outputs: int, plan: dict[str, Any]) -> None:
        super().__init__()
        hidden, bias = plan["hidden"], plan["bias"]
        self.conv1 = nn.Conv2d(inputs, hidden, plan["kernel"], padding=plan["padding"], bias=bias)
        self.norm = nn.BatchNorm2d(hidden, affine=plan["affine"]) if plan["norm"] else nn.Identity()
        self.act = plan["activation"]()
        self.drop = nn.Dropout2d(0.3)
        self.pool = nn.AvgPool2d(3, 1, plan["pool_padding"]) if plan["pool"] else nn.Identity()
        self.conv2 = nn.Conv2d(hidden, outputs, 3, padding="same", bias=bias)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.project = (
            nn.Conv2d(inputs, outputs, 1, bias=bias)
            if plan["project"] or inputs != outputs
            else nn.Identity()
        )

    def forward(self, maps: Tensor) -> Tensor:
        inner = self.pool(self.drop(self.act(self.norm(self.conv1(maps)))))
        out = self.norm2(self.conv2(inner))
        out += nn.functional.adaptive_avg_pool2d(self.project(maps), out.shape[2:])
        return self.act(out)  # type: ignore[no-any-return]


class Toy(nn.Module):
    """A stem, two residual blocks, and a perceptron as the head."""

    def __init__(self, plans: list[dict[str, Any]], widths: list[int], flat: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(SHAPE[0], widths[0], 3, padding=1)
        pairs = zip(widths, [*widths[1:], widths[-1]], strict=True)
        self.blocks = nn.Sequential(
            *(Block(*pair, plan) for pair, plan in zip(pairs, plans, strict=True))
        )
        self.pool, self.flat = nn.AdaptiveAvgPool2d(2), flat
        self.hidden = nn.Linear(4 * widths[-1] if flat else widths[-1], 11)
        self.head = nn.Linear(11, len(CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        maps = self.pool(self.blocks(torch.relu(self.stem(images))))
        features = maps.view(maps.size(0), -1) if self.flat else maps.mean([2, 3])
        logits: Tensor = self.head(torch.tanh(self.hidden(features)))
        return logits


plans = st.fixed_dictionaries(
    {
        "hidden": st.integers(1, 7),
        "bias": st.booleans(),
        "kernel": st.sampled_from([1, 3]),
        "padding": st.sampled_from([0, 1]),
        "norm": st.booleans(),
        "affine": st.booleans(),
        "activation": st.sampled_from(ACTIVATIONS),
        "pool": st.booleans(),
        "pool_padding": st.sampled_from([0, 1]),
        "project": st.booleans(),
    }
)


def worked(model: nn.Module, seed: int, dead: float) -> nn.Module:
    """As after a training that pruned channels: a random share, of layer and of stream alike."""
    generator = torch.Generator().manual_seed(seed)
    gone = torch.rand(4096, generator=generator) < dead  # the same ones wherever there are as many
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor in [*module.parameters(), module.running_mean]:
                    tensor.copy_(torch.randn(tensor.shape, generator=generator))  # type: ignore[union-attr, arg-type]
                module.running_var.uniform_(0.5, 2, generator=generator)  # type: ignore[union-attr, call-arg]
            elif isinstance(module, nn.Linear | nn.Conv2d) and name not in HEADS:
                rows = gone[: len(module.weight)].clone()
                if torch.rand((), generator=generator) < 0.5:
                    rows |= torch.rand(len(rows), generator=generator) < dead / 2
                module.weight[rows] = 0
                if module.bias is not None:
                    module.bias.normal_(generator=generator)
    return model.eval()


def check(model: nn.Module, fresh: nn.Module, shape: tuple[int, int, int]) -> Narrowed:
    """The same outputs before and after, and of what is loaded; sizes are what is said."""
    images = torch.randn(16, *shape, generator=torch.Generator().manual_seed(1))
    narrowed = narrow(model, shape)
    assert "" not in narrowed.kept
    with torch.no_grad():
        before, after = model(images.clone()), narrowed.model(images.clone())
        limit = 1e-5 * float(before.abs().max())
        torch.testing.assert_close(after, before, rtol=0, atol=limit)
        loaded = fit(fresh, narrowed.model.state_dict()).eval()
        assert torch.equal(loaded(images.clone()), after)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            smaller = narrowed.model.get_submodule(name)
            lost = len(module.weight) - len(smaller.weight)  # type: ignore[arg-type]
            assert lost == narrowed.removed.get(name, 0)
            left = int((smaller.weight == 0).flatten(1).all(1).sum())  # type: ignore[union-attr, operator]
            if left and name not in HEADS:
                assert name in narrowed.kept
    return narrowed


@settings(max_examples=60)
@given(
    plans=st.lists(plans, min_size=2, max_size=2),
    widths=st.lists(st.integers(1, 6), min_size=2, max_size=2),
    flat=st.booleans(),
    seed=st.integers(0, 2**20),
    dead=st.sampled_from([0.0, 0.3, 0.7, 1.0]),
)
def test_any_residual_network(
    plans: list[dict[str, Any]], widths: list[int], flat: bool, seed: int, dead: float
) -> None:
    torch.manual_seed(seed)
    model = worked(Toy(plans, widths, flat), seed, dead)
    narrowed = check(model, Toy(plans, widths, flat), SHAPE)
    if dead == 1.0:
        for name in ("hidden", *(f"blocks.{place}.conv1" for place in range(2))):
            width = model.get_submodule(name).weight.shape[0]  # type: ignore[union-attr, operator]
            varies = "not the same at every position" in narrowed.kept.get(name, "")
            assert varies or narrowed.removed.get(name, 0) == width - 1


@pytest.mark.parametrize("network", NETWORKS, ids=str)
@pytest.mark.parametrize("seed", [0, 1])
def test_named_networks(network: Network, seed: int) -> None:
    shape = (3, 33, 27) if network.name.startswith("torchvision") else SHAPE
    torch.manual_seed(seed)
    model = worked(build_model(network, shape, len(CLASSES)), seed, 0.4)
    narrowed = check(model, build_model(network, shape, len(CLASSES)), shape)
    inner = {
        "resnet-20": ["blocks.1-2.conv1", "blocks.2-1.conv1", "blocks.3-3.conv1"],
        "vgg-16-bn": ["34", "37", "40"],
        "vit": ["blocks.0.expand", "blocks.1.expand"],
    }.get(network.name, ["layer1.0.conv1", "layer2.1.conv1", "layer4.0.conv1"])
    assert set(inner) <= narrowed.removed.keys()
    streams = {"blocks.3-1.conv2", "blocks.3-2.conv2", "blocks.3-1.shortcut.0"}
    streams |= {"layer4.0.conv2", "layer4.1.conv2", "layer4.0.downsample.0"}
    found = {
        narrowed.removed.get(name, 0) for name in streams & {n for n, _ in model.named_modules()}
    }
    if network.arguments.get("shortcut") == "B" or network.name.startswith("torchvision"):
        assert len(found) == 1  # all that write a stream lose the same ones
        assert found != {0}


@pytest.mark.parametrize("network", [NETWORKS[1], NETWORKS[4]], ids=str)
def test_files_of_narrow_networks_give_the_same_predictions(
    network: Network, tmp_path: Path
) -> None:
    shape, scale = (3, 32, 32), {"mean": (0.4,) * 3, "std": (0.25,) * 3}
    origin = Origin(network, shape, CLASSES, *scale.values(), "0123abcd", "sam", 0)
    torch.manual_seed(2)
    model = worked(build_model(network, shape, len(CLASSES)), 2, 0.5)
    narrowed = narrow(model, shape)
    save_dense(tmp_path / "narrow.safetensors", narrowed.model, origin)
    loaded, _ = load_dense(tmp_path / "narrow.safetensors", network)
    pixels = torch.randint(0, 256, (32, *shape), dtype=torch.uint8)
    whole = FromPixels(model, **scale)
    save_onnx(tmp_path / "model.onnx", FromPixels(narrowed.model, **scale), shape, CLASSES)
    labels, logits = predict_onnx(tmp_path / "model.onnx", pixels.numpy())
    with torch.no_grad():
        expected_labels, expected = whole(pixels)
        assert torch.equal(FromPixels(loaded, **scale)(pixels)[0], expected_labels)
    assert torch.equal(labels, expected_labels)
    limit = 1e-4 * float(expected.abs().max())
    torch.testing.assert_close(logits, expected, rtol=0, atol=limit)


def test_a_bias_that_came_of_a_stream_is_read_again_and_no_other(tmp_path: Path) -> None:
    """Shortcut B reads the stream with a convolution that has no bias."""
    network, shape = Network.of("resnet-20", width=2, shortcut="B"), (1, 8, 8)
    origin = Origin(network, shape, CLASSES, (0.4,), (0.3,), "0123abcd", "sam", 0)
    model = worked(build_model(network, shape, len(CLASSES)), 0, 0)
    with torch.no_grad():
        for name in ("stem", *(f"blocks.1-{place}.conv2" for place in (1, 2, 3))):
            model.get_parameter(f"{name}.weight")[0] = 0
        model.get_parameter("norm.bias")[0] = 1
        for place in (2, 3):
            model.get_parameter(f"blocks.1-{place}.conv1.weight")[:, 0] = 0
        for name in ("blocks.1-1.conv1", "blocks.2-1.conv1"):
            model.get_parameter(f"{name}.weight")[:, 0] = 0
        model.get_parameter("blocks.1-3.norm2.bias")[0] = 9
    narrowed = check(model, build_model(network, shape, len(CLASSES)), shape)
    assert narrowed.removed["stem"] == narrowed.removed["blocks.1-2.conv2"] == 1
    name = "blocks.2-1.shortcut.0.bias"
    state = narrowed.model.state_dict()
    assert name in state.keys() - model.state_dict().keys()
    path = tmp_path / "narrow.safetensors"
    save_dense(path, narrowed.model, origin)
    images = torch.randn(4, *shape)
    with torch.no_grad():
        assert torch.equal(load_dense(path)[0](images), narrowed.model(images))
    layer = narrowed.model.get_submodule(name.removesuffix(".bias"))
    for wrong in (state[name].double(), state[name][:1], state[name].view(1, -1)):
        layer.bias = nn.Parameter(wrong)
        save_dense(path, narrowed.model, origin)
        with pytest.raises(CheckpointError, match="do not fit the model"):
            load_dense(path)
