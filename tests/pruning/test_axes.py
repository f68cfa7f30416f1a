"""Criterion × scope × structure × schedule: exact counts, masks that only shrink, whole groups."""

from collections.abc import Iterable
from dataclasses import asdict
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sparse_sam.data.tensors import Split
from sparse_sam.errors import ConfigError, MaskError
from sparse_sam.networks.build import build_model
from sparse_sam.pruning import ranking as ranking_module
from sparse_sam.pruning.criteria import Evidence, Magnitude, Random, Saliency
from sparse_sam.pruning.masks import Masks, attach, masks_of, plain_parameters, plain_state, tighten
from sparse_sam.pruning.pruner import Pruner
from sparse_sam.pruning.ranking import keep_largest, pruned_count
from sparse_sam.pruning.registry import CRITERIA, SCHEDULES, SCOPES, STRUCTURES, kept_of_group
from sparse_sam.pruning.schedules import Gradual, Iterative, OneShot, PruningSchedule
from sparse_sam.pruning.scopes import Layer, all_together, erk, layerwise
from sparse_sam.pruning.structures import Channels, Groups, Unstructured
from tests.recipes import prune_params

GROUPS = ["2:4", "1:4", "1:2", "3:8"]
QUICK = [name for name in CRITERIA if not name.startswith("obs")]
"""Those that take no second; the others have tests of their own (test_obs.py)."""
STRUCTURE_NAMES = [*(name for name in STRUCTURES if name != "N:M"), *GROUPS]
# Few values, so that ties are everywhere, zeros among them.
WEIGHTS = torch.tensor([0.0, -0.0, 0.5, -0.5, 1.0, -2.0, 1e-30])


