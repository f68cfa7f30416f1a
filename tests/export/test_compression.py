"""Packing loses nothing, counts are right, and what is timed computes the same."""

from dataclasses import replace
from typing import Any

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
    count_multiply_adds,
    file_sizes,
    folded,
    layer_sizes,
    multiply_adds,
    pack,
    unpack,
)
from sparse_sam.export.latency import (
    BATCHES,
    CSR,
    DENSE,
    STORED,
    Latency,
    SparseLinear,
    Untimed,
    compression_metrics,
    measure_latency,
    with_sparse_linears,
)
from sparse_sam.files.unmeasured import gaps, why_not
from sparse_sam.networks.build import build_model
from sparse_sam.pruning.magnitude import magnitude_masks
from sparse_sam.pruning.masks import Masks, attach
from sparse_sam.training.checkpoint import Checkpoint
from sparse_sam.training.origin import Origin
from tests.hard_networks import WIDTH
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
        assert isinstance(row, Latency)
        assert row.runs >= 3
        assert 0 < row.quartiles_ms[0] <= row.median_ms <= row.quartiles_ms[1]
    dense = [row for row in rows if isinstance(row, Latency) and row.form == DENSE]
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
    rows = measure_latency(dense, sparse, images, 0.0)
    assert [type(row) for row in rows] == [Latency] * 3 * len(BATCHES)
    linears = [type(one) for one in with_sparse_linears(folded(sparse), images).modules()]
    assert SparseLinear in linears  # each has at least one that is only called


def test_a_form_that_computes_something_else_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(_: nn.Module, inputs: torch.Tensor) -> nn.Module:
        return with_sparse_linears(folded(network("lenet-300-100")), inputs)

    monkeypatch.setattr("sparse_sam.export.latency.with_sparse_linears", wrong)
    sparse = network("lenet-300-100", 0.9)
    rows = measure_latency(network("lenet-300-100"), sparse, torch.randn(2, 1, 28, 28), 0.01)
    assert [row.form for row in rows if isinstance(row, Latency)] == [DENSE, STORED] * len(BATCHES)
    for row in rows[2::3]:
        assert isinstance(row, Untimed)
        assert row.gap.why == (
            f"ArithmeticError: {CSR} does not compute what the sparse network computes"
        )


def hard(name: str, shape: tuple[int, int, int] = (1, 8, 8)) -> tuple[Checkpoint, Checkpoint]:
    """A network of ``tests.hard_networks``, dense and half pruned, for three classes."""
    torch.manual_seed(0)
    model = build_model(f"tests.hard_networks:{name}", shape, 3)
    origin = replace(
        ORIGIN, model=f"tests.hard_networks:{name}", image_shape=shape, classes=tuple("012")
    )
    dense = Checkpoint.of(model, origin)
    attach(model, magnitude_masks(model, 0.5))
    return dense, Checkpoint.of(model, origin)


