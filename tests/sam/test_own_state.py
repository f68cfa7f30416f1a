"""What a variant keeps between steps, in a state dict."""

import copy
from typing import Any, ClassVar

import pytest
import torch
from sam_cases import VARIANT_CASES, batches, perceptron, run, same, weights
from torch.optim import SGD, AdamW

from sparse_sam.sam.build import build_sam
from sparse_sam.sam.optimizer import SAM


def test_a_variants_own_state_lies_beside_the_base_optimizers() -> None:
    model = perceptron()
    optimizer = build_sam("looksam", model, SGD, 0.1, settings={"k": 3}, lr=0.05, momentum=0.9)
    run(model, optimizer, batches(2))
    state = optimizer.state_dict()
    assert set(state) == {"state", "param_groups"}
    for place, parameter in enumerate(model.parameters()):
        assert state["state"][place]["sam_all_steps"] == 2
        assert state["state"][place]["sam_each_lookahead"].shape == parameter.shape
        assert set(optimizer.state[parameter]) == {"momentum_buffer"}
    # As earlier versions had it.
    old = optimizer.base_optimizer.state_dict()
    directions = {i: one["sam_each_lookahead"] for i, one in state["state"].items()}
    old["sam"] = {"steps": 2, "lookahead": directions}
    ends = []
    for given in (state, old):
        twin = perceptron()
        other = build_sam("looksam", twin, SGD, 0.1, settings={"k": 3}, lr=0.05, momentum=0.9)
        twin.load_state_dict(model.state_dict())
        other.load_state_dict(copy.deepcopy(given))
        run(twin, other, batches(4)[2:])
        ends.append(weights(twin))
    run(model, optimizer, batches(4)[2:])
    assert same(ends[0], weights(model))
    assert same(ends[1], weights(model))


def test_a_variant_of_ones_own_may_keep_any_value() -> None:
    class Own(SAM):
        kept: ClassVar[dict[str, Any]] = {
            "number": 0.5,
            "list": [1, "a"],
            "of names": {"a": 1},
            "nothing": None,
            "tensor": torch.arange(3),
            "of some": {1: torch.ones(2)},
            "empty": [],
        }

        def _own_state(self) -> dict[str, Any]:
            return self.kept

        def _load_own_state(self, state: dict[str, Any]) -> None:
            self.found = state

    model = perceptron()
    optimizer = Own(model.parameters(), SGD, lr=0.1)
    run(model, optimizer, batches(1))
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert set(optimizer.found) == set(Own.kept)
    assert optimizer.found.pop("tensor").equal(torch.arange(3))
    assert optimizer.found.pop("of some")[1].equal(torch.ones(2))
    assert optimizer.found == {n: v for n, v in Own.kept.items() if n not in ("tensor", "of some")}


def test_a_step_without_a_closure_at_no_learning_rate_makes_the_state_only() -> None:
    # So torch.distributed.checkpoint calls it, before it loads.
    for variant, own in VARIANT_CASES:
        model = perceptron()
        optimizer = build_sam(variant, model, AdamW, 0.1, settings=own, lr=0.0)
        before = weights(model)
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step(None)
        assert same(weights(model), before)
        assert all("exp_avg" in optimizer.state[one] for one in model.parameters())


@pytest.mark.parametrize(("variant", "own"), VARIANT_CASES)
def test_a_step_without_a_closure_at_no_learning_rate_is_refused_where_it_would_change_a_state(
    variant: str, own: dict[str, Any]
) -> None:
    model = perceptron()
    optimizer = build_sam(variant, model, AdamW, 0.1, settings=own, lr=1e-3)
    model(batches(1)[0][0]).square().sum().backward()
    optimizer.param_groups[0]["lr"] = 0.0  # as at the start of a warm-up
    with pytest.raises(ValueError, match="needs a closure"):  # a gradient is no call of torch's
        optimizer.step()
    assert not any(optimizer.state.values())
    optimizer.zero_grad()
    run(model, optimizer, batches(2))
    before = copy.deepcopy(optimizer.state_dict())
    for gradients in ("left", "none", "zero"):
        if gradients != "left":
            optimizer.zero_grad()
        if gradients == "zero":
            for parameter in model.parameters():
                parameter.grad = torch.zeros_like(parameter)
        with pytest.raises(ValueError, match="needs a closure"):
            optimizer.step()
    assert str(optimizer.state_dict()) == str(before)
