"""The step of SAM: its definition, and what must be exact whatever happens."""

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sam_cases import (
    BASES,
    VARIANT_CASES,
    Batch,
    batches,
    closure_of,
    flat,
    gradient,
    perceptron,
    run,
    same,
    weights,
    with_batchnorm,
)
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Adadelta, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils._python_dispatch import TorchDispatchMode

from sparse_sam.sam.build import build_sam
from sparse_sam.sam.optimizer import SAM

SGD_SETTINGS: dict[str, Any] = {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3}


def one_batch(seed: int = 7) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(24, 12, generator=generator), torch.randint(0, 4, (24,), generator=generator)


@settings(max_examples=40)
@given(rho=st.floats(1e-3, 10.0), seed=st.integers(0, 1000))
def test_epsilon_is_rho_times_the_unit_gradient(rho: float, seed: int) -> None:
    model, (inputs, labels) = perceptron().double(), one_batch(seed)
    sam = SAM(model.parameters(), SGD, rho=rho, lr=0.1)
    before = flat(weights(model))
    closure_of(model, sam, inputs.double(), labels)()
    g = flat([parameter.grad for parameter in model.parameters()])
    sam.first_step()
    torch.testing.assert_close(flat(weights(model)) - before, rho * g / g.norm(), rtol=1e-6, atol=0)
    assert sam.ascent_norm is not None
    torch.testing.assert_close(sam.ascent_norm, g.norm())


@settings(max_examples=40)
@given(rho=st.floats(1e-3, 10.0), eta=st.sampled_from([0.0, 0.01, 1.0]), seed=st.integers(0, 1000))
def test_adaptive_epsilon_has_length_rho_relative_to_the_weights(
    rho: float, eta: float, seed: int
) -> None:
    model, (inputs, labels) = perceptron().double(), one_batch(seed)
    sam = SAM(model.parameters(), SGD, rho=rho, adaptive=True, eta=eta, lr=0.1)
    w = flat(weights(model))
    closure_of(model, sam, inputs.double(), labels)()
    g = flat([parameter.grad for parameter in model.parameters()])
    sam.first_step()
    epsilon, size = flat(weights(model)) - w, w.abs() + eta
    assert float((epsilon / size).norm()) == pytest.approx(rho, rel=1e-6)
    torch.testing.assert_close(
        epsilon, rho * size**2 * g / (size * g).norm(), rtol=1e-5, atol=1e-12
    )


def test_the_perturbed_loss_grows_as_the_first_order_says() -> None:
    model, (inputs, labels) = perceptron().double(), one_batch()
    rho = 1e-4
    sam = SAM(model.parameters(), SGD, rho=rho, lr=0.1)
    before = closure_of(model, sam, inputs.double(), labels)()
    norm = flat([parameter.grad for parameter in model.parameters()]).norm()
    sam.first_step()
    after = cross_entropy(model(inputs.double()), labels)
    assert (after - before).item() == pytest.approx(rho * norm.item(), rel=1e-2)


def test_the_step_is_the_base_optimizers_with_the_gradient_at_the_perturbed_weights() -> None:
    model, twin, (inputs, labels) = perceptron(), perceptron(), one_batch()
    g = gradient(twin, inputs, labels)
    with torch.no_grad():
        nn.utils.vector_to_parameters(flat(weights(twin)) + 0.3 * g / g.norm(), twin.parameters())
    expected = flat(weights(model)) - 0.1 * gradient(twin, inputs, labels)
    run(model, SAM(model.parameters(), SGD, rho=0.3, lr=0.1), [(inputs, labels)])
    torch.testing.assert_close(flat(weights(model)), expected)


