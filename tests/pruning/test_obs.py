"""Second-order criteria: gradients of each example, removal in stages, what the others become."""

import copy
from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import prune as torch_prune

from sparse_sam.data.tensors import Split
from sparse_sam.errors import DivergenceError, MaskError
from sparse_sam.networks.build import build_model
from sparse_sam.pruning.criteria import Evidence
from sparse_sam.pruning.gradients import Weights
from sparse_sam.pruning.masks import (
    attach,
    check_only_shrinks,
    check_pruned_weights_are_zero,
    masks_of,
    plain_parameters,
    plain_state,
)
from sparse_sam.pruning.obs import OBS, OBSSelection, obs_paths_kept
from sparse_sam.pruning.pruner import Pruner
from tests import sample_networks
from tests.every_network import small

EXAMPLES = 12


def convolutions() -> nn.Sequential:
    """With BatchNorm, whose statistics and scales are not the initial ones."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 6, 2, bias=False),
        nn.Flatten(),
        nn.Linear(24, 16),
        nn.ReLU(),
        nn.Linear(16, 3),
    )
    model(torch.randn(30, 1, 4, 4) + 1)
    return model.eval()


def evidence(shape: tuple[int, ...] = (1, 4, 4), count: int = EXAMPLES) -> Evidence:
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(count) % 3
    images = torch.randn(count, *shape, generator=generator) + labels.view(-1, 1, 1, 1) / 2
    return Evidence(3, Split(images, labels))


def gradients_one_by_one(model: nn.Module, split: Split) -> Tensor:
    rows = []
    for image, label in zip(split.images, split.labels, strict=True):
        loss = cross_entropy(model(image[None]), label[None])
        own = torch.autograd.grad(loss, list(model.parameters()))
        rows.append(torch.cat([one.flatten() for one in own]))
    return torch.stack(rows)


def every_bit(model: nn.Module) -> dict[str, Tensor]:
    return {name: one.clone() for name, one in model.state_dict().items()}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", [*sample_networks.NAMES, "writes_to_its_input"])
def test_gradients_side_by_side_are_those_one_by_one(
    name: str, masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = build_model(f"tests.sample_networks:{name}", (1, 5, 5), 3).eval()
    check_gradients(model, (1, 5, 5), masked, monkeypatch)


@pytest.mark.parametrize("name", ["classifier", "lenet-5", "resnet-20", "vit"])
def test_gradients_of_registered_networks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    shape = (1, 28, 28)
    check_gradients(build_model(small(name), shape, 3).eval(), shape, True, monkeypatch)


def check_gradients(
    model: nn.Module, shape: tuple[int, ...], masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if masked:
        attach(model, Pruner().masks(model, 0.4))
    weights = Weights(model, plain_parameters(model))
    train = evidence(shape, 5).train
    assert train is not None
    columns = torch.arange(len(weights.flat()))[1::3]
    order = torch.tensor([3, 0, 4])
    with weights.borrowed():
        found = weights.gradients(train, order, columns)
        monkeypatch.setattr(Weights, "_is_functional", False)
        expected = weights.gradients(train, order, columns)
        own = [
            torch.autograd.grad(
                cross_entropy(model(train.taken(order[k : k + 1])), train.labels[order[k : k + 1]]),
                list(weights.parameters.values()),
                allow_unused=True,
                materialize_grads=True,
            )
            for k in range(3)
        ]
    by_hand = torch.stack([torch.cat([one.flatten() for one in row])[columns] for row in own])
    torch.testing.assert_close(expected, by_hand)
    torch.testing.assert_close(found, by_hand, rtol=1e-4, atol=1e-6)
    assert found.any()


@pytest.mark.parametrize("block", [2**20, 100])
def test_the_order_of_one_stage_is_that_of_the_statistic(block: int) -> None:
    model, seen = convolutions(), evidence()
    assert seen.train is not None
    rows = gradients_one_by_one(model, seen.train).double()
    values = torch.cat([one.detach().flatten() for one in model.parameters()]).double()
    (left,) = values.nonzero(as_tuple=True)  # biases that are 0 go first
    rows, values = rows[:, left], values[left]
    damping = 0.1 * float(rows.square().sum()) / rows.numel()
    expected = []
    for part, value in zip(rows.split(block, 1), values.split(block), strict=True):
        matrix = part.T @ part / len(part) + damping * torch.eye(part.shape[1])
        expected.append(value.square() / torch.linalg.inv(matrix).diagonal())
    # (A stage that leaves all, and then the rest at once.)
    obs = OBS(until=1.0, damping=0.1, block=block)
    scores = obs.scores(model, dict(model.named_parameters()), seen)
    found = torch.cat([one.flatten() for one in scores.values()])
    assert found.count_nonzero() == len(left)
    rising = torch.cat(expected)[found[left].argsort()]
    assert (rising[1:] >= rising[:-1] * (1 - 1e-3)).all()


def test_blocks_larger_than_the_network_are_one() -> None:
    found = [
        OBS(block=block).scores(model, dict(model.named_parameters()), evidence())
        for block in (2**20, sum(one.numel() for one in convolutions().parameters()))
        for model in [convolutions()]
    ]
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize("criterion", ["obs", "obs-selection"])
def test_masks_are_nested_and_repeated_and_the_network_stays(criterion: str) -> None:
    model, seen = convolutions(), evidence()
    before, modes = every_bit(model), [one.training for one in model.train().modules()]
    pruner = Pruner(criterion, "global")
    masks = [pruner.masks(model, share, seen) for share in (0.3, 0.6, 0.9)]
    for more, fewer in pairwise(masks):
        check_only_shrinks(more, fewer)
    again = pruner.masks(convolutions(), 0.6, seen)
    assert all(torch.equal(masks[1][name], again[name]) for name in again)
    assert all(torch.equal(before[name], one) for name, one in model.state_dict().items())
    assert all(one.grad is None and one.requires_grad for one in model.parameters())
    assert modes == [one.training for one in model.modules()]


@pytest.mark.parametrize(
    ("scope", "structure", "share"),
    [
        ("layerwise", "unstructured", 0.7),
        ("global", "unstructured", 0.9),
        ("erk", "unstructured", 0.8),
        ("global", "2:4", 0.5),
        ("layerwise", "channels", 0.5),
    ],
)
@pytest.mark.parametrize("criterion", ["obs", "obs-selection"])
def test_every_structure_and_scope(
    criterion: str, scope: str, structure: str, share: float
) -> None:
    model, seen = convolutions(), evidence()
    before = plain_state(model)
    masks = Pruner(criterion, scope, structure).prune(model, share, seen)
    check_pruned_weights_are_zero(model)
    after = plain_state(model)
    changed = False
    for name, value in after.items():
        assert value.isfinite().all()
        if name not in masks:
            assert torch.equal(value, before[name]), name  # biases, BatchNorm
        else:
            changed |= not torch.equal(value[masks[name]], before[name][masks[name]])
    assert changed == (criterion == "obs")


def test_ignored_and_overridden_tensors() -> None:
    model = convolutions()
    before = plain_state(model)
    pruner = Pruner("obs", "global", ignore=("0.*",))
    masks = pruner.prune(model, 0.8, evidence(), {"7.*": 0.25})
    assert "0.weight" not in masks
    assert int((~masks["7.weight"]).sum()) == 12
    after = plain_state(model)
    assert torch.equal(after["0.weight"], before["0.weight"])


def test_pruning_goes_on_from_a_pruned_network() -> None:
    model, seen = convolutions(), evidence()
    pruner = Pruner("obs", "global")
    first = pruner.prune(model, 0.5, seen)
    second = pruner.prune(model, 0.8, seen)
    check_only_shrinks(first, second)
    check_pruned_weights_are_zero(model)
    again = pruner.prune(model, 0.8, seen)  # nothing more goes
    assert all(torch.equal(second[name], again[name]) for name in second)


def test_a_shared_weight_counts_once() -> None:
    torch.manual_seed(0)
    model = build_model("tests.sample_networks:tied", (1, 5, 5), 3)
    masks = Pruner("obs", "global").prune(model, 0.6, evidence((1, 5, 5)))
    assert "second.weight" not in masks
    assert model.get_submodule("second") is model.get_submodule("first")
    check_pruned_weights_are_zero(model)


def test_masks_of_torch_are_gone_on_from() -> None:
    """Its hooks write a product into the layer: afterwards that of the weights that are there."""
    model = convolutions()
    torch_prune.l1_unstructured(model[5], "weight", amount=0.5)
    torch_prune.l1_unstructured(model[7], "weight", amount=0.5)
    model(torch.ones(1, 1, 4, 4))
    before = model[5].weight.detach().clone()
    found = Pruner("obs", "layerwise").masks(model, 0.8, evidence())
    masks = masks_of(model)
    assert masks is not None
    check_only_shrinks(masks, found)
    assert torch.equal(model[5].weight, before)


def test_the_others_make_up_for_what_went() -> None:
    """Near a minimum, with features that say the same: what the update is for."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (300,), generator=generator)
    few = torch.randn(300, 4, generator=generator) + nn.functional.one_hot(labels, 4)
    mixed = few @ torch.randn(4, 12, generator=generator)
    images = mixed + 0.1 * torch.randn(300, 12, generator=generator)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3, bias=False))
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=200)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(model(images), labels) + 1e-3 * model[1].weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    seen = Evidence(0, Split(images.view(300, 1, 1, 12), labels))
    losses = {}
    dense = cross_entropy(model(images), labels).item()
    for criterion in ("obs", "obs-selection"):
        one = copy.deepcopy(model)
        Pruner(criterion).prune(one, 0.5, seen)
        losses[criterion] = cross_entropy(one(images), labels).item()
    assert losses["obs"] - dense < 0.25 * (losses["obs-selection"] - dense)


