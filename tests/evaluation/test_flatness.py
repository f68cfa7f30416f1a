"""Flatness against dense Hessians, formulas by hand, and brute force."""

import copy
import json
import math
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call, hessian
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from sparse_sam.data.tensors import Split
from sparse_sam.errors import DivergenceError
from sparse_sam.evaluation.flatness.arms import flatness_metrics
from sparse_sam.evaluation.flatness.hessian import hessian_trace, top_eigenvalues
from sparse_sam.evaluation.flatness.landscape import (
    filter_normalised_direction,
    loss_slice,
    loss_surface,
)
from sparse_sam.evaluation.flatness.loss import masks, undisturbed, weights
from sparse_sam.evaluation.flatness.measure import (
    FlatnessSettings,
    measure_flatness,
    some_images,
)
from sparse_sam.evaluation.flatness.sharpness import sharpness
from sparse_sam.networks.build import build_model
from sparse_sam.pruning.magnitude import magnitude_masks
from sparse_sam.pruning.masks import attach
from tests.sample_networks import NAMES

SMALL = FlatnessSettings(images=12, surface_points=3, slice_points=3, probes=2)


def network(sparsity: float = 0.0, seed: int = 0) -> nn.Module:
    """A convolution, BatchNorm with statistics that are not 0 and 1, and a head; 118 weights."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.BatchNorm2d(3),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(27, 3),
    )
    model(torch.randn(20, 1, 5, 5))
    if sparsity:
        attach(model, magnitude_masks(model, sparsity))
    return model


def some_split(seed: int = 1) -> Split:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(12, 1, 5, 5, generator=generator)
    return Split(images, torch.arange(12) % 3)


def dense_hessian(model: nn.Module, split: Split) -> Tensor:
    """By torch.func, over all weights, then the kept rows and columns."""
    model = copy.deepcopy(model).eval() if sum(map(len, masks(model))) == 0 else model
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    parameters = dict(model.named_parameters())
    sizes = [parameters[name].numel() for name in names]
    modes = [(module, module.training) for module in model.modules()]
    model.eval()

    def loss(flat: Tensor) -> Tensor:
        parts = flat.split(sizes)
        given = {n: part.view_as(parameters[n]) for n, part in zip(names, parts, strict=True)}
        return cross_entropy(functional_call(model, given, (split.images,)), split.labels)

    flat = torch.cat([parameters[name].detach().reshape(-1) for name in names])
    whole = hessian(loss)(flat)
    for module, mode in modes:
        module.training = mode
    kept = torch.cat([mask.reshape(-1) for mask in masks(model)]).bool()
    return whole[kept][:, kept]


@pytest.mark.parametrize("sparsity", [0.0, 0.6])
def test_eigenvalues_are_those_of_the_dense_hessian(sparsity: float) -> None:
    model, split = network(sparsity), some_split()
    expected = torch.linalg.eigvalsh(dense_hessian(model, split).double()).flip(0)[:3]
    found = top_eigenvalues(model, split, 3, tolerance=1e-5)
    assert found == pytest.approx(expected.tolist(), rel=1e-3)
    assert found[0] > 0


@pytest.mark.parametrize("sparsity", [0.0, 0.6])
def test_the_trace_is_that_of_the_dense_hessian(sparsity: float) -> None:
    model, split = network(sparsity), some_split()
    dense = dense_hessian(model, split).double()
    # The variance of one probe of signs is twice the squares off the diagonal.
    off = dense - torch.diag(dense.diagonal())
    error = math.sqrt(2 * float(off.square().sum()) / 400)
    assert abs(hessian_trace(model, split, 400) - float(dense.trace())) < 4 * error
    assert hessian_trace(model, split, 3, seed=5) == hessian_trace(model, split, 3, seed=5)


def rise(model: nn.Module, split: Split, offset: list[Tensor]) -> float:
    with undisturbed(model), torch.no_grad():
        before = cross_entropy(model(split.images), split.labels)
        for weight, part in zip(weights(model), offset, strict=True):
            weight.add_(part)
        return float(cross_entropy(model(split.images), split.labels) - before)


@pytest.mark.parametrize("sparsity", [0.0, 0.6])
def test_one_step_is_sams_epsilon(sparsity: float) -> None:
    model, split = network(sparsity), some_split()
    model.eval()
    cross_entropy(model(split.images), split.labels).backward()
    gradients = [weight.grad for weight in weights(model)]
    length = torch.cat([part.reshape(-1) for part in gradients]).norm()
    offset = [0.3 * part / length for part in gradients]
    assert all(
        (part[mask == 0] == 0).all() for part, mask in zip(offset, masks(model), strict=True)
    )
    assert sharpness(model, split, 0.3).value == pytest.approx(rise(model, split, offset), rel=1e-4)


@pytest.mark.parametrize("sparsity", [0.0, 0.6])
@pytest.mark.parametrize("rho", [0.1, 0.3])
def test_many_steps_find_what_an_independent_search_finds(sparsity: float, rho: float) -> None:
    model, split = network(sparsity), some_split()
    found = sharpness(model, split, rho, 40).value
    assert found >= sharpness(model, split, rho, 1).value
    generator, best = torch.Generator().manual_seed(0), 0.0
    kept = masks(model)
    for _ in range(6):  # Adam on directions of length rho, from random starts
        free = [torch.randn(m.shape, generator=generator).requires_grad_() for m in kept]
        optimizer = torch.optim.Adam(free, lr=0.1)
        names = [name for name, _ in model.named_parameters()]
        origin = {name: p.detach().clone() for name, p in model.named_parameters()}
        with undisturbed(model):
            for _ in range(120):
                length = torch.cat(
                    [(f * m).reshape(-1) for f, m in zip(free, kept, strict=True)]
                ).norm()
                moved = {
                    n: origin[n] + rho * f * m / length
                    for n, f, m in zip(names, free, kept, strict=True)
                }
                loss = cross_entropy(functional_call(model, moved, (split.images,)), split.labels)
                optimizer.zero_grad()
                (-loss).backward()
                optimizer.step()
            with torch.no_grad():
                here = cross_entropy(model(split.images), split.labels)
            best = max(best, float(loss.detach() - here))
    assert found == pytest.approx(best, rel=0.05)


def test_sharpness_grows_with_rho_and_is_refused_where_it_means_nothing() -> None:
    model, split = network(), some_split()
    values = [sharpness(model, split, rho, 5).value for rho in (0.05, 0.1, 0.5)]
    assert 0 < values[0] < values[1] < values[2]
    for rho, steps in ((0.0, 1), (-1.0, 1), (0.1, 0), (float("nan"), 1)):
        with pytest.raises(ValueError, match="must be above 0"):
            sharpness(model, split, rho, steps)


@pytest.mark.parametrize("sparsity", [0.0, 0.6])
def test_directions_have_the_filters_norms_and_respect_the_mask(sparsity: float) -> None:
    model = network(sparsity)
    direction = filter_normalised_direction(model, 3)
    for weight, mask, part in zip(weights(model), masks(model), direction, strict=True):
        assert (part[mask == 0] == 0).all()
        if weight.dim() < 2:
            assert not part.any()
        else:
            own = (weight * mask).flatten(1).norm(dim=1)
            torch.testing.assert_close(part.flatten(1).norm(dim=1), own)
    again = filter_normalised_direction(model, 3)
    assert all(map(torch.equal, direction, again))
    other = filter_normalised_direction(model, 4)
    assert not all(map(torch.equal, direction, other))


@pytest.mark.parametrize("sparsity", [0.0, 0.6])
def test_slice_and_surface_go_through_the_network(sparsity: float) -> None:
    model, split = network(sparsity), some_split()
    model.eval()
    here = float(cross_entropy(model(split.images), split.labels))
    positions = [-1.0, 0.0, 1.0]
    surface = loss_surface(model, split, positions, seed=2)
    assert float(surface[1, 1]) == here
    assert loss_slice(model, split, positions, seed=2) == surface[:, 1].tolist()
    across = filter_normalised_direction(model, 4)
    assert float(surface[2, 1]) - here == pytest.approx(rise(model, split, across), abs=1e-5)


class Interrupted(Exception):  # noqa: N818 - no error
    pass


@settings(max_examples=25)
@given(
    sparsity=st.sampled_from([0.0, 0.3, 0.9]),
    training=st.booleans(),
    fails_after=st.integers(0, 40),
    data=st.data(),
)
def test_everything_comes_back_bit_for_bit(
    sparsity: float, training: bool, fails_after: int, data: st.DataObject
) -> None:
    model, split = network(sparsity), some_split()
    model.train(training)
    model[2].train(not training)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    places = [weight.data_ptr() for weight in weights(model)]
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > fails_after:
            raise Interrupted

    model.register_forward_pre_hook(count)
    with suppress(Interrupted):
        measure_flatness(model, split, SMALL)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert places == [weight.data_ptr() for weight in weights(model)]
    assert [module.training for module in model] == [
        training,
        training,
        not training,
        training,
        training,
    ]
    assert all(weight.grad is None for weight in weights(model))


def test_measuring_repeats_and_leaves_the_generator_alone() -> None:
    model, split = network(0.5), some_split()
    torch.manual_seed(7)
    state = torch.random.get_rng_state()
    first = measure_flatness(model, split, SMALL)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert measure_flatness(model, split, SMALL) == first
    assert len(first.surface) == 9
    assert first.slice[1] == (0.0, first.surface[4][2])
    quick = measure_flatness(model, split, SMALL, thorough=False)
    assert quick.sharpness == first.sharpness[:2]
    assert (quick.trace, quick.surface, quick.top_eigenvalues) == (None, (), ())


def test_images_are_taken_class_by_class() -> None:
    labels = torch.tensor([2, 0, 0, 1, 2, 0, 1, 0])
    images = torch.arange(8.0).view(8, 1, 1, 1)
    chosen = some_images(Split(images, labels), 5)
    assert chosen.images.flatten().tolist() == [1, 3, 0, 2, 6]
    assert chosen.labels.tolist() == [0, 1, 2, 0, 1]
    assert len(some_images(Split(images, labels), 100)) == 8


def test_the_metrics_are_json_with_every_seed() -> None:
    thorough = measure_flatness(network(), some_split(), SMALL)
    quick = measure_flatness(network(seed=1), some_split(), SMALL, thorough=False)
    found = flatness_metrics({"sgd": [thorough, quick]}, SMALL, 1.234)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    rows = {(row["rho"], row["steps"]): row["values"] for row in found["arms"]["sgd"]["sharpness"]}
    assert rows[0.05, 1] == [thorough.sharpness[0].value, quick.sharpness[0].value]
    assert rows[0.05, 4] == [thorough.sharpness[2].value]
    assert found["arms"]["sgd"]["trace"]["values"] == [thorough.trace]
    assert found["budget"]["seconds"] == 1.2


def test_the_documentations_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "flatness.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"<!-- example -->\n```python\n(.*?)```", page, flags=re.DOTALL)
    exec(compile(code, "docs/flatness.md", "exec"), {"model": network(0.5), "split": some_split()})  # noqa: S102
    assert len(capsys.readouterr().out.splitlines()) == 4


def numeric_hessian(model: nn.Module, split: Split) -> Tensor:
    """By differences of gradients in float64, over the kept weights: no second derivative in it."""
    twin = copy.deepcopy(model).double().eval()
    kept = torch.cat([mask.reshape(-1) for mask in masks(twin)]).bool()
    places, step = kept.nonzero().flatten().tolist(), 1e-6
    images = split.images.double()

    def slope() -> Tensor:
        loss = cross_entropy(twin(images), split.labels)
        return torch.cat([one.reshape(-1) for one in torch.autograd.grad(loss, weights(twin))])

    rows = []
    flat = torch.nn.utils.parameters_to_vector(weights(twin)).detach()
    for place in places:
        sides = []
        for sign in (1, -1):
            moved = flat.clone()
            moved[place] += sign * step
            torch.nn.utils.vector_to_parameters(moved, weights(twin))
            sides.append(slope()[kept])
        rows.append((sides[0] - sides[1]) / (2 * step))
    return torch.stack(rows)


@pytest.mark.parametrize("name", ["vit_of_stripes", "cross_attention"])
def test_attention_has_the_curvature_that_differences_of_gradients_show(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(f"tests.hard_networks:{name}", (1, 8, 8), 3)
    attach(model, magnitude_masks(model, 0.9))
    split = Split(torch.randn(6, 1, 8, 8), torch.arange(6) % 3)
    dense = numeric_hessian(model, split)
    found = top_eigenvalues(model, split, 2, tolerance=1e-5)
    expected = torch.linalg.eigvalsh((dense + dense.T) / 2).flip(0)[:2]
    assert found == pytest.approx(expected.tolist(), rel=1e-3)
    off = dense - torch.diag(dense.diagonal())
    error = math.sqrt(2 * float(off.square().sum()) / 100)
    assert abs(hessian_trace(model, split, 100) - float(dense.trace())) < 4 * error


@pytest.mark.parametrize("frozen", ["encoder.layers.0", "encoder"])
def test_layers_that_are_frozen_hinder_no_measure(frozen: str) -> None:
    torch.manual_seed(0)
    model = build_model("tests.hard_networks:vit", (1, 8, 8), 3)
    model.get_submodule("patches").requires_grad_(False)
    model.get_submodule(frozen).requires_grad_(False)
    split = Split(torch.randn(6, 1, 8, 8), torch.arange(6) % 3)
    found = measure_flatness(model, split, SMALL)
    assert found.trace is not None
    assert math.isfinite(found.trace)
    assert torch.backends.mha.get_fastpath_enabled()


class Recomputed(nn.Module):
    """Attention whose activations are not kept but computed again for the derivative."""

    def __init__(self) -> None:
        super().__init__()
        self.project, self.head = nn.Linear(5, 8), nn.Linear(8, 3)

    def attend(self, tokens: Tensor) -> Tensor:
        return torch.nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.project(images.flatten(1, 2))
        out: Tensor = self.head(checkpoint(self.attend, tokens, use_reentrant=False).mean(1))
        return out


def test_attention_that_is_computed_again_in_the_derivative_has_a_second_one() -> None:
    torch.manual_seed(0)
    model, split = Recomputed(), some_split()
    expected = torch.linalg.eigvalsh(numeric_hessian(model, split)).max()
    assert top_eigenvalues(model, split, 1, tolerance=1e-5) == pytest.approx(
        [float(expected)], rel=1e-3
    )


class Bounded(nn.Module):
    """Its loss is NaN (or infinite) where the weight is longer than a limit."""

    def __init__(self, limit: float, beyond: float) -> None:
        super().__init__()
        self.head, self.limit, self.beyond = nn.Linear(25, 3), limit, beyond

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.head(images.flatten(1))
        return out * self.beyond if float(self.head.weight.detach().norm()) > self.limit else out


@pytest.mark.parametrize("beyond", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_no_sharpness(beyond: float) -> None:
    torch.manual_seed(0)
    model, split = Bounded(math.inf, beyond), some_split()
    length = float(model.head.weight.detach().norm())
    assert sharpness(model, split, 0.5).value > 0
    model.limit = length + 1e-4
    with pytest.raises(DivergenceError, match=r"the loss at a distance of 0\.5 is "):
        sharpness(model, split, 0.5)
    with pytest.raises(DivergenceError, match=r"the loss at \(-1, 0\) is "):
        loss_slice(model, split, [-1.0, 0.0, 1.0])
    model.limit = 0.0
    with pytest.raises(DivergenceError, match="the loss is nan"):
        sharpness(model, split, 0.5)
    with pytest.raises(DivergenceError, match=r"the loss at \(0, 0\) is nan"):
        loss_surface(model, split, [0.0])
    for measure in (hessian_trace, top_eigenvalues):
        with pytest.raises(DivergenceError, match="a product with the Hessian is nan"):
            measure(model, split)


def test_a_search_that_does_not_end_is_given_up() -> None:
    model, split = network(), some_split()
    with pytest.raises(RuntimeError, match="ARPACK"):
        top_eigenvalues(model, split, 3, tolerance=1e-12, restarts=1)


def test_a_network_without_a_second_derivative_is_measured_as_far_as_it_has_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MOOD", "once")
    model = build_model("tests.hard_networks:moody", (1, 5, 5), 3)
    split = some_split()
    assert sharpness(model, split, 0.1).value > 0
    assert len(loss_slice(model, split, [0.0, 1.0])) == 2
    with pytest.raises(RuntimeError, match="once_differentiable"):
        hessian_trace(model, split)


@pytest.mark.parametrize("name", NAMES)
def test_everything_is_measured_of_every_kind_of_network(name: str) -> None:
    """The quick kernels of attention have no second derivative."""
    torch.manual_seed(0)
    model = build_model(f"tests.sample_networks:{name}", (1, 5, 5), 3)
    attach(model, magnitude_masks(model, 0.5))
    split = Split(torch.randn(64, 1, 5, 5), torch.arange(64) % 3)
    found = measure_flatness(model, split, FlatnessSettings(slice_points=3, surface_points=3))
    assert found.trace is not None
    # (Neither is 0 for a network that has just been made.)
    assert all(map(math.isfinite, [*found.top_eigenvalues, found.trace]))
    assert found.top_eigenvalues[0] != 0 != found.trace


def test_workers_do_not_wait_for_the_import_of_statistics() -> None:
    said = "import sys, sparse_sam.evaluation.flatness.measure; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not {"scipy.stats", "statsmodels", "pandas", "matplotlib", "sklearn"} & loaded
