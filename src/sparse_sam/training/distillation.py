"""Learning from another network's outputs beside the labels."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax

from sparse_sam.training.devices import products_in
from sparse_sam.training.params import Precision


class Taught(NamedTuple):
    """What a teacher says of a batch.

    Attributes:
        logits: float32, (N, classes).
        weight: w, its share of the loss, in (0, 1].
        temperature: T, above 0.
    """

    logits: Tensor
    weight: float
    temperature: float

    def mixed_with(self, loss: Tensor, logits: Tensor) -> Tensor:
        """(1 − w) · ``loss`` + w · T² · KL(teacher ‖ student), both softened by T.

        Hinton, Vinyals and Dean 2015 (arXiv:1503.02531, section 2): T² makes the gradients of the
        soft part as large as those of the labels, whatever T.

        Args:
            loss: of the labels.
            logits: the student's, float32, (N, classes).
        """
        student, teacher = (
            log_softmax(one / self.temperature, dim=1) for one in (logits, self.logits)
        )
        soft = kl_div(student, teacher, reduction="batchmean", log_target=True)
        return (1 - self.weight) * loss + self.weight * self.temperature**2 * soft


@dataclass(frozen=True)
class Teacher:
    """A trained network that another one learns from.

    Attributes:
        network: on the device of the images; it is not trained.
        weight: as of ``Taught``.
        temperature: likewise.
        precision: what its products are rounded to: the recipe's.
    """

    network: nn.Module
    weight: float
    temperature: float
    precision: Precision

    def __post_init__(self) -> None:
        self.network.eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Taught:
        """What it says of the images, (N, channels, height, width), as in its evaluation."""
        with products_in(self.precision, images.device):
            logits = self.network(images.clone())  # it may work in place
        return Taught(logits.float(), self.weight, self.temperature)
