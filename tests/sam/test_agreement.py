"""SAM against its peer, pytorch_optimizer, on the same batches from the same weights."""

from collections.abc import Callable
from typing import Any

import pytest
import pytorch_optimizer
import torch
from sam_cases import (
    BASES,
    batches,
    closure_of,
    perceptron,
    relative_distance,
    run,
    weights,
    with_batchnorm,
)
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Optimizer

from sparse_sam.sam.gsam import GSAM
from sparse_sam.sam.optimizer import SAM
from sparse_sam.sam.periodic import LookSAM

STEPS = 50


def run_peer(model: nn.Module, peer: Any, data: Any) -> None:
    for inputs, labels in data:
        closure = closure_of(model, peer, inputs, labels)
        closure()
        peer.step(closure)


def doubled(data: Any) -> Any:
    return [(inputs.double(), labels) for inputs, labels in data]


@pytest.mark.parametrize("make", [perceptron, with_batchnorm])
@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize(("base", "settings"), BASES)
def test_sam_and_asam_agree_over_fifty_steps(
    make: Callable[[], nn.Module],
    adaptive: bool,
    base: type[Optimizer],
    settings: dict[str, Any],
    record_property: Callable[[str, object], None],
) -> None:
    ours, theirs, plain = make(), make(), make()
    options = {"rho": 0.5 if adaptive else 0.05, "adaptive": adaptive, **settings}
    run(ours, SAM(ours.parameters(), base, model=ours, **options), batches(STEPS))
    run_peer(theirs, pytorch_optimizer.SAM(theirs.parameters(), base, **options), batches(STEPS))
    run(plain, base(plain.parameters(), **settings), batches(STEPS))
    distance = relative_distance(ours, theirs)
    record_property("relative_distance", distance)
    assert distance < 1e-6
    # The perturbation is what they agree upon: without it the weights end elsewhere.
    assert relative_distance(ours, plain) > 1e-4


def test_gsam_agrees() -> None:
    ours, theirs = perceptron().double(), perceptron().double()
    data = doubled(batches(20))
    run(ours, GSAM(ours.parameters(), SGD, 0.1, alpha=0.4, lr=0.05, momentum=0.9), data)
    base = SGD(theirs.parameters(), lr=0.05, momentum=0.9)
    peer = pytorch_optimizer.GSAM(theirs.parameters(), base, theirs, _Constant(0.1), alpha=0.4)
    for inputs, labels in data:
        peer.set_closure(cross_entropy, inputs, labels)
        peer.step()
    assert relative_distance(ours, theirs) < 1e-6  # the peer takes norms in float32


class _Constant:
    """A schedule of ρ that does not move."""

    def __init__(self, value: float) -> None:
        self.value = value

    def step(self) -> float:
        return self.value


def test_looksam_agrees_where_there_is_one_tensor() -> None:
    # The peer takes norms and products tensor by tensor; the paper, and we, over all together.
    torch.manual_seed(0)
    ours = nn.Linear(12, 4, bias=False).double()
    theirs = nn.Linear(12, 4, bias=False).double()
    theirs.load_state_dict(ours.state_dict())
    settings: dict[str, Any] = {"rho": 0.1, "k": 4, "alpha": 0.7, "lr": 0.05, "momentum": 0.9}
    before = weights(ours)
    data = doubled(batches(20))
    run(ours, LookSAM(ours.parameters(), SGD, **settings), data)
    peer = pytorch_optimizer.LookSAM(theirs.parameters(), SGD, **settings)
    for step, (inputs, labels) in enumerate(data):
        closure = closure_of(theirs, peer, inputs, labels)
        closure()
        peer.first_step(zero_grad=step % 4 == 0)
        if step % 4 == 0:
            closure()
        peer.second_step()
    assert relative_distance(ours, theirs) < 1e-6
    assert float((ours.weight - before[0]).detach().norm()) > 0.1