def test_nothing_goes_at_sparsity_0() -> None:
    model = convolutions()
    before = plain_state(model)
    Pruner("obs").prune(model, 0.0, evidence())
    assert all(torch.equal(before[name], one) for name, one in plain_state(model).items())


def test_weights_that_are_0_go_first() -> None:
    model = convolutions()
    with torch.no_grad():
        model[5].weight[:8] = 0
    masks = Pruner("obs", "global").masks(model, 0.8, evidence())
    assert not masks["5.weight"][:8].any()


def test_frozen_weights_can_be_pruned() -> None:
    model = convolutions().requires_grad_(False)
    Pruner("obs").prune(model, 0.5, evidence())
    assert not any(one.requires_grad for one in model.parameters())


@pytest.mark.parametrize("criterion", ["obs", "obs-selection"])
def test_training_data_are_needed(criterion: str) -> None:
    with pytest.raises(
        MaskError, match=f"criterion {criterion} needs training data: pass evidence="
    ):
        Pruner(criterion).masks(convolutions(), 0.5)


def test_weights_that_became_nan_are_a_divergence() -> None:
    model = convolutions()
    before = every_bit(model)
    with torch.no_grad():
        model[5].weight[0, 0] = torch.nan
        before["5.weight"][0, 0] = torch.nan
    with pytest.raises(DivergenceError, match="infinite or NaN"):
        Pruner("obs").masks(model, 0.5, evidence())
    assert torch.equal(before["0.weight"], model[0].weight)