def network(seed: int, tied: bool) -> nn.Sequential:
    """Convolutions and a linear layer; 1 × 2 × 2 inputs to the first, so that 3:8 leaves it."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 6, 2, bias=False),
        nn.Flatten(),
        nn.Linear(24, 16),
        nn.Linear(16, 3),
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                drawn = torch.rand(parameter.shape, generator=generator)
                chosen = WEIGHTS[(drawn * len(WEIGHTS)).long()] if tied else drawn - 0.5
                parameter.copy_(chosen)
    return model


def evidence(seed: int) -> Evidence:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(20, 1, 4, 4, generator=generator)
    return Evidence(seed, Split(images, torch.arange(20) % 3))


def units_pruned(structure: str, mask: Tensor) -> int:
    if structure != "channels":
        return int((~mask).sum())
    rows = mask.flatten(1)
    assert torch.equal(rows.any(dim=1), rows.all(dim=1))  # whole, or not at all
    return int((~rows.any(dim=1)).sum())


def units(structure: str, mask: Tensor) -> int:
    return len(mask) if structure == "channels" else mask.numel()


def check_counts(pruner: Pruner, masks: Masks, sparsity: float) -> None:
    structure = pruner.structure
    gone = {name: units_pruned(structure, mask) for name, mask in masks.items()}
    sizes = {name: units(structure, mask) for name, mask in masks.items()}
    if pruner.scope == "layerwise":
        assert gone == {name: pruned_count(sparsity, size) for name, size in sizes.items()}
    assert pruner.scope == "layerwise" or sum(gone.values()) == pruned_count(
        sparsity, sum(sizes.values())
    )
    if group := kept_of_group(structure):
        for mask in masks.values():
            kept = mask.reshape(-1, group[1]).sum(dim=1)
            assert (kept >= group[0]).all()
            # At its own sparsity every group keeps exactly N.
            assert sparsity < 1 - group[0] / group[1] - 1e-9 or (kept == group[0]).all()


SCHEDULE_CHOICES = st.one_of(
    st.just({"name": "one-shot"}),
    st.builds(
        lambda rounds: {"name": "iterative", "rounds": rounds, "rewind": "none"},
        st.integers(1, 5),
    ),
    st.builds(
        lambda share, end, updates: {
            "name": "gradual",
            "initial": share,
            "end": end,
            "updates": updates,
        },
        st.sampled_from([0.0, 0.3, 1.0]),
        st.sampled_from([0.2, 0.75, 1.0]),
        st.integers(1, 8),
    ),
)


@settings(max_examples=200)
@given(
    criterion=st.sampled_from(QUICK),
    scope=st.sampled_from(list(SCOPES)),
    structure=st.sampled_from(STRUCTURE_NAMES),
    schedule=SCHEDULE_CHOICES,
    sparsity=st.one_of(st.floats(0, 0.97), st.sampled_from([0.0, 0.5, 0.9, 1 / 3])),
    seed=st.integers(0, 5),
    tied=st.booleans(),
    steps=st.integers(1, 12),
)
def test_every_combination_is_exact_monotone_and_whole(
    criterion: str,
    scope: str,
    structure: str,
    schedule: dict[str, Any],
    sparsity: float,
    seed: int,
    tied: bool,
    steps: int,
) -> None:
    if group := kept_of_group(structure):
        sparsity = 1 - group[0] / group[1]
    if schedule["name"] == "gradual":
        schedule = {**schedule, "initial": schedule["initial"] * sparsity}
    params = prune_params(
        sparsity=sparsity,
        criterion=criterion,
        scope=scope,
        structure=structure,
        schedule=schedule,
    )
    pruner, seen = Pruner.of(params), evidence(seed)
    model = network(seed, tied)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    noise = torch.Generator().manual_seed(seed)
    try:
        masks = pruner.masks(model, params.asked_at(0.0).sparsity, seen)
        # The model itself is not touched.
        assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
        check_counts(pruner, masks, params.asked_at(0.0).sparsity)
        attach(model, masks)
        for step in range(steps + 1):
            asked = params.asked_at(step / steps).sparsity
            after = pruner.masks(model, asked, seen)
            check_counts(pruner, after, asked)
            assert all(not (after[name] & ~mask).any() for name, mask in masks.items())
            tighten(model, after)
            for name, parameter in plain_parameters(model).items():  # a step, of sorts
                moved = 0.1 * torch.randn(parameter.shape, generator=noise)
                parameter.data += moved * after.get(name, 1)
            masks = after
    except MaskError as error:
        named = [name for name, _ in network(seed, tied).named_parameters() if name in str(error)]
        assert "would prune all" in str(error)  # noqa: PT017
        assert len(named) == 1
        return
    check_counts(pruner, masks, sparsity)
    found = masks_of(model)
    assert found is not None
    assert all(torch.equal(found[name], mask) for name, mask in masks.items())


@settings(max_examples=60)
@given(
    criterion=st.sampled_from(QUICK),
    scope=st.sampled_from(list(SCOPES)),
    structure=st.sampled_from(STRUCTURE_NAMES),
    tied=st.booleans(),
)
def test_a_sparsity_of_0_is_the_identity(
    criterion: str, scope: str, structure: str, tied: bool
) -> None:
    model = network(0, tied)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    masks = Pruner(criterion, scope, structure).masks(model, 0.0, evidence(0))
    assert masks.kept == masks.total > 0
    images = torch.randn(4, 1, 4, 4)
    expected = model.eval()(images)
    attach(model, masks)
    assert torch.equal(model(images), expected)
    after = plain_state(model)
    assert after.keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())


@pytest.mark.parametrize("structure", ["2:4", "channels", "unstructured"])
def test_a_weight_that_layers_share_is_pruned_once_by_every_structure(structure: str) -> None:
    torch.manual_seed(0)
    model = build_model("tests.sample_networks:tied", (1, 5, 5), 3)
    masks = Pruner(structure=structure).masks(model, 0.5, Evidence(image_shape=(1, 5, 5)))
    # The embedding is the head's weight, too, and named first; 125 inputs are no multiple of 4.
    assert masks.keys() - {"classes.weight"} == {"embedding.weight", "first.weight"}
    assert ("classes.weight" in masks) == (structure == "unstructured")
    attach(model, masks)
    for first, other in (("embedding", "head"), ("first", "second")):
        weight = model.get_submodule(other).weight
        assert torch.equal(weight != 0, masks[f"{first}.weight"])


# Registries


def test_every_name_stands_for_what_its_axis_is_made_of() -> None:
    # (More may be registered.)
    assert {name: CRITERIA.load(name) for name in CRITERIA}.items() >= {
        "magnitude": Magnitude,
        "random": Random,
        "saliency": Saliency,
    }.items()
    assert {name: SCOPES.load(name) for name in SCOPES}.items() >= {
        "layerwise": layerwise,
        "global": all_together,
        "erk": erk,
    }.items()
    assert {name: SCHEDULES.load(name) for name in SCHEDULES}.items() >= {
        "one-shot": OneShot,
        "iterative": Iterative,
        "gradual": Gradual,
    }.items()
    assert all(issubclass(SCHEDULES.load(name), PruningSchedule) for name in SCHEDULES)
    assert {name: STRUCTURES.load(name) for name in STRUCTURE_NAMES}.items() >= {
        "unstructured": Unstructured(),
        "channels": Channels(),
        "2:4": Groups(2, 4),
        "3:8": Groups(3, 8),
    }.items()


def of(names: Iterable[str]) -> str:
    return f"must be one of {', '.join(names)}, or package.module:attribute"


@pytest.mark.parametrize(
    ("pruner", "message"),
    [
        (
            Pruner(criterion="l2"),
            f"criterion = 'l2' (prune.criterion in params.yaml): {of(CRITERIA)}",
        ),
        (Pruner(scope="local"), f"scope = 'local' (prune.scope in params.yaml): {of(SCOPES)}"),
        (
            Pruner(structure="4:2"),
            f"structure = '4:2' (prune.structure in params.yaml): {of(STRUCTURES)}",
        ),
        (
            Pruner(structure="N:M"),
            (
                "structure = 'N:M' (prune.structure in params.yaml): replace N and M by "
                "numbers with N < M, in quotes, such as '2:4'"
            ),
        ),
    ],
)
def test_an_unknown_name_lists_those_that_there_are(pruner: Pruner, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        pruner.masks(nn.Linear(4, 4), 0.5)
    assert str(raised.value) == message


def test_an_unknown_schedule_lists_those_that_there_are() -> None:
    with pytest.raises(ConfigError) as raised:
        SCHEDULES.load("weekly")
    assert str(raised.value) == f"prune.schedule.name = 'weekly': {of(SCHEDULES)}"


OWN_AXES = """
from dataclasses import dataclass

