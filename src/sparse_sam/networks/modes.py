"""Training and evaluation mode, switched for a block and put back layer by layer."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Let every module be in the mode that it was in when the block ends, however it ends."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def in_evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a block; afterwards every module is in the mode that it was in."""
    with modes_kept(model):
        model.eval()
        yield
