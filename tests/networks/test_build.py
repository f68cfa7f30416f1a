"""The networks: their layers as published, their shapes, and models of one's own."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d, max_pool2d

from sparse_sam.errors import ConfigError
from sparse_sam.networks.build import build_model
from sparse_sam.networks.network import Network
from sparse_sam.networks.registry import NETWORKS, ImageShape
from sparse_sam.pruning.magnitude import magnitude_masks
from sparse_sam.pruning.masks import attach, plain_state

MNIST: ImageShape = (1, 28, 28)


def shapes(model: nn.Module) -> list[tuple[int, ...]]:
    return [tuple(parameter.shape) for parameter in model.parameters()]


def test_every_network_that_is_named_can_be_made() -> None:
    assert list(NETWORKS) == [
        *("classifier", "lenet-300-100", "lenet-5", "mlpnet"),
        *("resnet-20", "resnet-56", "vgg-16-bn", "vit"),
    ]
    made = [build_model(name, MNIST, 10) for name in NETWORKS]
    assert all(isinstance(model, nn.Module) for model in made)
    assert len({str(shapes(model)) for model in made}) == len(made)


def test_the_classifier_is_that_of_the_protocol() -> None:
    model = build_model("classifier", MNIST, 10)
    assert shapes(model) == [
        (64, 1, 4, 4),
        (64,),
        (128, 64, 4, 4),
        (128,),
        (128,),
        (10, 6272),
        (10,),
    ]
    kinds = [type(module) for module in model.modules() if not list(module.children())]
    assert kinds == [
        nn.Conv2d,
        nn.LeakyReLU,
        nn.Conv2d,
        nn.BatchNorm2d,
        nn.LeakyReLU,
        nn.Flatten,
        nn.Linear,
    ]
    assert {one.negative_slope for one in model.modules() if isinstance(one, nn.LeakyReLU)} == {0.2}
    assert {one.stride for one in model.modules() if isinstance(one, nn.Conv2d)} == {(2, 2)}


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        # Han et al. 2015, tables 3 and 4: 266 and 431 thousand parameters.
        ("lenet-300-100", 784 * 300 + 300 + 300 * 100 + 100 + 100 * 10 + 10),
        ("lenet-5", 25 * 20 + 20 + 20 * 25 * 50 + 50 + 800 * 500 + 500 + 500 * 10 + 10),
        ("mlpnet", 784 * 40 + 40 * 20 + 20 * 10),
        ("classifier", 16 * 64 + 64 + 64 * 16 * 128 + 2 * 128 + 6272 * 10 + 10),
    ],
)
def test_how_many_parameters_a_network_has(name: str, weights: int) -> None:
    assert sum(p.numel() for p in build_model(name, MNIST, 10).parameters()) == weights


def test_lenet_5_is_caffes_or_rectified_as_in_papers() -> None:
    """Written out: a convolution, ReLU where asked for, pooling; twice."""
    images = torch.randn(5, *MNIST)
    for network in (Network.of("lenet-5"), Network.of("lenet-5", relu=True)):
        model = build_model(network, MNIST, 10)
        conv1, bias1, conv2, bias2, *linear = model.parameters()
        assert [len(one) for one in (conv1, conv2, *linear)] == [20, 50, 500, 500, 10, 10]
        middle = torch.relu if network.arguments else torch.nn.Identity()
        x = max_pool2d(middle(conv2d(images, conv1, bias1)), 2)
        x = max_pool2d(middle(conv2d(x, conv2, bias2)), 2).flatten(1)
        x = torch.relu(x @ linear[0].T + linear[1]) @ linear[2].T + linear[3]
        torch.testing.assert_close(model(images), x)


@pytest.mark.parametrize("name", [*NETWORKS])
@pytest.mark.parametrize("shape", [MNIST, (3, 32, 32), (1, 20, 24)])
def test_a_network_maps_images_to_logits(name: str, shape: ImageShape) -> None:
    logits = build_model(name, shape, 7)(torch.zeros(3, *shape))
    assert logits.shape == (3, 7)
    assert logits.dtype == torch.float32


@pytest.mark.parametrize("name", [*NETWORKS])
def test_images_of_a_batch_do_not_mix(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(name, MNIST, 10).eval()
    images = torch.rand(4, *MNIST)
    torch.testing.assert_close(model(images)[2:3], model(images[2:3]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [*NETWORKS])
def test_initialisation_comes_from_the_generator_and_from_nothing_else(name: str) -> None:
    torch.manual_seed(3)
    first = build_model(name, MNIST, 10)
    torch.manual_seed(3)
    second = build_model(name, MNIST, 10)
    third = build_model(name, MNIST, 10)
    for one, same, other in zip(
        first.state_dict().values(),
        second.state_dict().values(),
        third.state_dict().values(),
        strict=True,
    ):
        assert torch.equal(one, same)
        if one.dim() >= 2:
            assert not torch.equal(one, other)


@pytest.mark.parametrize("name", ["classifier", "lenet-5"])
def test_images_that_are_too_small_are_named(name: str) -> None:
    with pytest.raises(ConfigError, match="images 2 pixels wide or high are too small"):
        build_model(name, (1, 28, 2), 10)


def test_a_model_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nets_for_a_test.py").write_text(
        "from torch import nn\n"
        "def tiny(image_shape, num_classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(image_shape[1], num_classes))\n"
        "def wrong(image_shape, num_classes): return 'a string'\n"
        "number = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    model = build_model("nets_for_a_test:tiny", (1, 5, 1), 3)
    assert shapes(model) == [(3, 5), (3,)]
    with pytest.raises(
        ConfigError, match=r"'nets_for_a_test:wrong': must return a torch\.nn\.Module, not str"
    ):
        build_model("nets_for_a_test:wrong", MNIST, 10)
    with pytest.raises(
        ConfigError, match="'nets_for_a_test:number': is not callable; allowed: one of cl"
    ):
        build_model("nets_for_a_test:number", MNIST, 10)
    with pytest.raises(ConfigError, match=r"no attribute 'none'.*allowed: one of classifier, len"):
        build_model("nets_for_a_test:none", MNIST, 10)


@pytest.mark.parametrize("name", ["", "resnet", "json", "no_such_module:net", ":", "json:"])
def test_an_unknown_model_is_told_the_known_ones(name: str) -> None:
    with pytest.raises(ConfigError) as raised:
        build_model(name, MNIST, 10)
    assert str(raised.value).startswith(f"model.name = {name!r}: ")
    assert str(raised.value).endswith(
        "one of classifier, lenet-300-100, lenet-5, mlpnet, resnet-20, resnet-56, vgg-16-bn, vit, "
        "torchvision:NAME, or package.module:attribute"
    )


def with_extra_state(image_shape: Any, num_classes: int) -> nn.Module:
    class Layer(nn.Linear):
        def get_extra_state(self) -> dict[str, int]:
            return {"calls": 3}

    return nn.Sequential(nn.Flatten(), Layer(4, num_classes))


def test_state_that_no_file_can_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NETWORKS.places, "extra", f"{__name__}:with_extra_state")
    with pytest.raises(ConfigError, match="_extra_state of its state dict is dict, not a tensor"):
        build_model("extra", (1, 2, 2), 3)


@pytest.mark.parametrize(
    ("factory", "says"),
    [
        (
            "too_many_logits",
            (
                "returns shape (2, 1000) for two images; it must map a batch (N, 1, 5, 5) to "
                "logits (N, 3)"
            ),
        ),
        ("pair", "returns tuple; it must map a batch (N, 1, 5, 5) to logits (N, 3), as one tensor"),
        ("lazy_that_refuses", "its lazy layers cannot be initialised with images of shape"),
    ],
)
def test_what_gives_no_logits_is_refused_before_it_costs_a_training(
    factory: str, says: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        build_model(f"tests.sample_networks:{factory}", (1, 5, 5), 3)
    assert f"model.name = 'tests.sample_networks:{factory}': {says}" in str(caught.value)


def test_lazy_layers_have_their_weights_when_a_network_is_built() -> None:
    model = build_model("tests.sample_networks:lazy", (1, 5, 5), 3)
    assert model.training
    attach(model, magnitude_masks(model, 0.5))
    other = build_model("tests.sample_networks:lazy", (1, 5, 5), 3)
    other.load_state_dict(plain_state(model))
    images = torch.rand(2, 1, 5, 5)
    assert torch.equal(model(images), other(images))
