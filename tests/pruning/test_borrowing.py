"""Criteria that ask the network: it is as it was, in any precision; and what they are given."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, dropout
from torch.nn.utils import parametrizations
from torch.utils.data import DataLoader, TensorDataset

from sparse_sam import Sparsifier
from sparse_sam.data import Split
from sparse_sam.errors import DataError, DivergenceError, MaskError
from sparse_sam.pruning import Evidence, Pruner, plain_parameters
from sparse_sam.pruning.gradients import Weights
from sparse_sam.pruning.obs import OBS

CRITERIA = ("saliency", "obs", "obs-selection")


def pair(count: int = 60) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(count) % 3
    images = torch.randn(count, 1, 4, 4, generator=generator) + labels.view(-1, 1, 1, 1) / 2
    return images, labels


def seen() -> Evidence:
    return Evidence(3, Split(*pair()))


def layers(width: int = 8) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, width), nn.ReLU(), nn.Linear(width, 3))


class Drawing(nn.Module):
    """Dropout that is on in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = layers()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.inner(dropout(images, 0.3))
        return logits


class Counting(nn.Module):
    """Buffers that a forward pass moves, in place, and by another tensor under the name."""

    count: Tensor
    mean: Tensor
    last: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.inner = layers()
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("last", torch.zeros(3))
        self.cached: Tensor | None = None

    def forward(self, images: Tensor) -> Tensor:
        self.count += 1
        logits: Tensor = self.inner(images) + self.mean
        self.mean.mul_(0.9).add_(logits.detach().mean(0), alpha=0.1)
        self.last = logits.detach().mean(0)
        self.cached = logits
        return logits


def chosen(criterion: str, model: nn.Module) -> dict[str, Tensor]:
    return dict(Pruner(criterion, "global").masks(model, 0.5, seen()))


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_what_a_network_draws_is_the_seeds_and_nothing_else_draws_otherwise(criterion: str) -> None:
    model = Drawing()
    before = torch.get_rng_state()
    first = chosen(criterion, model)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(99)
    assert same(first, chosen(criterion, model))


def test_what_was_found_for_the_scores_serves_a_network_that_draws() -> None:
    model, obs = Drawing(), OBS()
    weights = dict(plain_parameters(model))
    scores = obs.scores(model, weights, seen())
    masks = {name: one > 0.6 for name, one in scores.items()}
    found = obs.compensated(model, weights, masks, seen())
    assert same(found, OBS().compensated(model, weights, masks, seen()))


@pytest.mark.parametrize("criterion", CRITERIA)
def test_buffers_that_a_forward_pass_moves_are_as_they_were(criterion: str) -> None:
    model = Counting()
    objects = dict(model.named_buffers())
    before = {name: one.clone() for name, one in model.state_dict().items()}
    first = chosen(criterion, model)
    assert same(before, dict(model.state_dict()))
    assert all(one is objects[name] for name, one in model.named_buffers())
    assert criterion == "saliency" or model.cached is None
    assert same(first, chosen(criterion, model))


def test_every_image_is_shown_to_the_network_as_it_was() -> None:
    model, train = Counting(), seen().train
    assert train is not None
    weights = Weights(model, dict(model.named_parameters()))
    columns = torch.arange(len(weights.flat()))
    order = torch.tensor([4, 7, 2])
    with weights.borrowed():
        together = weights.gradients(train, order, columns)
        alone = [weights.gradients(train, one, columns) for one in order.split(1)]
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("criterion", CRITERIA)
def test_networks_of_other_precisions(criterion: str, dtype: torch.dtype) -> None:
    model = layers().to(dtype)
    masks = Pruner(criterion, "global").prune(model, 0.5, seen())
    assert masks.sparsity == pytest.approx(0.5, abs=0.01)
    assert all(one.dtype == dtype and one.isfinite().all() for one in model.parameters())
    # What goes is about what goes in single precision.
    single = chosen(criterion, layers())
    agree = [(masks[name] == single[name]).float().mean().item() for name in masks]
    assert min(agree) > (0.99 if dtype == torch.float64 else 0.75)


def test_gradients_in_double_precision_are_those_in_single() -> None:
    train = seen().train
    assert train is not None
    rows = []
    for dtype in (torch.float32, torch.float64):
        model = layers().to(dtype)
        weights = Weights(model, dict(model.named_parameters()))
        with weights.borrowed():
            columns = torch.arange(len(weights.flat()))
            rows.append(weights.gradients(train, torch.arange(5), columns))
    torch.testing.assert_close(*rows)


