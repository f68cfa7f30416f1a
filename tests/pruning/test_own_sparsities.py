"""Tensors left dense, sparsities of their own, and the zeros of a network that came with some."""

from collections import OrderedDict
from fnmatch import fnmatchcase

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sparse_sam.errors import MaskError
from sparse_sam.networks.build import build_model
from sparse_sam.pruning.criteria import Evidence
from sparse_sam.pruning.masks import Masks, attach, masks_of, plain_state, tighten
from sparse_sam.pruning.patterns import match_each
from sparse_sam.pruning.pruner import Pruner
from sparse_sam.pruning.ranking import pruned_count

WEIGHTS = ["stem.weight", "blocks.0.weight", "blocks.2.weight", "head.weight"]


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    blocks = nn.Sequential(nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 8), nn.ReLU())
    parts = [("stem", nn.Linear(6, 12)), ("blocks", blocks), ("head", nn.Linear(8, 3))]
    return nn.Sequential(OrderedDict(parts))


def pruned(masks: Masks) -> dict[str, int]:
    return {name: int((~mask).sum()) for name, mask in masks.items()}


@settings(max_examples=100)
@given(
    seed=st.integers(0, 3),
    scope=st.sampled_from(["layerwise", "global", "erk"]),
    sparsity=st.floats(0, 0.5),
    ignored=st.sampled_from([(), ("stem.*",), ("blocks.0.*",), ("*.2.weight", "head*")]),
    own=st.sampled_from([{}, {"blocks.?.weight": 0.5}, {"stem.*": 0.0}, {"*": 0.125}]),
)
def test_counts_are_exact_where_they_are_asked_for(
    seed: int, scope: str, sparsity: float, ignored: tuple[str, ...], own: dict[str, float]
) -> None:
    model = network(seed)
    pruner = Pruner(scope=scope, ignore=ignored)
    left = [name for name in WEIGHTS if not any(fnmatchcase(name, one) for one in ignored)]
    if not all(any(fnmatchcase(name, one) for name in left) for one in own):
        with pytest.raises(MaskError, match="matches no parameter"):
            pruner.masks(model, sparsity, overrides=own)
        return
    masks = pruner.masks(model, sparsity, overrides=own)
    assert list(masks) == left
    sizes = {name: model.get_parameter(name).numel() for name in left}
    of = {name: share for name in left for one, share in own.items() if fnmatchcase(name, one)}
    gone = pruned(masks)
    assert all(gone[name] == pruned_count(share, sizes[name]) for name, share in of.items())
    rest = [name for name in left if name not in of]
    wanted = (
        sum(pruned_count(sparsity, sizes[name]) for name in rest)
        if scope == "layerwise"
        else pruned_count(sparsity, sum(sizes[name] for name in rest))
    )
    assert sum(gone[name] for name in rest) == wanted
    # The others are as if those with a sparsity of their own were not there.
    without = Pruner(scope=scope, ignore=(*ignored, *(name for name in of)))
    if rest:
        alone = without.masks(model, sparsity)
        assert all(torch.equal(alone[name], masks[name]) for name in rest)
    # And on they shrink, each to what is asked of it.
    attach(model, masks)
    more = {pattern: share + 0.1 for pattern, share in own.items()}
    tighten(model, pruner.masks(model, sparsity + 0.1, overrides=more))
    after = masks_of(model)
    assert after is not None
    for name, share in of.items():
        assert pruned(after)[name] == pruned_count(share + 0.1, sizes[name])


def test_channels_have_sparsities_of_their_own_too() -> None:
    torch.manual_seed(0)
    model = build_model("resnet-20", (3, 16, 16), 4)
    evidence = Evidence(image_shape=(3, 16, 16))
    pruner = Pruner(structure="channels", ignore=("stem.*", "blocks.*.conv2.weight"))
    masks = pruner.masks(model, 0.5, evidence, {"blocks.3-*.conv1.*": 0.75})
    assert list(masks) == [f"blocks.{s}-{b}.conv1.weight" for s in (1, 2, 3) for b in (1, 2, 3)]
    for name, mask in masks.items():
        share = 0.75 if name.startswith("blocks.3") else 0.5
        assert int((~mask.flatten(1).any(1)).sum()) == share * len(mask)