@settings(max_examples=30)
@given(case=st.sampled_from(VARIANT_CASES), rho=st.floats(0.0, 100.0), scale=st.floats(1e-3, 1e3))
def test_weights_come_back_bit_for_bit_and_in_place(
    case: tuple[str, dict[str, Any]], rho: float, scale: float
) -> None:
    variant, own = case
    model, data = perceptron(), batches(4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
    optimizer = build_sam(variant, model, SGD, rho, settings=own, lr=0.0, momentum=0.9)
    before, places = weights(model), [parameter.data_ptr() for parameter in model.parameters()]
    run(model, optimizer, data)
    assert same(weights(model), before)
    assert [parameter.data_ptr() for parameter in model.parameters()] == places


@pytest.mark.parametrize(("variant", "own"), VARIANT_CASES)
@pytest.mark.parametrize(("base", "base_settings"), BASES)
def test_with_rho_zero_it_is_the_base_optimizer_bit_for_bit(
    variant: str, own: dict[str, Any], base: type[Optimizer], base_settings: dict[str, Any]
) -> None:
    ours, plain = with_batchnorm(), with_batchnorm()
    optimizer, other = (
        build_sam(variant, ours, base, 0.0, settings=own, **base_settings),
        base(plain.parameters(), **base_settings),
    )
    run(ours, optimizer, batches(20))
    run(plain, other, batches(20))
    assert same(list(ours.state_dict().values()), list(plain.state_dict().values()))
    for one, two in zip(ours.parameters(), plain.parameters(), strict=True):
        assert optimizer.state[one].keys() == other.state[two].keys()


def test_two_passes_at_rho_zero_are_the_base_optimizer_too() -> None:
    ours, plain = perceptron(), perceptron()
    sam = SAM(ours.parameters(), SGD, rho=0.0, **SGD_SETTINGS)
    for inputs, labels in batches(5):
        closure = closure_of(ours, sam, inputs, labels)
        closure()
        sam.first_step(zero_grad=True)
        closure()
        sam.second_step(zero_grad=True)
    run(plain, SGD(plain.parameters(), **SGD_SETTINGS), batches(5))
    assert same(weights(ours), weights(plain))
    assert all(parameter.grad is None for parameter in ours.parameters())


@settings(max_examples=60)
@given(case=st.sampled_from(VARIANT_CASES), base=st.sampled_from(BASES), stop=st.integers(0, 7))
def test_resuming_after_any_step_equals_never_having_stopped(
    case: tuple[str, dict[str, Any]], base: tuple[type[Optimizer], dict[str, Any]], stop: int
) -> None:
    (variant, own), (kind, base_settings), data = case, base, batches(7)

    def make(model: nn.Module) -> SAM:
        return build_sam(variant, model, kind, 0.1, settings=own, **base_settings)

    whole = with_batchnorm()
    run(whole, make(whole), data)
    first = with_batchnorm()
    optimizer = make(first)
    run(first, optimizer, data[:stop])
    saved = copy.deepcopy((first.state_dict(), optimizer.state_dict()))
    run(first, optimizer, data[stop:])  # what goes on must not change what was saved
    second = with_batchnorm()
    second.load_state_dict(saved[0])
    resumed = make(second)
    resumed.load_state_dict(saved[1])
    run(second, resumed, data[stop:])
    assert same(list(second.state_dict().values()), list(whole.state_dict().values()))


@pytest.mark.parametrize(("variant", "own"), VARIANT_CASES)
def test_a_state_survives_the_disk(variant: str, own: dict[str, Any], tmp_path: Any) -> None:
    model = perceptron()
    optimizer = build_sam(variant, model, SGD, 0.1, settings=own, **SGD_SETTINGS)
    run(model, optimizer, batches(4))
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    twin = copy.deepcopy(model)
    other = build_sam(variant, twin, SGD, 0.7, settings=own, lr=1.0, momentum=0.1)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    run(model, optimizer, batches(4))
    run(twin, other, batches(4))
    assert same(weights(twin), weights(model))
    assert other.param_groups[0]["rho"] == 0.1


def test_the_state_of_a_base_optimizer_is_taken_too() -> None:
    model = perceptron()
    plain = SGD(model.parameters(), **SGD_SETTINGS)
    run(model, plain, batches(3))
    sam = SAM(model.parameters(), SGD, rho=0.3, adaptive=True, lr=1.0)
    sam.load_state_dict(plain.state_dict())
    assert sam.param_groups[0]["rho"] == 0.3
    assert sam.param_groups[0]["adaptive"]
    assert sam.base_optimizer.param_groups[0]["lr"] == SGD_SETTINGS["lr"]
    for parameter in model.parameters():
        buffer = sam.base_optimizer.state[parameter]["momentum_buffer"]
        assert buffer.equal(plain.state[parameter]["momentum_buffer"])


def test_schedulers_act_on_the_base_optimizer_also_after_loading() -> None:
    model = perceptron()
    sam = SAM(model.parameters(), SGD, lr=0.1)
    schedule = CosineAnnealingLR(sam, T_max=4)
    rates = []
    for inputs, labels in batches(4):
        rates.append(sam.base_optimizer.param_groups[0]["lr"])
        sam.step(closure_of(model, sam, inputs, labels))
        schedule.step()
    assert rates == sorted(rates, reverse=True)
    assert sam.base_optimizer.param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-9)
    sam.load_state_dict(copy.deepcopy(sam.state_dict()))
    sam.param_groups[0]["lr"] = 0.7
    assert sam.base_optimizer.param_groups[0]["lr"] == 0.7


