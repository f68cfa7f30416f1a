"""A step for which there is no gradient, or no closure: it is told, and nothing changes."""

import copy
from typing import Any

import pytest
from sam_cases import VARIANT_CASES, batches, closure_of, perceptron, run, same, weights
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from sparse_sam.sam.build import build_sam
from sparse_sam.sam.optimizer import SAM


@pytest.mark.parametrize(("variant", "own"), VARIANT_CASES)
@pytest.mark.parametrize("rho", [0.0, 0.3])
@pytest.mark.parametrize("taken", [0, 1, 2])
def test_a_closure_that_forgets_backward_is_told_and_nothing_changes(
    variant: str, own: dict[str, Any], rho: float, taken: int
) -> None:
    model, data = perceptron(), batches(4)
    optimizer = build_sam(variant, model, SGD, rho, settings=own, lr=0.1, momentum=0.9)
    run(model, optimizer, data[:taken])  # in periodic variants the next step ascends or does not
    before, state = weights(model), copy.deepcopy(optimizer.state_dict())
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"left no gradient.*Call loss\.backward\(\)"):
            optimizer.step(lambda: cross_entropy(model(data[3][0]), data[3][1]))
    assert same(weights(model), before)
    assert str(optimizer.state_dict()) == str(state)
    run(model, optimizer, data[3:])
    assert not same(weights(model), before)


@pytest.mark.parametrize("variant", ["sam", "asam", "gsam", "looksam", "periodic"])
def test_a_second_pass_without_backward_is_told_too(variant: str) -> None:
    model, (inputs, labels), calls = perceptron(), batches(1)[0], []
    optimizer = build_sam(variant, model, SGD, 0.3, lr=0.1, momentum=0.9)
    before = weights(model)

    def closure() -> Tensor:
        loss = cross_entropy(model(inputs), labels)
        if not calls:
            loss.backward()
        calls.append(loss)
        return loss

    with pytest.raises(RuntimeError, match="at w \\+ ε left no gradient"):
        optimizer.step(closure)
    assert same(weights(model), before)
    assert not any(optimizer.state.values())


def test_the_parameters_of_another_network_are_noticed() -> None:
    model, other = perceptron(), perceptron()
    optimizer = SAM(other.parameters(), SGD, lr=0.1)
    with pytest.raises(RuntimeError, match="was given the parameters of the network"):
        optimizer.step(closure_of(model, optimizer, *batches(1)[0]))


@pytest.mark.parametrize(("variant", "own"), VARIANT_CASES)
def test_a_step_without_a_closure_is_told_what_else_there_is(
    variant: str, own: dict[str, Any]
) -> None:
    model = perceptron()
    optimizer = build_sam(variant, model, SGD, settings=own, lr=0.1, momentum=0.9)
    with pytest.raises(ValueError, match=r"needs a closure.*replace_gradient\(backward\) before"):
        optimizer.step()


@pytest.mark.parametrize(("variant", "own"), VARIANT_CASES)
def test_two_calls_without_backward_are_told_too(variant: str, own: dict[str, Any]) -> None:
    model, (inputs, labels) = perceptron(), batches(1)[0]
    at_once = own | {"after": 0} if variant == "late" else own
    optimizer = build_sam(variant, model, SGD, 0.3, settings=at_once, lr=0.1, momentum=0.9)
    before = weights(model)
    if variant != "momentum":  # which has no pass before the first call
        with pytest.raises(RuntimeError, match="at w left no gradient"):
            optimizer.first_step()
        cross_entropy(model(inputs), labels).backward()
    optimizer.first_step(zero_grad=True)
    with pytest.raises(RuntimeError, match="left no gradient"):
        optimizer.second_step()
    assert same(weights(model), before)
    assert not any(optimizer.state.values())
