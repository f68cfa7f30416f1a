"""The empirical Fisher against dense linear algebra in double precision."""

import pytest
import torch
from torch import Tensor

from sparse_sam.errors import DivergenceError
from sparse_sam.pruning.fisher import Fisher, damping_of

SHAPES = [(3, 7), (7, 7), (40, 6)]
each_shape = pytest.mark.parametrize(("examples", "weights"), SHAPES)


def drawn(examples: int, weights: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(examples)
    gradients = torch.randn(examples, weights, generator=generator, dtype=torch.float64)
    return gradients, torch.randn(weights, generator=generator, dtype=torch.float64)


def dense(gradients: Tensor, damping: float) -> Tensor:
    own = torch.eye(gradients.shape[1], dtype=gradients.dtype)
    return gradients.T @ gradients / len(gradients) + damping * own


def test_two_weights_by_hand() -> None:
    # F = [[2, 1], [1, 2]] and F⁻¹ = [[2, −1], [−1, 2]] / 3, from a system of one equation.
    fisher = Fisher(torch.tensor([[1.0, 1.0]]), damping=1.0)
    assert fisher.inverse_diagonal().tolist() == pytest.approx([2 / 3, 2 / 3])
    gained = fisher.update(torch.tensor([3.0, 5.0]), torch.tensor([True, False]))
    assert gained.tolist() == pytest.approx([1.5])


@each_shape
def test_the_inverse_is_woodburys(examples: int, weights: int) -> None:
    gradients, _ = drawn(examples, weights)
    found = Fisher(gradients, 0.3).inverse_diagonal()
    torch.testing.assert_close(found, torch.linalg.inv(dense(gradients, 0.3)).diagonal())
    single = Fisher(gradients.float(), 0.3).inverse_diagonal()
    torch.testing.assert_close(single.double(), found, rtol=1e-4, atol=1e-6)


@each_shape
@pytest.mark.parametrize("gone", [1, 2, 5])
def test_the_update_solves_the_normal_equations(examples: int, weights: int, gone: int) -> None:
    gradients, values = drawn(examples, weights)
    matrix = dense(gradients, 0.3)
    goes = torch.arange(weights) < gone
    change = torch.zeros_like(values)
    change[goes] = -values[goes]
    change[~goes] = Fisher(gradients, 0.3).update(values, goes)
    # The slope along every weight that is kept is 0 where δᵀFδ is least.
    slope = (matrix @ change)[~goes]
    torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-9)


@each_shape
def test_the_loss_rises_by_as_much_as_the_statistic_says(examples: int, weights: int) -> None:
    gradients, values = drawn(examples, weights)
    fisher, matrix = Fisher(gradients, 0.3), dense(gradients, 0.3)
    statistic = values.square() / (2 * fisher.inverse_diagonal())
    for one in range(weights):
        goes = torch.arange(weights) == one
        change = torch.zeros_like(values)
        change[goes] = -values[goes]
        change[~goes] = fisher.update(values, goes)
        assert float(change @ matrix @ change) / 2 == pytest.approx(float(statistic[one]))


@each_shape
def test_ridge_regression_without_some_features(examples: int, weights: int) -> None:
    """There the loss is quadratic, so the update is the regression on the others, to the digit."""
    features, targets = drawn(examples, weights)[0], torch.arange(examples).double()
    damping = 0.05

    def fitted(columns: Tensor) -> Tensor:
        return torch.linalg.solve(dense(columns, damping), columns.T @ targets / examples)

    whole = fitted(features)
    goes = torch.arange(weights) % 3 == 1
    kept = whole[~goes] + Fisher(features, damping).update(whole, goes)
    torch.testing.assert_close(kept, fitted(features[:, ~goes]))


def test_copies_of_one_example_are_no_singular_system() -> None:
    gradients = torch.randn(1, 5000, generator=torch.Generator().manual_seed(0)).repeat(400, 1)
    damping = damping_of(gradients.square().sum(1), 5000, 0.01)
    fisher = Fisher(gradients, damping)
    assert (fisher.inverse_diagonal() > 0).all()
    goes = torch.arange(5000) % 2 == 0
    assert fisher.update(torch.ones(5000), goes).isfinite().all()


@pytest.mark.parametrize("shape", [(3, 5), (5, 3)])
def test_gradients_that_leave_no_inverse_are_a_divergence(shape: tuple[int, int]) -> None:
    fisher = Fisher(torch.full(shape, 1e30), damping=1e-20)  # their products are infinite
    with pytest.raises(DivergenceError, match="cannot be pruned by obs: its gradients differ by"):
        fisher.inverse_diagonal()
    with pytest.raises(DivergenceError, match="Lower lr or rho"):
        fisher.update(torch.ones(shape[1]), torch.arange(shape[1]) == 0)


def test_damping() -> None:
    norms = torch.tensor([1.0, 3.0])
    assert damping_of(norms, 4, 0.1) == pytest.approx(0.1 * 2 / 4)
    # No less than single precision tells from 0 beside the largest example, and never 0.
    assert damping_of(norms, 4, 0.0) == pytest.approx(1e-6 * 3 / 2)
    assert damping_of(torch.zeros(2), 4, 0.1) == 1.0