from sparse_sam.pruning.schedules import PruningSchedule
from sparse_sam.pruning.scopes import Share
from sparse_sam.pruning.structures import Unstructured

class Largest:
    def scores(self, model, weights, evidence):
        return {name: 1 / (1 + weight.detach().abs()) for name, weight in weights.items()}

    def pooled(self, blocks):
        return blocks.mean(dim=1)

def all_of_the_first(tensors, sparsity):
    first, *others = tensors
    count = round(sparsity * sum(one.units for one in tensors.values()))
    return [Share((first,), count), *(Share((name,), 0) for name in others)]

@dataclass(frozen=True)
class WithoutTheLast(Unstructured):
    def targets(self, model, evidence, *, batchnorm, biases):
        return super().targets(model, evidence, batchnorm=batchnorm, biases=biases)[:-1]

class Halfway(PruningSchedule):
    share: float

    def sparsity(self, final, progress):
        return final if progress >= 0.5 else self.share * final
"""


@pytest.fixture
def own_axes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The module that they are in."""
    (tmp_path / "own_axes_for_tests.py").write_text(OWN_AXES)
    monkeypatch.syspath_prepend(tmp_path)
    return "own_axes_for_tests"


def test_every_axis_takes_code_of_ones_own(own_axes: str) -> None:
    model = nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 4))
    with torch.no_grad():
        for layer in model:
            layer.weight.copy_(torch.arange(1.0, 9.0).view(layer.weight.shape))
    largest = Pruner(criterion=f"{own_axes}:Largest").masks(model, 0.5)
    for mask in largest.values():
        assert mask.flatten().tolist() == [True] * 4 + [False] * 4
    first = Pruner(scope=f"{own_axes}:all_of_the_first").masks(model, 0.25)
    assert [int((~mask).sum()) for mask in first.values()] == [4, 0]
    assert list(Pruner(structure=f"{own_axes}:WithoutTheLast").masks(model, 0.5)) == ["0.weight"]
    schedule = {"name": f"{own_axes}:Halfway", "share": 0.5}
    params = prune_params(sparsity=0.8, schedule=schedule)
    assert [params.asked_at(progress).sparsity for progress in (0.0, 0.49, 0.5, 1.0)] == [
        0.4,
        0.4,
        0.8,
        0.8,
    ]
    assert params.schedule.rewinds_to == "none"
    assert asdict(params.schedule) == schedule


