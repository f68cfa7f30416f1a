"""Fresh optimizers: made as the recipe says, and refused when they are another model's."""

import copy
import math
from collections.abc import Callable
from inspect import Parameter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector
from torch.optim import SGD, AdamW, Optimizer

from sparse_sam.errors import ConfigError, StaleOptimizerError
from sparse_sam.pruning.masks import Masks, attach, masks_of, plain_state
from sparse_sam.sam.build import variant_settings
from sparse_sam.sam.optimizer import SAM
from sparse_sam.sam.registry import VARIANTS
from sparse_sam.training.base_optimizer import make_base
from sparse_sam.training.clipping import Clipped
from sparse_sam.training.learning_rates import constant, cosine
from sparse_sam.training.optimizers import check_holds
from sparse_sam.training.params import TrainingParams
from sparse_sam.training.registry import BASE_OPTIMIZERS, LEARNING_RATES
from sparse_sam.training.warm_up import warmed_up
from sparse_sam.training.with_sam import make_sam
from sparse_sam.training.with_sgd import make_sgd
from tests.recipes import NEEDED, sam_params

Recipe = Callable[..., TrainingParams]
VALUES: dict[str, dict[str, float]] = {
    "asam": {"eta": 0.02},
    "periodic": {"k": 3},
    "looksam": {"k": 3, "alpha": 0.6},
    "late": {"after": 4},
    "gsam": {"alpha": 0.3, "rho_min": 0.1},
}


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))


def pruned_copy(dense: nn.Module) -> nn.Module:
    """As the pipeline makes it: a new network with the dense one's weights, and masks."""
    sparse = model()
    sparse.load_state_dict(plain_state(dense))
    attach(sparse, Masks({"0.weight": torch.eye(2, 3).bool()}))
    return sparse


def both(net: nn.Module, recipe: TrainingParams) -> list[Optimizer]:
    return [make_sgd(net, recipe), make_sam(net, recipe, sam_params(0.05))]


def test_optimizers_are_made_as_the_recipe_says(make_recipe: Recipe) -> None:
    recipe = make_recipe(lr=0.3, momentum=0.7, weight_decay=0.01)
    for optimizer in both(model(), recipe):
        (group,) = optimizer.param_groups
        assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.3, 0.7, 0.01)
        assert not optimizer.state
    sam = make_sam(model(), recipe, sam_params(0.25))
    assert isinstance(sam, SAM)
    assert sam.param_groups[0]["rho"] == 0.25
    assert isinstance(sam.base_optimizer, SGD)


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_every_variant_is_made_with_the_settings_of_the_parameters(
    variant: str, make_recipe: Recipe
) -> None:
    recipe, given = make_recipe(momentum=0.5), VALUES.get(variant, {})
    sam = make_sam(model(), recipe, sam_params(0.25, variant=variant, **given))
    assert type(sam) is VARIANTS.load(variant)
    assert {name: getattr(sam, name) for name in given} == given
    # What is left out, or null, is as in the variant's paper; what it has no value for is needed.
    needed = NEEDED.get(variant, {})
    defaults = {name: one.default for name, one in variant_settings(variant).items()}
    assert needed.keys() == {name for name, one in defaults.items() if one is Parameter.empty}
    for nothing in ({}, dict.fromkeys(defaults.keys() - needed.keys())):
        sam = make_sam(model(), recipe, sam_params(0.25, variant=variant, **nothing))
        for name, value in given.items():
            assert getattr(sam, name) == (defaults | needed)[name] != value


def test_no_setting_is_left_out() -> None:
    shipped = ("sam", "asam", "periodic", "looksam", "late", "momentum", "gsam")
    for variant in shipped:
        assert variant in VARIANTS
        assert set(VALUES.get(variant, {})) == set(variant_settings(variant))


def test_a_fresh_optimizer_holds_its_model(make_recipe: Recipe) -> None:
    for net in (model(), pruned_copy(model())):
        for optimizer in both(net, make_recipe()):
            check_holds(optimizer, net)


def test_an_optimizer_holds_a_model_that_was_pruned_in_place(make_recipe: Recipe) -> None:
    # Pruning moves the parameter to another place, and it is the same one.
    net = model()
    for optimizer in both(net, make_recipe()):
        check_holds(optimizer, net)
    optimizers = both(net, make_recipe())
    attach(net, Masks({"0.weight": torch.eye(2, 3).bool()}))
    for optimizer in optimizers:
        check_holds(optimizer, net)


