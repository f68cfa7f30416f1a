"""The digits that the benchmarks use: genuine ones, in the reference split, as this project has."""

from typing import Any

import torch

from sparse_sam.config import REFERENCE, Params, load_params
from sparse_sam.data import DataParams, Split


def reference(**changes: Any) -> Params:
    """The parameters of the reference protocol, with other data parameters where given."""
    params = load_params(REFERENCE)
    return params.model_copy(update={"data": DataParams(**{**params.data.model_dump(), **changes})})


def made_up(count: int, shape: tuple[int, int, int] = (1, 28, 28)) -> Split:
    """So many images of noise: where only time is measured."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 10, (count,), generator=generator)
    return Split(torch.randn(count, *shape, generator=generator), labels)
