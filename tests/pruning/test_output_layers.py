"""The layers whose outputs are the classes are found by what a network computes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import linear, log_softmax, normalize
from torch.utils.checkpoint import checkpoint

from sparse_sam.data.tensors import Split, TrainingData
from sparse_sam.errors import MaskError
from sparse_sam.networks.build import build_model
from sparse_sam.pruning.criteria import Evidence
from sparse_sam.pruning.pruner import Pruner
from sparse_sam.training.experiment import Trained, prune, train_dense
from tests.recipes import prune_params, sam_params

SHAPE = (1, 5, 5)
SEEN = Evidence(image_shape=SHAPE)
SEQUENCES = ("classifier", "lenet-300-100", "lenet-5", "mlpnet", "vgg-16-bn")


class Net(nn.Module):
    """Registers ``layers`` in their order, and computes what ``compute`` says."""

    def __init__(self, compute: Callable[[Any, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.compute = compute

    def forward(self, images: Tensor) -> Tensor:
        return self.compute(self, images)


def two_layers(net: Any, images: Tensor) -> Tensor:
    out: Tensor = net.head(torch.relu(net.hidden(images.flatten(1))))
    return out


class Attention(nn.Module):
    """A vision transformer of one block: its head is registered first."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 3)
        self.embed = nn.Conv2d(1, 8, 1)
        self.positions = nn.Parameter(torch.zeros(1, 25, 8))
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
        self.norm = nn.LayerNorm(8)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.embed(images).flatten(2).transpose(1, 2) + self.positions
        out: Tensor = self.head(self.norm(self.block(tokens))[:, 0])
        return out


def head_first() -> nn.Module:
    return Net(two_layers, head=nn.Linear(8, 3), hidden=nn.Linear(25, 8))


def two_heads() -> nn.Module:
    def compute(net: Any, images: Tensor) -> Tensor:
        flat = images.flatten(1)
        out: Tensor = net.wide(flat) + net.deep(torch.relu(net.hidden(flat)))
        return out

    return Net(compute, wide=nn.Linear(25, 3), deep=nn.Linear(8, 3), hidden=nn.Linear(25, 8))


def pooled() -> nn.Module:
    def compute(net: Any, images: Tensor) -> Tensor:
        maps = net.head(torch.relu(net.norm(net.hidden(images))))
        return log_softmax(net.scale(maps).mean((2, 3)), dim=1)

    layers: dict[str, nn.Module] = {"head": nn.Conv2d(8, 3, 1), "scale": nn.BatchNorm2d(3)}
    return Net(compute, **layers, hidden=nn.Conv2d(1, 8, 3), norm=nn.BatchNorm2d(8))


def in_a_submodule() -> nn.Module:
    last = nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 3), nn.Identity())
    first = nn.Sequential(nn.Flatten(), nn.Linear(25, 8), nn.ReLU(inplace=True))
    return Net(lambda net, images: net.last(net.first(images)), last=last, first=first)


def reshaped() -> nn.Module:
    def compute(net: Any, images: Tensor) -> Tensor:
        out: Tensor = net.head(torch.relu(net.hidden(images))).reshape(-1, 3, 4).amax(2)
        out[:, 0] = 0.0  # in place, on what the layer gave
        return out

    return Net(compute, head=nn.Conv2d(8, 3, 2), hidden=nn.Conv2d(1, 8, 3))


def tied() -> nn.Module:
    net: Any = Net(two_layers, twin=nn.Linear(8, 3), head=nn.Linear(8, 3), hidden=nn.Linear(25, 8))
    net.head.weight = net.twin.weight
    return net  # type: ignore[no-any-return]


def shared_head() -> nn.Module:
    def compute(net: Any, images: Tensor) -> Tensor:
        views = (images.flatten(1), images.flip(3).flatten(1))
        out: Tensor = sum(net.head(torch.relu(net.hidden(view))) for view in views)
        return out

    return Net(compute, head=nn.Linear(8, 3), hidden=nn.Linear(25, 8))


def frozen() -> nn.Module:
    return head_first().requires_grad_(False)


