"""Arithmetic on lists of tensors, against numbers worked out by hand."""

from typing import Any

import pytest
import torch
from torch import Tensor

from sparse_sam.sam import vectors


def test_norm_and_inner_product_are_over_all_parts_together() -> None:
    one = [torch.tensor([[3.0, 0.0], [0.0, 4.0]]), torch.tensor([12.0])]
    other = [torch.tensor([[1.0, 9.0], [9.0, 2.0]]), torch.tensor(-0.5).reshape(1)]
    assert vectors.vector_norm(one) == 13.0
    assert vectors.inner_product(one, other) == 3.0 + 8.0 - 6.0
    assert vectors.vector_norm(one).dtype == torch.float32


def test_parts_need_not_be_contiguous_or_alike() -> None:
    part = torch.arange(6.0).reshape(2, 3)
    mixed: list[Tensor] = [part.t(), torch.full((2,), 2.0, dtype=torch.float64)]
    assert float(vectors.vector_norm(mixed)) == pytest.approx((55 + 8) ** 0.5, rel=1e-12)
    assert vectors.vector_norm(mixed).dtype == torch.float64
    assert float(vectors.inner_product([part.t()], [part.t().contiguous()])) == 55.0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_scaled_addition(dtype: torch.dtype) -> None:
    target = [torch.tensor([1.0, 2.0], dtype=dtype), torch.tensor([[4.0]], dtype=dtype)]
    direction = [torch.tensor([2.0, -4.0], dtype=dtype), torch.tensor([[8.0]], dtype=dtype)]
    kept = [part.clone() for part in direction]
    vectors.add_scaled_(target, direction, torch.tensor(0.5), 0.5)
    assert target[0].tolist() == [1.5, 1.0]
    assert target[1].tolist() == [[6.0]]
    assert all(a.equal(b) for a, b in zip(direction, kept, strict=True))


def test_the_factor_keeps_its_precision_in_half_precision() -> None:
    target = [torch.zeros(1, dtype=torch.bfloat16)]
    direction = [torch.tensor([384.0], dtype=torch.bfloat16)]
    vectors.add_scaled_(target, direction, torch.tensor(1 + 2**-8))  # 1 in bfloat16
    assert target[0].item() == 386.0  # 385.5, rounded once


def test_both_ways_of_adding_are_the_same_up_to_rounding() -> None:
    # The one for accelerators runs on a CPU as well.
    generator = torch.Generator().manual_seed(0)
    target = [torch.randn(50, generator=generator), torch.randn(3, 4, generator=generator)]
    twin = [part.clone() for part in target]
    direction = [torch.randn(50, generator=generator), torch.randn(3, 4, generator=generator)]
    vectors.add_each_(target, direction, torch.tensor(0.3), 7.0)
    vectors.add_fused_(twin, direction, torch.tensor(0.3), 7.0)
    for one, other in zip(target, twin, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_products_of_half_precision_parts_are_in_float32(dtype: torch.dtype) -> None:
    # 64 · 300² is beyond float16, 2⁻²⁰ · 2⁻²⁰ is 0 there, and 65 has one bit too many for bfloat16
    # after 64 · 64.
    large = [torch.full((64,), 300.0, dtype=dtype)]
    assert vectors.inner_product(large, large).item() == 64 * 300.0**2
    assert vectors.inner_product(large, large).dtype == torch.float32
    small = [torch.full((3,), 2.0**-20, dtype=dtype)]
    assert vectors.inner_product(small, small).item() == 3 * 2.0**-40
    exact = [torch.tensor([64.0, 1.0], dtype=dtype), torch.tensor([[1.0]], dtype=dtype)]
    assert vectors.inner_product(exact, exact).item() == 4098.0
    assert vectors.vector_norm(large).item() == 2400.0
    mixed = [torch.full((64,), 300.0, dtype=torch.float64)]
    assert vectors.inner_product(large, mixed).dtype == torch.float64


def test_a_half_precision_part_is_converted_piece_by_piece(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    part = [torch.arange(1.0, 12.0).half().reshape(11, 1)]
    monkeypatch.setattr(vectors, "_PIECE", 4)
    converted = []
    whole = Tensor.to

    def watched(self: Tensor, *arguments: Any) -> Tensor:
        converted.append(self.numel())
        return whole(self, *arguments)

    monkeypatch.setattr(Tensor, "to", watched)
    assert vectors.inner_product(part, part).item() == 506.0
    assert max(converted) == 4
    assert sum(converted) == 2 * 11
    nothing = [torch.zeros(0, dtype=torch.float16)]
    assert vectors.inner_product(nothing, nothing).item() == 0.0


def test_scaling() -> None:
    vector = [torch.tensor([1.0, -2.0]), torch.tensor([4.0])]
    vectors.scale_(vector, torch.tensor(-0.5))
    assert [part.tolist() for part in vector] == [[-0.5, 1.0], [-2.0]]