def test_multiply_adds_of_a_vision_transformer_by_hand() -> None:
    dense, sparse = hard("vit")
    # Eight rows of eight pixels are a token each, with the class nine. A layer has projections of
    # 3 × WIDTH and WIDTH, and two layers of twice the width; the head reads one token.
    layer = 9 * (3 + 1 + 2 + 2) * WIDTH * WIDTH
    by_hand = 8 * WIDTH * 8 + 2 * layer + WIDTH * 3
    for checkpoint, kept in ((dense, by_hand), (sparse, by_hand // 2)):
        found = count_multiply_adds(checkpoint)
        assert found == (by_hand, kept, ("patches.class_token", "patches.positions"))


def test_multiply_adds_of_attention_with_three_inputs_by_hand() -> None:
    _, sparse = hard("cross_attention")
    # One query; nine keys of width 6, made of the tokens by a layer; nine values; one output.
    by_hand = 8 * WIDTH * 8 + 9 * WIDTH * 6 + (1 + 9 + 1) * WIDTH * WIDTH + 9 * 6 * WIDTH
    by_hand += WIDTH * 3
    found = count_multiply_adds(sparse)
    assert (found.total, found.kept) == (by_hand, by_hand // 2)
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_weight_that_is_used_otherwise_is_named() -> None:
    torch.manual_seed(0)
    model = build_model("tests.sample_networks:lstm", (1, 5, 5), 3)
    origin = replace(
        ORIGIN, model="tests.sample_networks:lstm", image_shape=(1, 5, 5), classes=tuple("012")
    )
    found = count_multiply_adds(Checkpoint.of(model, origin))
    assert (found.total, len(found.left_out)) == (WIDTH * 3, 4)
    assert found.left_out[0] == "read.weight_ih_l0"


@pytest.mark.parametrize("name", ["vit", "vit_of_stripes", "cross_attention", "moody"])
def test_every_form_of_a_hard_network_is_timed(name: str) -> None:
    dense, sparse = hard(name)
    images = torch.randn(4, 1, 8, 8)
    rows = measure_latency(dense, sparse, images, 0.0)
    assert [type(row) for row in rows] == [Latency] * 3 * len(BATCHES)
    plain = folded(sparse)
    made = with_sparse_linears(plain, images)
    assert any(isinstance(module, SparseLinear) for module in made.modules())
    with torch.no_grad():
        torch.testing.assert_close(made(images), plain(images), rtol=1e-4, atol=1e-5)


@settings(max_examples=30)
@given(
    batch=st.lists(st.integers(1, 4), max_size=3),
    bias=st.booleans(),
    density=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
def test_a_sparse_layer_takes_whatever_a_dense_one_takes(
    batch: list[int], bias: bool, density: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(5, 3, bias=bias).requires_grad_(False)
    layer.weight.mul_(torch.rand(3, 5, generator=generator) < density)
    inputs = torch.randn(*batch, 5, generator=generator)
    torch.testing.assert_close(SparseLinear(layer)(inputs), layer(inputs))


class Doubling(nn.Linear):
    """A linear layer that is more than one."""

    def forward(self, inputs: Tensor) -> Tensor:
        return 2 * super().forward(inputs)


class ReadsItsWidth(nn.Module):
    """Asks a layer for what only a dense one has, and raises what nobody expects."""

    def __init__(self) -> None:
        super().__init__()
        self.free, self.read = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        if getattr(self.read, "in_features", None) is None:
            raise LookupError("in_features")
        return self.read(self.free(inputs))


def test_a_layer_that_must_be_dense_stays_so() -> None:
    inputs = torch.randn(2, 4)
    reads = with_sparse_linears(ReadsItsWidth(), inputs)
    assert [type(one) for one in reads.children()] == [SparseLinear, nn.Linear]
    doubled = nn.Sequential(Doubling(4, 4), nn.Linear(4, 4))
    made = with_sparse_linears(doubled, inputs)
    assert [type(one) for one in made] == [Doubling, SparseLinear]
    torch.testing.assert_close(made(inputs), doubled(inputs))
    half = nn.Sequential(nn.Linear(4, 4).double(), nn.Linear(4, 4).double())
    torch.testing.assert_close(
        with_sparse_linears(half, inputs.double())(inputs.double()), half(inputs.double())
    )


def measure(name: str, **budgets: float) -> dict[str, Any]:
    dense, sparse = hard(name)
    given = {"latency_budget": 60.0, "compression_budget": 60.0, **budgets}
    return compression_metrics(dense, sparse, torch.randn(4, 1, 8, 8), 0.0, **given)


def test_a_batch_that_a_network_refuses_is_said_and_the_other_is_timed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MOOD", "batch")
    found = measure("moody")
    rows = found["latency"]["rows"]
    assert [(row["form"], row["batch"]) for row in rows] == [
        (form, batch) for batch in BATCHES for form in (DENSE, STORED, CSR)
    ]
    assert [why_not(row) for row in rows] == [None] * 3 + [
        "256 images at a time: ValueError: who has 256 images?"
    ] * 3
    assert list(gaps(found).values()) == ["latency"]


def test_what_takes_too_long_is_not_begun() -> None:
    found = measure("vit", latency_budget=1e-9, compression_budget=1e-9)
    said = gaps(found)
    assert list(said.values()) == ["bytes", "latency", "latency"]
    assert all("and the budget is 1e-09 s (evaluate.budget_seconds." in why for why in said)
    assert "with 256 images at a time" in list(said)[2]
    assert found["multiply_adds"]["dense"] > 0
    whole = measure("vit")
    assert gaps(whole) == {}
    assert whole["layers"] == found["layers"]


def test_a_network_without_linear_layers_has_no_such_form() -> None:
    torch.manual_seed(0)
    convolution = nn.Sequential(nn.Conv2d(1, 3, 4), nn.Flatten())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sparse_sam.export.latency.folded", lambda _: convolution)
        checkpoint = network()
        rows = measure_latency(checkpoint, checkpoint, torch.randn(2, 1, 4, 4), 0.0)
    assert [type(row) for row in rows] == [Latency, Latency, Untimed] * len(BATCHES)


def test_many_small_tensors_do_not_take_all_memory() -> None:
    packed = {}
    for i in range(20):
        packed[f"values/{i}"] = torch.ones(1)
        packed[f"shape/{i}"] = torch.tensor([2**24])
        packed[f"index/{i}"] = torch.zeros(1, dtype=torch.int32)
    with pytest.raises(CheckpointError, match=r"3\.36e\+08 weights"):
        unpack(packed)
