"""What makes a weight worth keeping: a score for each, of which the smallest go.

Random and saliency are controls: what does it matter which weights go, and does the loss know
better than the weights' sizes?
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sparse_sam.data import Split, batch_order, derive_seed
from sparse_sam.errors import MaskError
from sparse_sam.networks import in_evaluation_mode

_SALIENCY_IMAGES = 512


@dataclass(frozen=True)
class Evidence:
    """What may be looked at beside the weights; never test data.

    Attributes:
        seed: what the random criterion draws from; all arms of a seed draw alike.
        train: the training part, on the device of the model; None where no criterion needs it.
        image_shape: of one input, which structure ``channels`` needs to see what the network
            computes; None takes it from ``train``, if that is there.
    """

    seed: int = 0
    train: Split | None = None
    image_shape: tuple[int, ...] | None = None

    @property
    def example(self) -> Tensor | None:
        """Two empty inputs, on the CPU; None if nothing says of which shape."""
        shape = self.image_shape
        if shape is None and self.train is not None:
            shape = self.train.image_shape
        return None if shape is None else torch.zeros(2, *shape)


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
        if evidence.train is None:
            raise MaskError("criterion saliency needs training data, and none is given")
        labels = evidence.train.labels
        order = batch_order(len(labels), evidence.seed, "prune", "saliency")
        chosen = order[:_SALIENCY_IMAGES].to(labels.device)
        images = evidence.train.taken(chosen)
        with in_evaluation_mode(model), torch.enable_grad():
            loss = cross_entropy(model(images), labels[chosen])
            # Of a weight that the network does not use the gradient is 0.
            gradients = torch.autograd.grad(
                loss, list(weights.values()), allow_unused=True, materialize_grads=True
            )
        found = zip(weights.items(), gradients, strict=True)
        return {name: (weight.detach() * gradient).abs() for (name, weight), gradient in found}

    def pooled(self, blocks: Tensor) -> Tensor:  # noqa: D102
        return blocks.mean(dim=1)
