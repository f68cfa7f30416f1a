"""A network is asked, and afterwards it is as it was, whatever its forward pass does."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sparse_sam.networks import in_evaluation_mode


class Kept:
    """The buffers of a network, and tensors that are plain attributes of its modules, as they are.

    A forward pass may move the first in evaluation mode too, in place or by another tensor under
    the name; the second are what hooks compute (``torch.nn.utils.prune``, ``weight_norm``).
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = [(module, dict(module._buffers)) for module in model.modules()]  # noqa: SLF001
        self._values = [
            (one, one.detach().clone(), _version(one))
            for _, buffers in self._modules
            for one in buffers.values()
            if one is not None
        ]
        self._plain = [(module, dict(vars(module))) for module, _ in self._modules]

    @torch.no_grad()
    def put_back(self) -> None:
        """What was not touched costs no copy."""
        for module, buffers in self._modules:
            own = module._buffers  # noqa: SLF001
            if any(own.get(name) is not one for name, one in buffers.items()):
                own.update(buffers)
        values = []
        for buffer, value, version in self._values:
            if _version(buffer) != version:
                buffer.copy_(value)
            values.append((buffer, value, _version(buffer)))
        self._values = values
        for module, before in self._plain:
            attributes = vars(module)
            for name in _tensors(attributes) - before.keys():
                del attributes[name]
            for name in _tensors(attributes) | _tensors(before):
                attributes[name] = before[name]


@contextmanager
def asked(model: nn.Module) -> Iterator[Kept]:
    """Evaluation mode for a block; afterwards modes and buffers are as they were."""
    kept = Kept(model)
    try:
        with in_evaluation_mode(model):
            yield kept
    finally:
        kept.put_back()


@contextmanager
def drawing(model: nn.Module, seed: int) -> Iterator[None]:
    """What a network draws in a block depends on the seed alone, and nothing else draws otherwise.

    (Dropout that is on in evaluation mode, too.)
    """
    device = device_of(model)
    cuda = device.type == "cuda"
    with torch.random.fork_rng([device] if cuda else []):
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def device_of(model: nn.Module) -> torch.device:
    """That of its first parameter."""
    return next(model.parameters()).device


def as_input(model: nn.Module, images: Tensor) -> Tensor:
    """Images on the network's device and in the dtype that its first parameters compute in."""
    first = next((one for one in model.parameters() if one.is_floating_point()), images)
    return images.to(first.device, first.dtype)


def in_full(logits: Tensor) -> Tensor:
    """Logits of half precision in single: a loss that is rounded to 8 bits tells little."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def _version(tensor: Tensor) -> int:
    """How often it was written to; an inference tensor cannot be, and does not say."""
    return 0 if tensor.is_inference() else tensor._version  # noqa: SLF001


def _tensors(attributes: Mapping[str, object]) -> set[str]:
    return {name for name, one in attributes.items() if isinstance(one, Tensor)}
