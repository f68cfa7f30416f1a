"""Torchvision's networks by name: fresh, for the data set's classes, and nothing is downloaded."""

import socket
from typing import Any

import pytest
import torch

from sparse_sam.errors import ConfigError
from sparse_sam.files import code_of, import_torchvision
from sparse_sam.networks.build import build_model
from sparse_sam.networks.network import Network
from sparse_sam.networks.registry import NETWORKS

CIFAR = (3, 32, 32)
SMALL = {
    "resnet18": {},
    "squeezenet1_1": {},
    "mobilenet_v3_small": {},
    "shufflenet_v2_x0_5": {},
    "googlenet": {"aux_logits": False},
    "vit_b_32": {},
}
"""One of most kinds, with what it needs."""


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> Any:
        raise AssertionError("something is downloaded")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refused)


@pytest.mark.parametrize("name", SMALL)
def test_a_network_is_torchvisions_with_the_classes_of_the_data(name: str) -> None:
    own: dict[str, Any] = {"image_size": 32} if name == "vit_b_32" else {}
    torch.manual_seed(3)
    peer = getattr(import_torchvision().models, name)(num_classes=7, **SMALL[name], **own)
    torch.manual_seed(3)
    model = build_model(Network.of(f"torchvision:{name}", **SMALL[name]), CIFAR, 7)
    theirs = peer.state_dict()
    assert all(torch.equal(one, theirs[key]) for key, one in model.state_dict().items())
    assert model.training
    assert model(torch.randn(2, *CIFAR)).shape == (2, 7)


def test_arguments_reach_torchvision() -> None:
    model: Any = build_model(
        Network.of("torchvision:resnet18", zero_init_residual=True, norm_layer=None), CIFAR, 10
    )
    assert not model.layer1[0].bn2.weight.any()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            {"weights": "DEFAULT"},
            "weights = 'DEFAULT': torchvision:resnet18 has no such argument; ",
        ),
        ({"pretrained": True}, "pretrained = True: torchvision:resnet18 has no such argument; "),
        ({"progress": False}, "progress = False: torchvision:resnet18 has no such argument; all"),
        ({"num_classes": 5}, "num_classes = 5: is set from the data set"),
        ({"block": "Bottleneck"}, "block = 'Bottleneck': torchvision:resnet18 has no such arg"),
        ({"groups": "two"}, "groups = 'two': must be a whole number"),
        ({"norm_layer": "BatchNorm2d"}, "norm_layer = 'BatchNorm2d': must be "),
    ],
)
def test_an_argument_that_it_does_not_take_is_named(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as raised:
        build_model(Network.of("torchvision:resnet18", **given), CIFAR, 10)
    assert str(raised.value).startswith(f"model.arguments.{says}")
    if "no such argument" in says:
        assert "allowed: zero_init_residual, groups, width_per_group, " in str(raised.value)


def test_what_torchvision_itself_refuses_is_no_traceback() -> None:
    network = Network.of("torchvision:resnet18", groups=2)
    said = r"cannot take images of 32 × 32 pixels with arguments \{'groups': 2\} \(BasicBlock only"
    with pytest.raises(ConfigError, match=said):
        build_model(network, CIFAR, 10)
    with pytest.raises(ConfigError, match=r"^model\.arguments = \{'bn_size': 2.*multiple values"):
        build_model(Network.of("torchvision:densenet121", bn_size=2, growth_rate=2), CIFAR, 10)


@pytest.mark.parametrize("channels", [1, 4])
def test_images_that_are_not_in_colour_are_refused_with_the_cure(channels: int) -> None:
    with pytest.raises(ConfigError) as raised:
        build_model("torchvision:resnet18", (channels, 28, 28), 10)
    said = str(raised.value)
    assert said.startswith(
        "model.name = 'torchvision:resnet18': takes images of 3 channels, but those of the data "
        f"set have {channels}. "
    )
    assert "data.source in colour" in said


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_logits_are_refused_unless_they_are_switched_off(name: str) -> None:
    for given in ({}, {"aux_logits": True}):
        with pytest.raises(ConfigError, match=rf"torchvision:{name}': returns auxiliary logits"):
            build_model(Network.of(f"torchvision:{name}", **given), (3, 96, 96), 10)


def test_images_that_are_too_small_are_refused_when_it_is_built() -> None:
    with pytest.raises(
        ConfigError, match=r"'torchvision:alexnet': cannot take images of 32 × 32 pi"
    ):
        build_model("torchvision:alexnet", CIFAR, 10)
    with pytest.raises(
        ConfigError, match=r"'torchvision:maxvit_t': cannot take images of 32 × 32 pi"
    ):
        build_model("torchvision:maxvit_t", CIFAR, 10)
    with pytest.raises(
        ConfigError, match=r"'torchvision:vit_b_32': cannot take images of 64 × 32 p"
    ):
        build_model("torchvision:vit_b_32", (3, 64, 32), 10)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("resnet19", "no classification network 'resnet19'; try resnet18"),
        ("fasterrcnn_resnet50_fpn", "no classification network 'fasterrcnn_resnet50_fpn'"),
        ("ResNet", "no classification network 'ResNet'"),
        ("list_models", "no classification network 'list_models'"),
        ("__name__", "allowed: one of classifier"),
    ],
)
def test_what_is_no_network_for_classification_is_refused(name: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as raised:
        NETWORKS.load(f"torchvision:{name}")
    assert str(raised.value).startswith(f"model.name = 'torchvision:{name}': ")


@pytest.mark.parametrize("name", ["torchvision:", "torchvision:a.b", "torchvision:1"])
def test_what_is_no_name_of_the_family_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="must be one of classifier"):
        NETWORKS.load(name)


def test_a_member_of_a_family_is_not_registered() -> None:
    """So a file that names it is not believed: its reader must name it too."""
    assert "torchvision:resnet18" not in NETWORKS
    assert "torchvision:NAME, or package.module:attribute" in NETWORKS.allowed


def test_the_version_of_torchvision_counts_where_a_network_is_from_there() -> None:
    version = import_torchvision().__version__.partition("+")[0]
    theirs = code_of([NETWORKS.place("torchvision:resnet18")])
    assert theirs["torchvision"] == f"version {version}"
    assert "sparse_sam.networks.torchvision_models" in theirs
    assert theirs != code_of([NETWORKS.place("torchvision:resnet34")])
    ours = code_of([NETWORKS.place("resnet-20"), "sparse_sam.networks.build"])
    assert "torchvision" not in ours
    assert "sparse_sam.networks.torchvision_models" not in ours


def test_without_torchvision_the_cure_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from sparse_sam.networks import torchvision_models

    def missing() -> Any:
        raise ModuleNotFoundError("No module named 'torchvision'")

    monkeypatch.setattr(torchvision_models, "import_torchvision", missing)
    with pytest.raises(ConfigError, match=r"torchvision is not installed: pip install 'sparse-sam"):
        NETWORKS.load("torchvision:resnet18")