CASES: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "registered first": (head_first, ["hidden.weight"]),
    "two that are added": (two_heads, ["hidden.weight"]),
    "a convolution that is pooled": (pooled, ["hidden.weight"]),
    "in a submodule": (in_a_submodule, ["first.1.weight"]),
    "reshaped, and written to": (reshaped, ["hidden.weight"]),
    "known by another name": (tied, ["hidden.weight"]),
    "used for two views": (shared_head, ["hidden.weight"]),
    "frozen": (frozen, ["hidden.weight"]),
    "of a transformer": (
        Attention,
        [
            "embed.weight",
            "block.self_attn.out_proj.weight",
            "block.linear1.weight",
            "block.linear2.weight",
        ],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_classes_are_never_pruned(case: str) -> None:
    make, names = CASES[case]
    torch.manual_seed(0)
    model = make()
    masks = Pruner(structure="channels").masks(model, 0.5, SEEN)
    assert list(masks) == names
    images = torch.randn(6, *SHAPE)
    again = Pruner(structure="channels").masks(
        model, 0.5, Evidence(0, Split(images, torch.arange(6) % 3))
    )
    assert list(again) == names


@settings(max_examples=40, deadline=None)
@given(order=st.permutations(range(5)), branches=st.booleans(), seed=st.integers(0, 3))
def test_no_order_of_registration_matters(order: list[int], branches: bool, seed: int) -> None:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 6), nn.Linear(6, 3)]
    layers.append(nn.Linear(25, 3))  # a second head, used or not

    def compute(net: Any, images: Tensor) -> Tensor:
        maps = torch.relu(net.layer1(torch.relu(net.layer0(images))))
        out: Tensor = net.layer3(torch.relu(net.layer2(maps.flatten(1))))
        return out + net.layer4(images.flatten(1)) if branches else out

    model = Net(compute, **{f"layer{i}": layers[i] for i in order})
    masks = Pruner(structure="channels").masks(model, 0.25, SEEN)
    heads = {"layer3.weight"} | ({"layer4.weight"} if branches else set())
    assert not heads & masks.keys()
    assert {f"layer{i}.weight" for i in range(3)} <= masks.keys()


def test_looking_leaves_the_network_as_it_was() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Dropout(0.5), nn.Linear(36, 3)
    )
    model.train()
    model[1].eval()
    model[0].bias.requires_grad_(False)
    before = {name: one.clone() for name, one in model.state_dict().items()}
    generator = torch.get_rng_state()
    Pruner(structure="channels").masks(model, 0.5, SEEN)
    assert [one.training for one in model.modules()] == [True, True, False, True, True, True]
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)
    for name, parameter in model.named_parameters():
        assert parameter.grad is None
        assert parameter.requires_grad == (name != "0.bias")
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_example_has_the_precision_of_the_network(dtype: torch.dtype) -> None:
    assert list(Pruner(structure="channels").masks(head_first().to(dtype), 0.5, SEEN)) == [
        "hidden.weight"
    ]


def test_looking_draws_nothing_that_the_caller_would_miss() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.head = nn.Linear(25, 8), nn.Linear(8, 3)

        def forward(self, images: Tensor) -> Tensor:
            hidden = self.hidden(images.flatten(1))
            out: Tensor = self.head(hidden + torch.randn_like(hidden))
            return out

    model = Noisy()
    generator = torch.get_rng_state()
    Pruner(structure="channels").masks(model, 0.5, SEEN)
    assert torch.equal(torch.get_rng_state(), generator)


# What cannot be told


def functional(net: Any, images: Tensor) -> Tensor:
    return linear(torch.relu(net.hidden(images.flatten(1))), net.head.weight)


def cosine(net: Any, images: Tensor) -> Tensor:
    hidden = torch.relu(net.hidden(images.flatten(1)))
    return linear(normalize(hidden), normalize(net.head.weight))


def recurrent(net: Any, images: Tensor) -> Tensor:
    out: Tensor = net.head(torch.relu(net.head(net.hidden(images.flatten(1)))))
    return out


def detached(net: Any, images: Tensor) -> Tensor:
    return two_layers(net, images).detach()


def out_of_sight(net: Any, images: Tensor) -> Tensor:
    hidden = torch.relu(net.hidden(images.flatten(1)))
    out: Tensor = checkpoint(net.head, hidden, use_reentrant=True)
    return out