def test_own_code_that_cannot_be_imported_is_said(own_axes: str) -> None:
    allowed = f"allowed: one of {', '.join(CRITERIA)}, or package.module:attribute"
    for name, said in (
        (f"{own_axes}:Smallest", "cannot be imported"),
        (f"{own_axes}_elsewhere:Largest", f"names the module '{own_axes}_elsewhere'"),
    ):
        with pytest.raises(ConfigError) as raised:
            Pruner(criterion=name).masks(nn.Linear(4, 4), 0.5)
        message = str(raised.value)
        assert message.startswith(f"criterion = {name!r} (prune.criterion in params.yaml): {said}")
        assert message.endswith(allowed)


# Criteria


def test_saliency_is_the_weight_times_its_gradient() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0, -2.0], [0.0, 3.0]]))
    images, labels = torch.tensor([1.0, 2.0]).view(1, 1, 1, 2), torch.tensor([0])
    seen = Evidence(0, Split(images, labels))
    scores = Saliency().scores(model, {"1.weight": model[1].weight}, seen)["1.weight"]
    # Logits −3 and 6; ∂L/∂w is (p − 1, p') ⊗ x.
    p = torch.tensor([-3.0, 6.0]).softmax(0) - torch.tensor([1.0, 0.0])
    expected = (p[:, None] * torch.tensor([1.0, 2.0]) * model[1].weight).abs()
    assert torch.allclose(scores, expected)
    assert model[1].weight.grad is None
    with pytest.raises(MaskError, match="saliency needs training data"):
        Pruner("saliency").masks(model, 0.5)


def test_saliency_leaves_modes_and_statistics_alone() -> None:
    model = network(0, False).train()
    model[1].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    Pruner("saliency").masks(model, 0.5, evidence(0))
    assert [module.training for module in model] == [True, False, *[True] * 5]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_random_masks_are_those_of_the_seed() -> None:
    torch.manual_seed(1)
    one = Pruner("random").masks(network(0, False), 0.5, Evidence(7))
    torch.manual_seed(2)
    other = Pruner("random").masks(network(1, True), 0.5, Evidence(7))
    third = Pruner("random").masks(network(0, False), 0.5, Evidence(8))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not any(torch.equal(one[name], third[name]) for name in one)


# Structures


def test_two_of_four_by_hand() -> None:
    model = nn.Linear(8, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[4.0, -3, 2, 1, 9, 9, -9, 9]]))
    kept = Pruner(structure="2:4").masks(model, 0.5)["weight"]
    assert kept[0, :4].tolist() == [True, True, False, False]
    assert int(kept[0, 4:].sum()) == 2
    # On the way, the smallest of those that will go.
    quarter = Pruner(structure="2:4").masks(model, 0.25)["weight"]
    assert quarter[0].tolist() == [True, True, False, False, True, True, True, True]
    with pytest.raises(MaskError, match=r"to 4 \(all that structure 2:4 can prune\)"):
        Pruner(structure="2:4").masks(model, 0.75)


def test_layers_that_groups_do_not_divide_stay_dense() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 2))
    assert list(Pruner(structure="2:4").masks(model, 0.5)) == ["1.weight"]
    with pytest.raises(MaskError, match="no weights that can be pruned with structure 3:7"):
        Pruner(structure="3:7").masks(model, 4 / 7)


def test_the_smallest_channels_go_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, (1, 2)), nn.ConvTranspose2d(3, 2, 1), nn.Linear(2, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3.0, 0], [2, 2], [-2.5, 2]]).view(3, 1, 1, 2))
    masks = Pruner(structure="channels").masks(model, 1 / 3)
    # L2 norms 3, 2.83, 3.2. A transposed convolution and the last layer are left alone.
    assert list(masks) == ["0.weight"]
    assert masks["0.weight"].flatten(1).tolist() == [[True] * 2, [False] * 2, [True] * 2]
    with pytest.raises(MaskError, match=r"would prune all 3 output channels of 0\.weight"):
        Pruner(structure="channels").masks(model, 0.9)


def test_a_removed_channel_hands_on_a_constant() -> None:
    model = network(0, False)
    attach(model, Pruner(structure="channels").masks(model, 0.5))
    masks = masks_of(model)
    assert masks is not None
    gone = ~masks["0.weight"].flatten(1).any(dim=1)
    assert int(gone.sum()) == 4
    for training in (True, False):
        model.train(training)
        with torch.no_grad():
            out = model[:3](torch.randn(5, 1, 4, 4))[:, gone]
        assert torch.allclose(out, out[:1, :, :1, :1].expand_as(out))


