"""Optimal Brain Surgeon on the empirical Fisher: which weights the loss misses least.

(Hassibi and Stork 1993; with the Fisher in the Hessian's place, Singh and Alistarh 2020,
arXiv:2004.14340.) Near w the loss rises by δᵀFδ/2. When a weight goes and the others make up for it
as well as they can, that is w²/(2[F⁻¹]qq). It holds near w only, and for one weight: so weights go
in stages, a tenth of what is left in each, and after each the others are updated and gradients are
taken anew. A weight's score is when it went.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from sparse_sam.data import Split, batch_order
from sparse_sam.errors import DivergenceError
from sparse_sam.pruning.criteria import Evidence
from sparse_sam.pruning.fisher import Fisher, damping_of
from sparse_sam.pruning.gradients import Weights

_DAMPED_BY = 128
"""λ is taken from the gradients of so many examples."""
_LAST = -1
"""The stage of what is left at the end."""


@dataclass(frozen=True)
class OBSSelection:
    """Which weights go: the least missed first, in stages in which the others are updated.

    The weights that are kept stay what they were: the update serves the choice alone. A unit that
    goes as a whole is ranked by when its weights go on average. Settings were chosen on validation
    images (studies/oneshot).

    Attributes:
        examples: of how many training images gradients are taken at each stage; others each time.
        first: the share of all weights that the first stage keeps, in [0, 1].
        keeps: the share of what is left that every other stage keeps, in [0, 1).
        until: the share of all weights at which stages end; the last ones go by one statistic.
        damping: λ, as a share of F's mean diagonal.
        block: F is taken to be 0 between blocks of so many weights. One of 2²⁰ and a thousand
            examples take 4 GiB, and half as much while it is worked on.

    Raises:
        ValueError: a setting is out of its range.
    """

    examples: int = 1000
    first: float = 0.5
    keeps: float = 0.9
    until: float = 0.005
    damping: float = 0.001
    block: int = 2**20

    name: ClassVar[str] = "obs-selection"

    def __post_init__(self) -> None:
        shares = {"first": self.first, "keeps": self.keeps, "until": self.until}
        for name, share in shares.items():
            if not 0 <= share <= 1 or (name == "keeps" and share == 1):
                most = "less than" if name == "keeps" else "at most"
                raise ValueError(f"{name} = {share}: must be at least 0 and {most} 1")
        for name, number in {"examples": self.examples, "block": self.block}.items():
            if number < 1:
                raise ValueError(f"{name} = {number}: must be at least 1")
        if not self.damping >= 0:
            raise ValueError(f"damping = {self.damping}: must be at least 0")

    def scores(  # noqa: D102
        self, model: nn.Module, weights: Mapping[str, Tensor], evidence: Evidence
    ) -> dict[str, Tensor]:
        path = self._path(model, weights, evidence)
        self._walk(path)
        return path.order()

    def pooled(self, blocks: Tensor) -> Tensor:  # noqa: D102
        return blocks.mean(dim=1)

    def _walk(self, path: "_Path") -> None:
        path.left = path.values != 0  # what is 0 is not missed
        path.walk(round(self.until * len(path.left)), to_the_end=True)

    def _path(self, model: nn.Module, weights: Mapping[str, Tensor], evidence: Evidence) -> "_Path":
        train = evidence.train_for(self.name)
        return _Path(self, Weights(model, weights, evidence.seed), train, evidence.seed)


@dataclass(frozen=True)
class OBS(OBSSelection):
    """The same weights go, and the others are updated, in the same stages.

    What was found on the way to ``scores`` is kept, 4 bytes a weight that is left after a stage: if
    the masks let the same weights go, as those of global scope do, no stage is done twice.
    """

    name: ClassVar[str] = "obs"
    _known: "list[_Path]" = field(default_factory=list, init=False, repr=False, compare=False)

    def scores(  # noqa: D102
        self, model: nn.Module, weights: Mapping[str, Tensor], evidence: Evidence
    ) -> dict[str, Tensor]:
        path, kept = self._path(model, weights, evidence), _KEPT.get()
        if kept is None:
            self._walk(path)
        else:
            # Networks with the same weights may still compute other things.
            gradient = path.first_gradient()
            for known, its_gradient in kept:
                if path.begins_as(known) and torch.equal(gradient, its_gradient):
                    path = known
                    break
            else:
                self._walk(path)
                kept[:] = [(path, gradient)]
        self._known[:] = [path]
        return path.order()

    def compensated(  # noqa: D102
        self,
        model: nn.Module,
        weights: Mapping[str, Tensor],
        masks: Mapping[str, Tensor],
        evidence: Evidence,
    ) -> dict[str, Tensor]:
        path = self._path(model, weights, evidence)
        kept = path.weights.flat(masks).bool()
        path.left, path.stays = (path.values != 0) | kept, kept
        if torch.equal(path.left, kept):
            return {}
        for known in self._known:
            path.take_over(known)
        path.walk(int(kept.sum()), to_the_end=False)
        return path.weights.shaped(path.values)


_KEPT: "ContextVar[list[tuple[_Path, Tensor]] | None]" = ContextVar("kept", default=None)


@contextmanager
def obs_paths_kept() -> Iterator[None]:
    """Within it ``obs`` keeps its last way: a network pruned to many sparsities is walked once.

    It goes the same way to every sparsity, so masks and weights are the same, to the bit. What is
    kept takes some bytes a weight, and the network.
    """
    token = _KEPT.set([])
    try:
        yield
    finally:
        _KEPT.reset(token)


class _Path:
    """From a dense network to a sparse one, in stages.

    Attributes:
        weights: as the network holds them.
        values: what they are by now, as one vector.
        left: which of them have not gone, bool.
        stays: which of them may not go, bool.
        gone: when each went, as its place among those that did, from 1; 0 if it was gone before.
    """

    def __init__(self, how: OBSSelection, weights: Weights, train: Split, seed: int) -> None:
        self.weights = weights
        self.values = weights.flat().float()
        self.left = torch.ones_like(self.values, dtype=torch.bool)
        self.stays = torch.zeros_like(self.left)
        self.gone = torch.zeros_like(self.values, dtype=torch.int64)
        self._how, self._train, self._seed = how, train, seed
        self._began = {name: one.clone() for name, one in weights.model.state_dict().items()}
        self._stages_done: list[tuple[int, Tensor]] = []
        self._missed: Tensor | None = None  # the last stage's statistic, of every weight
        self._moved = False

    def order(self) -> dict[str, Tensor]:
        """When each weight went, from 0 to 1."""
        return self.weights.shaped((self.gone.double() / len(self.gone)).float())

    def take_over(self, other: "_Path") -> None:
        """Begin where another path is that came from here and let nothing go that is to stay."""
        stays = other.gone[self.stays]
        if not self.begins_as(other) or not stays.all():
            return
        for left, values in reversed(other._stages_done):  # noqa: SLF001
            if len(self.values) - left < stays.min():
                self.left = other.gone > len(self.values) - left
                self.values = torch.zeros_like(self.values).masked_scatter_(self.left, values)
                self._moved = True
                return

    def begins_as(self, other: "_Path") -> bool:
        """Whether the same network was to be pruned, by the same images and settings."""
        mine, others = self._began, other._began  # noqa: SLF001
        return (
            self.weights.parameters.keys() == other.weights.parameters.keys()
            and self._train is other._train  # noqa: SLF001
            and self._seed == other._seed  # noqa: SLF001
            and self._how == other._how  # noqa: SLF001
            and mine.keys() == others.keys()
            and all(_is_same(mine[name], one) for name, one in others.items())
        )

    def first_gradient(self) -> Tensor:
        """Of one image, where the path begins."""
        columns = torch.arange(len(self.values), device=self.values.device)
        with self.weights.borrowed():
            return self.weights.gradients(self._train, torch.zeros(1, dtype=torch.int64), columns)

    @torch.no_grad()
    def walk(self, least: int, *, to_the_end: bool) -> None:
        """Let weights go in stages until so many are left, and then the rest, if all are to go.

        Where weights are divided by their norm (weight_norm, spectral_norm), a row without any is
        0/0, and there are no gradients any more. The walk to the end may empty rows that no mask
        does: what is left then goes by the last statistic.
        """
        with self.weights.borrowed():
            try:
                self._walk_stages(least, to_the_end=to_the_end)
            except _NoGradientsError as error:
                if not self._moved:
                    raise error.cause from None
                if not to_the_end or self._missed is None:
                    raise DivergenceError(
                        f"the network cannot be pruned by obs: with {int(self.left.sum())} of "
                        f"{len(self.left)} weights left, its gradients became infinite or NaN. "
                        "If weights are divided by their norm (weight_norm, spectral_norm), a "
                        "row without weights is divided by 0: lower the sparsity, or keep such "
                        "tensors dense with ignore."
                    ) from error.cause
                (columns,) = self.left.nonzero(as_tuple=True)
                self._leave(columns, columns[self._missed[columns].argsort(stable=True)])

    def _walk_stages(self, least: int, *, to_the_end: bool) -> None:
        for stage, left in enumerate(self._stages(least)):
            count = int(self.left.sum()) - left
            if count > 0:
                self._go(stage, count)
                self._stages_done.append((left, self.values[self.left]))
        rest = int(self.left.sum())
        if to_the_end and rest:
            self._go(_LAST, rest)

    def _stages(self, least: int) -> Iterator[int]:
        """How many weights are left after each stage, down to ``least``."""
        share = self._how.first
        while (left := round(len(self.values) * share)) > least:
            yield left
            share *= self._how.keeps
        yield least

    def _go(self, stage: int, count: int) -> None:
        """Let so many weights go, those that the loss misses least, and update the others."""
        self.weights.put(self.values)
        blocks = torch.split(self.left.nonzero()[:, 0], self._how.block)
        try:
            fishers = self._fishers(stage, blocks)
            missed = torch.cat(
                [
                    self.values[block].square() / fisher.inverse_diagonal()
                    for block, fisher in zip(blocks, fishers, strict=True)
                ]
            )
        except DivergenceError as error:
            raise _NoGradientsError(error) from error
        columns = torch.cat(blocks)
        missed.masked_fill_(self.stays[columns], torch.inf)
        self._missed = torch.zeros_like(self.values).index_copy_(0, columns, missed)
        chosen = columns[missed.argsort(stable=True)[:count]]
        self._leave(columns, chosen)
        if count < len(columns):
            for block, fisher in zip(blocks, fishers, strict=True):
                goes = ~self.left[block]
                self.values[block[~goes]] += fisher.update(self.values[block], goes)
        self.values[chosen] = 0
        if not self.values.isfinite().all():
            raise DivergenceError(
                "the network cannot be pruned by obs: its weights became infinite or NaN when "
                "they were updated. Lower lr or rho in params.yaml."
            )

    def _leave(self, columns: Tensor, chosen: Tensor) -> None:
        """Note that these weights go, in their order, of the columns that are left."""
        before = len(self.values) - len(columns)
        self.gone[chosen] = torch.arange(before + 1, before + len(chosen) + 1).to(self.gone)
        self.left[chosen] = False
        self._moved = True

    def _fishers(self, stage: int, blocks: Sequence[Tensor]) -> Iterable[Fisher]:
        """That of every block: one alone is kept, several are made anew each time."""
        order = batch_order(len(self._train), self._seed, "prune", "obs", stage)
        examples = order[: self._how.examples]
        if len(blocks) == 1:
            gradients = self.weights.gradients(self._train, examples, blocks[0])
            norms = gradients[:_DAMPED_BY].square().sum(1)
            return [Fisher(gradients, self._damping(norms, blocks))]
        some = examples[:_DAMPED_BY]
        found = [
            self.weights.gradients(self._train, some, block).square_().sum(1) for block in blocks
        ]
        damping = self._damping(torch.stack(found).sum(0), blocks)
        return _Blocks(self.weights, self._train, examples, blocks, damping)

    def _damping(self, norms: Tensor, blocks: Sequence[Tensor]) -> float:
        return damping_of(norms, sum(map(len, blocks)), self._how.damping)


def _is_same(one: Tensor, other: Tensor) -> bool:
    like = one.device == other.device and one.dtype == other.dtype
    return like and torch.equal(one, other)


class _NoGradientsError(Exception):
    """The network has no finite gradients."""

    def __init__(self, cause: DivergenceError) -> None:
        super().__init__(str(cause))
        self.cause = cause


@dataclass(frozen=True, eq=False)
class _Blocks:
    """The Fisher of every block, one at a time: all at once would not fit the memory."""

    weights: Weights
    train: Split
    examples: Tensor
    blocks: Sequence[Tensor]
    damping: float

    def __iter__(self) -> Iterator[Fisher]:
        for block in self.blocks:
            yield Fisher(self.weights.gradients(self.train, self.examples, block), self.damping)
