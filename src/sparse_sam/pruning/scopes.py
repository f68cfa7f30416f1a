"""Among which weights the smallest are sought: in each tensor by itself, or in all together."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import floor, prod

from sparse_sam.errors import MaskError
from sparse_sam.pruning.ranking import pruned_count


@dataclass(frozen=True)
class Layer:
    """What a scope knows of a tensor.

    Attributes:
        shape: its dimensions.
        units: how many units it has, weights or output channels.
        gone: how many of them are pruned already.
        most: how many of them may be pruned at all.
    """

    shape: tuple[int, ...]
    units: int
    gone: int
    most: int


@dataclass(frozen=True)
class Share:
    """So many units of these tensors, ranked together, are to be pruned in all."""

    names: tuple[str, ...]
    count: int


Scope = Callable[[Mapping[str, Layer], float], list[Share]]


def layerwise(tensors: Mapping[str, Layer], sparsity: float) -> list[Share]:
    """The same share of every tensor."""
    return [Share((name,), pruned_count(sparsity, one.units)) for name, one in tensors.items()]


def all_together(tensors: Mapping[str, Layer], sparsity: float) -> list[Share]:
    """A share of all tensors, whichever tensor it falls on."""
    return [Share(tuple(tensors), pruned_count(sparsity, sum(t.units for t in tensors.values())))]


def erk(tensors: Mapping[str, Layer], sparsity: float) -> list[Share]:
    """Erdős–Rényi-Kernel: small tensors are pruned less than large ones.

    (Evci et al. 2020, arXiv:1911.11134, section 3.) The density of a tensor is ε times the sum of
    its dimensions over their product, and at most 1; ε is such that the count over all tensors is
    exact. What is rounded goes to the tensors with the largest remainder.
    """
    all_units = sum(one.units for one in tensors.values())
    kept = all_units - pruned_count(sparsity, all_units)
    lows = [one.units - one.most for one in tensors.values()]
    highs = [one.units - one.gone for one in tensors.values()]
    if not sum(lows) <= kept <= sum(highs):
        raise MaskError(
            f"sparsity {sparsity} keeps {kept} of {all_units}; allowed: {sum(lows)} to {sum(highs)}"
        )
    slopes = [one.units * sum(one.shape) / prod(one.shape) for one in tensors.values()]
    wanted = _filled(slopes, lows, highs, kept)
    counts = [floor(one) for one in wanted]
    by_remainder = sorted(range(len(counts)), key=lambda i: counts[i] - wanted[i])
    while (rest := kept - sum(counts)) > 0:
        for i in [i for i in by_remainder if counts[i] < highs[i]][:rest]:
            counts[i] += 1
    return [
        Share((name,), one.units - count)
        for (name, one), count in zip(tensors.items(), counts, strict=True)
    ]


def _filled(slopes: list[float], lows: list[int], highs: list[int], total: int) -> list[float]:
    """ε · slope for every tensor, within its bounds, with the largest ε that fits in ``total``."""

    def at(epsilon: float) -> list[float]:
        each = zip(slopes, lows, highs, strict=True)
        return [min(max(epsilon * slope, low), high) for slope, low, high in each]

    small = 0.0
    large = max(high / slope for slope, high in zip(slopes, highs, strict=True)) + 1.0
    for _ in range(100):
        middle = (small + large) / 2
        small, large = (middle, large) if sum(at(middle)) <= total else (small, middle)
    return at(small)