@pytest.mark.parametrize("structure", ["2:4", "channels"])
def test_structures_of_weights_take_nothing_else(structure: str) -> None:
    with pytest.raises(MaskError, match="prunes neither BatchNorm nor biases"):
        Pruner(structure=structure, biases=True).masks(network(0, False), 0.5)
    assert STRUCTURES.load(structure).targets(
        network(0, False), Evidence(), batchnorm=False, biases=False
    )


# Scopes


def test_erk_by_hand() -> None:
    # Sums of dimensions over their products: 20/100 and 110/1000, so 20 and 110 for ε = 1.
    layers = {"a": Layer((10, 10), 100, 0, 100), "b": Layer((10, 100), 1000, 0, 1000)}
    shares = {share.names[0]: share.count for share in erk(layers, 1 - 260 / 1100)}
    assert shares == {"a": 100 - 40, "b": 1000 - 220}
    # A density of more than 1 is cut, and the rest goes to the other.
    full = {share.names[0]: share.count for share in erk(layers, 1 - 800 / 1100)}
    assert full == {"a": 0, "b": 300}
    with pytest.raises(MaskError, match="keeps 660 of 1100; allowed: 1000 to 1100"):
        erk({**layers, "b": Layer((10, 100), 1000, 0, 0)}, 0.4)


@given(
    shapes=st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4), min_size=1, max_size=6),
    levels=st.lists(st.floats(0, 0.999), min_size=1, max_size=6).map(sorted),
)
def test_erk_is_exact_and_never_gives_a_weight_back(
    shapes: list[list[int]], levels: list[float]
) -> None:
    layers = {
        str(i): Layer(tuple(shape), prod(shape), 0, prod(shape)) for i, shape in enumerate(shapes)
    }
    total = sum(layer.units for layer in layers.values())
    for level in levels:
        counts = {share.names[0]: share.count for share in erk(layers, level)}
        assert sum(counts.values()) == pruned_count(level, total)
        assert all(
            layers[name].gone <= count <= layers[name].units for name, count in counts.items()
        )
        layers = {
            name: Layer(layer.shape, layer.units, counts[name], layer.most)
            for name, layer in layers.items()
        }


# Schedules


def iterative(rounds: int, rewind: str = "none") -> Iterative:
    return Iterative(name="iterative", rounds=rounds, rewind=rewind)


def gradual(initial: float, end: float, updates: int) -> Gradual:
    return Gradual(name="gradual", initial=initial, end=end, updates=updates)


def test_schedules_by_hand() -> None:
    assert {OneShot(name="one-shot").sparsity(0.9, p) for p in (0.0, 0.3, 1.0)} == {0.9}
    progress = (0.0, 0.32, 0.34, 0.66, 0.67, 1.0)
    rounds = [iterative(3).sparsity(0.875, p) for p in progress]
    assert rounds == pytest.approx([0.5, 0.5, 0.75, 0.75, 0.875, 0.875])
    assert rounds[-1] == 0.875
    cubic = [gradual(0.0, 0.5, 2).sparsity(0.8, p) for p in (0.0, 0.24, 0.25, 0.49, 0.5, 1.0)]
    assert cubic == pytest.approx([0, 0, 0.7, 0.7, 0.8, 0.8])  # 0.8 − 0.8/8
    assert gradual(0.2, 1.0, 10).sparsity(0.8, 0.0) == pytest.approx(0.2)
    assert gradual(0.2, 1.0, 10).sparsity(0.8, 1.0) == 0.8


def test_only_iterative_rewinds_and_as_it_says() -> None:
    assert OneShot(name="one-shot").rewinds_to == gradual(0.0, 1.0, 2).rewinds_to == "none"
    for rewind in ("none", "dense", "initial"):
        assert iterative(3, rewind).rewinds_to == rewind


def schedules_up_to(final: float) -> st.SearchStrategy[Iterative | Gradual]:
    return st.one_of(
        st.builds(iterative, st.integers(1, 50)),
        st.builds(
            lambda share, end, updates: gradual(share * final, end, updates),
            st.floats(0, 1),
            st.floats(1e-6, 1),
            st.integers(1, 500),
        ),
    )