@pytest.mark.parametrize(("variant", "own"), VARIANT_CASES)
def test_batchnorm_learns_from_the_first_pass_only(variant: str, own: dict[str, Any]) -> None:
    ours, plain = with_batchnorm(), with_batchnorm()
    optimizer = build_sam(variant, ours, SGD, 1.0, settings=own, lr=0.0, momentum=0.9)
    # With lr 0 the momentum is not 0, and momentum SAM has its only pass at w + ε.
    if variant == "momentum":
        run(ours, optimizer, batches(5)[:1])
        plain(batches(5)[0][0])
    else:
        run(ours, optimizer, batches(5))
        for inputs, _ in batches(5):
            plain(inputs)
    assert same([*ours.buffers()], [*plain.buffers()])
    assert int(ours[1].num_batches_tracked) in {1, 5}


def test_the_loss_is_the_one_at_the_weights() -> None:
    model, (inputs, labels) = perceptron(), one_batch()
    expected = cross_entropy(model(inputs), labels)
    sam = SAM(model.parameters(), SGD, rho=1.0, lr=0.1)
    assert sam.step(closure_of(model, sam, inputs, labels)).equal(expected)


def test_a_closure_need_not_zero_gradients() -> None:
    # Code written for the widely copied SAM has closures that do not.
    one, other, data = perceptron(), perceptron(), batches(3)
    first, second = (SAM(model.parameters(), SGD, rho=0.3, lr=0.1) for model in (one, other))
    for inputs, labels in data:

        def closure(inputs: Tensor = inputs, labels: Tensor = labels) -> Tensor:
            loss = cross_entropy(one(inputs), labels)
            loss.backward()
            return loss

        first.step(closure)
    run(other, second, data)
    assert same(weights(one), weights(other))


@pytest.mark.parametrize(("variant", "own"), VARIANT_CASES)
@pytest.mark.parametrize("call", [1, 2])
def test_a_closure_that_fails_leaves_everything_as_it_was(
    variant: str, own: dict[str, Any], call: int
) -> None:
    model, data = with_batchnorm(), batches(3)
    optimizer = build_sam(variant, model, SGD, 0.5, settings=own, lr=0.1, momentum=0.9)
    run(model, optimizer, data[:1])
    optimizer.load_state_dict(optimizer.state_dict())
    if hasattr(optimizer, "steps"):
        optimizer.steps = own.get("after", 0)  # so that this step ascends
    good, calls = closure_of(model, optimizer, *data[1]), 0

    def failing() -> Tensor:
        nonlocal calls
        calls += 1
        loss = good()
        if calls == call:
            raise KeyboardInterrupt
        return loss

    before, state = weights(model), copy.deepcopy(optimizer.state_dict())
    if variant == "momentum" and call == 2:
        optimizer.step(failing)  # has one pass only
        assert calls == 1
        return
    with pytest.raises(KeyboardInterrupt):
        optimizer.step(failing)
    assert same(weights(model), before)
    assert str(optimizer.state_dict()) == str(state)
    assert model[1].track_running_stats
    optimizer.step(good)
    assert not same(weights(model), before)


def test_groups_may_have_their_own_rho_and_parameters_no_gradient() -> None:
    model = perceptron()
    unused = nn.Parameter(torch.ones(3))
    groups = [
        {"params": model[0].parameters(), "rho": 0.0},
        {"params": [*model[2].parameters(), unused]},
    ]
    sam = SAM(groups, SGD, rho=0.2, lr=0.1)
    before = weights(model)
    closure_of(model, sam, *one_batch())()
    norm = flat([parameter.grad for parameter in model.parameters()]).norm()
    expected = 0.2 * flat([parameter.grad for parameter in model[2].parameters()]) / norm
    sam.first_step()
    after = weights(model)
    assert same(after[:2], before[:2])
    torch.testing.assert_close(flat(after[2:]) - flat(before[2:]), expected, rtol=1e-4, atol=1e-7)
    sam.second_step()
    assert unused.detach().equal(torch.ones(3))


@pytest.mark.parametrize(("variant", "own"), VARIANT_CASES)
def test_zero_gradients_move_nothing(variant: str, own: dict[str, Any]) -> None:
    model = perceptron()
    optimizer = build_sam(variant, model, SGD, 0.3, settings=own, lr=0.1, momentum=0.9)
    before = weights(model)

    def closure() -> Tensor:
        loss = 0.0 * cross_entropy(model(one_batch()[0]), one_batch()[1])
        loss.backward()
        return loss

    for _ in range(4):
        optimizer.step(closure)
    assert same(weights(model), before)


def test_a_base_optimizer_may_be_given_whole() -> None:
    one, other = perceptron(), perceptron()
    base = SGD(other.parameters(), lr=0.05, momentum=0.9)
    run(one, SAM(one.parameters(), SGD, lr=0.05, momentum=0.9), batches(5))
    run(other, SAM(other.named_parameters(), base), batches(5))
    assert same(weights(one), weights(other))


