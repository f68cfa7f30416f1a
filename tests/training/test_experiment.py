"""The experiment of one seed: every arm from the same weights, sparse to the end."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparse_sam.data.seeding import seeded
from sparse_sam.data.tensors import TrainingData
from sparse_sam.errors import DivergenceError, MaskError
from sparse_sam.networks.build import build_model
from sparse_sam.pruning.masks import plain_parameters
from sparse_sam.pruning.ranking import pruned_count
from sparse_sam.sam.registry import VARIANTS
from sparse_sam.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from sparse_sam.training.experiment import arm_recipe, finetune, prune, train_dense
from sparse_sam.training.loop import Epoch, evaluate
from sparse_sam.training.params import DenseParams, FinetuneParams, TrainingParams
from tests.recipes import NOT_DISTILLED, prune_params, sam_params

Recipe = Callable[..., TrainingParams]
Data = Callable[..., TrainingData]
WEIGHTS = {"1.weight": 12 * 25, "4.weight": 3 * 12}
ALL_WEIGHTS = {**WEIGHTS, "2.weight": 12, "2.bias": 12, "4.bias": 3}
ARMS = ("sgd", "sgd_2x", "sam")


def silent(_: Epoch) -> None:
    return


def dense_params(recipe: TrainingParams, optimizer: str = "sgd", **sam: Any) -> DenseParams:
    return DenseParams(**recipe.model_dump(), optimizer=optimizer, sam=sam_params(**sam))


def finetune_params(recipe: TrainingParams, rho: float = 0.05, **sam: Any) -> FinetuneParams:
    return FinetuneParams(training=recipe, distillation=NOT_DISTILLED, sam=sam_params(rho, **sam))


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def zeros(checkpoint: Checkpoint, names: dict[str, int]) -> dict[str, int]:
    return {name: int((checkpoint.state[name] == 0).sum()) for name in names}


def untimed(history: list[Epoch]) -> list[Epoch]:
    return [replace(row, seconds=0.0) for row in history]


@pytest.fixture(scope="module")
def dense(make_data: Data, make_recipe: Recipe, tiny_net: str) -> Checkpoint:
    return train_dense(make_data(), tiny_net, dense_params(make_recipe()), 3, silent).checkpoint


# Dense training


def test_dense_training_starts_where_the_seed_says_and_moves(
    make_data: Data, make_recipe: Recipe, tiny_net: str
) -> None:
    data, seen = make_data(), []
    with seeded(3, "initialisation"):
        start = build_model(tiny_net, (1, 5, 5), 3)
    torch.manual_seed(12345)
    trained = train_dense(data, tiny_net, dense_params(make_recipe(epochs=2)), 3, seen.append)
    assert seen == trained.history
    assert data.validation is not None
    first = evaluate(start, data.validation)
    assert (trained.history[0].validation_loss, trained.history[0].epoch) == (first.loss, 0)
    before = start.state_dict()
    moved = [
        name
        for name, tensor in trained.checkpoint.state.items()
        if not torch.equal(tensor, before[name])
    ]
    assert moved == list(before)
    assert trained.checkpoint.masks is None


def test_dense_training_repeats_and_depends_on_the_seed(
    make_data: Data, make_recipe: Recipe, tiny_net: str, dense: Checkpoint
) -> None:
    torch.manual_seed(99)
    again = train_dense(make_data(), tiny_net, dense_params(make_recipe()), 3, silent).checkpoint
    assert same(again.state, dense.state)
    other = train_dense(make_data(), tiny_net, dense_params(make_recipe()), 4, silent).checkpoint
    assert not torch.equal(other.state["1.weight"], dense.state["1.weight"])


GRADIENTS = {  # of 2 epochs of 4 batches
    "sam": 16,
    "asam": 16,
    "periodic": 8 + 2,  # steps 1 and 6 ascend
    "looksam": 8 + 2,
    "late": 8 + 5,  # all but the first 3 ascend
    "momentum": 8,
    "gsam": 16,
}


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_every_variant_trains_dense_and_pruned_networks(
    variant: str, make_data: Data, make_recipe: Recipe, tiny_net: str, dense: Checkpoint
) -> None:
    data, recipe = make_data(), make_recipe(momentum=0.9, weight_decay=1e-3)
    with_sgd = train_dense(data, tiny_net, dense_params(recipe), 3, silent)
    chosen = dense_params(recipe, "sam", variant=variant)
    trained = train_dense(data, tiny_net, chosen, 3, silent)
    steps = with_sgd.history[-1].gradient_evaluations
    assert steps == 8
    assert trained.history[-1].gradient_evaluations == GRADIENTS[variant]
    assert not same(trained.checkpoint.state, with_sgd.checkpoint.state)
    assert trained.history[-1].validation_loss < trained.history[0].validation_loss
    pruned = prune(dense, prune_params(sparsity=0.8))
    finetuned = finetune(pruned, data, finetune_params(recipe, variant=variant), "sam", silent)
    assert finetuned.history[-1].gradient_evaluations == GRADIENTS[variant]
    assert zeros(finetuned.checkpoint, WEIGHTS) == zeros(pruned, WEIGHTS)


def test_a_setting_of_the_variant_reaches_it(
    make_data: Data, make_recipe: Recipe, tiny_net: str, dense: Checkpoint
) -> None:
    pruned = prune(dense, prune_params())
    params = finetune_params(make_recipe(), variant="periodic", k=2)
    finetuned = finetune(pruned, make_data(), params, "sam", silent)
    assert finetuned.history[-1].gradient_evaluations == 8 + 4


def test_late_sam_is_between_the_arms(
    make_data: Data, make_recipe: Recipe, tiny_net: str, dense: Checkpoint
) -> None:
    data, recipe = make_data(), make_recipe(momentum=0.9, weight_decay=1e-3)
    pruned = prune(dense, prune_params(sparsity=0.8))

    def finetuned(arm: str, **sam: Any) -> tuple[dict[str, Tensor], int]:
        done = finetune(pruned, data, finetune_params(recipe, **sam), arm, silent)
        return done.checkpoint.state, done.history[-1].gradient_evaluations

    for after, arm in ((0, "sam"), (8, "sgd")):
        (late, passes), (expected, its) = (
            finetuned("sam", variant="late", after=after),
            finetuned(arm),
        )
        assert same(late, expected)
        assert passes == its
    assert finetuned("sam", variant="late", after=6)[1] == 8 + 2


def test_a_checkpoint_says_what_made_it(
    make_data: Data, make_recipe: Recipe, tiny_net: str, dense: Checkpoint
) -> None:
    data = make_data()
    origin = dense.origin
    assert (origin.model.name, origin.image_shape, origin.num_classes) == (tiny_net, (1, 5, 5), 3)
    assert (origin.mean, origin.std, origin.dataset) == ((0.25,), (0.5,), data.info.fingerprint)
    assert (origin.arm, origin.seed) == ("dense", 3)
    pruned = prune(dense, prune_params())
    assert pruned.origin == replace(origin, arm="pruned")
    for arm in ARMS:
        trained = finetune(pruned, data, finetune_params(make_recipe(epochs=1)), arm, silent)
        assert trained.checkpoint.origin == replace(origin, arm=arm)


# Pruning


def test_pruning_takes_the_smallest_and_leaves_the_rest(dense: Checkpoint) -> None:
    before = {name: tensor.clone() for name, tensor in dense.state.items()}
    pruned = prune(dense, prune_params(sparsity=0.8))
    assert same(dense.state, before)
    assert pruned.masks is not None
    assert list(pruned.masks) == list(WEIGHTS)
    for name, tensor in pruned.state.items():
        keep = pruned.masks.get(name, torch.ones_like(tensor, dtype=torch.bool))
        assert torch.equal(tensor[keep], before[name][keep])
        assert not tensor[~keep].any()
        if name in WEIGHTS:
            assert before[name][~keep].abs().max() <= before[name][keep].abs().min()
    assert zeros(pruned, WEIGHTS) == {"1.weight": 240, "4.weight": 29}
    assert same(prune(dense, prune_params(sparsity=0.8)).state, pruned.state)


def test_pruning_does_as_its_parameters_say(dense: Checkpoint) -> None:
    everywhere = prune(dense, prune_params(batchnorm=True, biases=True, sparsity=0.25))
    assert zeros(everywhere, ALL_WEIGHTS) == {
        name: round(size / 4) for name, size in ALL_WEIGHTS.items()
    }
    together = prune(dense, prune_params(scope="global"))
    assert sum(zeros(together, WEIGHTS).values()) == 168
    assert zeros(together, WEIGHTS)["1.weight"] != 150


def test_a_pruned_network_is_not_pruned_again(dense: Checkpoint) -> None:
    with pytest.raises(MaskError, match="already pruned"):
        prune(prune(dense, prune_params()), prune_params())


# Finetuning


@pytest.mark.parametrize("arm", ARMS)
def test_finetuning_moves_the_weights_that_are_kept(
    make_data: Data, make_recipe: Recipe, dense: Checkpoint, arm: str
) -> None:
    # The fault that this project began with: an optimizer of the dense model moves only
    # BatchNorm's running statistics.
    pruned = prune(dense, prune_params())
    before = {name: tensor.clone() for name, tensor in pruned.state.items()}
    trained = finetune(pruned, make_data(), finetune_params(make_recipe()), arm, silent)
    assert same(pruned.state, before)
    assert pruned.masks is not None
    for name, tensor in trained.checkpoint.state.items():
        moved = tensor != before[name]
        keep = pruned.masks.get(name, torch.ones_like(tensor, dtype=torch.bool))
        assert not moved[~keep].any(), name
        # Not all: a hidden unit that has lost its connections learns nothing.
        assert moved[keep].float().mean() > 0.5, name
    assert trained.checkpoint.masks is not None
    assert all(
        torch.equal(trained.checkpoint.masks[name], mask) for name, mask in pruned.masks.items()
    )


def test_the_arms_start_alike_and_cost_what_they_should(
    make_data: Data, make_recipe: Recipe, dense: Checkpoint
) -> None:
    pruned, data = prune(dense, prune_params(sparsity=0.8)), make_data(train=30)
    params = finetune_params(make_recipe(epochs=2, batch_size=8, momentum=0.9))
    found = {arm: finetune(pruned, data, params, arm, silent) for arm in ARMS}
    histories = {arm: untimed(one.history) for arm, one in found.items()}
    assert histories["sgd"][0] == histories["sgd_2x"][0] == histories["sam"][0]
    assert data.validation is not None
    start = evaluate(pruned.build(), data.validation)
    assert histories["sam"][0].validation_loss == start.loss
    # Four batches an epoch; at equal compute SGD has trained twice as long.
    assert {arm: history[-1].gradient_evaluations for arm, history in histories.items()} == {
        "sgd": 8,
        "sgd_2x": 16,
        "sam": 16,
    }
    # SGD at equal compute goes on where SGD at equal epochs stops.
    assert histories["sgd_2x"][:3] == histories["sgd"]
    assert histories["sam"][1].train_loss != histories["sgd"][1].train_loss


def test_the_recipes_of_the_arms(make_recipe: Recipe) -> None:
    recipe = make_recipe(epochs=3, schedule="cosine")
    assert arm_recipe(recipe, "sgd") == arm_recipe(recipe, "sam") == recipe
    assert arm_recipe(recipe, "sgd_2x") == make_recipe(epochs=6, schedule="cosine")


def test_sam_with_a_rho_of_0_is_sgd_bit_for_bit(
    make_data: Data, make_recipe: Recipe, dense: Checkpoint
) -> None:
    pruned, data = prune(dense, prune_params(sparsity=0.9)), make_data()
    params = finetune_params(make_recipe(momentum=0.9, weight_decay=0.01, schedule="cosine"), 0.0)
    sgd, sam = (finetune(pruned, data, params, arm, silent).checkpoint for arm in ("sgd", "sam"))
    assert same(sgd.state, sam.state)
    with_rho = finetune(pruned, data, finetune_params(params.training, 0.1), "sam", silent)
    assert not torch.equal(with_rho.checkpoint.state["4.weight"], sgd.state["4.weight"])


def test_finetuning_repeats_and_depends_on_the_seed(
    make_data: Data, make_recipe: Recipe, dense: Checkpoint
) -> None:
    pruned, data = prune(dense, prune_params()), make_data()
    params = finetune_params(make_recipe())
    for arm in ARMS:
        torch.manual_seed(1)
        one = finetune(pruned, data, params, arm, silent)
        torch.manual_seed(2)
        other = finetune(pruned, data, params, arm, silent)
        assert same(one.checkpoint.state, other.checkpoint.state)
        assert untimed(one.history) == untimed(other.history)
        reseeded = replace(pruned, origin=replace(pruned.origin, seed=4))
        third = finetune(reseeded, data, params, arm, silent)
        assert not torch.equal(third.checkpoint.state["1.weight"], one.checkpoint.state["1.weight"])


def test_a_divergence_names_rho_only_where_there_is_one(
    make_data: Data, make_recipe: Recipe, dense: Checkpoint
) -> None:
    pruned = prune(dense, prune_params())
    params = finetune_params(make_recipe(lr=1e6, weight_decay=1e6, epochs=5), rho=0.5)
    with pytest.raises(DivergenceError, match=r"with lr 1e\+06\. Lower lr in"):
        finetune(pruned, make_data(), params, "sgd", silent)
    with pytest.raises(DivergenceError, match=r"with lr 1e\+06 and rho 0\.5\. Lower lr or rho in"):
        finetune(pruned, make_data(), params, "sam", silent)


# The promise


@settings(max_examples=25)
@given(
    sparsity=st.one_of(st.floats(0, 0.95), st.sampled_from([0.0, 0.5, 0.9])),
    scope=st.sampled_from(["layerwise", "global"]),
    everything=st.booleans(),
    arm=st.sampled_from(["sgd", "sam"]),
    momentum=st.sampled_from([0.0, 0.9]),
    weight_decay=st.sampled_from([0.0, 0.1]),
    rho=st.sampled_from([0.05, 1.0]),
)
def test_every_saved_network_has_exactly_the_sparsity_that_was_asked_for(
    make_data: Data,
    make_recipe: Recipe,
    dense: Checkpoint,
    tmp_path_factory: pytest.TempPathFactory,
    sparsity: float,
    scope: str,
    everything: bool,
    arm: str,
    momentum: float,
    weight_decay: float,
    rho: float,
) -> None:
    data, path = make_data(train=16, validation=0), tmp_path_factory.getbasetemp() / "promise"
    sizes = ALL_WEIGHTS if everything else WEIGHTS
    params = prune_params(sparsity=sparsity, scope=scope, batchnorm=everything, biases=everything)
    dataset = dense.origin.dataset
    try:
        pruned = prune(dense, params)
    except MaskError as error:
        # Only where a tensor as small as a bias would be emptied.
        emptied = any(pruned_count(sparsity, size) == size for size in sizes.values())
        assert "would prune all" in str(error)  # noqa: PT017
        assert emptied or scope == "global"
        return
    recipe = make_recipe(epochs=1, momentum=momentum, weight_decay=weight_decay)
    save_checkpoint(path, pruned)
    known = {"seed": 3, "dataset": dataset, "model": dense.origin.model}
    pruned = load_checkpoint(path, arm="pruned", stage="prune", **known)
    tuned = finetune(pruned, data, finetune_params(recipe, rho), arm, silent).checkpoint
    save_checkpoint(path, tuned)
    tuned = load_checkpoint(path, arm=arm, stage="finetune", **known)
    for checkpoint in (pruned, tuned):
        assert checkpoint.masks is not None
        assert checkpoint.masks.keys() == sizes.keys()
        # A kept weight may be 0 by chance; none of the dense network's weights is, but biases.
        gone = {name: int((~mask).sum()) for name, mask in checkpoint.masks.items()}
        if scope == "layerwise":
            assert gone == {name: pruned_count(sparsity, size) for name, size in sizes.items()}
        else:
            assert sum(gone.values()) == pruned_count(sparsity, sum(sizes.values()))
        assert zeros(checkpoint, sizes) == gone
        built = plain_parameters(checkpoint.build())
        for name, mask in checkpoint.masks.items():
            assert int((built[name] == 0).sum()) == int((~mask).sum())


def test_the_promise_holds_for_the_classifier(
    make_data: Data, make_recipe: Recipe, tmp_path: Path
) -> None:
    # Images of 5 × 5: one position is left after the two convolutions.
    data = make_data(train=16)
    params = finetune_params(make_recipe(epochs=1, momentum=0.9, weight_decay=0.01))
    dense = train_dense(
        data, "classifier", dense_params(make_recipe(epochs=1)), 0, silent
    ).checkpoint
    pruned = prune(dense, prune_params(sparsity=0.9))
    sizes = {"0.weight": 64 * 16, "2.weight": 128 * 64 * 16, "6.weight": 3 * 128}
    for arm in ARMS:
        save_checkpoint(tmp_path / arm, finetune(pruned, data, params, arm, silent).checkpoint)
        loaded = load_checkpoint(
            tmp_path / arm, arm=arm, seed=0, dataset=data.info.fingerprint, stage="finetune"
        )
        assert zeros(loaded, sizes) == {n: round(0.9 * size) for n, size in sizes.items()}
        assert int(loaded.state["3.num_batches_tracked"]) == (6 if arm == "sgd_2x" else 4)


def test_lazy_layers_draw_their_weights_from_the_seed(
    make_data: Callable[..., TrainingData], make_recipe: Callable[..., TrainingParams]
) -> None:
    recipe = dense_params(make_recipe())
    found = []
    for noise in (0, 1):
        torch.manual_seed(noise)  # what ran in this process before
        done = train_dense(make_data(), "tests.sample_networks:lazy", recipe, 3, lambda _: None)
        found.append(done.checkpoint.state)
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][name], tensor) for name, tensor in found[1].items())
