"""What goes together: single weights, at most so many of every M neighbours, or whole channels."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from sparse_sam.errors import MaskError
from sparse_sam.pruning.criteria import Evidence
from sparse_sam.pruning.output_layers import output_layers
from sparse_sam.pruning.prunable import layer_weights, prunable_parameters

Pool = Callable[[Tensor], Tensor]


class Structure(Protocol):
    """The units that are pruned, and which of them may go.

    Attributes:
        unit: what they are called, in the plural.
    """

    @property
    def unit(self) -> str: ...  # noqa: D102

    def targets(
        self, model: nn.Module, evidence: Evidence, *, batchnorm: bool, biases: bool
    ) -> list[str]:
        """The names of the parameters of a dense model that can be pruned so."""

    def unit_scores(self, scores: Tensor, pool: Pool) -> Tensor:
        """The score of every unit of a tensor, (units,); infinite where it may not go.

        Args:
            scores: of every weight, −∞ where it is pruned already.
            pool: makes one score of those of a unit's weights, (units, size) → (units,).
        """

    def most(self, units: int) -> int:
        """How many of a tensor's units may go."""

    def mask(self, kept: Tensor, shape: torch.Size) -> Tensor:
        """The mask of a tensor of ``shape`` that keeps these units, bool (units,)."""


@dataclass(frozen=True)
class Unstructured:
    """Every weight by itself."""

    unit: str = "weights"

    def targets(  # noqa: D102
        self,
        model: nn.Module,
        evidence: Evidence,  # noqa: ARG002
        *,
        batchnorm: bool,
        biases: bool,
    ) -> list[str]:
        return list(prunable_parameters(model, batchnorm=batchnorm, biases=biases))

    def unit_scores(self, scores: Tensor, pool: Pool) -> Tensor:  # noqa: ARG002, D102
        return scores.flatten()

    def most(self, units: int) -> int:  # noqa: D102
        return units

    def mask(self, kept: Tensor, shape: torch.Size) -> Tensor:  # noqa: D102
        return kept.view(shape)


@dataclass(frozen=True)
class Groups:
    """N:M (Mishra et al. 2021, arXiv:2104.08378): of every M neighbours N at least are kept.

    Neighbours are consecutive inputs of one output, a convolution's being flattened as
    in_channels × height × width. A layer whose number of inputs M does not divide is left dense.
    On the way to the final sparsity of 1 − N/M the weights that go come from the M − N smallest
    of every group.
    """

    n: int
    m: int
    unit: str = "weights"

    def targets(  # noqa: D102
        self,
        model: nn.Module,
        evidence: Evidence,  # noqa: ARG002
        *,
        batchnorm: bool,
        biases: bool,
    ) -> list[str]:
        _only_weights(f"{self.n}:{self.m}", batchnorm=batchnorm, biases=biases)
        weights = layer_weights(model).items()
        return [name for name, weight in weights if weight[0].numel() % self.m == 0]

    def unit_scores(self, scores: Tensor, pool: Pool) -> Tensor:  # noqa: ARG002, D102
        groups = scores.reshape(-1, self.m)
        largest = groups.topk(self.n, dim=1).indices
        return groups.scatter(1, largest, torch.inf).flatten()

    def most(self, units: int) -> int:  # noqa: D102
        return units // self.m * (self.m - self.n)

    def mask(self, kept: Tensor, shape: torch.Size) -> Tensor:  # noqa: D102
        return kept.view(shape)


@dataclass(frozen=True)
class Channels:
    """Whole outputs of a layer: the filters of a convolution, the rows of a linear layer.

    What a removed channel hands on does not depend on its input: its bias, and what BatchNorm
    makes of that, stay. Layers whose outputs are the classes are left dense (``output_layers``).
    """

    unit: str = "output channels"

    def targets(  # noqa: D102
        self, model: nn.Module, evidence: Evidence, *, batchnorm: bool, biases: bool
    ) -> list[str]:
        _only_weights("channels", batchnorm=batchnorm, biases=biases)
        heads = output_layers(model, evidence.example)
        classes = {id(one) for head in heads for one in head.parameters(recurse=False)}
        return [name for name, one in layer_weights(model).items() if id(one) not in classes]

    def unit_scores(self, scores: Tensor, pool: Pool) -> Tensor:  # noqa: D102
        blocks = scores.flatten(1)
        gone = blocks[:, 0] == -torch.inf
        return pool(blocks).masked_fill(gone, -torch.inf)

    def most(self, units: int) -> int:  # noqa: D102
        return units

    def mask(self, kept: Tensor, shape: torch.Size) -> Tensor:  # noqa: D102
        return kept.view(-1, *(1 for _ in shape[1:])).expand(shape)


def _only_weights(structure: str, *, batchnorm: bool, biases: bool) -> None:
    if batchnorm or biases:
        raise MaskError(f"structure {structure} prunes neither BatchNorm nor biases")
