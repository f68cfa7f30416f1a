"""Randomness that every arm of a seed shares, and that needs no state to resume.

Each use of randomness has its own stream, derived from the seed and a purpose. The batch order of
an epoch is a function of (seed, purpose, epoch), so two arms of one seed see the same batches,
and a resumed run sees the ones that it would have seen.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A seed in [0, 2⁶³) for one purpose: different purposes give unrelated streams."""
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


@contextmanager
def seeded(seed: int, *purpose: str | int) -> Iterator[None]:
    """Seed torch's global generators for a block; afterwards they go on as if it had not been."""
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(seed, *purpose))
        yield


def batch_order(count: int, seed: int, *purpose: str | int) -> Tensor:
    """A permutation of ``range(count)`` (int64, on the CPU) that depends on nothing else."""
    generator = torch.Generator().manual_seed(derive_seed(seed, *purpose, "batch order"))
    return torch.randperm(count, generator=generator)