def test_the_optimizer_of_a_dense_model_does_not_hold_its_pruned_copy(
    make_recipe: Recipe,
) -> None:
    dense = model()
    for optimizer in both(dense, make_recipe()):
        with pytest.raises(StaleOptimizerError) as raised:
            check_holds(optimizer, pruned_copy(dense))
        message = str(raised.value)
        assert "holds 6 tensors that are not parameters of this model" in message
        assert "misses 6 that are (0.bias, 0.weight, 1.weight, ...)" in message
        assert "Make a new optimizer from model.parameters()" in message


def test_the_optimizer_of_a_copied_or_loaded_model_is_refused(make_recipe: Recipe) -> None:
    earlier = model()
    copied = copy.deepcopy(earlier)
    loaded = model()
    loaded.load_state_dict(earlier.state_dict())
    for optimizer in both(earlier, make_recipe()):
        for later in (copied, loaded):
            with pytest.raises(StaleOptimizerError, match="holds 6 tensors"):
                check_holds(optimizer, later)


def test_an_optimizer_over_a_part_of_the_model_is_refused() -> None:
    net = model()
    with pytest.raises(StaleOptimizerError, match=r"holds 0 tensors.* misses 2 that are \(2\.we"):
        check_holds(SGD([*net[0].parameters(), *net[1].parameters()], lr=0.1), net)


def test_an_optimizer_over_more_than_the_model_is_refused() -> None:
    net, other = model(), nn.Linear(2, 2)
    optimizer = SGD(net.parameters(), lr=0.1)
    optimizer.add_param_group({"params": [other.weight]})
    with pytest.raises(StaleOptimizerError, match=r"holds 1 tensors .* misses 0 .*\(none\)"):
        check_holds(optimizer, net)


def test_parameters_may_stand_in_several_groups() -> None:
    net = model()
    groups = [{"params": list(layer.parameters())} for layer in net]
    check_holds(SGD(groups, lr=0.1), net)


def test_frozen_parameters_may_be_held_or_not(make_recipe: Recipe) -> None:
    net = model()
    net[0].requires_grad_(False)
    for optimizer in both(net, make_recipe()):
        check_holds(optimizer, net)
    check_holds(SGD([*net[1].parameters(), *net[2].parameters()], lr=0.1), net)
    with pytest.raises(StaleOptimizerError, match=r"misses 2"):
        check_holds(SGD([*net[0].parameters(), *net[1].parameters()], lr=0.1), net)


def rates(recipe: TrainingParams, steps: int, optimizer: Optimizer) -> list[float]:
    schedule = LEARNING_RATES.load(recipe.schedule)(optimizer, steps)
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step(lambda: 0.0)
        schedule.step()
    return [*seen, optimizer.param_groups[0]["lr"]]


def test_the_cosine_schedule_by_hand(make_recipe: Recipe) -> None:
    recipe = make_recipe(lr=0.2, schedule="cosine")
    root = math.sqrt(0.5)
    by_hand = [0.2, 0.1 * (1 + root), 0.1, 0.1 * (1 - root), 0.0]
    assert rates(recipe, 4, make_sgd(model(), recipe)) == pytest.approx(by_hand, abs=1e-12)


def test_the_constant_schedule(make_recipe: Recipe) -> None:
    recipe = make_recipe(lr=0.2)
    assert rates(recipe, 3, make_sgd(model(), recipe)) == [0.2] * 4


def test_every_name_stands_for_its_schedule() -> None:
    # (More may be registered.)
    assert {name: LEARNING_RATES.load(name) for name in LEARNING_RATES}.items() >= {
        "constant": constant,
        "cosine": cosine,
    }.items()


def test_an_unknown_schedule_is_answered_with_what_there_is() -> None:
    with pytest.raises(ConfigError) as raised:
        LEARNING_RATES.load("linear")
    allowed = f"one of {', '.join(LEARNING_RATES)}, or package.module:attribute"
    assert str(raised.value) == f"schedule = 'linear': must be {allowed}"


OWN_SCHEDULE = """
from torch.optim.lr_scheduler import LambdaLR

def halving(optimizer, steps, restarts=()):
    return LambdaLR(optimizer, lambda step: 0.5**step)
"""


