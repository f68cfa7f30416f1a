"""Packing loses nothing, counts are right, and what is timed computes the same."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.flop_counter import FlopCounterMode

from sparse_sam.errors import CheckpointError
from sparse_sam.export.compression import (
    Layer,
    file_sizes,
    folded,
    layer_sizes,
    multiply_adds,
    pack,
    unpack,
)
from sparse_sam.export.latency import BATCHES, SparseLinear, measure_latency, with_sparse_linears
from sparse_sam.networks.build import build_model
from sparse_sam.pruning.magnitude import magnitude_masks
from sparse_sam.pruning.masks import Masks, attach
from sparse_sam.training.checkpoint import Checkpoint
from sparse_sam.training.origin import Origin
from tests.sample_networks import NAMES

ORIGIN = Origin(
    "classifier", (1, 28, 28), tuple("0123456789"), (0.13,), (0.31,), "fingerprint", "pruned", 0
)


def network(name: str = "classifier", sparsity: float = 0.0) -> Checkpoint:
    torch.manual_seed(0)
    model = build_model(name, ORIGIN.image_shape, 10)
    if sparsity:
        attach(model, magnitude_masks(model, sparsity))
    return Checkpoint.of(model, replace(ORIGIN, model=name))


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


@settings(max_examples=60)
@given(
    shape=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    density=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
def test_any_weights_come_back_bit_for_bit(shape: list[int], density: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(shape, generator=generator) < density
    mask.view(-1)[0] = True
    weight = torch.randn(shape, generator=generator) * mask
    other = torch.arange(4)
    checkpoint = Checkpoint(ORIGIN, {"a.weight": weight, "n": other}, Masks({"a.weight": mask}))
    state, masks = unpack(pack(checkpoint))
    assert same(state, {"a.weight": weight, "n": other})
    assert masks is not None
    assert torch.equal(masks["a.weight"], mask)


def test_kept_weights_that_are_zero_stay_kept() -> None:
    weight, mask = torch.tensor([0.0, 1.0, 0.0]), torch.tensor([True, True, False])
    checkpoint = Checkpoint(ORIGIN, {"w": weight}, Masks({"w": mask}))
    _, masks = unpack(pack(checkpoint))
    assert masks is not None
    assert masks["w"].tolist() == [True, True, False]


@pytest.mark.parametrize("victim", ["shape/0.weight", "bits/0.weight", "values/0.weight"])
def test_what_does_not_fit_is_refused(victim: str) -> None:
    packed = pack(network(sparsity=0.5))
    packed[victim] = packed[victim][:1]
    with pytest.raises(CheckpointError, match=r"packed weights of 0\.weight are damaged"):
        unpack(packed)


def test_the_sparser_the_smaller() -> None:
    # Half of 4-byte weights, and a bit for each: 4/2 + 1/8 of 4 bytes. Positions take less only
    # where fewer than 1 in 32 weights is kept.
    dense, half = file_sizes(network(sparsity=0.5))
    assert half.raw / dense.raw == pytest.approx(0.5 + 1 / 32, abs=0.01)
    tiny = network(sparsity=0.99)
    assert "index/2.weight" in pack(tiny)
    assert file_sizes(tiny)[1].raw / dense.raw == pytest.approx(0.02, abs=0.012)
    plain, packed = file_sizes(network())
    assert packed.raw == pytest.approx(plain.raw, rel=1e-3)
    assert half.compressed < dense.compressed


def test_layers_are_counted() -> None:
    found = layer_sizes(network("lenet-300-100", 0.9))
    sizes_by_hand = [784 * 300, 300 * 100, 100 * 10]
    assert [layer.weights for layer in found] == sizes_by_hand
    assert [layer.kept for layer in found] == [round(size / 10) for size in sizes_by_hand]
    assert layer_sizes(network()) == []
    assert isinstance(found[0], Layer)


def test_multiply_adds_by_hand() -> None:
    assert multiply_adds(network("lenet-300-100")) == (266_200, 266_200)
    assert multiply_adds(network("lenet-300-100", 0.9)) == (266_200, 26_620)
    # 4 × 4 kernels with stride 2: 14 × 14 and 7 × 7 outputs; then 6272 × 10.
    by_hand = 14 * 14 * 64 * 16 + 7 * 7 * 128 * 64 * 16 + 6272 * 10
    total, kept = multiply_adds(network(sparsity=0.5))
    assert (total, kept) == (by_hand, by_hand // 2)


@pytest.mark.parametrize("name", ["classifier", "lenet-300-100", "lenet-5", "mlpnet"])
def test_multiply_adds_are_half_of_torchs_operations(name: str) -> None:
    checkpoint = network(name)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        checkpoint.build().eval()(torch.zeros(1, *ORIGIN.image_shape))
    assert multiply_adds(checkpoint)[0] == counter.get_total_flops() // 2


def test_the_forms_compute_the_same() -> None:
    checkpoint = network("lenet-5", 0.8)
    plain = folded(checkpoint)
    sparse = with_sparse_linears(plain, torch.randn(1, 1, 28, 28))
    assert any(isinstance(module, SparseLinear) for module in sparse.modules())
    assert not any(isinstance(module, SparseLinear) for module in plain.modules())
    images = torch.randn(7, 1, 28, 28)
    with torch.no_grad():
        masked = checkpoint.build().eval()(images)
        torch.testing.assert_close(plain(images), masked)
        torch.testing.assert_close(sparse(images), masked, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_folded_network_is_plain_and_computes_the_same(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(f"tests.sample_networks:{name}", (1, 5, 5), 3)
    attach(model, magnitude_masks(model, 0.5))
    origin = replace(
        ORIGIN, model=f"tests.sample_networks:{name}", image_shape=(1, 5, 5), classes=tuple("012")
    )
    plain = folded(Checkpoint.of(model, origin))
    assert not any(parametrize.is_parametrized(module) for module in plain.modules())
    assert list(dict(plain.named_parameters())) == list(
        dict(build_model(origin.model, (1, 5, 5), 3).named_parameters())
    )
    images = torch.randn(4, 1, 5, 5)
    torch.testing.assert_close(plain(images), model.eval()(images))


def test_a_weight_that_layers_share_multiplies_in_each_of_them() -> None:
    torch.manual_seed(0)
    model = build_model("tests.sample_networks:tied", (1, 5, 5), 3)
    attach(model, magnitude_masks(model, 0.5))
    origin = replace(
        ORIGIN,
        model="tests.sample_networks:tied",
        image_shape=(1, 5, 5),
        classes=tuple("012"),
        arm="pruned",
    )
    # For one image: at each of the 25 positions a layer of 8 × 8 twice, and the head of 8 × 5;
    # and 125 × 3 once.
    total = 2 * 25 * 8 * 8 + 25 * 5 * 8 + 125 * 3
    assert multiply_adds(Checkpoint.of(model, origin)) == (total, (total - 375) // 2 + 187)


def test_latency_has_a_row_for_every_form_and_batch() -> None:
    rows = measure_latency(
        network("lenet-300-100"), network("lenet-300-100", 0.9), torch.randn(5, 1, 28, 28), 0.05
    )
    assert [row.batch for row in rows] == [batch for batch in BATCHES for _ in range(3)]
    for row in rows:
        assert row.runs >= 3
        assert 0 < row.quartiles_ms[0] <= row.median_ms <= row.quartiles_ms[1]
    dense = [row for row in rows if row.form == "dense"]
    assert [row.relative_to_dense for row in dense] == [1.0, 1.0]


@pytest.mark.parametrize("name", NAMES)
def test_every_network_can_be_timed(name: str) -> None:
    """Attention reads the weights of linear layers that it does not call."""
    torch.manual_seed(0)
    model = build_model(f"tests.sample_networks:{name}", (1, 5, 5), 3)
    origin = replace(
        ORIGIN, model=f"tests.sample_networks:{name}", image_shape=(1, 5, 5), classes=tuple("012")
    )
    dense = Checkpoint.of(model, origin)
    attach(model, magnitude_masks(model, 0.5))
    sparse = Checkpoint.of(model, origin)
    images = torch.randn(4, 1, 5, 5)
    assert len(measure_latency(dense, sparse, images, 0.0)) == 3 * len(BATCHES)
    linears = [type(one) for one in with_sparse_linears(folded(sparse), images).modules()]
    assert SparseLinear in linears  # each has at least one that is only called


def test_a_form_that_computes_something_else_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(_: nn.Module, inputs: torch.Tensor) -> nn.Module:
        return with_sparse_linears(folded(network("lenet-300-100")), inputs)

    monkeypatch.setattr("sparse_sam.export.latency.with_sparse_linears", wrong)
    sparse = network("lenet-300-100", 0.9)
    with pytest.raises(ArithmeticError, match="does not compute"):
        measure_latency(network("lenet-300-100"), sparse, torch.randn(2, 1, 28, 28), 0.01)


def test_many_small_tensors_do_not_take_all_memory() -> None:
    packed = {}
    for i in range(20):
        packed[f"values/{i}"] = torch.ones(1)
        packed[f"shape/{i}"] = torch.tensor([2**24])
        packed[f"index/{i}"] = torch.zeros(1, dtype=torch.int32)
    with pytest.raises(CheckpointError, match=r"3\.36e\+08 weights"):
        unpack(packed)
