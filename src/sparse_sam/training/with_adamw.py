"""AdamW for a recipe."""

import inspect

import torch
from torch import nn

from sparse_sam.sam import Uncompiled
from sparse_sam.training.params import TrainingParams


class AdamW(Uncompiled, torch.optim.AdamW):
    """``torch.optim.AdamW``, to the bit. Raises what it raises."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))


def make_adamw(model: nn.Module, recipe: TrainingParams) -> AdamW:
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) over every parameter of ``model``.

    β₁ = 0.9, β₂ = 0.999 and ε = 1e-8 are torch's, which are Adam's paper's (Kingma and Ba 2015,
    arXiv:1412.6980, algorithm 1).
    """
    return AdamW(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
