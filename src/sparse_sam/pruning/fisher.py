"""The empirical Fisher of some weights, F = λI + GᵀG/n, and what second-order pruning asks of it.

G holds a row for each of n examples, the gradient of its loss (n, d). No matrix of d × d is made
unless d ≤ n: what is asked is found from a system of n equations.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sparse_sam.errors import DivergenceError
from sparse_sam.terminal import beat

_CHUNK = 8192
"""So many columns are solved for at once."""


@dataclass(frozen=True, eq=False)
class Fisher:
    """F = λI + GᵀG/n of d weights (Singh and Alistarh 2020, arXiv:2004.14340, equation 3).

    Attributes:
        gradients: G, a row for each example, (n, d).
        damping: λ, above 0.

    Raises:
        DivergenceError: when it is asked: the gradients are such that it has no inverse.
    """

    gradients: Tensor
    damping: float

    def inverse_diagonal(self) -> Tensor:
        """[F⁻¹]qq of every weight, (d,), above 0.

        By Woodbury's identity F⁻¹ = (I − Gᵀ(nλI + GGᵀ)⁻¹G) / λ. With LLᵀ = nλI + GGᵀ the diagonal
        is 1 less the squared columns of L⁻¹G, over λ.
        """
        if self._is_tall:
            return torch.cholesky_inverse(_factor(self._square)).diagonal().to(self.gradients)
        lower = _factor(self._system(self._products)).to(self.gradients)
        found = torch.empty_like(self.gradients[0])
        for start in range(0, len(found), _CHUNK):
            part = self.gradients[:, start : start + _CHUNK]
            solved = torch.linalg.solve_triangular(lower, part, upper=False)
            found[start : start + _CHUNK] = solved.square_().sum(0)
            beat()
        # Rounding may take what is nearly 0 below it.
        least = torch.finfo(found.dtype).eps
        return (1 - found).clamp_min_(least) / self.damping

    def update(self, values: Tensor, goes: Tensor) -> Tensor:
        """What the other weights gain when some go: F_KK⁻¹ F_KQ w_Q, K kept and Q gone.

        It makes δᵀFδ/2 least among all δ that take w_Q to 0. (Hassibi and Stork 1993, equation 5,
        is its form for one weight; for several at once, −F⁻¹E(EᵀF⁻¹E)⁻¹w_Q, the same.) As F_KQ is
        G_KᵀG_Q/n it is a ridge regression, in which what w_Q did to the n losses is made up for by
        the others: G_Kᵀ(nλI + G_K G_Kᵀ)⁻¹ G_Q w_Q (the regression form of Benbaki et al. 2023,
        arXiv:2302.14623).

        Args:
            values: the weights, (d,).
            goes: which of them go, bool (d,).

        Returns:
            (number kept,), in their order.
        """
        if self._is_tall:
            square = self._square
            wanted = square[~goes][:, goes] @ _on_cpu(values[goes])
            return _solved(square[~goes][:, ~goes], wanted).to(self.gradients)
        effect = self.gradients @ values.masked_fill(~goes, 0)
        # The smaller part alone is copied.
        if 2 * int(goes.sum()) < len(goes):
            lost = self.gradients[:, goes]
            products = self._products - _on_cpu(lost @ lost.T)
        else:
            kept = self.gradients[:, ~goes]
            products = _on_cpu(kept @ kept.T)
        solved = _solved(self._system(products), _on_cpu(effect))
        return (self.gradients.T @ solved.to(self.gradients))[~goes]

    @property
    def _is_tall(self) -> bool:
        """Whether there are fewer weights than examples: then F itself is the smaller matrix."""
        return self.gradients.shape[1] <= len(self.gradients)

    @cached_property
    def _products(self) -> Tensor:
        """GGᵀ."""
        return _on_cpu(self.gradients @ self.gradients.T)

    @cached_property
    def _square(self) -> Tensor:
        """F, if that is small."""
        gradients = _on_cpu(self.gradients)
        return _ridge(gradients.T @ gradients / len(gradients), self.damping)

    def _system(self, products: Tensor) -> Tensor:
        return _ridge(products, len(self.gradients) * self.damping)


def damping_of(norms: Tensor, weights: int, relative: float) -> float:
    """λ: a share of F's mean diagonal, and no less than single precision resolves.

    Of weights whose gradients are all 0 it is 1, so that F is the identity.

    Args:
        norms: of some examples' gradients, squared, (n,).
        weights: how many there are.
        relative: the share.
    """
    least = 1e-6 * float(norms.max()) / len(norms)
    return max(relative * float(norms.mean()) / weights, least) or 1.0


def _on_cpu(matrix: Tensor) -> Tensor:
    """In double precision, which not all accelerators have."""
    return matrix.cpu().double()


def _ridge(matrix: Tensor, strength: float) -> Tensor:
    matrix = matrix.clone()
    matrix.diagonal().add_(strength)
    return matrix


def _solved(matrix: Tensor, wanted: Tensor) -> Tensor:
    return torch.cholesky_solve(wanted[:, None], _factor(matrix))[:, 0]


def _factor(matrix: Tensor) -> Tensor:
    """L of LLᵀ. Raises DivergenceError: rounding leaves none."""
    lower: Tensor
    lower, failed = torch.linalg.cholesky_ex(matrix)
    if failed:
        raise DivergenceError(
            "the network cannot be pruned by obs: its gradients differ by so many orders of "
            "magnitude that their Fisher cannot be inverted, as after a training that nearly "
            "diverged. Lower lr or rho in params.yaml."
        )
    return lower