NORMED: dict[str, Callable[[nn.Module], nn.Module]] = {
    "weight": parametrizations.weight_norm,
    "spectral": parametrizations.spectral_norm,
    "weight, by hooks": torch.nn.utils.weight_norm,
    "spectral, by hooks": torch.nn.utils.spectral_norm,
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("criterion", ["obs", "obs-selection"])
@pytest.mark.parametrize("norm", NORMED)
def test_normed_networks(norm: str, criterion: str) -> None:
    """The walk to the end empties rows, which the masks do not."""
    model = layers(8 if "spectral" in norm else 32)
    model[1] = NORMED[norm](model[1])
    images, _ = pair()
    before = {name: one.clone() for name, one in model.state_dict().items()}
    expected = model.eval()(images)
    found = chosen(criterion, model)
    assert same(before, dict(model.state_dict()))
    assert torch.equal(expected, model(images))
    masks = Pruner(criterion, "global").prune(model, 0.5, seen())
    assert same(found, dict(masks))
    assert masks.sparsity == pytest.approx(0.5, abs=1e-2)
    after = model(images)
    assert after.isfinite().all()
    assert not torch.equal(after, expected)


def test_what_goes_when_there_are_no_gradients_any_more_goes_by_the_last_statistic() -> None:
    model = layers(32)
    model[1] = parametrizations.weight_norm(model[1])
    weights = dict(model.named_parameters())
    scores = OBS().scores(model, weights, seen())
    ranks = torch.cat([one.flatten() for one in scores.values()])
    assert len(ranks.unique()) == len(ranks)  # (its biases are not 0)
    # What went in the first stages is what goes first with fewer stages, too.
    early = OBS(until=0.5).scores(model, weights, seen())
    first = torch.cat([one.flatten() for one in early.values()])
    half = len(ranks) // 2 / len(ranks)
    assert torch.equal(ranks <= half, first <= half)


def test_masks_that_empty_a_normed_row_are_an_error_that_says_why() -> None:
    model = layers(8)
    model[1] = parametrizations.weight_norm(model[1])
    weights = {"v": model[1].parametrizations.weight.original1}
    masks = {"v": torch.ones(8, 16, dtype=torch.bool)}
    masks["v"][0], masks["v"][1:, 3:] = False, False
    before = weights["v"].detach().clone()
    with pytest.raises(DivergenceError, match=r"row without weights is divided by 0.*ignore"):
        OBS(examples=40).compensated(model, weights, masks, seen())
    assert torch.equal(before, weights["v"])


@pytest.mark.parametrize("criterion", ["obs", "obs-selection"])
def test_a_network_that_needs_a_batch_is_named(criterion: str) -> None:
    model = layers()
    model.insert(2, nn.BatchNorm1d(8, track_running_stats=False))
    with pytest.raises(MaskError, match=r"one image at a time.*\(2\) needs a batch"):
        chosen(criterion, model)
    assert chosen("saliency", model)


def test_a_networks_own_error_stays() -> None:
    class Refusing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = layers()

        def forward(self, images: Tensor) -> Tensor:
            raise ValueError(f"not {len(images)} today")

    with pytest.raises(ValueError, match="not 1 today"):
        chosen("obs", Refusing())


def test_a_pair_is_evidence() -> None:
    images, labels = pair()
    expected = dict(Pruner("obs", "global").masks(layers(), 0.5, seen()))
    for given in ((images, labels), [images.double(), labels.int()]):
        evidence = Evidence(3, given)
        assert isinstance(evidence.train, Split)
        assert evidence.example is not None
        assert evidence.example.shape == (2, 1, 4, 4)
        found = dict(Pruner("obs", "global").masks(layers(), 0.5, evidence))
        assert same(expected, found)
    split = Split(images, labels)
    assert Evidence(train=split).train is split


@pytest.mark.parametrize("criterion", CRITERIA)
def test_examples_may_be_rows_of_features(criterion: str) -> None:
    images, labels = pair()
    plain = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
    of_images = nn.Sequential(nn.Flatten(), *plain)
    expected = Pruner(criterion, "global").masks(of_images, 0.5, Evidence(0, (images, labels)))
    found = Pruner(criterion, "global").masks(plain, 0.5, Evidence(0, (images.flatten(1), labels)))
    assert all(
        torch.equal(one, other)
        for one, other in zip(expected.values(), found.values(), strict=True)
    )


@pytest.mark.parametrize(
    "make",
    [
        TensorDataset,
        lambda images, labels: DataLoader(TensorDataset(images, labels)),
        lambda images, labels: images[labels],
        lambda images, labels: (images, labels, labels),
        lambda images, labels: (images, labels.tolist()),
    ],
)
def test_what_is_no_evidence_is_told_what_would_be(make: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match=r"sparse_sam\.data\.Split\(images, labels\) or a pair"):
        Evidence(train=make(*pair()))


@pytest.mark.parametrize(
    "given",
    [
        lambda images, labels: (images.flatten(), labels),
        lambda images, labels: (images, labels[1:]),
        lambda images, labels: (images, labels.float()),
    ],
)
def test_a_pair_that_does_not_belong_together(given: Callable[..., Any]) -> None:
    with pytest.raises(DataError, match="must be"):
        Evidence(train=given(*pair()))


@pytest.mark.parametrize("criterion", CRITERIA)
def test_without_data_it_is_said_how_to_give_them(criterion: str) -> None:
    sparsifier = Sparsifier(layers(), 0.5, criterion=criterion)
    with pytest.raises(MaskError, match=r"evidence=Evidence\(train=Split\(images, labels\)\)"):
        sparsifier.prepare()
    sparsifier = Sparsifier(layers(), 0.5, criterion=criterion, evidence=Evidence(train=pair()))
    sparsifier.prepare()
    assert sparsifier.sparsity == pytest.approx(0.5, abs=0.01)


def test_the_loss_is_in_single_precision_where_the_network_is_not() -> None:
    model, train = layers().bfloat16(), seen().train
    assert train is not None
    weights = Weights(model, dict(model.named_parameters()))
    with weights.borrowed():
        found = weights.gradients(train, torch.arange(1), torch.arange(len(weights.flat())))
        logits = model(train.images[:1].bfloat16()).float()
        own = torch.autograd.grad(cross_entropy(logits, train.labels[:1]), [*model.parameters()])
    expected = torch.cat([one.flatten() for one in own]).float()
    torch.testing.assert_close(found[0], expected, rtol=2e-2, atol=2e-2)