@given(
    plan=st.floats(0, 0.999).flatmap(
        lambda final: st.tuples(st.just(final), schedules_up_to(final))
    ),
    progress=st.lists(st.floats(0, 1), min_size=2, max_size=10).map(sorted),
)
def test_a_schedule_never_falls_and_ends_exactly(
    plan: tuple[float, Iterative | Gradual], progress: list[float]
) -> None:
    final, schedule = plan
    asked = [schedule.sparsity(final, p) for p in progress]
    assert all(0 <= one < 1 for one in asked)
    assert all(later >= one - 1e-12 for one, later in pairwise(asked))
    assert schedule.sparsity(final, 1.0) == final


# Ranking


@given(
    scores=st.lists(
        st.lists(st.sampled_from([0.0, 1.0, 2.0, -torch.inf, torch.inf]), max_size=20),
        min_size=1,
        max_size=4,
    ),
    data=st.data(),
    piece=st.integers(1, 7),
)
def test_exactly_so_many_of_the_smallest_go_and_the_first_of_equals(
    scores: list[list[float]], data: st.DataObject, piece: int
) -> None:
    flat = [value for one in scores for value in one]
    count = data.draw(st.integers(0, len(flat)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking_module, "_PIECE", piece)
        kept = torch.cat(keep_largest([torch.tensor(one) for one in scores], count))
    gone = sorted(range(len(flat)), key=lambda i: (flat[i], i))[:count]
    assert (~kept).nonzero().squeeze(1).tolist() == sorted(gone)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_are_ranked_too(dtype: torch.dtype) -> None:
    scores = torch.tensor([3.0, 1.0, 2.0, 1.0]).to(dtype)
    assert keep_largest([scores], 1)[0].tolist() == [True, False, True, True]


def test_counts_are_exact_where_float32_cannot_count() -> None:
    # More weights than float32 can tell apart, and than torch.quantile takes.
    kept = keep_largest([torch.zeros(2**24 + 3)], 2**24 + 1)[0]
    assert int(kept.sum()) == 2
    assert kept[-2:].all()


OWN_CRITERIA = """
import torch

class Lacking:
    def scores(self, model, weights, evidence):
        return {}
    pooled = None

class Flat(Lacking):
    def scores(self, model, weights, evidence):
        return {name: weight.detach().abs().flatten() for name, weight in weights.items()}

class Negative(Lacking):
    def scores(self, model, weights, evidence):
        return {name: -weight.detach().abs() for name, weight in weights.items()}

def nothing(layers, sparsity):
    return 1
"""


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"criterion": "Lacking"}, r"must give a tensor of shape \(.*\) for weight, not NoneType"),
        ({"criterion": "Flat"}, r"must give a tensor of shape \(.*\) for weight, not \(12,\)"),
        ({"criterion": "Negative"}, "gives negative scores for weight"),
        ({"scope": "nothing"}, "must return a list of Share that covers every tensor"),
    ],
)
def test_own_code_that_gives_something_else_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], says: str
) -> None:
    (tmp_path / "own_wrong_axes.py").write_text(OWN_CRITERIA)
    monkeypatch.syspath_prepend(str(tmp_path))
    own = {name: f"own_wrong_axes:{value}" for name, value in changes.items()}
    with pytest.raises(MaskError, match=says):
        Pruner.of(prune_params(**own)).masks(nn.Linear(4, 3), 0.5)


LOOKING = """
import torch

class Looking:
    def scores(self, model, weights, evidence):
        model(torch.randn(8, 4))  # with BatchNorm's statistics, were it in training mode
        return dict(weights)  # the weights themselves, which are not to be written to
    def pooled(self, blocks):
        return blocks.mean(dim=1)
"""


def test_a_criterion_that_looks_at_the_model_leaves_it_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_looking_criterion.py").write_text(LOOKING)
    monkeypatch.syspath_prepend(str(tmp_path))
    model = nn.Sequential(nn.Linear(4, 3, bias=False), nn.BatchNorm1d(3))
    with torch.no_grad():
        model[0].weight.abs_()
    pruner = Pruner.of(prune_params(criterion="own_looking_criterion:Looking"))
    attach(model, pruner.masks(model, 0.25))
    before = plain_state(model)
    pruner.masks(model, 0.5)
    assert model.training
    after = plain_state(model)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