def no_layer(net: Any, images: Tensor) -> Tensor:
    return images.flatten(1)[:, :3] * net.scale


@pytest.mark.parametrize(
    ("compute", "said"),
    [
        (
            functional,
            r"made with head\.weight, but no layer that holds it is called.* self\.head\(x\)",
        ),
        (cosine, r"made with head\.weight, but no layer that holds it is called"),
        (recurrent, r"head gives the classes and is used elsewhere in the network too"),
        (detached, r"cannot be followed back"),
        (out_of_sight, r"the outputs of head cannot be followed"),
        (no_layer, r"no layer of .* makes its outputs"),
    ],
)
def test_what_cannot_be_told_is_refused_by_name(compute: Any, said: str) -> None:
    model = Net(compute, head=nn.Linear(8, 8), hidden=nn.Linear(25, 8))
    model.scale = nn.Parameter(torch.ones(3))
    with pytest.raises(MaskError, match=said) as raised:
        Pruner(structure="channels").masks(model, 0.5, SEEN)
    assert "prune.structure" in str(raised.value)
    Pruner().masks(model, 0.5, SEEN)  # other structures do not ask


# Without an example


@pytest.mark.parametrize("name", SEQUENCES)
def test_a_plain_sequential_is_read_in_its_order(name: str) -> None:
    shape = (1, 28, 28)
    model = build_model(name, shape, 10)
    unseen = Pruner(structure="channels").masks(model, 0.5)
    assert list(unseen) == list(
        Pruner(structure="channels").masks(model, 0.5, Evidence(image_shape=shape))
    )
    weights = [name for name, one in model.named_parameters() if one.dim() > 1]
    assert list(unseen) == weights[:-1]


@pytest.mark.parametrize("name", ["resnet-20", "vit"])
def test_the_head_of_a_network_with_branches_is_found(name: str) -> None:
    shape = (3, 32, 32)
    masks = Pruner(structure="channels").masks(
        build_model(name, shape, 10), 0.5, Evidence(image_shape=shape)
    )
    assert "head.weight" not in masks
    assert {"stem.weight", "patches.weight"} & masks.keys()


def test_a_layer_that_stands_twice_in_a_sequential_is_refused_where_it_is_last() -> None:
    layer = nn.Linear(4, 4)
    with pytest.raises(MaskError, match=r"0 gives the classes and is used elsewhere"):
        Pruner(structure="channels").masks(nn.Sequential(layer, nn.Linear(4, 4), layer), 0.5)
    middle = nn.Sequential(layer, nn.ReLU(), layer, nn.Linear(4, 3))
    assert list(Pruner(structure="channels").masks(middle, 0.5)) == ["0.weight"]


@pytest.mark.parametrize("make", [head_first, in_a_submodule, Attention])
def test_any_other_network_needs_an_example(make: Callable[[], nn.Module]) -> None:
    model = make()
    with pytest.raises(MaskError, match=rf"in {type(model).__name__} it .*Evidence\(image_shape="):
        Pruner(structure="channels").masks(model, 0.5)
    nested = nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(25, 8), nn.Linear(8, 3)))
    with pytest.raises(MaskError, match=r"in Sequential it .*Evidence\(image_shape="):
        Pruner(structure="channels").masks(nested, 0.5)


# In the experiment


def backwards(image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """A network of one's own that registers its head first."""
    size = torch.Size(image_shape).numel()
    return Net(two_layers, head=nn.Linear(8, num_classes), hidden=nn.Linear(size, 8))


@pytest.mark.parametrize("given", [True, False])
def test_the_experiment_prunes_no_class(
    given: bool, make_data: Callable[..., TrainingData], make_recipe: Callable[..., Any]
) -> None:
    from sparse_sam.training.params import DenseParams

    data = make_data()
    recipe = DenseParams(**make_recipe().model_dump(), optimizer="sgd", sam=sam_params())
    name = f"{__name__}:{backwards.__name__}"
    trained: Trained = train_dense(data, name, recipe, 0, lambda _: None)
    params = prune_params(sparsity=0.5, structure="channels")
    pruned = prune(trained.checkpoint, params, data if given else None)
    assert pruned.masks is not None
    assert list(pruned.masks) == ["hidden.weight"]
    assert pruned.state["head.weight"].count_nonzero() == 24
