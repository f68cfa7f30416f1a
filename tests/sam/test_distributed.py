"""Two processes under torchrun: whose ε it is, and that all workers stay the same network."""

from pathlib import Path
from typing import Any

import pytest
import torch
from ddp_worker import OPTIONS, RUNS, STEPS, model_for
from sam_cases import batches, closure_of, flat, gradient, perceptron, run, weights
from torch import Tensor, nn
from torch.optim import SGD

from sparse_sam.sam.build import build_sam
from tests.processes import spawned

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return spawned(HERE / "ddp_worker.py", 2, tmp_path_factory.mktemp("ranks"))


def halves(step: int) -> list[tuple[Tensor, Tensor]]:
    inputs, labels = batches(STEPS)[step]
    return list(zip(inputs.double().chunk(2), labels.chunk(2), strict=True))


def sparse_gradient(w: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
    model = model_for("local")
    nn.utils.vector_to_parameters(w, model.parameters())
    return gradient(model, inputs, labels)


@pytest.mark.parametrize("name", [run[0] for run in RUNS])
def test_all_workers_stay_the_same_network_bit_for_bit(ranks: list[Any], name: str) -> None:
    for one, other in zip(ranks[0][name]["after"], ranks[1][name]["after"], strict=True):
        assert one.equal(other)


@pytest.mark.parametrize(
    ("name", "variant", "own"), [(name, variant, own) for name, variant, own, *_ in RUNS[1:]]
)
def test_a_synchronised_epsilon_is_that_of_one_process_on_the_joint_batch(
    ranks: list[Any], name: str, variant: str, own: dict[str, Any]
) -> None:
    model = model_for(name)
    optimizer = build_sam(variant, model, SGD, 0.5, settings=own, **OPTIONS)
    for step, (inputs, labels) in enumerate(batches(STEPS)):
        at: list[Tensor] = []
        closure = closure_of(model, optimizer, inputs.double(), labels)

        def watched(at: list[Tensor] = at, closure: Any = closure) -> Tensor:
            at.append(flat(weights(model)))
            return closure()

        optimizer.step(watched)
        for rank in ranks:
            assert len(rank[name]["seen"][step]) == len(at)
            for theirs, ours in zip(rank[name]["seen"][step], at, strict=True):
                torch.testing.assert_close(theirs, ours)  # w, and w + ε
            torch.testing.assert_close(rank[name]["after"][step], flat(weights(model)))


def test_a_local_epsilon_is_that_of_the_workers_own_examples(ranks: list[Any]) -> None:
    for step in range(STEPS):
        epsilons = []
        for rank, half in zip(ranks, halves(step), strict=True):
            w, perturbed = rank["local"]["seen"][step]
            g = sparse_gradient(w, *half)
            torch.testing.assert_close(perturbed - w, 0.5 * g / g.norm())
            epsilons.append(perturbed - w)
        assert float((epsilons[0] - epsilons[1]).norm()) > 0.05


def test_with_a_local_epsilon_the_step_is_the_mean_of_the_workers_gradients(
    ranks: list[Any],
) -> None:
    velocity = torch.zeros(())
    for step in range(STEPS):
        w = ranks[0]["local"]["seen"][step][0]
        gradients = [
            sparse_gradient(rank["local"]["seen"][step][1], *half)
            for rank, half in zip(ranks, halves(step), strict=True)
        ]
        velocity = 0.9 * velocity + sum(gradients) / 2
        torch.testing.assert_close(ranks[0]["local"]["after"][step], w - 0.05 * velocity)


def test_local_and_synchronised_train_differently(ranks: list[Any]) -> None:
    local, joint = ranks[0]["local"]["after"][-1], ranks[0]["synchronised"]["after"][-1]
    assert float((local - joint).norm()) > 1e-4


def test_an_overflow_on_one_worker_makes_both_skip(ranks: list[Any]) -> None:
    for rank in ranks:
        assert rank["overflow"]["skipped"] == 1
        first, second, third = rank["overflow"]["after"]
        assert second.equal(first)
        assert third.isfinite().all()
        assert not third.equal(second)
    assert ranks[0]["overflow"]["after"][2].equal(ranks[1]["overflow"]["after"][2])


def test_without_workers_nothing_is_synchronised() -> None:
    one, other = perceptron(), perceptron()
    run(one, build_sam("sam", one, SGD, 0.5, sync_perturbation=True, **OPTIONS), batches(3))
    run(other, build_sam("sam", other, SGD, 0.5, **OPTIONS), batches(3))
    assert flat(weights(one)).equal(flat(weights(other)))