@pytest.mark.parametrize(
    "wrong",
    [
        {"keeps": 1.0},
        {"keeps": -0.1},
        {"examples": 0},
        {"first": 1.1},
        {"damping": -1.0},
        {"block": 0},
    ],
)
def test_settings_are_checked(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        replace(OBS(), **wrong)  # type: ignore[arg-type]


def test_one_stage_is_one_update() -> None:
    """With F of all weights of a softmax regression: against dense linear algebra."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3, bias=False))
    seen = evidence()
    assert seen.train is not None
    rows = gradients_one_by_one(model, seen.train).double()
    damping = 0.5 * float(rows.square().sum()) / rows.numel()
    matrix = rows.T @ rows / len(rows) + damping * torch.eye(48)
    values = model[1].weight.detach().flatten().double()
    kept = torch.arange(48) % 3 != 0
    expected = values[kept] + torch.linalg.solve(
        matrix[kept][:, kept], matrix[kept][:, ~kept] @ values[~kept]
    )
    masks = {"1.weight": kept.view(3, 16)}
    obs = OBS(first=0.0, damping=0.5)
    found = obs.compensated(model, dict(model.named_parameters()), masks, seen)
    torch.testing.assert_close(
        found["1.weight"].flatten()[kept].double(), expected, rtol=1e-4, atol=1e-6
    )


def test_the_selection_is_that_of_the_update() -> None:
    make = partial(Pruner, scope="global")
    found = [make(one).masks(convolutions(), 0.7, evidence()) for one in ("obs", "obs-selection")]
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert not hasattr(OBSSelection(), "compensated")


@pytest.mark.parametrize("scope", ["global", "layerwise"])
def test_what_was_found_for_the_scores_changes_no_bit(scope: str) -> None:
    model, seen = convolutions(), evidence()
    weights = {"5.weight": model[5].weight, "7.weight": model[7].weight}
    obs = OBS()
    ranks = {name: one.flatten() for name, one in obs.scores(model, weights, seen).items()}
    limit = torch.cat([*ranks.values()]).quantile(0.7)
    limits = {
        name: one.quantile(0.7) if scope == "layerwise" else limit for name, one in ranks.items()
    }
    masks = {name: (one > limits[name]).view_as(weights[name]) for name, one in ranks.items()}
    found = obs.compensated(model, weights, masks, seen)
    alone = OBS().compensated(model, weights, masks, seen)
    assert all(torch.equal(found[name], one) for name, one in alone.items())
    # Another network, though the same object, begins anew.
    with torch.no_grad():
        model[0].weight.mul_(1.1)
    found = obs.compensated(model, weights, masks, seen)
    other = OBS().compensated(model, weights, masks, seen)
    assert all(torch.equal(found[name], one) for name, one in other.items())
    assert not all(torch.equal(other[name], one) for name, one in alone.items())


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows whenever gradients are taken: of how many weights."""
    found: list[int] = []
    ask = Weights.gradients

    def counted(self: Weights, split: Split, examples: Tensor, columns: Tensor) -> Tensor:
        found.append(len(columns))
        return ask(self, split, examples, columns)

    monkeypatch.setattr(Weights, "gradients", counted)
    return found


def test_no_stage_of_global_pruning_is_done_twice(asked: list[int]) -> None:
    model, seen = convolutions(), evidence()
    Pruner("obs", "global").masks(model, 0.7, seen)
    to_choose = len(asked)
    Pruner("obs", "global").prune(model, 0.7, seen)
    assert len(asked) <= 2 * to_choose + 1


def test_a_network_pruned_to_many_sparsities_is_walked_once_to_the_same_bits(
    asked: list[int],
) -> None:
    seen, sparsities = evidence(), (0.5, 0.9, 0.7)

    def pruned(
        sparsity: float, change: float = 1.0, other: nn.Module | None = None
    ) -> dict[str, Tensor]:
        model = convolutions()
        with torch.no_grad():
            model[2] = other or model[2]
            model[0].weight.mul_(change)
        Pruner("obs", "global").prune(model, sparsity, seen)
        return every_bit(model)

    def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
        return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)

    alone = [pruned(sparsity) for sparsity in sparsities]
    walked = len(asked)
    changed, tanh = pruned(0.9, 1.1), pruned(0.9, other=nn.Tanh())
    asked.clear()
    with obs_paths_kept():
        assert all(same(pruned(at), one) for at, one in zip(sparsities, alone, strict=True))
        # What is not of this network, these images and this seed is walked anew.
        once = len(asked)
        assert once < walked / 2
        assert same(pruned(0.9, 1.1), changed)
        assert not same(changed, alone[1])
        # So is one that computes something else with the same weights.
        assert same(pruned(0.9, other=nn.Tanh()), tanh)
        assert same(pruned(0.9), alone[1])
        assert not same(tanh, alone[1])
    asked.clear()
    assert same(pruned(0.5), alone[0])
    assert len(asked) > once / 2  # nothing is kept outside
