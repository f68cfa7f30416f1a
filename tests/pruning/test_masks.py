"""Masks: attached once, held for ever, and taken off again as they were."""

import copy
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import prune
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sparse_sam.errors import MaskError
from sparse_sam.networks.build import build_model
from sparse_sam.pruning.magnitude import magnitude_masks
from sparse_sam.pruning.masks import (
    Masks,
    attach,
    attached_masks,
    check_pruned_weights_are_zero,
    masks_of,
    plain_parameters,
    plain_state,
    tighten,
)
from tests.sample_networks import NAMES

KEEP = torch.tensor([[True, False], [False, True]])


def tiny() -> nn.Sequential:
    """Two linear layers 2 → 2 → 1, with BatchNorm between, of known weights."""
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 2.0], [-3.0, 4.0]]))
        model[0].bias.copy_(torch.tensor([0.5, -0.5]))
        model[2].weight.copy_(torch.tensor([[5.0, -6.0]]))
    return model


def pruned() -> nn.Sequential:
    model = tiny()
    attach(model, Masks({"0.weight": KEEP}))
    return model


def random_masks(model: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
    """Masks that keep at least one weight of every weight and bias."""
    masks = {}
    for name, parameter in model.named_parameters():
        masks[name] = torch.rand(parameter.shape, generator=generator) < 0.5
        masks[name].view(-1)[0] = True
    return masks


# The type


def test_masks_count_what_they_keep() -> None:
    masks = Masks({"a": KEEP, "b": torch.tensor([True, True, True, False])})
    assert (masks.kept, masks.total, masks.sparsity) == (5, 8, 0.375)
    assert list(masks) == ["a", "b"]
    assert len(masks) == 2
    assert torch.equal(masks["a"], KEEP)
    assert Masks({}).sparsity == 0.0


def test_masks_are_a_copy() -> None:
    mask = torch.tensor([True, True])
    masks = Masks({"a": mask})
    mask[0] = False
    assert masks.kept == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8, torch.int64])
def test_a_mask_that_is_not_boolean_is_refused(dtype: torch.dtype) -> None:
    with pytest.raises(MaskError, match=f"the mask of a must be boolean, not {dtype}"):
        Masks({"a": KEEP.to(dtype)})


def test_a_mask_that_keeps_nothing_is_refused() -> None:
    with pytest.raises(MaskError, match="the mask of b prunes all 3 weights"):
        Masks({"a": KEEP, "b": torch.zeros(3, dtype=torch.bool)})


# Attaching


def test_an_attached_mask_prunes_its_own_weights_and_no_others() -> None:
    model = pruned()
    state = plain_state(model)
    assert torch.equal(state["0.weight"], torch.tensor([[1.0, 0.0], [0.0, 4.0]]))
    for name, tensor in tiny().state_dict().items():
        if name != "0.weight":
            assert torch.equal(state[name], tensor) or tensor.is_floating_point()
    assert torch.equal(state["0.bias"], torch.tensor([0.5, -0.5]))
    assert torch.equal(state["2.weight"], torch.tensor([[5.0, -6.0]]))


def test_the_network_computes_with_the_pruned_weights() -> None:
    # Rows (1, 0) and (0, 4) on the input (10, 20), bias (0.5, −0.5).
    assert pruned()[0](torch.tensor([10.0, 20.0])).tolist() == [10.5, 79.5]


def test_a_pruned_weight_has_no_gradient() -> None:
    model = pruned()
    model[0](torch.tensor([[10.0, 20.0]])).sum().backward()
    assert plain_parameters(model)["0.weight"].grad.tolist() == [[10.0, 0.0], [0.0, 20.0]]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_a_pruned_weight_stays_zero_whatever_sgd_does(momentum: float, weight_decay: float) -> None:
    model = pruned()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=momentum, weight_decay=weight_decay
    )
    for _ in range(3):
        optimizer.zero_grad()
        model[0](torch.ones(1, 2)).square().sum().backward()
        optimizer.step()
        check_pruned_weights_are_zero(model)
    weight = plain_state(model)["0.weight"]
    assert weight[~KEEP].tolist() == [0.0, 0.0]
    assert (weight[KEEP] != torch.tensor([1.0, 4.0])).all()


