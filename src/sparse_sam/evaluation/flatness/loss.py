"""The loss as a function of the weights, and the weights brought back."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

from sparse_sam.data import Split
from sparse_sam.errors import DivergenceError
from sparse_sam.networks import in_evaluation_mode
from sparse_sam.pruning import attached_masks
from sparse_sam.terminal import beat
from sparse_sam.training import layer_by_layer

Vector = list[Tensor]
"""One tensor a trainable parameter, in the order of ``weights``."""


def weights(model: nn.Module) -> Vector:
    """The trainable parameters themselves."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def masks(model: nn.Module) -> Vector:
    """For each of ``weights``, 1 where it is kept and 0 where it is pruned."""
    found: dict[Tensor, Tensor] = {one.original: one.mask for one in attached_masks(model)}
    return [
        found[weight].to(weight) if weight in found else torch.ones_like(weight)
        for weight in weights(model)
    ]


def loss(model: nn.Module, split: Split) -> Tensor:
    """Mean cross-entropy over ``split``, in nats."""
    beat()
    return cross_entropy(model(split.taken(slice(None))), split.labels)


def gradient(model: nn.Module, split: Split, *, create_graph: bool = False) -> Vector:
    """∇L at the weights as they are. It is 0 on pruned weights, the mask being in the graph."""
    parameters = weights(model)
    with differentiable(twice=create_graph):
        found = torch.autograd.grad(
            loss(model, split), parameters, create_graph=create_graph, materialize_grads=True
        )
    return list(found)


@contextmanager
def differentiable(*, twice: bool) -> Iterator[None]:
    """Within it, attention is computed in a form that has a derivative, or a second one.

    Of all kernels of ``scaled_dot_product_attention`` the plain one alone has a second derivative.
    Derivatives are to be within it, too: layers may be computed again in them
    (``torch.utils.checkpoint``).
    """
    with layer_by_layer(), sdpa_kernel(SDPBackend.MATH) if twice else nullcontext():
        yield


def finite(value: Tensor | float, what: str) -> float:
    """The value as a number. Raises DivergenceError, naming it, if it is infinite or NaN."""
    number = float(value)
    if not math.isfinite(number):
        raise DivergenceError(f"{what} is {number}")
    return number


def flat(vector: Sequence[Tensor]) -> Tensor:
    """All parts one after the other, one-dimensional."""
    return torch.cat([part.reshape(-1) for part in vector])


def norm(vector: Vector) -> Tensor:
    """‖v‖₂ over all parts together, summed as one vector, as every published number here was."""
    length: Tensor = torch.linalg.vector_norm(flat(vector))
    return length


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """A block in evaluation mode that may move the weights; everything comes back bit for bit.

    BatchNorm then uses its running statistics: the loss is that of the network as it is used, and
    does not depend on how images fall into batches.
    """
    parameters = weights(model)
    before = [parameter.detach().clone() for parameter in parameters]
    with in_evaluation_mode(model):
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(parameters, before)


@torch.no_grad()
def move(model: nn.Module, origin: Vector, *steps: tuple[float, Vector]) -> None:
    """Put the weights at origin + Σ length · direction."""
    for parameter, start in zip(weights(model), origin, strict=True):
        parameter.copy_(start)
    for length, direction in steps:
        torch._foreach_add_(weights(model), direction, alpha=length)
