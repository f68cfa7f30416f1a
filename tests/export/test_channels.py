"""Channels are gone, and the network computes what it did."""

import pytest
import torch
from torch import nn

from sparse_sam.errors import CheckpointError
from sparse_sam.export.channels import narrow
from sparse_sam.export.widths import fit
from sparse_sam.networks.build import build_model
from sparse_sam.networks.network import Network

SHAPE = (1, 28, 28)


def worked(model: nn.Module, dead: float = 0.4) -> nn.Module:
    """BatchNorm and biases as after a training, and dead hidden channels."""
    torch.manual_seed(1)
    layers = [one for one in model.modules() if isinstance(one, nn.Linear | nn.Conv2d)]
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.weight.normal_()
                module.bias.normal_()
                assert isinstance(module.running_mean, torch.Tensor)
                assert isinstance(module.running_var, torch.Tensor)
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
        for layer in layers[:-1]:
            layer.weight[: int(dead * len(layer.weight))] = 0
    return model.eval()


def check(
    model: nn.Module, shape: tuple[int, int, int] = SHAPE
) -> tuple[nn.Module, dict[str, int]]:
    images = torch.randn(64, *shape)
    with torch.no_grad():
        before = model(images)
        narrowed = narrow(model, shape)
        after = narrowed.model(images)
        torch.testing.assert_close(model(images), before, rtol=0, atol=0)  # it is as it was
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)
    assert torch.equal(after.argmax(1), before.argmax(1))
    return narrowed.model, narrowed.removed


@pytest.mark.parametrize(
    ("name", "removed"),
    [
        # 25 of 64 channels have no weights; one of them stays for the padding after it.
        ("classifier", {"0": 24, "2": 51}),
        ("lenet-300-100", {"1": 120, "3": 40}),
        ("lenet-5", {"0": 8, "2": 20, "5": 200}),
        (Network.of("lenet-5", relu=True), {"0": 8, "3": 20, "7": 200}),
        ("mlpnet", {"1": 16, "3": 8}),
    ],
)
def test_every_registered_sequence(name: str | Network, removed: dict[str, int]) -> None:
    model = worked(build_model(name, SHAPE, 10))
    narrowed, gone = check(model)
    assert gone == removed
    for layer, count in removed.items():
        width = model.get_submodule(layer).weight.shape[0]  # type: ignore[union-attr, operator]
        assert narrowed.get_submodule(layer).weight.shape[0] == width - count  # type: ignore[union-attr, operator]
    fresh = fit(build_model(name, SHAPE, 10), narrowed.state_dict()).eval()
    images = torch.randn(8, *SHAPE)
    with torch.no_grad():
        assert torch.equal(fresh(images), narrowed(images))


def test_a_constant_that_is_padded_at_the_border() -> None:
    # By hand: channel 0 is the constant 3, channel 1 the constant -1, and both are read; in the
    # corner of the next layer's output only 4 of 9 positions are not padding.
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Conv2d(3, 1, 3, padding=1), nn.Flatten())
    with torch.no_grad():
        model[0].weight[:, 0, 0, 0] = torch.tensor([0.0, 0.0, 1.0])
        model[0].bias.copy_(torch.tensor([3.0, -1.0, 0.0]))
        model[1].weight.fill_(1.0)
        model[1].bias.zero_()
    narrowed, gone = check(model.eval(), (1, 4, 4))
    assert gone == {"0": 1}
    zeros = narrowed(torch.zeros(1, 1, 4, 4)).view(4, 4)
    assert zeros[0, 0].item() == pytest.approx(4 * (3 - 1))
    assert zeros[1, 1].item() == pytest.approx(9 * (3 - 1))


def test_a_channel_that_nobody_reads_goes_too() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))
    model = nn.Sequential(nn.Flatten(), *model)
    with torch.no_grad():
        model[5].weight[:, 1:3] = 0
        model[3].weight[0, :] = 0  # with these gone, only channel 5 of the first layer is read by
        model[3].weight[3:, :5] = 0  # outputs 3 and 4
    _, gone = check(model.eval(), (1, 2, 2))
    assert gone == {"1": 5, "3": 3}


def test_a_layer_keeps_one_channel() -> None:
    narrowed, gone = check(worked(build_model("mlpnet", SHAPE, 10), dead=1.0))
    assert gone == {"1": 39, "3": 19}
    assert narrowed(torch.randn(2, *SHAPE)).shape == (2, 10)


def test_pooling_and_batchnorm_between_convolutions() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.BatchNorm2d(8),
        nn.GELU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 6, 3),
        nn.BatchNorm2d(6),
        nn.Sigmoid(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 3),
    )
    assert check(worked(model))[1] == {"0": 3, "4": 2}


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(4, 4)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs + self.one(inputs)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "between",
    [nn.Softmax(1), nn.LayerNorm(4), nn.PReLU(4)],
    ids=lambda one: str(one)[:5],
)
def test_what_is_not_understood_is_left_alone(between: nn.Module) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 4), between, nn.Linear(4, 2))
    assert check(worked(model), (1, 3, 3))[1] == {}


def test_what_is_left_alone_is_said_layer_by_layer() -> None:
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(9, 4), Residual(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)
    )
    with torch.no_grad():
        for name in ("1", "2.one", "3", "5"):
            model.get_parameter(f"{name}.weight")[:1] = 0
        model.get_parameter("1.weight")[1:3] = 0
    narrowed = narrow(model, (1, 3, 3))
    assert narrowed.removed == {"1": 1, "2.one": 1, "3": 1}  # a head's outputs are the classes
    why = "2 of 3 channels have no weights and stay: its outputs are added to others, and 2.one"
    assert narrowed.kept == {"1": f"{why} has weights there"}


def test_vgg_loses_its_channels_at_any_size_of_images() -> None:
    shape = (3, 28, 32)
    network = Network.of("vgg-16-bn", width=2)
    narrowed, gone = check(worked(build_model(network, shape, 10), dead=0.5), shape)
    assert len(gone) == 12  # all convolutions but the first, of whose channels one stays
    assert all(count > 0 for count in gone.values())
    images = torch.randn(4, *shape)
    fresh = fit(build_model(network, shape, 10), narrowed.state_dict()).eval()
    with torch.no_grad():
        assert torch.equal(fresh(images), narrowed(images))


def test_a_network_of_shapes_alone_is_given_what_its_state_holds() -> None:
    """Also what is no layer with channels: positions, and layer normalisation."""
    network = Network.of("vit", width=8, depth=1)
    model = build_model(network, SHAPE, 10).eval()
    with torch.device("meta"):
        form = build_model(network, SHAPE, 10).eval()
    loaded = fit(form, model.state_dict())
    images = torch.randn(2, *SHAPE)
    with torch.no_grad():
        assert torch.equal(loaded(images), model(images))


def test_another_networks_weights_do_not_fit() -> None:
    other = build_model("mlpnet", SHAPE, 10).state_dict()
    with pytest.raises(CheckpointError, match="do not fit the model"):
        fit(build_model("classifier", SHAPE, 10), other)
