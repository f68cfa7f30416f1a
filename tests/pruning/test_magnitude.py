"""Magnitude pruning: exact counts, the smallest weights, and only the weights."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, parametrizations, prune

from sparse_sam.errors import MaskError
from sparse_sam.networks.build import build_model
from sparse_sam.pruning.magnitude import magnitude_masks
from sparse_sam.pruning.masks import Masks, attach, plain_state
from sparse_sam.pruning.prunable import prunable_parameters
from sparse_sam.pruning.ranking import pruned_count

SPARSITIES = st.one_of(
    st.floats(0, 1, exclude_max=True), st.sampled_from([0.0, 0.5, 0.9, 0.98, 1 / 3])
)
SCOPES = ["layerwise", "global"]
# Few values, so that ties are everywhere, zeros among them.
WEIGHTS = st.sampled_from([0.0, -0.0, 0.5, -0.5, 1.0, -2.0, 1e-30])


def linear(*rows: list[float]) -> nn.Linear:
    weight = torch.tensor(rows)
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight = nn.Parameter(weight)
    return layer


@st.composite
def models(draw: st.DrawFn) -> nn.Sequential:
    """One to three layers of up to 6 × 6 weights, with BatchNorm between them."""
    layers: list[nn.Module] = []
    for _ in range(draw(st.integers(1, 3))):
        rows, columns = draw(st.integers(1, 6)), draw(st.integers(1, 6))
        values = draw(st.lists(WEIGHTS, min_size=rows * columns, max_size=rows * columns))
        layers.append(linear(*torch.tensor(values).view(rows, columns).tolist()))
        layers.append(nn.BatchNorm1d(rows))
    return nn.Sequential(*layers)


def pruned_values(model: nn.Module, masks: Mapping[str, Tensor], *, kept: bool) -> Tensor:
    parameters = dict(model.named_parameters())
    pieces = [parameters[name].detach()[mask == kept].abs() for name, mask in masks.items()]
    return torch.cat(pieces)


def test_the_smallest_go_by_hand() -> None:
    model = nn.Sequential(linear([3.0, -1.0], [-0.5, 2.0]), linear([0.1, 0.2]))
    layerwise = magnitude_masks(model, 0.5)
    assert layerwise["0.weight"].tolist() == [[True, False], [False, True]]
    assert layerwise["1.weight"].tolist() == [[False, True]]
    with pytest.raises(MaskError, match="would prune all"):
        magnitude_masks(model, 0.5, "global")
    third = magnitude_masks(model, 1 / 6, "global")
    assert third["0.weight"].all()
    assert third["1.weight"].tolist() == [[False, True]]


@pytest.mark.parametrize(
    ("sparsity", "size", "count"),
    [(0, 10, 0), (0.5, 10, 5), (0.9, 1000, 900), (0.98, 101, 99), (0.999, 10, 10), (0.04, 10, 0)],
)
def test_the_count_is_the_nearest_whole_number(sparsity: float, size: int, count: int) -> None:
    assert pruned_count(sparsity, size) == count


@given(model=models(), sparsity=SPARSITIES, scope=st.sampled_from(SCOPES))
def test_exactly_the_asked_count_of_the_smallest_goes(
    model: nn.Sequential, sparsity: float, scope: str
) -> None:
    sizes = {f"{i}.weight": layer.weight.numel() for i, layer in enumerate(model) if i % 2 == 0}
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    emptied = scope == "layerwise" and any(pruned_count(sparsity, s) == s for s in sizes.values())
    try:
        masks = magnitude_masks(model, sparsity, scope)
    except MaskError as error:
        named = str(error)
        assert "would prune all" in named
        assert emptied or scope == "global"
        return
    assert not emptied
    assert masks.keys() == sizes.keys()
    if scope == "layerwise":
        for name, size in sizes.items():
            assert int((~masks[name]).sum()) == pruned_count(sparsity, size)
            one = {name: masks[name]}
            gone, kept = (pruned_values(model, one, kept=side) for side in (False, True))
            assert not len(gone) or gone.max() <= kept.min()
    else:
        assert masks.total - masks.kept == pruned_count(sparsity, sum(sizes.values()))
        gone, kept = (pruned_values(model, masks, kept=side) for side in (False, True))
        assert not len(gone) or gone.max() <= kept.min()
    # The model itself is not touched.
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert magnitude_masks(model, sparsity, scope).keys() == masks.keys()
    for name, mask in magnitude_masks(model, sparsity, scope).items():
        assert torch.equal(mask, masks[name])


@pytest.mark.parametrize("scope", SCOPES)
def test_a_sparsity_of_0_is_the_identity(scope: str) -> None:
    torch.manual_seed(0)
    model = build_model("classifier", (1, 8, 8), 3)
    before = plain_state(model)
    masks = magnitude_masks(model, 0.0, scope)
    assert masks.kept == masks.total == 64 * 16 + 128 * 64 * 16 + 3 * 128 * 4
    attach(model, masks)
    assert all(torch.equal(tensor, before[name]) for name, tensor in plain_state(model).items())


def test_what_may_be_pruned_of_the_classifier() -> None:
    model = build_model("classifier", (1, 8, 8), 3)
    assert list(prunable_parameters(model)) == ["0.weight", "2.weight", "6.weight"]
    assert list(prunable_parameters(model, batchnorm=True)) == [
        "0.weight",
        "2.weight",
        "3.weight",
        "6.weight",
    ]
    assert list(prunable_parameters(model, biases=True)) == [
        "0.weight",
        "0.bias",
        "2.weight",
        "3.bias",
        "6.weight",
        "6.bias",
    ]
    every = prunable_parameters(model, batchnorm=True, biases=True)
    assert list(every) == list(dict(model.named_parameters()))
    assert all(every[name] is parameter for name, parameter in model.named_parameters())


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("asked", [set(), {"batchnorm"}, {"biases"}, {"batchnorm", "biases"}])
def test_batchnorm_and_biases_are_left_alone_unless_asked_for(scope: str, asked: set[str]) -> None:
    torch.manual_seed(0)
    model = build_model("classifier", (1, 8, 8), 3)
    with torch.no_grad():  # as small as anything, so that pruning would take them
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.copy_(torch.arange(1, len(parameter) + 1) * 1e-9)
            assert name
    flags = {"batchnorm": "batchnorm" in asked, "biases": "biases" in asked}
    if scope == "global" and asked:
        with pytest.raises(MaskError, match="would prune all"):
            magnitude_masks(model, 0.5, scope, **flags)
        return
    attach(model, magnitude_masks(model, 0.5, scope, **flags))
    zeros = {name: int((tensor == 0).sum()) for name, tensor in plain_state(model).items()}
    assert zeros["3.weight"] == (64 if "batchnorm" in asked else 0)
    assert zeros["3.bias"] == (64 if "biases" in asked else 0)
    assert zeros["0.bias"] == (32 if "biases" in asked else 0)
    assert zeros["6.bias"] == (2 if "biases" in asked else 0)


@pytest.mark.parametrize(
    "normalisation",
    [nn.LayerNorm((2, 2)), nn.RMSNorm((2, 2)), nn.GroupNorm(1, 2), nn.InstanceNorm2d(2)],
)
def test_other_normalisation_is_left_alone_too(normalisation: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(2, 2), normalisation)
    assert list(prunable_parameters(model)) == ["0.weight"]


@pytest.mark.parametrize("scope", SCOPES)
def test_a_tied_weight_is_counted_once(scope: str) -> None:
    model = nn.Sequential(linear([1.0, 2.0], [3.0, 4.0]), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    assert list(prunable_parameters(model)) == ["0.weight"]
    masks = magnitude_masks(model, 0.25, scope)
    assert (masks.total, masks.kept) == (4, 3)
    shared = nn.Sequential(model[0], model[0])
    assert magnitude_masks(shared, 0.25, scope).total == 4


def test_a_layer_that_would_be_emptied_is_named() -> None:
    model = nn.Sequential(linear([1.0, 2.0, 3.0, 4.0]), linear([1e-3, 2e-3]))
    with pytest.raises(MaskError) as raised:
        magnitude_masks(model, 0.5, "global")
    assert str(raised.value) == (
        "global sparsity 0.5 would prune all 2 weights of 1.weight; lower it, change prune.scope, "
        "or list the tensor in prune.ignore or prune.overrides"
    )
    with pytest.raises(MaskError, match=r"layerwise sparsity 0\.8 would prune all 2 weights of 1"):
        magnitude_masks(model, 0.8)


@pytest.mark.parametrize("sparsity", [-0.1, 1, 1.0, 2, float("nan")])
def test_a_sparsity_out_of_range_is_refused(sparsity: float) -> None:
    with pytest.raises(MaskError, match="must be at least 0 and less than 1"):
        magnitude_masks(nn.Linear(2, 2), sparsity)


@pytest.mark.parametrize("scope", SCOPES)
def test_a_model_is_pruned_once_only(scope: str) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    attach(model, Masks({"0.weight": torch.eye(2).bool()}))
    with pytest.raises(MaskError, match="the model is already pruned"):
        magnitude_masks(model, 0.5, scope)


def test_a_model_without_weights_is_refused() -> None:
    for model in (nn.Flatten(), nn.BatchNorm1d(3)):
        with pytest.raises(MaskError, match="no weights that can be pruned"):
            magnitude_masks(model, 0.5)
    assert magnitude_masks(nn.BatchNorm1d(4), 0.5, batchnorm=True).kept == 2


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.9, 0.98])
def test_masks_are_those_of_torch(sparsity: float) -> None:
    # (But for ties, which torch breaks as its sort happens to.)
    torch.manual_seed(0)
    model = build_model("classifier", (1, 8, 8), 3)
    weights = prunable_parameters(model)

    def by_torch(tensor: Tensor) -> Tensor:
        method = prune.L1Unstructured(amount=pruned_count(sparsity, tensor.numel()))
        return method.compute_mask(tensor.detach(), torch.ones_like(tensor)).bool()

    layerwise = magnitude_masks(model, sparsity)
    assert all(torch.equal(layerwise[name], by_torch(weights[name])) for name in weights)
    together = parameters_to_vector(list(magnitude_masks(model, sparsity, "global").values()))
    assert torch.equal(together, by_torch(parameters_to_vector(list(weights.values()))))


def test_global_and_layerwise_differ_as_they_should() -> None:
    # Layers of very different scale: together, the small one pays for both.
    model = nn.Sequential(linear([10.0, 20.0, 30.0, 40.0]), linear([1.0, 2.0, 3.0, 4.0]))
    layerwise, together = magnitude_masks(model, 0.25), magnitude_masks(model, 0.25, "global")
    assert [int(mask.sum()) for mask in layerwise.values()] == [3, 3]
    assert [int(mask.sum()) for mask in together.values()] == [4, 2]
    assert together["1.weight"].tolist() == [[False, False, True, True]]


@pytest.mark.parametrize("normed", [parametrizations.weight_norm, nn.utils.weight_norm])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_gains_of_weight_normalisation_are_left_alone(normed: Any) -> None:
    model = nn.Sequential(normed(nn.Linear(64, 32)), nn.ReLU(), nn.Linear(32, 4))
    masks = magnitude_masks(model, 0.5)
    assert sorted(mask.shape for mask in masks.values()) == [(4, 32), (32, 64)]
    attach(model, masks)
    weight = model[0].weight if normed is parametrizations.weight_norm else _read(model[0])
    assert float((weight == 0).float().mean()) == 0.5
    assert (weight != 0).any(dim=1).all()


def _read(layer: Any) -> Any:
    layer(torch.zeros(1, 64))  # which computes it
    return layer.weight
