"""Randomness: a function of seed and purpose, and of nothing else."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparse_sam.data.seeding import batch_order, derive_seed, seeded

SEEDS = st.integers(0, 2**32 - 1)


def global_state() -> tuple[bytes, object, bytes]:
    return (
        torch.get_rng_state().numpy().tobytes(),
        random.getstate(),
        np.random.get_state()[1].tobytes(),  # noqa: NPY002
    )


def test_derived_seeds_are_those_of_sha256_and_never_change() -> None:
    # First 8 bytes of SHA-256, shifted by one: another value would change every result.
    # printf 0 | sha256sum; printf 3/finetune/1 | sha256sum
    assert derive_seed(0) == 0x5FECEB66FFC86F38 >> 1
    assert derive_seed(3, "finetune", 1) == 0xB45777B8FD0B0E37 >> 1


@given(seed=SEEDS, other=SEEDS)
def test_seeds_and_purposes_give_different_streams(seed: int, other: int) -> None:
    derived = {
        derive_seed(one, *purpose)
        for one in {seed, other}
        for purpose in (("finetune", 1), ("finetune", 2), ("train_dense", 1), ("initialisation",))
    }
    assert len(derived) == 4 * len({seed, other})
    assert all(0 <= one < 2**63 for one in derived)


@given(count=st.integers(0, 300), seed=SEEDS, epoch=st.integers(1, 50))
def test_an_order_has_every_index_once(count: int, seed: int, epoch: int) -> None:
    order = batch_order(count, seed, "finetune", epoch)
    assert order.dtype == torch.int64
    assert sorted(order.tolist()) == list(range(count))


@given(seed=SEEDS, draws=st.integers(0, 5))
def test_an_order_does_not_depend_on_global_state_nor_touch_it(seed: int, draws: int) -> None:
    expected = batch_order(50, seed, "finetune", 3)
    torch.manual_seed(seed + 1)
    torch.rand(draws)
    before = global_state()
    assert torch.equal(batch_order(50, seed, "finetune", 3), expected)
    assert global_state() == before


def test_an_order_depends_on_all_that_it_is_given() -> None:
    orders = [
        batch_order(50, 0, "finetune", 1),
        batch_order(50, 1, "finetune", 1),
        batch_order(50, 0, "train_dense", 1),
        batch_order(50, 0, "finetune", 2),
        torch.arange(50),
    ]
    for index, one in enumerate(orders):
        assert not any(torch.equal(one, other) for other in orders[index + 1 :])


def test_a_seeded_block_is_repeatable_and_leaves_the_generator_as_it_was() -> None:
    torch.manual_seed(7)
    undisturbed = torch.rand(3)
    torch.manual_seed(7)
    with seeded(0, "initialisation"):
        first = torch.rand(3)
    assert torch.equal(torch.rand(3), undisturbed)
    with seeded(0, "initialisation"):
        assert torch.equal(torch.rand(3), first)
    with seeded(1, "initialisation"):
        assert not torch.equal(torch.rand(3), first)
    with seeded(0, "pruning"):
        assert not torch.equal(torch.rand(3), first)


def test_an_exception_in_a_seeded_block_restores_the_generator_too() -> None:
    before = global_state()
    with pytest.raises(ValueError, match="stop"), seeded(0):  # noqa: PT012
        torch.rand(3)
        raise ValueError("stop")
    assert global_state() == before
