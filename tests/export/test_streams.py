"""What goes together, and what stays: networks by hand, each with its reason."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sparse_sam.export.channels import narrow

SHAPE = (3, 6, 6)


class Net(nn.Module):
    """Convolutions a, b and c of 4 channels, a head, and a way through them."""

    def __init__(self, way: Callable[[Any, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Conv2d(3, 4, 3)
        self.b, self.c = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 2)
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.way = way

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.head(self.way(self, images).mean((2, 3)))
        return out


def without(model: nn.Module, **rows: slice) -> nn.Module:
    with torch.no_grad():
        for name, gone in rows.items():
            model.get_parameter(f"{name}.weight")[gone] = 0
    return model.eval()


def outputs_agree(model: nn.Module, narrowed: nn.Module) -> None:
    images = torch.randn(5, *SHAPE)
    with torch.no_grad():
        torch.testing.assert_close(narrowed(images), model(images))


FIRST = slice(0, 2)


@pytest.mark.parametrize(
    ("way", "layers", "why"),
    [
        (lambda n, x: n.c(n.b(n.b(n.a(x)))), {}, "they reach b, and b is called 2 times"),
        (
            lambda n, x: n.c(n.a(x)),
            {"c": nn.Conv2d(4, 4, 1, groups=2)},
            "they reach c, and c is a convolution in 2 groups",
        ),
        (
            lambda n, x: n.c(n.norm(n.a(x))),
            {"norm": nn.GroupNorm(2, 4)},
            "they reach norm (GroupNorm), which this export cannot follow",
        ),
        (
            lambda n, x: n.c(torch.cat([n.a(x)], 1)),
            {},
            "they reach cat, which this export cannot follow",
        ),
        (lambda n, x: n.c(n.a(x).flip(1)), {}, "they reach flip, which this export cannot follow"),
        (
            lambda n, x: n.c(n.a(x) * n.a.weight.mean()),
            {},
            "the weights of a are used elsewhere, too",
        ),
        (
            lambda n, x: n.c((y := n.a(x)) / y.size(1)),
            {},
            "the network's code depends on their number or values",
        ),
        (
            lambda n, x: n.c((y := n.a(x)) / y.shape[-3]),
            {},
            "the network's code depends on their number or values",
        ),
        (
            lambda n, x: n.c(n.a(x) + torch.ones(4, 1, 1)),
            {},
            "they are joined with others in add, which this export cannot follow",
        ),
        (
            lambda n, x: n.c(functional.dropout(n.a(x))),
            {},
            "they reach dropout, which this export cannot follow",
        ),
        (
            lambda n, x: n.c(n.a(x).view(-1, 4, 4, 4)),
            {},
            "they reach view, which this export cannot follow",
        ),
        (
            lambda n, x: n.c(n.a(x) + n.entry(x)),
            {"entry": nn.AvgPool2d(3, 1), "a": nn.Conv2d(3, 3, 3), "c": nn.Conv2d(3, 4, 1)},
            "they are joined with what the network's input gives",
        ),
    ],
)
def test_what_is_not_understood_stays_and_is_said(
    way: Callable[[Any, Tensor], Tensor], layers: dict[str, nn.Module], why: str
) -> None:
    model = without(Net(way, **layers), a=FIRST)
    narrowed = narrow(model, SHAPE)
    assert "a" not in narrowed.removed
    width = len(model.get_parameter("a.weight"))
    assert narrowed.kept["a"].startswith(f"2 of {width} channels have no weights and stay: ")
    assert narrowed.kept["a"].endswith(why)
    if "dropout" not in why:
        outputs_agree(model, narrowed.model)


@pytest.mark.parametrize(
    "way",
    [
        lambda n, x: n.c(functional.max_pool2d(n.a(x), 2)),
        lambda n, x: n.c(functional.avg_pool2d(functional.relu(n.a(x)), 2)),
        lambda n, x: n.c(functional.adaptive_avg_pool2d(n.a(x), (2, 1))),
        lambda n, x: n.c(functional.dropout(n.a(x), 0.5, n.training)),
        lambda n, x: n.c(2 * n.a(x).sigmoid() - 0.5),
        lambda n, x: n.c((1 / (3 + n.a(x).tanh())).clamp(0.3, 0.4)),
        lambda n, x: n.c((y := n.a(x)) / y.size(2) + y.shape[3] - y.ndim),
        lambda n, x: n.c((y := n.a(x)) * functional.adaptive_avg_pool2d(y, 1).sigmoid()),
        lambda n, x: n.c((y := n.a(x)) + y),
        lambda n, x: n.wide((y := n.a(x)).view(y.size(0), -1))[:, :, None, None],
        lambda n, x: n.wide((y := n.a(x)).reshape(y.shape[0], -1))[:, :, None, None],
        lambda n, x: n.wide(n.norm(torch.flatten(n.a(x), 1)))[:, :, None, None],
        lambda n, x: n.c(torch.mean(n.a(x), dim=(-1,), keepdim=True)),
        lambda n, x: n.row(n.a(x).mean((2, -1)))[:, :, None, None],
    ],
)
def test_what_treats_each_channel_by_itself(way: Callable[[Any, Tensor], Tensor]) -> None:
    norm = nn.BatchNorm1d(64)
    nn.init.normal_(norm.bias)
    layers = {"wide": nn.Linear(64, 4), "row": nn.Linear(4, 4), "norm": norm}
    model = without(Net(way, **layers), a=FIRST)
    narrowed = narrow(model, SHAPE)
    assert narrowed.removed == {"a": 2}
    assert narrowed.kept == {}
    outputs_agree(model, narrowed.model)


def padded(net: Any, images: Tensor) -> Tensor:
    return net.c(functional.avg_pool2d(net.a(images), 3, 1, 1))  # type: ignore[no-any-return]


def test_what_is_not_the_same_at_every_position_stays_unless_it_is_0() -> None:
    model = without(Net(padded), a=FIRST)
    with torch.no_grad():
        model.a.bias[0] = 0  # type: ignore[union-attr, operator, index]
    narrowed = narrow(model, SHAPE)
    assert narrowed.removed == {"a": 1}
    why = "1 of 3 channels have no weights and stay: they are not the same at every position"
    assert narrowed.kept == {"a": why}
    outputs_agree(model, narrowed.model)


def test_a_number_that_an_image_says_is_no_constant() -> None:
    model = without(
        Net(lambda n, x: n.c(n.a(x) * n.b(n.entry(x)).sum().item()), entry=nn.Conv2d(3, 4, 1)),
        a=FIRST,
    )
    narrowed = narrow(model, SHAPE)
    assert narrowed.removed == {}
    assert narrowed.kept["a"].endswith(
        "they are joined with others in mul, which this export cannot follow"
    )
    outputs_agree(model, narrowed.model)


def shared(net: Any, images: Tensor) -> Tensor:
    maps = net.a(images)
    return net.c(net.b(maps).relu_()) + net.other(net.b2(maps))  # type: ignore[no-any-return]


def test_a_shared_weight_is_left() -> None:
    model = Net(shared, b2=nn.Conv2d(4, 4, 1), other=nn.Conv2d(4, 4, 1))
    model.b2.weight = model.b.weight  # type: ignore[union-attr, assignment]
    narrowed = narrow(without(model, a=FIRST, b=FIRST), SHAPE)
    assert narrowed.removed == {}
    assert "the weights of b are used elsewhere, too" in narrowed.kept["a"]
    assert "the weights of b are used elsewhere, too" in narrowed.kept["b"]


def test_hooks_are_left_alone() -> None:
    model = without(Net(lambda n, x: n.c(n.b(n.a(x)))), a=FIRST, b=FIRST)
    model.b.register_forward_hook(lambda _, __, out: out + 1)  # type: ignore[union-attr, operator]
    narrowed = narrow(model, SHAPE)
    assert narrowed.removed == {}
    assert "b has hooks" in narrowed.kept["b"]


def test_code_that_depends_on_images_cannot_be_followed() -> None:
    model = Net(lambda n, x: n.c(n.a(x)) if x.sum() > 0 else n.c(n.b(n.a(x))))
    narrowed = narrow(without(model, a=FIRST), SHAPE)
    assert narrowed.removed == {}
    assert narrowed.kept[""].startswith("Net: torch.fx cannot follow it (TraceError: ")
    assert "2 of 4 channels have no weights and stay" in narrowed.kept["a"]


def test_code_that_does_something_else_in_smaller_layers_is_noticed() -> None:
    model = Net(lambda n, x: n.c(n.a(x)) * (1 if n.a.out_channels == 4 else 2))
    narrowed = narrow(without(model, a=FIRST), SHAPE)
    assert narrowed.removed == {}
    assert narrowed.kept[""] == "Net: with smaller layers its code computes something else"
    outputs_agree(model, narrowed.model)


def residual(net: Any, images: Tensor) -> Tensor:
    maps = net.a(images)
    return net.c(maps + net.b(maps))  # type: ignore[no-any-return]


def test_a_stream_loses_what_no_layer_writes_or_none_reads() -> None:
    model = without(Net(residual), a=slice(0, 3), b=slice(1, 4))  # 1 and 2 are in neither
    narrowed = narrow(model, SHAPE)
    assert narrowed.removed == {"a": 2, "b": 2}
    said = "1 of 2 channels have no weights and stay: its outputs are added to others, and"
    assert narrowed.kept == {"a": f"{said} b has weights there", "b": f"{said} a has weights there"}
    outputs_agree(model, narrowed.model)
    model = Net(residual).eval()
    with torch.no_grad():
        model.b.weight[:, :3] = 0  # type: ignore[union-attr, operator, index]
        model.c.weight[:, 1:3] = 0  # type: ignore[union-attr, operator, index]
    narrowed = narrow(model, SHAPE)
    assert (narrowed.removed, narrowed.kept) == ({"a": 2, "b": 2}, {})
    outputs_agree(model, narrowed.model)


def in_place(net: Any, images: Tensor) -> Tensor:
    """What is read last is what the activation left, not what was added."""
    maps = net.a(images) - 1
    after = net.b(functional.relu(maps, inplace=True))
    return net.c(maps.mul_(2)) + after  # type: ignore[no-any-return]


def test_what_is_changed_in_place_is_changed_here_too() -> None:
    model = without(Net(in_place), a=FIRST)
    with torch.no_grad():
        model.a.bias.copy_(torch.tensor([3.0, -3.0, 1.0, 0.0]))  # type: ignore[union-attr, operator]
    narrowed = narrow(model, SHAPE)
    assert narrowed.removed == {"a": 2}
    outputs_agree(model, narrowed.model)


def two_that_pad(net: Any, images: Tensor) -> Tensor:
    maps = net.a(images)
    return net.b(torch.relu(maps)) + net.c(maps)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("biases", "left"),
    [
        ([3.0, -2.0, 4.0, 0.5], 1),  # one that is nowhere 0 stands for all
        ([-3.0, -2.0, -4.0, -0.5], 1),  # the first reads only zeros
        ([0.0, 0.0, 0.0, 0.0], 0),
    ],
)
def test_two_convolutions_that_pad_read_one_stream(biases: list[float], left: int) -> None:
    padding = {name: nn.Conv2d(4, 4, 3, padding=1) for name in "bc"}
    model = without(Net(two_that_pad, **padding), a=slice(0, 3))
    with torch.no_grad():
        model.a.bias.copy_(torch.tensor(biases))  # type: ignore[union-attr, operator]
    narrowed = narrow(model, SHAPE)
    assert narrowed.removed == {"a": 3 - left}
    outputs_agree(model, narrowed.model)


def test_other_inputs_of_a_network_have_their_defaults() -> None:
    class Masking(Net):
        def forward(self, images: Tensor, mask: Tensor | None = None) -> Tensor:
            out = super().forward(images)
            return out if mask is None else out * mask

    model = without(Masking(lambda n, x: n.c(n.a(x))), a=FIRST)
    narrowed = narrow(model, SHAPE)
    assert narrowed.removed == {"a": 2}
    outputs_agree(model, narrowed.model)
