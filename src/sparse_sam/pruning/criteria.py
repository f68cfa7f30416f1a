"""What makes a weight worth keeping: a score for each, of which the smallest go.

Random and saliency are controls: what does it matter which weights go, and does the loss know
better than the weights' sizes?
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sparse_sam.data import Split, batch_order, derive_seed
from sparse_sam.errors import MaskError
from sparse_sam.pruning.borrowing import as_input, asked, drawing, in_full

_SALIENCY_IMAGES = 512


@dataclass(frozen=True, init=False)
class Evidence:
    """What may be looked at beside the weights; never test data.

    Args:
        seed: as the attribute.
        train: a ``sparse_sam.data.Split``, or a pair (images, labels) of which one is made: images
            floats (N, …) as the network takes them, labels integers (N,).
        image_shape: as the attribute.

    Attributes:
        seed: what the random criterion draws from; all arms of a seed draw alike.
        train: the training part; None where no criterion needs it.
        image_shape: of one input, which structure ``channels`` needs to see what the network
            computes; None takes it from ``train``, if that is there.

    Raises:
        TypeError: ``train`` is something else.
        DataError: the pair's tensors are of another type or shape, or do not belong together.
    """

    seed: int
    train: Split | None
    image_shape: tuple[int, ...] | None

    def __init__(
        self,
        seed: int = 0,
        train: Split | Sequence[Tensor] | None = None,
        image_shape: tuple[int, ...] | None = None,
    ) -> None:
        object.__setattr__(self, "seed", seed)
        object.__setattr__(self, "train", _split_of(train))
        object.__setattr__(self, "image_shape", image_shape)

    @property
    def example(self) -> Tensor | None:
        """Two empty inputs, on the CPU; None if nothing says of which shape."""
        shape = self.image_shape
        if shape is None and self.train is not None:
            shape = self.train.image_shape
        return None if shape is None else torch.zeros(2, *shape)

    def train_for(self, criterion: str) -> Split:
        """The training part, which a criterion cannot do without.

        Raises:
            MaskError: there is none.
        """
        if self.train is None:
            raise MaskError(
                f"criterion {criterion} needs training data: pass "
                "evidence=Evidence(train=Split(images, labels)). Import Evidence from "
                "sparse_sam.pruning and Split from sparse_sam.data"
            )
        return self.train


def _split_of(train: object) -> Split | None:
    if train is None or isinstance(train, Split):
        return train
    if isinstance(train, Sequence) and len(train) == 2:
        images, labels = train
        if isinstance(images, Tensor) and isinstance(labels, Tensor):
            images = images.float() if images.is_floating_point() else images
            whole = labels.dtype in (torch.uint8, torch.int8, torch.int16, torch.int32)
            return Split(images, labels.long() if whole else labels)
    raise TypeError(
        "Evidence(train=…) must be sparse_sam.data.Split(images, labels) or a pair of tensors "
        f"(images, labels), not {type(train).__name__}. For a TensorDataset, pass "
        "dataset.tensors; for a DataLoader, join its batches with torch.cat"
    )


class Criterion(Protocol):
    """Scores, at least 0, of which the smallest go."""

    def scores(
        self, model: nn.Module, weights: Mapping[str, Tensor], evidence: Evidence
    ) -> dict[str, Tensor]:
        """A score for every weight, in the shape of its tensor.

        Args:
            model: the network, in evaluation mode, which is left as it is: weights and gradients.
            weights: those of its parameters that are scored, by name.
            evidence: what else may be looked at.
        """

    def pooled(self, blocks: Tensor) -> Tensor:
        """The scores of units that go as a whole: (units, weights of each) → (units,).

        Means and not sums, so that units of different sizes can be ranked together.
        """


class Compensating(Criterion, Protocol):
    """A criterion that knows what the kept weights should become when the others go."""

    def compensated(
        self,
        model: nn.Module,
        weights: Mapping[str, Tensor],
        masks: Mapping[str, Tensor],
        evidence: Evidence,
    ) -> dict[str, Tensor]:
        """New values of the kept weights, in the shape of each tensor; of others it may be any.

        Args:
            model: the network before it is pruned by ``masks``, left as it is.
            weights: those of its parameters that have a mask, by name.
            masks: True where a weight is kept.
            evidence: as for ``scores``.
        """


class Magnitude:
    """|w| (Han et al. 2015, arXiv:1506.02626); of a unit the root mean square, so its L2 norm."""

    def scores(  # noqa: D102
        self,
        model: nn.Module,  # noqa: ARG002
        weights: Mapping[str, Tensor],
        evidence: Evidence,  # noqa: ARG002
    ) -> dict[str, Tensor]:
        return {name: weight.detach().abs() for name, weight in weights.items()}

    def pooled(self, blocks: Tensor) -> Tensor:  # noqa: D102
        return blocks.square().mean(dim=1).sqrt()


class Random:
    """A number for every weight from (seed, tensor), the same whenever it is asked for.

    So masks of one seed are nested, and its arms lose the same weights.
    """

    def scores(  # noqa: D102
        self,
        model: nn.Module,  # noqa: ARG002
        weights: Mapping[str, Tensor],
        evidence: Evidence,
    ) -> dict[str, Tensor]:
        drawn = {}
        for name, weight in weights.items():
            seed = derive_seed(evidence.seed, "prune", "random", name)
            generator = torch.Generator().manual_seed(seed)
            drawn[name] = torch.rand(weight.shape, generator=generator).to(weight.device)
        return drawn

    def pooled(self, blocks: Tensor) -> Tensor:
        """One number of each: a mean of many would let the size of a unit decide."""
        return blocks[:, 0]


class Saliency:
    """|w · ∂L/∂w|, by how much the loss changes to first order when the weight goes.

    (Molchanov et al. 2017, arXiv:1611.06440, equation 7; per weight, Lee et al. 2019,
    arXiv:1810.02340, equation 6.) L is the cross-entropy on 512 training images, the same ones at
    every call, in evaluation mode: BatchNorm's running statistics are used and stay.
    """

    def scores(  # noqa: D102
        self, model: nn.Module, weights: Mapping[str, Tensor], evidence: Evidence
    ) -> dict[str, Tensor]:
        train = evidence.train_for("saliency")
        labels = train.labels
        order = batch_order(len(labels), evidence.seed, "prune", "saliency")
        chosen = order[:_SALIENCY_IMAGES].to(labels.device)
        images = as_input(model, train.taken(chosen))
        seed = derive_seed(evidence.seed, "prune", "saliency")
        with asked(model), drawing(model, seed), torch.enable_grad():
            loss = cross_entropy(in_full(model(images)), labels[chosen].to(images.device))
            # Of a weight that the network does not use the gradient is 0.
            gradients = torch.autograd.grad(
                loss, list(weights.values()), allow_unused=True, materialize_grads=True
            )
        found = zip(weights.items(), gradients, strict=True)
        return {name: (weight.detach() * gradient).abs() for (name, weight), gradient in found}

    def pooled(self, blocks: Tensor) -> Tensor:  # noqa: D102
        return blocks.mean(dim=1)