def test_parameters_can_be_added() -> None:
    model = perceptron()
    sam = SAM(model[0].parameters(), SGD, rho=0.3, lr=0.1)
    sam.add_param_group({"params": model[2].parameters(), "lr": 0.2})
    assert sam.param_groups is sam.base_optimizer.param_groups
    assert [group["rho"] for group in sam.param_groups] == [0.3, 0.3]
    before = weights(model)
    run(model, sam, batches(1))
    assert all(not a.equal(b) for a, b in zip(weights(model), before, strict=True))


def test_a_network_may_be_moved_or_cast_after_the_optimizer_is_made() -> None:
    model = perceptron()
    sam = SAM(model.parameters(), SGD, rho=0.3, lr=0.0)
    run(model, sam, batches(1))
    model.double()
    before = weights(model)
    run(model, sam, [(inputs.double(), labels) for inputs, labels in batches(1)])
    assert same(weights(model), before)


def test_unperturbed_shows_the_weights_and_goes_back() -> None:
    model = perceptron()
    sam = SAM(model.parameters(), SGD, rho=0.3, lr=0.1)
    at_rest = weights(model)
    with sam.unperturbed():
        assert same(weights(model), at_rest)
    closure_of(model, sam, *one_batch())()
    sam.first_step()
    perturbed = weights(model)
    with pytest.raises(RuntimeError, match="on purpose"), sam.unperturbed():  # noqa: PT012
        assert same(weights(model), at_rest)
        raise RuntimeError("on purpose")
    assert same(weights(model), perturbed)
    assert not same(perturbed, at_rest)
    sam.restore()
    sam.restore()
    assert same(weights(model), at_rest)


def test_no_step_waits_for_the_device() -> None:
    waits: list[str] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
            if "local_scalar_dense" in str(func) or "nonzero" in str(func):
                waits.append(str(func))
            return func(*args, **(kwargs or {}))

    for variant, own in VARIANT_CASES:
        model = with_batchnorm()
        options = {"max_grad_norm": 1.0, "lr": 0.1, "momentum": 0.9}
        optimizer = build_sam(variant, model, SGD, 0.1, settings=own, **options)
        with Watch():
            run(model, optimizer, batches(4))
        assert not waits, variant
    careful = build_sam("sam", model, SGD, 0.1, nonfinite="skip", lr=0.1)
    with Watch():
        run(model, careful, batches(1))
    assert len(waits) == 1  # the documented one: the watch does see such calls


def test_what_cannot_be_meant_is_refused() -> None:
    model = perceptron()
    for rho in (-0.1, float("nan")):
        with pytest.raises(ValueError, match="rho"):
            SAM(model.parameters(), SGD, rho=rho, lr=0.1)
    with pytest.raises(ValueError, match="eta"):
        SAM(model.parameters(), SGD, adaptive=True, eta=-1.0, lr=0.1)
    with pytest.raises(ValueError, match="max_grad_norm"):
        SAM(model.parameters(), SGD, max_grad_norm=0.0, lr=0.1)
    with pytest.raises(ValueError, match="propagate, skip, raise"):
        SAM(model.parameters(), SGD, nonfinite="ignore", lr=0.1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="closure"):
        SAM(model.parameters(), SGD, lr=0.1).step()
    with pytest.raises(ValueError, match="does not hold"):
        SAM(model.parameters(), SGD(perceptron().parameters(), lr=0.1))
    with pytest.raises(ValueError, match="pass settings only with a base optimizer class"):
        SAM(model.parameters(), SGD(model.parameters(), lr=0.1), lr=0.2)
    with pytest.raises(ValueError, match="Adadelta keeps a setting rho"):
        SAM(model.parameters(), Adadelta)
    sam = SAM(model.parameters(), SGD, lr=0.1)
    closure_of(model, sam, *one_batch())()
    sam.first_step()
    with pytest.raises(RuntimeError, match="already perturbed"):
        sam.first_step()


@pytest.mark.parametrize(("variant", "own"), VARIANT_CASES)
def test_a_copy_of_model_and_optimizer_trains_on(variant: str, own: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    options: dict[str, Any] = {"settings": own, "lr": 0.1, "momentum": 0.9}
    optimizer = build_sam(variant, model, torch.optim.SGD, 0.05, **options)
    inputs = torch.randn(8, 4)

    def step(model: nn.Module, optimizer: SAM) -> None:
        def closure() -> Any:
            loss = model(inputs).square().mean()
            loss.backward()
            return loss

        optimizer.step(closure)

    step(model, optimizer)
    twin, other = copy.deepcopy((model, optimizer))
    for _ in range(6):
        step(model, optimizer)
        step(twin, other)
    for one, twins in zip(model.parameters(), twin.parameters(), strict=True):
        assert one is not twins
        assert torch.equal(one, twins)
    assert other.param_groups is other.base_optimizer.param_groups