def test_masks_come_back_as_they_went_in() -> None:
    found = masks_of(pruned())
    assert found is not None
    assert list(found) == ["0.weight"]
    assert found["0.weight"].dtype == torch.bool
    assert torch.equal(found["0.weight"], KEEP)


def test_a_dense_model_has_no_masks() -> None:
    assert masks_of(tiny()) is None
    model = tiny()
    attach(model, Masks({}))
    assert masks_of(model) is None


def test_a_buffer_that_is_only_called_mask_is_none() -> None:
    model = tiny()
    model.register_buffer("attention_mask", torch.ones(2))
    model.register_buffer("first_orig", torch.ones(2))
    assert masks_of(model) is None
    state = plain_state(model)
    assert {"attention_mask", "first_orig"} <= state.keys()


@given(seed=st.integers(0, 2**32 - 1))
def test_any_masks_make_the_round_trip_and_leave_exact_zeros(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    model = tiny()
    before = plain_state(model)
    chosen = random_masks(model, generator)
    attach(model, Masks(chosen))
    found, after = masks_of(model), plain_state(model)
    assert found is not None
    assert found.keys() == chosen.keys()
    assert after.keys() == before.keys()
    for name, tensor in before.items():
        mask = chosen.get(name, torch.ones_like(tensor, dtype=torch.bool))
        assert torch.equal(found.get(name, mask), mask)
        assert torch.equal(after[name], tensor.masked_fill(~mask, 0))
        # Not −0, whose bits are not those of 0.
        assert not torch.signbit(after[name].double()[~mask]).any()
    # What was saved goes into a new model, where it is what it was.
    again = tiny()
    again.load_state_dict(after)
    attach(again, found)
    for one, other in zip(plain_state(again).values(), after.values(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("masks", "reason"),
    [
        ({"0.weights": KEEP}, "the model has no parameter 0.weights"),
        ({"3.weight": KEEP}, "the model has no parameter 3.weight"),
        (
            {"1.running_mean": torch.tensor([True, False])},
            "the model has no parameter 1.running_mean",
        ),
        (
            {"0.weight": KEEP[0]},
            r"the mask of 0\.weight has shape \(2,\), but the parameter has \(2, 2\)",
        ),
        ({"2.weight": KEEP}, r"has shape \(2, 2\), but the parameter has \(1, 2\)"),
        ({"2.weight": KEEP[:1].t()}, r"has shape \(2, 1\), but the parameter has \(1, 2\)"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused_and_nothing_is_pruned(
    masks: dict[str, Tensor], reason: str
) -> None:
    model = tiny()
    with pytest.raises(MaskError, match=reason):
        attach(model, Masks({"0.bias": torch.tensor([True, False]), **masks}))
    assert masks_of(model) is None
    assert model[0].bias.tolist() == [0.5, -0.5]


def test_a_model_is_pruned_once_only() -> None:
    model = pruned()
    with pytest.raises(MaskError, match=r"0\.weight is already pruned"):
        attach(model, Masks({"0.weight": KEEP}))


class Tied(nn.Module):
    """Two layers that share one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(2, 2), nn.Linear(2, 2)
        self.decode.weight = self.encode.weight


def test_a_weight_that_layers_share_is_pruned_in_all_of_them() -> None:
    model = Tied()
    weight = model.encode.weight
    attach(model, Masks({"encode.weight": KEEP}))
    assert plain_parameters(model) == {
        "encode.weight": weight,
        "encode.bias": model.encode.bias,
        "decode.bias": model.decode.bias,
    }
    model.decode(model.encode(torch.ones(1, 2))).sum().backward()
    assert weight.grad is not None
    assert not weight.grad[~KEEP].any()
    assert weight.grad[KEEP].all()
    with torch.no_grad():
        weight[0, 0] = 7.0
    for twin in (model, copy.deepcopy(model)):
        found = masks_of(twin)
        assert found is not None
        assert list(found) == ["encode.weight"]
        assert (found.kept, found.total) == (2, 4)
        assert twin.encode.weight[0, 0].item() == twin.decode.weight[0, 0].item() == 7.0
        state = plain_state(twin)
        for name in ("encode.weight", "decode.weight"):
            assert state[name][~KEEP].tolist() == [0.0, 0.0]
            assert torch.equal(state[name], twin.decode.weight)
        twin.get_parameter("encode.parametrizations.weight.original").data.fill_(3.0)
        assert float(twin.decode.weight.detach().sum()) == 6.0
    tighten(model, Masks({"encode.weight": KEEP & torch.tensor([True, False])}))
    assert int(model.decode.weight.count_nonzero()) == 1


def test_a_shared_weight_is_pruned_by_the_first_of_its_names() -> None:
    model = Tied()
    with pytest.raises(MaskError, match=r"decode\.weight and encode\.weight are one parameter"):
        attach(model, Masks({"decode.weight": KEEP}))
    attach(model, Masks({"encode.weight": KEEP}))
    with pytest.raises(MaskError, match=r"decode\.weight is already pruned"):
        attach(model, Masks({"decode.weight": KEEP}))


def test_the_first_name_of_a_shared_weight_stays_the_first() -> None:
    # A module's own parameter comes before its children's, in a pruned network too.
    model = nn.Module()
    model.child = nn.Linear(2, 2)
    model.own = model.child.weight
    assert next(iter(dict(model.named_parameters()))) == "own"
    attach(model, Masks({"own": KEEP}))
    assert list(masks_of(model) or ()) == ["own"]
    assert set(plain_state(model)) == {"own", "child.weight", "child.bias"}


# Every way of reading a weight


def half_pruned(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = build_model(f"tests.sample_networks:{name}", (1, 5, 5), 3)
    attach(model, magnitude_masks(model, 0.5, biases=True))
    return model


def images(count: int = 4) -> Tensor:
    return torch.randn(count, 1, 5, 5, generator=torch.Generator().manual_seed(1))


def step(model: nn.Module, batch: Tensor) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model(batch).square().sum().backward()
        optimizer.step()


def check_sparse(model: nn.Module) -> None:
    """Every pruned weight is 0 where it is kept, and where it is read."""
    check_pruned_weights_are_zero(model)
    for one in attached_masks(model, every_name=True):
        layer, _, own = one.name.rpartition(".")
        weight = getattr(model.get_submodule(layer), own)
        assert weight.dtype == one.original.dtype == one.mask.dtype
        assert not weight[one.mask == 0].count_nonzero()
        assert torch.equal(weight, one.original)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_read_is_what_is_trained(name: str) -> None:
    model = half_pruned(name)
    before = plain_state(model)
    step(model, images())
    check_sparse(model)
    masks = masks_of(model)
    assert masks is not None
    for weight, tensor in plain_state(model).items():
        if weight in masks:
            # In a batch of four, not every bias and token has a gradient; decay moves them too.
            assert (tensor != before[weight])[masks[weight] & (before[weight] != 0)].all(), weight


@pytest.mark.parametrize("name", NAMES)
def test_a_network_is_copied_after_a_step(name: str) -> None:
    model = half_pruned(name)
    step(model, images())
    model(images())  # a graph, which the layers may remember
    twin = copy.deepcopy(copy.deepcopy(model))
    assert torch.equal(twin(images()), model(images()))
    before = plain_state(model)
    step(twin, images())
    check_sparse(twin)
    assert all(torch.equal(tensor, before[key]) for key, tensor in plain_state(model).items())
    assert not all(torch.equal(tensor, before[key]) for key, tensor in plain_state(twin).items())


@pytest.mark.parametrize("name", NAMES)
def test_an_average_of_networks_is_as_sparse(name: str) -> None:
    model = half_pruned(name)
    model(images())
    averages = [AveragedModel(model), AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))]
    for _ in range(3):
        step(model, images())
        for average in averages:
            average.update_parameters(model)
    for average in averages:
        check_sparse(average.module)
        assert not torch.equal(average(images()), model(images()))
        one, other = masks_of(average.module), masks_of(model)
        assert one is not None
        assert other is not None
        assert all(torch.equal(one[key], mask) for key, mask in other.items())


@pytest.mark.parametrize("name", NAMES)
def test_a_state_goes_into_another_network(name: str) -> None:
    model, other = half_pruned(name), half_pruned(name)
    step(model, images())
    other.load_state_dict(model.state_dict())
    check_sparse(other)
    assert torch.equal(other(images()), model(images()))
    dense = build_model(f"tests.sample_networks:{name}", (1, 5, 5), 3)
    dense.load_state_dict(plain_state(model))
    assert torch.equal(dense(images()), model(images()))
    # By name, as torch.func has it, and in evaluation mode, where some layers have another path.
    named = {key: tensor.detach() for key, tensor in model.named_parameters()}
    assert torch.equal(functional_call(half_pruned(name), named, (images(),)), model(images()))
    with torch.no_grad():
        assert torch.allclose(model.eval()(images()), dense.eval()(images()), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NAMES)
def test_a_network_keeps_its_masks_in_another_dtype(name: str, dtype: torch.dtype) -> None:
    model = half_pruned(name)
    kept = masks_of(model)
    assert kept is not None
    model = model.half() if dtype == torch.float16 else model.to(dtype)
    check_sparse(model)
    assert (masks_of(model) or Masks({})).kept == kept.kept
    if name not in {"lstm", "gru"} or dtype == torch.float64:
        step(model, images().to(dtype))
        check_sparse(model)


def test_a_network_is_trained_in_parallel(tmp_path: Path) -> None:
    store = f"file://{tmp_path / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        for name in NAMES:
            model = DistributedDataParallel(half_pruned(name))
            before = plain_state(model.module)
            step(model, images())
            check_sparse(model.module)
            assert list(masks_of(model) or ()) == [
                f"module.{key}" for key in masks_of(model.module) or ()
            ]
            after = plain_state(model.module)
            assert not any(
                torch.equal(after[key], before[key]) for key in before if key.endswith("weight")
            )
    finally:
        torch.distributed.destroy_process_group()


# The state


def test_a_plain_state_is_a_copy_under_the_names_of_a_dense_model() -> None:
    model = pruned()
    state = plain_state(model)
    assert list(state) != []
    assert set(state) == set(tiny().state_dict())
    assert not any(tensor.requires_grad for tensor in state.values())
    state["0.bias"].zero_()
    assert model[0].bias.tolist() == [0.5, -0.5]


@pytest.mark.parametrize("value", [7.0, -7.0, float("nan")])
def test_a_plain_state_has_zeros_even_where_a_weight_was_revived(value: float) -> None:
    model = pruned()
    with torch.no_grad():
        plain_parameters(model)["0.weight"].fill_(value)
    weight = plain_state(model)["0.weight"]
    assert weight[~KEEP].tolist() == [0.0, 0.0]
    assert not weight[~KEEP].signbit().any()
    assert weight[KEEP].nan_to_num(1.0).all()


def test_a_revived_weight_is_found() -> None:
    model = pruned()
    check_pruned_weights_are_zero(model)
    with torch.no_grad():
        plain_parameters(model)["0.weight"][0, 1] = 1e-30
    with pytest.raises(MaskError, match=r"1 pruned weights of 0\.weight are not 0"):
        check_pruned_weights_are_zero(model)
    with torch.no_grad():
        plain_parameters(model)["0.weight"].fill_(float("nan"))
    with pytest.raises(MaskError, match=r"2 pruned weights of 0\.weight are not 0"):
        check_pruned_weights_are_zero(model)


def test_a_dense_model_has_no_weight_to_be_found() -> None:
    check_pruned_weights_are_zero(tiny())


def test_masks_of_torch_itself_are_understood() -> None:
    model = tiny()
    prune.l1_unstructured(model[0], "weight", amount=2)
    found = masks_of(model)
    assert found is not None
    assert found["0.weight"].tolist() == [[False, False], [True, True]]
    assert plain_state(model)["0.weight"].tolist() == [[0.0, 0.0], [-3.0, 4.0]]
    # But torch leaves the weights below the mask, and that is found.
    with pytest.raises(MaskError, match="2 pruned weights"):
        check_pruned_weights_are_zero(model)


def test_a_pruned_model_can_be_copied_before_its_first_forward_pass() -> None:
    twin = copy.deepcopy(pruned())
    found = masks_of(twin)
    assert found is not None
    assert torch.equal(found["0.weight"], KEEP)
