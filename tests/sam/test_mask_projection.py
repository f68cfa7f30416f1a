"""SAM on sparse networks: ε and its norm on the kept weights, masks that hold, and the ablation."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sam_cases import VARIANT_CASES, batches, closure_of, flat, perceptron, run, same, weights
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import prune
from torch.optim import SGD

from sparse_sam.errors import MaskError
from sparse_sam.pruning.magnitude import magnitude_masks
from sparse_sam.pruning.masks import Masks, attach, check_pruned_weights_are_zero, masks_of
from sparse_sam.sam.build import build_sam
from sparse_sam.sam.optimizer import SAM

BATCH = batches(1)[0]


def pruned(sparsity: float) -> nn.Sequential:
    model = perceptron()
    attach(model, magnitude_masks(model, sparsity))
    return model


def zeroed(sparsity: float) -> tuple[nn.Sequential, Masks]:
    """The same network pruned by other means: zeros in plain parameters, and the masks."""
    model = perceptron()
    masks = magnitude_masks(model, sparsity)
    with torch.no_grad():
        for name, mask in masks.items():
            model.get_parameter(name).masked_fill_(~mask, 0.0)
    return model, masks


def dense_gradient(sparsity: float) -> tuple[Tensor, Tensor]:
    """The gradient that ignores the masks, and 1 where weights are kept."""
    model, masks = zeroed(sparsity)
    cross_entropy(model(BATCH[0]), BATCH[1]).backward()
    kept = [
        masks[name].float() if name in masks else torch.ones_like(parameter)
        for name, parameter in model.named_parameters()
    ]
    return flat([parameter.grad for parameter in model.parameters()]), flat(kept)


def effective(model: nn.Module) -> Tensor:
    """The weights that the network computes with, in the order of a network without masks."""
    return torch.cat(
        [
            tensor.detach().flatten()
            for layer in (model[0], model[2])
            for tensor in (layer.weight, layer.bias)
        ]
    )


@settings(max_examples=40)
@given(rho=st.floats(1e-3, 10.0), sparsity=st.floats(0.0, 0.95), given_masks=st.booleans())
def test_epsilon_has_length_rho_on_kept_weights_and_is_zero_on_pruned_ones(
    rho: float, sparsity: float, given_masks: bool
) -> None:
    if given_masks:
        model, masks = zeroed(sparsity)
        sam = SAM(model.parameters(), SGD, rho=rho, model=model, masks=masks, lr=0.1)
    else:
        model, masks = pruned(sparsity), None
        sam = SAM(model.parameters(), SGD, rho=rho, model=model, lr=0.1)
    model(BATCH[0])  # torch's hook computes the effective weights
    before = effective(model)
    closure_of(model, sam, *BATCH)()
    sam.first_step()
    model(BATCH[0])
    epsilon = effective(model) - before
    dense, kept = dense_gradient(sparsity)
    assert epsilon[kept == 0].count_nonzero() == 0
    projected = dense * kept
    assert float(epsilon.double().norm()) == pytest.approx(rho, rel=1e-3)
    torch.testing.assert_close(
        epsilon, rho * projected / projected.norm(), rtol=1e-3, atol=1e-6 + 1e-5 * rho
    )


@settings(max_examples=60)
@given(
    case=st.sampled_from(VARIANT_CASES),
    sparsity=st.floats(0.0, 0.95),
    momentum=st.sampled_from([0.5, 0.9]),
    decay=st.sampled_from([0.0, 0.1]),
    given_masks=st.booleans(),
)
def test_masks_hold_whatever_the_optimizer_remembers(
    case: tuple[str, dict[str, Any]],
    sparsity: float,
    momentum: float,
    decay: float,
    given_masks: bool,
) -> None:
    variant, own = case
    options: dict[str, Any] = {"lr": 0.1, "momentum": momentum, "weight_decay": decay}
    if given_masks:
        model, masks = zeroed(sparsity)
        optimizer = build_sam(variant, model, SGD, 0.1, settings=own, masks=masks, **options)
    else:
        model = pruned(sparsity)
        optimizer = build_sam(variant, model, SGD, 0.1, settings=own, **options)
    before = weights(model)
    run(model, optimizer, batches(7))
    if given_masks:
        for name, mask in masks.items():
            assert not model.get_parameter(name).detach()[~mask].count_nonzero()
    else:
        check_pruned_weights_are_zero(model)
    assert not same(weights(model), before)


@pytest.mark.parametrize(("variant", "own"), VARIANT_CASES)
def test_given_masks_and_masks_in_the_graph_train_alike(variant: str, own: dict[str, Any]) -> None:
    one, (other, masks) = pruned(0.8), zeroed(0.8)
    options: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3}
    run(one, build_sam(variant, one, SGD, 0.2, settings=own, **options), batches(8))
    run(
        other, build_sam(variant, other, SGD, 0.2, settings=own, masks=masks, **options), batches(8)
    )
    one(BATCH[0])
    torch.testing.assert_close(effective(one), effective(other), rtol=1e-5, atol=1e-6)


def test_masks_may_be_given_by_parameter_and_as_numbers() -> None:
    one, masks = zeroed(0.8)
    other, _ = zeroed(0.8)
    numbers = {other.get_parameter(name): mask.float() for name, mask in masks.items()}
    run(one, SAM(one.parameters(), SGD, model=one, masks=masks, lr=0.1), batches(3))
    run(other, SAM(other.parameters(), SGD, masks=numbers, lr=0.1), batches(3))
    assert same(weights(one), weights(other))


@pytest.mark.parametrize("given_masks", [False, True])
@pytest.mark.parametrize("sparsity", [0.5, 0.95])
def test_the_dense_gradient_revives_pruned_weights_in_the_ascent_only(
    sparsity: float, given_masks: bool
) -> None:
    options: dict[str, Any] = {"rho": 0.5, "dense_gradient": True, "lr": 0.1, "momentum": 0.9}
    if given_masks:
        model, masks = zeroed(sparsity)
        sam = SAM(model.parameters(), SGD, model=model, masks=masks, **options)
    else:
        model = pruned(sparsity)
        sam = SAM(model.parameters(), SGD, model=model, **options)
    dense, kept = dense_gradient(sparsity)
    model(BATCH[0])
    seen: list[Tensor] = [effective(model)]
    outputs: list[Tensor] = []

    def closure() -> Tensor:
        outputs.append(model(BATCH[0]).detach())
        seen.append(effective(model))
        loss = cross_entropy(model(BATCH[0]), BATCH[1])
        loss.backward()
        return loss

    sam.step(closure)
    before, first, second = seen
    torch.testing.assert_close(first, before, rtol=0, atol=0)
    epsilon = second - before
    torch.testing.assert_close(epsilon, 0.5 * dense / dense.norm(), rtol=1e-4, atol=1e-6)
    assert epsilon[kept == 0].count_nonzero() > 0
    assert not outputs[1].equal(outputs[0])
    model(BATCH[0])
    assert effective(model)[kept == 0].count_nonzero() == 0
    assert not effective(model).equal(before)
    if not given_masks:
        check_pruned_weights_are_zero(model)
        masks_now = masks_of(model)
        assert masks_now is not None
        assert masks_now.sparsity == pytest.approx(sparsity, abs=0.01)


@pytest.mark.parametrize("given_masks", [False, True])
@pytest.mark.parametrize("also_dense", [False, True])
def test_the_share_of_the_norm_on_kept_weights_is_measured(
    given_masks: bool, also_dense: bool
) -> None:
    options: dict[str, Any] = {
        "rho": 0.1,
        "lr": 0.1,
        "track_kept_share": True,
        "dense_gradient": also_dense,
    }
    if given_masks:
        model, masks = zeroed(0.9)
        sam = SAM(model.parameters(), SGD, model=model, masks=masks, **options)
    else:
        model = pruned(0.9)
        sam = SAM(model.parameters(), SGD, model=model, **options)
    assert sam.kept_share is None
    run(model, sam, [BATCH])
    dense, kept = dense_gradient(0.9)
    assert isinstance(sam.kept_share, Tensor)
    torch.testing.assert_close(sam.kept_share, (dense * kept).norm() / dense.norm())
    assert 0.05 < float(sam.kept_share) < 0.95


@pytest.mark.parametrize(
    # Momentum SAM knows no gradient at w, and refuses to measure it.
    ("variant", "own"),
    [case for case in VARIANT_CASES if case[0] != "momentum"],
)
def test_measuring_the_share_changes_no_step(variant: str, own: dict[str, Any]) -> None:
    one, other = pruned(0.8), pruned(0.8)
    options: dict[str, Any] = {"settings": own, "lr": 0.1, "momentum": 0.9}
    run(one, build_sam(variant, one, SGD, 0.2, **options), batches(4))
    run(other, build_sam(variant, other, SGD, 0.2, track_kept_share=True, **options), batches(4))
    torch.testing.assert_close(flat(weights(one)), flat(weights(other)), rtol=1e-6, atol=1e-7)


def test_pruned_weights_that_torch_keeps_under_the_mask_are_not_revived() -> None:
    # torch.nn.utils.prune leaves weight_orig as it was; opening the mask must not show that.
    model = perceptron()
    prune.l1_unstructured(model[0], "weight", amount=0.7)
    expected = model(BATCH[0]).detach()
    assert model[0].weight_orig.detach()[model[0].weight_mask == 0].count_nonzero()
    sam = SAM(model.parameters(), SGD, model=model, dense_gradient=True, lr=0.0)
    outputs: list[Tensor] = []

    def closure() -> Tensor:
        output = model(BATCH[0])
        outputs.append(output.detach())
        loss = cross_entropy(output, BATCH[1])
        loss.backward()
        return loss

    sam.step(closure)
    assert outputs[0].equal(expected)
    assert model(BATCH[0]).equal(expected)


def test_masks_close_again_when_a_closure_fails() -> None:
    model = pruned(0.5)
    sam = SAM(model.parameters(), SGD, model=model, dense_gradient=True, lr=0.1)
    before = [buffer.clone() for buffer in model.buffers()]
    for fail_at in (1, 2):
        calls = 0

        def closure(fail_at: int = fail_at) -> Tensor:
            nonlocal calls
            calls += 1
            loss = cross_entropy(model(BATCH[0]), BATCH[1])
            loss.backward()
            if calls == fail_at:
                raise RuntimeError("on purpose")
            return loss

        with pytest.raises(RuntimeError, match="on purpose"):
            sam.step(closure)
        assert same(list(model.buffers()), before)
        check_pruned_weights_are_zero(model)


def test_the_two_passes_can_be_taken_by_hand() -> None:
    one, other = pruned(0.8), pruned(0.8)
    options: dict[str, Any] = {"rho": 0.3, "dense_gradient": True, "lr": 0.1}
    run(one, SAM(one.parameters(), SGD, model=one, **options), [BATCH])
    sam = SAM(other.parameters(), SGD, model=other, **options)
    with sam.first_pass():
        cross_entropy(other(BATCH[0]), BATCH[1]).backward()
    sam.first_step(zero_grad=True)
    with sam.second_pass():
        cross_entropy(other(BATCH[0]), BATCH[1]).backward()
    sam.second_step(zero_grad=True)
    assert same(weights(one), weights(other))
    cross_entropy(other(BATCH[0]), BATCH[1]).backward()
    with pytest.raises(RuntimeError, match="first_pass"):
        sam.first_step()


def test_masks_that_do_not_fit_are_refused() -> None:
    model = perceptron()
    wrong = torch.ones(2, dtype=torch.bool)
    with pytest.raises(MaskError, match=r"shape \(2,\), but its parameter has \(16, 12\)"):
        SAM(model.parameters(), SGD, masks={model[0].weight: wrong}, lr=1)
    with pytest.raises(MaskError, match="nonsense: the model has no such parameter"):
        SAM(model.parameters(), SGD, model=model, masks={"nonsense": wrong}, lr=1)
    with pytest.raises(MaskError, match=r"0\.weight: to use names, pass model= too"):
        SAM(model.parameters(), SGD, masks={"0.weight": wrong}, lr=1)
