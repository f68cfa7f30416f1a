"""GSAM's ρ under every scheduler of torch: it follows the rate, and never leaves its bounds."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from sam_cases import batches, perceptron, run, same, weights
from torch.optim import SGD, AdamW, lr_scheduler
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    MultiplicativeLR,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)
from torch.optim.optimizer import Optimizer
from torch.optim.swa_utils import SWALR

from sparse_sam.sam.gsam import GSAM

STEPS = 20  # OneCycleLR is at its largest rate in one of them, and not between two
RHO, RHO_MIN, LR = 0.1, 0.02, 0.05


def warm_up(optimizer: Optimizer) -> SequentialLR:
    rise = LinearLR(optimizer, 0.1, total_iters=5)
    return SequentialLR(optimizer, [rise, CosineAnnealingLR(optimizer, STEPS - 5)], [5])


def warm_up_then_cycles(optimizer: Optimizer) -> SequentialLR:
    rise = LinearLR(optimizer, 0.1, total_iters=5)
    return SequentialLR(optimizer, [rise, CyclicLR(optimizer, 0.01, 0.5, 3)], [5])


SCHEDULES: dict[str, Callable[[Optimizer], Any]] = {
    "ChainedScheduler": lambda o: ChainedScheduler([StepLR(o, 9), ExponentialLR(o, 0.9)]),
    "ConstantLR": lambda o: ConstantLR(o, 0.5, 4),
    "CosineAnnealingLR": lambda o: CosineAnnealingLR(o, STEPS, eta_min=0.001),
    "CosineAnnealingWarmRestarts": lambda o: CosineAnnealingWarmRestarts(o, 7),
    "CyclicLR": lambda o: CyclicLR(o, 0.01, 0.5, 4),
    "CyclicLR, triangular2": lambda o: CyclicLR(o, 0.01, 0.5, 4, mode="triangular2"),
    "CyclicLR, exp_range": lambda o: CyclicLR(o, 0.01, 0.5, 4, mode="exp_range", gamma=0.95),
    "ExponentialLR": lambda o: ExponentialLR(o, 0.9),
    "ExponentialLR, rising": lambda o: ExponentialLR(o, 1.1),
    "LambdaLR": lambda o: LambdaLR(o, lambda step: 3.0 if 5 <= step < 9 else 1 / (1 + step)),
    "LambdaLR, below 0": lambda o: LambdaLR(o, lambda step: 1 - step / 10),
    "LinearLR": lambda o: LinearLR(o, 0.1, 1.0, 10),
    "MultiStepLR": lambda o: MultiStepLR(o, [5, 15]),
    "MultiplicativeLR": lambda o: MultiplicativeLR(o, lambda step: 1.2 if step < 6 else 0.8),
    "OneCycleLR": lambda o: OneCycleLR(o, 0.5, STEPS),
    "OneCycleLR, three phases": lambda o: OneCycleLR(o, 0.5, STEPS, three_phase=True),
    "PolynomialLR": lambda o: PolynomialLR(o, STEPS),
    "ReduceLROnPlateau": lambda o: ReduceLROnPlateau(o, patience=3),
    "SWALR, rising": lambda o: SWALR(o, 0.4, anneal_epochs=6),
    "SequentialLR": warm_up,
    "SequentialLR, with cycles": warm_up_then_cycles,
    "StepLR": lambda o: StepLR(o, 5),
}


def gsam(base: type[Optimizer] = SGD, **options: Any) -> GSAM:
    model = perceptron()
    options |= {"momentum": 0.9} if base is SGD else {}
    return GSAM(model.parameters(), base, RHO, rho_min=RHO_MIN, model=model, lr=LR, **options)


def radii(optimizer: GSAM, schedule: Any, steps: int = STEPS) -> list[tuple[float, float]]:
    """(η, ρ) of each step."""
    seen = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # CyclicLR's and SequentialLR's own
        for batch in batches(steps):
            group = optimizer.param_groups[0]
            seen.append((group["lr"], optimizer._radius(group)))
            assert optimizer.model is not None
            run(optimizer.model, optimizer, [batch])
            if isinstance(schedule, ReduceLROnPlateau):
                schedule.step(1.0)
            elif schedule is not None:
                schedule.step()
    return seen


def test_all_schedulers_of_torch_are_here() -> None:
    named = {name.split(",")[0] for name in SCHEDULES}
    base = lr_scheduler.LRScheduler
    theirs = {
        name
        for name, one in vars(lr_scheduler).items()
        if isinstance(one, type) and issubclass(one, base) and not name.startswith("_")
    }
    assert theirs - {"LRScheduler"} <= named


@pytest.mark.parametrize("base", [SGD, AdamW])
@pytest.mark.parametrize("name", list(SCHEDULES))
def test_the_radius_is_within_its_bounds_and_rho_at_the_largest_rate(
    name: str, base: type[Optimizer]
) -> None:
    optimizer = gsam(base)
    schedule = SCHEDULES[name](optimizer)
    seen = radii(optimizer, schedule)
    assert all(RHO_MIN <= rho <= RHO for _, rho in seen), seen
    largest = max(lr for lr, _ in seen)
    # (OneCycleLR ends its rise within rounding of max_lr.)
    assert all(rho == pytest.approx(RHO, rel=1e-12) for lr, rho in seen if lr == largest)
    if len({lr for lr, _ in seen}) > 1 and "rising" not in name:
        assert len({rho for _, rho in seen}) > 1, "it does follow the rate"


def test_under_one_cycle_it_is_the_papers_formula_in_every_step() -> None:
    optimizer = gsam()
    schedule = OneCycleLR(optimizer, 0.5, STEPS)
    low = 0.5 / 25 / 1e4
    for lr, rho in radii(optimizer, schedule):
        assert rho == pytest.approx(RHO_MIN + (RHO - RHO_MIN) * (lr - low) / (0.5 - low))


def test_under_cycles_it_is_the_papers_formula_once_the_largest_rate_is_known() -> None:
    expected = [RHO_MIN + (RHO - RHO_MIN) * x for x in (0.1, 0.4, 0.7, 1.0, 0.7, 0.4, 0.1, 0.4)]
    told, untold = gsam(), gsam()
    told.param_groups[0]["max_lr"] = 0.5
    for optimizer in (told, untold):
        seen = radii(optimizer, CyclicLR(optimizer, 0.05, 0.5, 3), 8)
        first = [RHO] * 3 if optimizer is untold else expected[:3]
        assert [rho for _, rho in seen] == pytest.approx([*first, *expected[3:]])


def test_the_smallest_rate_may_be_told_as_well() -> None:
    optimizer = gsam()
    optimizer.param_groups[0]["min_lr"] = 0.01
    seen = radii(optimizer, CosineAnnealingLR(optimizer, STEPS - 1, eta_min=0.01))
    assert seen[0][1] == RHO
    assert seen[-1][1] == pytest.approx(RHO_MIN)


def test_a_warm_up_rises_from_below() -> None:
    optimizer = gsam()
    seen = radii(optimizer, warm_up(optimizer))
    assert [rho for _, rho in seen[:6]] == pytest.approx(
        [RHO_MIN + (RHO - RHO_MIN) * x for x in (0.1, 0.28, 0.46, 0.64, 0.82, 1.0)]
    )


def test_without_a_scheduler_it_is_constant_until_the_rate_is_lowered() -> None:
    optimizer = gsam()
    assert [rho for _, rho in radii(optimizer, None, 3)] == [RHO] * 3
    optimizer.param_groups[0]["lr"] = LR / 2
    expected = RHO_MIN + (RHO - RHO_MIN) / 2
    assert [rho for _, rho in radii(optimizer, None, 3)] == pytest.approx([expected] * 3)


def test_a_group_of_a_smaller_radius_keeps_it() -> None:
    model = perceptron()
    groups = [{"params": model[0].parameters()}, {"params": model[2].parameters(), "rho": 0.01}]
    optimizer = GSAM(groups, SGD, RHO, rho_min=RHO_MIN, model=model, lr=LR)
    for group in optimizer.param_groups:
        group["lr"], group["initial_lr"] = 0.0, LR
    assert [optimizer._radius(group) for group in optimizer.param_groups] == [RHO_MIN, 0.01]


@pytest.mark.parametrize("name", ["CyclicLR", "OneCycleLR", "MultiplicativeLR", "SequentialLR"])
@pytest.mark.parametrize("stop", [3, 9])
def test_it_resumes_from_state_dict(name: str, stop: int) -> None:
    def begin() -> tuple[GSAM, Any]:
        optimizer = gsam()
        return optimizer, SCHEDULES[name](optimizer)

    through, schedule = begin()
    data = batches(STEPS)

    def go_on(optimizer: GSAM, schedule: Any, first: int, last: int) -> list[float]:
        rho = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for batch in data[first:last]:
                rho.append(optimizer._radius(optimizer.param_groups[0]))
                assert optimizer.model is not None
                run(optimizer.model, optimizer, [batch])
                schedule.step()
        return rho

    whole = go_on(through, schedule, 0, STEPS)
    first, its = begin()
    go_on(first, its, 0, stop)
    assert first.model is not None
    saved = copy.deepcopy([first.model.state_dict(), first.state_dict(), its.state_dict()])
    second, again = begin()
    for part, state in zip([second.model, second, again], saved, strict=True):
        assert part is not None
        part.load_state_dict(state)
    assert go_on(second, again, stop, STEPS) == whole[stop:]
    assert through.model is not None
    assert second.model is not None
    assert same(weights(through.model), weights(second.model))


def test_a_rate_in_a_tensor_is_followed_too() -> None:
    optimizer = gsam(AdamW)
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(LR)
    seen = radii(optimizer, ExponentialLR(optimizer, 0.5), 3)
    assert [rho for _, rho in seen] == pytest.approx([0.1, 0.06, 0.04])