@pytest.mark.parametrize(
    ("patterns", "says"),
    [
        (
            ["had.*"],
            (
                "ignore (prune.ignore in params.yaml): 'had.*' matches no parameter that can be "
                "pruned. These can: stem.weight, blocks.0.weight, blocks.2.weight, head.weight. "
                "Patterns match whole names"
            ),
        ),
        (["head"], "'head' matches no parameter"),
        (["HEAD.*"], "matches no parameter"),
        (["stem.*", "*.weight"], "both 'stem.*' and '*.weight' match stem.weight; only one may"),
    ],
)
def test_a_pattern_that_says_nothing_or_too_much_is_named(patterns: list[str], says: str) -> None:
    with pytest.raises(MaskError) as caught:
        match_each(WEIGHTS, patterns, "prune.ignore")
    assert says in str(caught.value)


def test_everything_ignored_is_nothing_to_prune() -> None:
    with pytest.raises(
        MaskError, match=r"no weights that can be pruned, apart from those in prune.ignore"
    ):
        Pruner(ignore=("*",)).masks(network(0), 0.5)


def test_a_tensor_that_would_lose_all_says_what_to_do() -> None:
    with pytest.raises(MaskError, match=r"its own sparsity 0.99 would prune all 24 weights"):
        Pruner().masks(network(0), 0.5, overrides={"head.*": 0.99})


@given(seed=st.integers(0, 5), sparsity=st.floats(0.05, 0.9), ignored=st.booleans())
def test_zeros_that_are_there_are_the_masks(seed: int, sparsity: float, ignored: bool) -> None:
    torch.manual_seed(seed)
    model = network(seed)
    attach(model, Pruner("random").masks(model, sparsity, Evidence(seed)))
    given_masks = masks_of(model)
    assert given_masks is not None
    other = network(seed + 1)
    other.load_state_dict(plain_state(model))
    # Pruned elsewhere: nothing but zeros tells of it.
    pruner = Pruner(ignore=("stem.*",) if ignored else ())
    found = pruner.masks_of_zeros(other)
    assert list(found) == WEIGHTS[ignored:]
    assert all(torch.equal(found[name], given_masks[name]) for name in found)
    attach(other, found)
    before, after = plain_state(model), plain_state(other)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_what_gives_no_masks_says_why() -> None:
    with pytest.raises(MaskError, match=r"the network has no zeros in .*\(stem.weight, blocks"):
        Pruner().masks_of_zeros(network(0))
    model = network(0)
    with torch.no_grad():
        model.head.weight.zero_()
    with pytest.raises(MaskError, match=r"all 24 weights of head.weight are 0.*prune.ignore"):
        Pruner().masks_of_zeros(model)


def test_names_are_looked_at_before_a_training() -> None:
    pruner, model = Pruner(ignore=("stem.*",)), network(0)
    pruner.check_names(model, Evidence(), {"head.*": 0.2})
    for wrong, says in (
        (
            Pruner(ignore=("stam.*",)),
            "ignore (prune.ignore in params.yaml): 'stam.*' matches no parameter",
        ),
        (pruner, "overrides (prune.overrides in params.yaml): 'hade.*' matches no parameter"),
    ):
        with pytest.raises(MaskError) as caught:
            wrong.check_names(model, Evidence(), {"hade.*": 0.2})
        assert says in str(caught.value)


def test_what_is_ignored_has_no_sparsity_of_its_own() -> None:
    with pytest.raises(MaskError, match=r"'stem\.\*' matches no .* \('stem\.\*' are left dense"):
        Pruner(ignore=("stem.*",)).masks(network(0), 0.5, overrides={"stem.*": 0.2})