def test_a_schedule_of_ones_own_is_named_by_its_place(
    make_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_rates_for_tests.py").write_text(OWN_SCHEDULE)
    monkeypatch.syspath_prepend(tmp_path)
    recipe = make_recipe(lr=0.2, schedule="own_rates_for_tests:halving")
    assert rates(recipe, 3, make_sgd(model(), recipe)) == pytest.approx([0.2, 0.1, 0.05, 0.025])
    with pytest.raises(ConfigError) as raised:
        LEARNING_RATES.load("own_rates_for_tests:doubling")
    message = str(raised.value)
    assert message.startswith("schedule = 'own_rates_for_tests:doubling': cannot be imported")
    assert message.endswith(f"allowed: {LEARNING_RATES.allowed}")
    with pytest.raises(ValueError, match="names the module 'own_schedules_elsewhere'"):
        make_recipe(schedule="own_schedules_elsewhere:halving")


def test_the_schedule_of_sam_is_that_of_its_base_optimizer(make_recipe: Recipe) -> None:
    recipe = make_recipe(lr=0.2, schedule="cosine")
    net = model()
    sam = make_sam(net, recipe, sam_params(0.05))
    schedule = LEARNING_RATES.load(recipe.schedule)(sam, 2)

    def closure() -> torch.Tensor:
        sam.zero_grad()
        loss = net(torch.ones(2, 3)).square().sum()
        loss.backward()
        return loss

    sam.step(closure)
    schedule.step()
    assert sam.param_groups[0]["lr"] == pytest.approx(0.1)
    assert sam.base_optimizer.param_groups[0]["lr"] == pytest.approx(0.1)
    assert masks_of(net) is None


# The base optimizer


def losses(net: nn.Module, optimizer: Optimizer, steps: int = 3) -> list[float]:
    """Some steps on batches of which each has a gradient of its own."""
    found = []
    for step in range(steps):

        def closure(step: int = step) -> Tensor:
            optimizer.zero_grad()
            loss = (net(torch.linspace(-1, 1 + step, 12).view(4, 3)) - step).square().sum()
            loss.backward()
            return loss

        found.append(float(optimizer.step(closure).detach()))
    return found


def test_adamw_is_torchs_with_the_recipes_rate_and_decay(make_recipe: Recipe) -> None:
    recipe = make_recipe(base_optimizer="adamw", lr=0.03, weight_decay=0.2)
    one, other = model(), model()
    other.load_state_dict(one.state_dict())
    ours, theirs = make_base(one, recipe), AdamW(other.parameters(), lr=0.03, weight_decay=0.2)
    assert losses(one, ours) == losses(other, theirs)
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
    check_holds(ours, one)


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_sam_is_around_the_recipes_base(variant: str, make_recipe: Recipe) -> None:
    recipe, net = make_recipe(base_optimizer="adamw", lr=0.03), model()
    optimizer = make_sam(net, recipe, sam_params(0.05, variant=variant))
    assert isinstance(optimizer.base_optimizer, AdamW)
    check_holds(optimizer, net)
    losses(net, optimizer)
    assert all(state["exp_avg"].any() for state in optimizer.state.values())


OWN_BASES = """
from torch.optim import RMSprop

def rmsprop(model, recipe):
    return RMSprop(model.parameters(), lr=recipe.lr)

def half(model, recipe):
    return RMSprop(list(model.parameters())[:1], lr=recipe.lr)

def none(model, recipe):
    return None
"""


def test_a_base_of_ones_own_is_named_by_its_place(
    make_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_bases_for_tests.py").write_text(OWN_BASES)
    monkeypatch.syspath_prepend(tmp_path)

    def recipe(name: str) -> TrainingParams:
        return make_recipe(base_optimizer=f"own_bases_for_tests:{name}", clip_norm=1.0)

    sam = make_sam(model(), recipe("rmsprop"), sam_params())
    assert type(sam.base_optimizer.base).__name__ == "RMSprop"
    with pytest.raises(
        ConfigError, match=r":none': must return a torch\.optim\.Optimizer, not NoneType"
    ):
        make_base(model(), recipe("none"))
    with pytest.raises(ConfigError, match=r":rmsprop': momentum SAM needs a base optimizer with m"):
        make_sam(model(), recipe("rmsprop"), sam_params(variant="momentum"))
    net = model()
    with pytest.raises(StaleOptimizerError, match="misses 5 that are"):
        check_holds(make_base(net, recipe("half")), net)


# Clipping


class Watched:
    """Puts itself in an optimizer's step, and keeps the length of the gradient it takes."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.norms: list[float] = []
        step = type(optimizer).step

        def watched(closure: Callable[[], Tensor] | None = None) -> Tensor | None:
            loss = closure() if closure else None
            groups = optimizer.param_groups
            gradients = [p.grad.flatten() for group in groups for p in group["params"]]
            self.norms.append(float(torch.cat(gradients).norm()))
            step(optimizer)
            return loss

        optimizer.step = watched  # type: ignore[method-assign,assignment]


def lengths(variant: str, recipe: TrainingParams) -> tuple[list[float], list[float]]:
    """Of the gradients that three steps take; and how far from w the first step's passes are."""
    net = model()
    generator = torch.Generator().manual_seed(0)
    for weight in net.parameters():
        nn.init.normal_(weight, generator=generator)
    optimizer: Any = make_base(net, recipe)
    inner = optimizer
    if variant != "alone":
        optimizer = make_sam(net, recipe, sam_params(0.05, variant=variant))
        inner = optimizer.base_optimizer
    watched = Watched(inner if recipe.clip_norm is None else inner.base)
    before = parameters_to_vector(net.parameters()).detach()
    away: list[float] = []

    def look(*_: object) -> None:
        away.append(float((parameters_to_vector(net.parameters()).detach() - before).norm()))

    hook = net.register_forward_pre_hook(look)
    losses(net, optimizer, steps=1)
    hook.remove()
    losses(net, optimizer, steps=2)
    return watched.norms, away


@pytest.mark.parametrize("base", list(BASE_OPTIMIZERS))
@pytest.mark.parametrize("variant", ["alone", *VARIANTS])
def test_no_step_of_any_arm_takes_a_longer_gradient(
    variant: str, base: str, make_recipe: Recipe
) -> None:
    momentum = 0.9 if base == "sgd" else 0.0
    free = make_recipe(base_optimizer=base, momentum=momentum, lr=0.001)
    found = {
        clip: lengths(variant, free.model_copy(update={"clip_norm": clip}))
        for clip in (None, 1e6, 0.5)
    }
    assert found[None] == found[1e6]  # what is short enough stays as it is, to the bit
    norms, away = found[None]
    assert min(norms) > 0.6
    assert found[0.5][0] == pytest.approx([0.5] * 3, rel=1e-4)
    # How far a step ascends has nothing to do with it.
    assert found[0.5][1] == away
    assert (away[0], [one > 0.01 for one in away[1:]]) == (0.0, [True] * (len(away) - 1))


def test_a_clipped_step_by_hand() -> None:
    weight = nn.Parameter(torch.tensor([3.0, 4.0]))
    optimizer = Clipped(SGD([weight], lr=1.0), 1.0)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = weight.square().sum() / 2  # whose gradient is the weight, 5 long
        loss.backward()
        return loss

    assert float(optimizer.step(closure).detach()) == 12.5
    assert weight.tolist() == pytest.approx([3.0 - 0.6, 4.0 - 0.8], rel=1e-5)


def test_a_clipped_optimizer_is_saved_loaded_and_copied_with_its_base(make_recipe: Recipe) -> None:
    recipe = make_recipe(base_optimizer="adamw", clip_norm=0.5, lr=0.01)
    net = model()
    optimizer = make_base(net, recipe)
    losses(net, optimizer, 2)
    twin = model()
    twin.load_state_dict(net.state_dict())
    again = make_base(twin, recipe)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert again.param_groups is again.base.param_groups
    assert again.state is again.base.state
    copied_net, copied = copy.deepcopy((net, optimizer))
    expected = losses(net, optimizer)
    assert losses(twin, again) == losses(copied_net, copied) == expected


# Warm-up


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # Two of the five steps rise, to thirds of the rate; the schedule has the other three.
        ("constant", [1 / 3, 2 / 3, 1, 1, 1]),
        ("cosine", [1 / 3, 2 / 3, 1, 0.75, 0.25]),
    ],
)
@pytest.mark.parametrize("restarts", [(), (5,), (5, 10)])
def test_a_warm_up_by_hand(
    name: str, expected: list[float], restarts: tuple[int, ...], make_recipe: Recipe
) -> None:
    """At every restart it comes again, and the schedule after it."""
    optimizer = make_sgd(model(), make_recipe(lr=0.2))
    steps = 5 * (len(restarts) + 1)
    schedule = warmed_up(LEARNING_RATES.load(name), optimizer, steps, restarts, 2)
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"] / 0.2)
        optimizer.step()
        schedule.step()
    assert seen == pytest.approx(expected * (len(restarts) + 1), rel=1e-12)


@pytest.mark.parametrize("restarts", [(), (4,), (7,)])
def test_a_warm_up_that_leaves_nothing_is_refused(
    restarts: tuple[int, ...], make_recipe: Recipe
) -> None:
    optimizer = make_sgd(model(), make_recipe())
    with pytest.raises(
        ConfigError, match=r"warmup_epochs: the warm-up of \d+ steps leaves none of"
    ):
        warmed_up(constant, optimizer, 10, restarts, 4 if restarts else 10)


def test_a_schedule_of_several_cannot_be_warmed_up(make_recipe: Recipe) -> None:
    def several(optimizer: Optimizer, steps: int, restarts: object) -> object:
        from torch.optim.lr_scheduler import ChainedScheduler

        return ChainedScheduler([constant(optimizer, steps)], optimizer)

    optimizer = make_sgd(model(), make_recipe())
    with pytest.raises(ConfigError, match="must be 0, because schedule combines several"):
        warmed_up(several, optimizer, 10, (), 2)  # type: ignore[arg-type]
