"""Networks that are trained together end where each would have ended alone."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_sam.batched import Member, initial, train_batched
from sparse_sam.checkpoint import Checkpoint
from sparse_sam.config import FinetuneParams, TrainingParams
from sparse_sam.dataset import TrainingData
from sparse_sam.errors import DivergenceError
from sparse_sam.experiment import Trained, finetune, prune
from tests.recipes import prune_params, sam_params

Recipe = Callable[..., TrainingParams]
Data = Callable[..., TrainingData]

# The same sums in another order: after so few steps the difference is some roundings of float32,
# 6e-8 each, which a step of SAM multiplies by no more than the curvature times its radius.
RTOL, ATOL = 1e-4, 1e-5


def alone(member: Member, data: TrainingData, recipe: TrainingParams) -> Trained:
    params = FinetuneParams(training=recipe, sam=sam_params(member.rho))
    arm = "sam" if member.rho else "sgd"
    return finetune(member.start, data, params, arm, lambda _: None)


def pruned(data: TrainingData, model: str, seed: int, sparsity: float) -> Checkpoint:
    return prune(initial(data, model, seed), prune_params(sparsity=sparsity))


def compare(members: Sequence[Member], data: TrainingData, recipe: TrainingParams) -> None:
    together = train_batched(members, data, recipe, purpose="finetune")
    assert len(together) == len(members)
    for member, one in zip(members, together, strict=True):
        expected = alone(member, data, recipe)
        assert one.checkpoint.origin == replace(member.start.origin, arm=member.arm)
        assert one.checkpoint.state.keys() == expected.checkpoint.state.keys()
        for name, tensor in expected.checkpoint.state.items():
            found = one.checkpoint.state[name]
            assert found.dtype == tensor.dtype
            torch.testing.assert_close(found, tensor, rtol=RTOL, atol=ATOL, msg=name)
            if name.endswith("num_batches_tracked"):
                assert torch.equal(found, tensor)
        for name, mask in (member.start.masks or {}).items():
            assert not one.checkpoint.state[name][~mask].any()
        assert len(one.history) == len(expected.history)
        for row, other in zip(one.history, expected.history, strict=True):
            exact = ("epoch", "gradient_evaluations", "learning_rate", "validation_accuracy")
            assert [getattr(row, key) for key in exact] == [getattr(other, key) for key in exact]
            for key in ("train_loss", "validation_loss"):
                wanted = getattr(other, key)
                same = None if wanted is None else pytest.approx(wanted, rel=RTOL)
                assert getattr(row, key) == same


@settings(max_examples=12)
@given(
    rhos=st.lists(st.sampled_from([0.0, 0.05, 0.2]), min_size=1, max_size=3),
    momentum=st.sampled_from([0.0, 0.9]),
    weight_decay=st.sampled_from([0.0, 0.01]),
    schedule=st.sampled_from(["constant", "cosine"]),
    smoothing=st.sampled_from([0.0, 0.1]),
    sparsity=st.sampled_from([0.0, 0.5, 0.9]),
    shift=st.sampled_from([0, 1]),
    validation=st.sampled_from([0, 15]),
)
def test_every_network_ends_where_it_would_have_ended_alone(
    make_data: Data,
    make_recipe: Recipe,
    tiny_net: str,
    rhos: list[float],
    momentum: float,
    weight_decay: float,
    schedule: str,
    smoothing: float,
    sparsity: float,
    shift: int,
    validation: int,
) -> None:
    data = make_data(validation=validation)
    recipe = make_recipe(
        epochs=3,
        lr=0.05,
        momentum=momentum,
        weight_decay=weight_decay,
        schedule=schedule,
        label_smoothing=smoothing,
        shift_pixels=shift,
    )
    members = [
        Member(pruned(data, tiny_net, seed, sparsity), "sam" if rho else "sgd", rho)
        for seed, rho in enumerate(rhos)
    ]
    compare(members, data, recipe)


@pytest.mark.parametrize("name", ["tied", "attention", "group_norm"])
def test_networks_that_share_weights_or_read_others_end_where_they_would_alone(
    make_data: Data, make_recipe: Recipe, name: str
) -> None:
    data, recipe = make_data(), make_recipe(lr=0.03, momentum=0.9)
    members = [
        Member(pruned(data, f"tests.networks:{name}", seed, 0.5), arm, rho)
        for seed in (0, 1)
        for arm, rho in (("sgd", 0.0), ("sam", 0.05))
    ]
    compare(members, data, recipe)


@pytest.mark.parametrize("model", ["classifier", "lenet-300-100"])
def test_arms_and_radii_of_one_seed_train_together_with_dense_networks(
    make_data: Data, make_recipe: Recipe, model: str
) -> None:
    data = make_data(train=24, validation=9)
    start = pruned(data, model, 0, 0.9)
    members = [
        Member(start, "sgd"),
        Member(start, "sam", 0.05),
        Member(initial(data, model, 1), "dense"),
        Member(start, "sam", 0.1),
    ]
    compare(members, data, make_recipe(epochs=2, momentum=0.9, weight_decay=1e-3, lr=0.02))


def test_products_are_of_float32_only(make_data: Data, make_recipe: Recipe, tiny_net: str) -> None:
    data = make_data()
    recipe = make_recipe(precision="bfloat16")
    with pytest.raises(ValueError, match=r"precision = .bfloat16.: .* allowed: float32"):
        train_batched([Member(initial(data, tiny_net, 0), "dense")], data, recipe, purpose="dense")


def test_pooling_layers_map_too(make_recipe: Recipe, make_data: Data) -> None:
    small = make_data(train=8, validation=0)
    info = replace(small.info, image_shape=(1, 28, 28))
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(8, 1, 28, 28, generator=generator)
    data = TrainingData(replace(small.train, images=images), None, info)
    members = [Member(pruned(data, "lenet-5", seed, 0.8), "sam", 0.05) for seed in range(2)]
    compare(members, data, make_recipe(epochs=1, batch_size=4, lr=0.01))


def test_the_start_is_left_as_it_was(make_data: Data, make_recipe: Recipe, tiny_net: str) -> None:
    data = make_data()
    start = pruned(data, tiny_net, 0, 0.5)
    before = {name: tensor.clone() for name, tensor in start.state.items()}
    train_batched([Member(start, "sam", 0.05)], data, make_recipe(), purpose="finetune")
    assert all(torch.equal(start.state[name], tensor) for name, tensor in before.items())


def test_a_divergence_names_the_network(
    make_data: Data, make_recipe: Recipe, tiny_net: str
) -> None:
    data = make_data()
    members = [Member(initial(data, tiny_net, 3), "sam", 0.5)]
    recipe = make_recipe(lr=1e6, weight_decay=1e6, epochs=5)
    with pytest.raises(DivergenceError, match=r"sam, seed 3: .* and rho 0\.5\. Lower lr or rho"):
        train_batched(members, data, recipe, purpose="finetune")


def test_only_networks_of_one_model_train_together(
    make_data: Data, make_recipe: Recipe, tiny_net: str
) -> None:
    data = make_data()
    members = [Member(initial(data, name, 0), "dense") for name in (tiny_net, "lenet-300-100")]
    for refused in ([], members):
        with pytest.raises(ValueError, match="of one model, and one at least"):
            train_batched(refused, data, make_recipe(), purpose="finetune")


def test_layers_that_draw_random_numbers_are_refused(
    make_data: Data, make_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch import nn

    from sparse_sam.models import MODELS

    def with_dropout(image_shape: tuple[int, int, int], classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(25, classes))

    monkeypatch.setitem(MODELS, "dropout", with_dropout)
    data = make_data()
    with pytest.raises(RuntimeError, match="random"):
        train_batched(
            [Member(initial(data, "dropout", 0), "dense")], data, make_recipe(), purpose="finetune"
        )
