"""Curvature: the Hessian's largest eigenvalues and its trace, from products with vectors.

The products are exact (Pearlmutter 1994: the gradient of ∇Lᵀv), and SciPy's Lanczos method does the
rest. Pruned weights are left out: with the mask in the graph, the product of a vector that is 0
there is 0 there, and the rest is the Hessian of the kept weights.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from sparse_sam.data import Split
from sparse_sam.evaluation.flatness.loss import (
    differentiable,
    finite,
    flat,
    gradient,
    masks,
    undisturbed,
    weights,
)
from sparse_sam.files import needed_by
from sparse_sam.training import seconds_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_FAILS = "torch::autograd::Error"


class _Hessian:
    """v ↦ Hv on the kept coordinates; the graph of the gradient is kept between products."""

    def __init__(self, model: nn.Module, split: Split) -> None:
        self.parameters = weights(model)
        self.kept = flat(masks(model)).bool()
        self.size = int(self.kept.sum())
        with torch.enable_grad():
            self.gradient = flat(gradient(model, split, create_graph=True))
        _check_differentiable(self.gradient)

    def product(self, vector: Tensor) -> Tensor:
        """Hv, for v of shape (size,). Raises DivergenceError if it is not finite."""
        full = torch.zeros_like(self.gradient)
        full[self.kept] = vector
        # (Not with ``grad_outputs``: torch imports SymPy to look at their shapes, a second.)
        with torch.enable_grad():
            along = self.gradient @ full
        with differentiable(twice=True):
            parts = torch.autograd.grad(
                along, self.parameters, retain_graph=True, materialize_grads=True
            )
        product = flat(parts)[self.kept]
        # Lanczos's method would go on with NaN for ever.
        finite(torch.linalg.vector_norm(product), "the length of a product with the Hessian")
        return product


def _check_differentiable(gradient: Tensor) -> None:
    """Raise RuntimeError if torch would take a second derivative that is not there for 0.

    The node that is to fail, behind a function ``once_differentiable``, leads to no weight, and
    torch leaves out what leads to none of the weights that it is asked for.
    """
    seen: set[Node] = set()
    ahead = [gradient.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name() == _FAILS:
            raise RuntimeError(
                "trying to differentiate twice a function that was marked with @once_differentiable"
            )
        ahead += [one for one, _ in node.next_functions]


def top_eigenvalues(
    model: nn.Module,
    split: Split,
    k: int = 1,
    *,
    seed: int = 0,
    tolerance: float = 1e-3,
    restarts: int | None = None,
) -> list[float]:
    """Return the k algebraically largest eigenvalues of the loss's Hessian, largest first.

    Args:
        model: a network, dense or with masks; it is not changed.
        split: images to measure on, on the model's device.
        k: how many, at least 1 and fewer than the kept weights.
        seed: determines the start vector of Lanczos's method.
        tolerance: relative accuracy.
        restarts: the number of restarts of Lanczos's method before it gives up; None is SciPy's
            limit, ten for each weight.

    Raises:
        ValueError: ``k`` is out of range.
        DivergenceError: a product with the Hessian is not finite.
        RuntimeError: the network has no second derivative, or (SciPy's ``ArpackError``) the method
            does not converge.
    """
    with needed_by("sparse_sam.evaluation.top_eigenvalues"):
        import numpy as np
        from scipy.sparse.linalg import LinearOperator, eigsh

    with undisturbed(model):
        hessian = _Hessian(model, split)
        if not 1 <= k < hessian.size:
            raise ValueError(f"k = {k}: must be at least 1 and below the {hessian.size} weights")
        dtype, device = hessian.gradient.dtype, hessian.gradient.device

        def matvec(vector: "NDArray[np.floating]") -> "NDArray[np.floating]":
            product = hessian.product(torch.as_tensor(vector.reshape(-1)).to(device, dtype))
            return product.cpu().numpy()

        start = np.random.default_rng(seed).standard_normal(hessian.size).astype(np.float32)
        operator = LinearOperator((hessian.size, hessian.size), matvec=matvec, dtype=start.dtype)
        ncv = min(hessian.size, max(2 * k + 1, 8))
        found = eigsh(
            operator,
            k,
            which="LA",
            v0=start,
            ncv=ncv,
            tol=tolerance,
            maxiter=restarts,
            return_eigenvectors=False,
        )
    return sorted(map(float, found), reverse=True)


def hessian_trace(model: nn.Module, split: Split, probes: int = 8, *, seed: int = 0) -> float:
    """Return Hutchinson's estimate of the Hessian's trace: the mean of zᵀHz over random signs z.

    Args:
        model: a network, dense or with masks; it is not changed.
        split: images to measure on, on the model's device.
        probes: the number of z, at least 1; the error falls with its square root.
        seed: determines the signs.

    Raises:
        ValueError: ``probes`` is out of range.
        DivergenceError: a product with the Hessian is not finite.
        RuntimeError: the network has no second derivative.
    """
    if probes < 1:
        raise ValueError(f"probes = {probes}: must be at least 1")
    generator = torch.Generator().manual_seed(seed)
    with undisturbed(model):
        hessian = _Hessian(model, split)
        total = 0.0
        for _ in range(probes):
            signs = torch.randint(0, 2, (hessian.size,), generator=generator) * 2 - 1
            signs = signs.to(hessian.gradient)
            total += float(signs @ hessian.product(signs))
    return total / probes


def product_seconds(model: nn.Module, split: Split) -> tuple[float, float]:
    """How long it takes to make the graph of the gradient, and one product of it with a vector."""
    made: list[_Hessian] = []
    with undisturbed(model):
        graph = seconds_of(lambda: made.append(_Hessian(model, split)))
        (hessian,) = made
        ones = torch.ones(hessian.size).to(hessian.gradient)
        return graph, seconds_of(lambda: hessian.product(ones))
