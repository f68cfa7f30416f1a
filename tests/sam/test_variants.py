"""The variants: what each does in its paper's terms, and choosing one by name."""

import inspect
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sam_cases import (
    VARIANT_CASES,
    batches,
    closure_of,
    flat,
    gradient,
    perceptron,
    relative_distance,
    run,
    same,
    weights,
)
from torch import Tensor, nn
from torch.optim import SGD, AdamW, RMSprop
from torch.optim.lr_scheduler import LambdaLR

from sparse_sam.errors import ConfigError
from sparse_sam.sam.asam import ASAM
from sparse_sam.sam.build import build_sam, check_settings, variant_settings
from sparse_sam.sam.gsam import GSAM
from sparse_sam.sam.late import LateSAM
from sparse_sam.sam.momentum import MomentumSAM
from sparse_sam.sam.optimizer import SAM
from sparse_sam.sam.periodic import LookSAM, PeriodicSAM
from sparse_sam.sam.registry import VARIANTS
from tests.recipes import sam_params

DATA = [(inputs.double(), labels) for inputs, labels in batches(9)]


def network() -> nn.Sequential:
    return perceptron().double()


def gradient_at(w: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
    model = network()
    nn.utils.vector_to_parameters(w, model.parameters())
    return gradient(model, inputs, labels)


def counted(closure: Callable[[], Tensor]) -> tuple[Callable[[], Tensor], list[int]]:
    calls = [0]

    def counting() -> Tensor:
        calls[0] += 1
        return closure()

    return counting, calls


def calls_of(model: nn.Module, optimizer: SAM, steps: int) -> list[int]:
    counts = []
    for batch in DATA[:steps]:
        closure, calls = counted(closure_of(model, optimizer, *batch))
        optimizer.step(closure)
        counts.append(calls[0])
    return counts


@pytest.mark.parametrize(
    ("variant", "own", "expected"),
    [
        ("sam", {}, [2] * 7),
        ("asam", {}, [2] * 7),
        ("gsam", {}, [2] * 7),
        ("momentum", {}, [1] * 7),
        ("periodic", {"k": 3}, [2, 1, 1, 2, 1, 1, 2]),
        ("looksam", {"k": 3}, [2, 1, 1, 2, 1, 1, 2]),
        ("periodic", {"k": 1}, [2] * 7),
        ("late", {"after": 3}, [1, 1, 1, 2, 2, 2, 2]),
        ("late", {"after": 0}, [2] * 7),
        ("late", {"after": 9}, [1] * 7),
    ],
)
def test_gradients_a_step(variant: str, own: dict[str, Any], expected: list[int]) -> None:
    model = network()
    optimizer = build_sam(variant, model, SGD, 0.1, settings=own, lr=0.05, momentum=0.9)
    assert calls_of(model, optimizer, 7) == expected


def test_asam_is_sam_with_relative_distance() -> None:
    one, other = network(), network()
    run(one, ASAM(one.parameters(), SGD, 0.5, eta=0.01, lr=0.05), DATA)
    run(other, SAM(other.parameters(), SGD, 0.5, adaptive=True, eta=0.01, lr=0.05), DATA)
    assert same(weights(one), weights(other))
    third = network()
    run(third, SAM(third.parameters(), SGD, 0.5, adaptive=True, lr=0.05), DATA)
    assert not same(weights(one), weights(third))


def test_periodic_sam_with_period_one_is_sam() -> None:
    one, other = network(), network()
    run(one, PeriodicSAM(one.parameters(), SGD, 0.3, k=1, lr=0.05), DATA)
    run(other, SAM(other.parameters(), SGD, 0.3, lr=0.05), DATA)
    assert same(weights(one), weights(other))


def test_periodic_sam_steps_as_the_base_optimizer_between_ascents() -> None:
    model = network()
    optimizer = PeriodicSAM(model.parameters(), SGD, 0.5, k=3, lr=0.05)
    for step, batch in enumerate(DATA[:6]):
        w = flat(weights(model))
        g = gradient_at(w, *batch)
        run(model, optimizer, [batch])
        at = w + 0.5 * g / g.norm() if step % 3 == 0 else w
        torch.testing.assert_close(flat(weights(model)), w - 0.05 * gradient_at(at, *batch))


def test_looksam_follows_its_algorithm() -> None:
    model, (k, alpha, rho, lr) = network(), (3, 0.7, 0.5, 0.05)
    optimizer = LookSAM(model.parameters(), SGD, rho, k=k, alpha=alpha, lr=lr)
    vertical = torch.zeros(())
    for step, batch in enumerate(DATA):
        w = flat(weights(model))
        g = gradient_at(w, *batch)
        if step % k == 0:
            update = gradient_at(w + rho * g / g.norm(), *batch)
            cosine = (g @ update) / (g.norm() * update.norm())
            vertical = update - update.norm() * cosine * g / g.norm()
            assert abs(float(vertical @ g)) < 1e-12
        else:
            update = g + alpha * g.norm() / vertical.norm() * vertical
        run(model, optimizer, [batch])
        torch.testing.assert_close(flat(weights(model)), w - lr * update)


def test_gsam_follows_its_algorithm() -> None:
    model, (alpha, rho, lr) = network(), (0.4, 0.5, 0.05)
    optimizer = GSAM(model.parameters(), SGD, rho, alpha=alpha, lr=lr)
    for batch in DATA:
        w = flat(weights(model))
        g = gradient_at(w, *batch)
        perturbed = gradient_at(w + rho * g / g.norm(), *batch)
        across = g - (g @ perturbed) / (perturbed @ perturbed) * perturbed
        assert abs(float(across @ perturbed)) < 1e-12
        run(model, optimizer, [batch])
        torch.testing.assert_close(flat(weights(model)), w - lr * (perturbed - alpha * across))


def test_gsam_without_alpha_is_sam() -> None:
    one, other = network(), network()
    run(one, GSAM(one.parameters(), SGD, 0.3, alpha=0.0, lr=0.05), DATA)
    run(other, SAM(other.parameters(), SGD, 0.3, lr=0.05), DATA)
    assert same(weights(one), weights(other))


def test_the_radius_of_gsam_follows_the_learning_rate() -> None:
    model = network()
    optimizer = GSAM(model.parameters(), SGD, 0.5, rho_min=0.1, lr=0.2)
    schedule = LambdaLR(optimizer, lambda step: 1 - step / 4)
    lengths = []
    for batch in DATA[:4]:
        before = flat(weights(model))
        seen = []

        def closure(batch: Any = batch, seen: list[Tensor] = seen) -> Tensor:
            seen.append(flat(weights(model)))
            return closure_of(model, optimizer, *batch)()

        optimizer.step(closure)
        lengths.append(float((seen[1] - before).norm()))
        schedule.step()
    assert lengths == pytest.approx([0.5, 0.4, 0.3, 0.2])


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_sam_follows_its_algorithm(nesterov: bool) -> None:
    model, (mu, rho, lr) = network(), (0.9, 0.5, 0.05)
    optimizer = MomentumSAM(model.parameters(), SGD, rho, lr=lr, momentum=mu, nesterov=nesterov)
    v = torch.zeros_like(flat(weights(model)))
    for batch in DATA:
        w = flat(weights(model))
        perturbed = w - rho * v / v.norm() if v.any() else w
        g = gradient_at(perturbed, *batch)
        v = mu * v + g
        expected = w - lr * (g + mu * v if nesterov else v)
        loss = optimizer.step(closure_of(model, optimizer, *batch))
        torch.testing.assert_close(flat(weights(model)), expected)
        twin = network()
        nn.utils.vector_to_parameters(perturbed, twin.parameters())
        torch.testing.assert_close(loss, nn.functional.cross_entropy(twin(batch[0]), batch[1]))


def test_momentum_sam_takes_the_first_moment_of_adam() -> None:
    model = network()
    optimizer = MomentumSAM(model.parameters(), AdamW, 0.5, lr=1e-3)
    run(model, optimizer, DATA[:3])
    w = flat(weights(model))
    v = flat([optimizer.state[parameter]["exp_avg"] for parameter in model.parameters()])
    optimizer.first_step()
    torch.testing.assert_close(flat(weights(model)), w - 0.5 * v / v.norm())
    optimizer.restore()


def test_momentum_sam_by_hand() -> None:
    one, other = network(), network()
    first = MomentumSAM(one.parameters(), SGD, 0.5, lr=0.05, momentum=0.9)
    second = MomentumSAM(other.parameters(), SGD, 0.5, lr=0.05, momentum=0.9)
    run(one, first, DATA)
    for batch in DATA:
        second.first_step()
        closure_of(other, second, *batch)()
        second.second_step(zero_grad=True)
    assert same(weights(one), weights(other))


@pytest.mark.parametrize(("variant", "own"), VARIANT_CASES)
def test_between_steps_the_weights_are_unperturbed(variant: str, own: dict[str, Any]) -> None:
    model = network()
    optimizer = build_sam(variant, model, SGD, 0.5, settings=own, lr=0.0, momentum=0.9)
    run(model, optimizer, DATA[:2])
    before = weights(model)
    with optimizer.unperturbed():
        assert same(weights(model), before)
    assert same(before, weights(network()))


def test_every_variant_is_a_method_of_its_own() -> None:
    ends = {}
    for variant, own in VARIANT_CASES:
        model = network()
        run(model, build_sam(variant, model, SGD, 0.5, settings=own, lr=0.05, momentum=0.9), DATA)
        ends[variant] = model
    for one, other in itertools.combinations(ends.values(), 2):
        assert relative_distance(one, other) > 1e-5


def test_every_name_stands_for_its_class() -> None:
    # (More may be registered.)
    assert {name: VARIANTS.load(name) for name in VARIANTS}.items() >= {
        "sam": SAM,
        "asam": ASAM,
        "periodic": PeriodicSAM,
        "looksam": LookSAM,
        "late": LateSAM,
        "momentum": MomentumSAM,
        "gsam": GSAM,
    }.items()
    assert all(issubclass(VARIANTS.load(name), SAM) for name in VARIANTS)
    assert [case[0] for case in VARIANT_CASES] == list(VARIANTS)


def test_what_variants_can_be_set() -> None:
    expected: dict[str, dict[str, Any]] = {
        "sam": {},
        "asam": {"eta": 0.01},
        "periodic": {"k": 5},
        "looksam": {"k": 5, "alpha": 0.7},
        "late": {"after": inspect.Parameter.empty},
        "momentum": {},
        "gsam": {"alpha": 0.4, "rho_min": None},
    }
    for name, defaults in expected.items():
        found = variant_settings(name)
        assert list(found) == list(defaults)
        assert {own: parameter.default for own, parameter in found.items()} == defaults


@pytest.mark.parametrize(("variant", "own"), VARIANT_CASES)
def test_settings_are_checked_before_anything_is_built(variant: str, own: dict[str, Any]) -> None:
    check_settings(variant, 0.1, own)
    assert sam_params(0.1, variant=variant, **own).settings == own
    allowed = variant_settings(variant)
    nulls = dict.fromkeys(allowed)  # the paper's
    needed = {
        name: own[name] for name in allowed if allowed[name].default is inspect.Parameter.empty
    }
    check_settings(variant, 0.1, nulls | needed)
    assert sam_params(0.1, variant=variant, **(nulls | needed)).settings == needed
    for name in needed:
        for missing in ({}, nulls):
            with pytest.raises(ConfigError) as raised:
                check_settings(variant, 0.1, missing)
            assert str(raised.value) == (
                f"{name} is missing: variant {variant} has no default for it"
            )
    has = ", ".join(["rho", *variant_settings(variant)])
    with pytest.raises(ConfigError) as raised:
        check_settings(variant, 0.1, {**own, "beta": 1.0})
    assert str(raised.value) == (
        f"beta = 1.0: variant {variant} has no such setting (it has {has})"
    )


@pytest.mark.parametrize(
    ("variant", "own", "said"),
    [
        ("asam", {"eta": "0.1"}, r"eta = '0\.1': "),
        ("asam", {"eta": -1.0}, r"eta = -1\.0: must be at least 0"),
        ("periodic", {"k": 2.5}, r"k = 2\.5: "),
        ("periodic", {"k": True}, r"k = True: "),
        ("periodic", {"k": 0}, r"k = 0: must be a whole number, at least 1"),
        ("looksam", {"k": 3, "alpha": -0.1}, r"alpha = -0\.1: must be at least 0"),
        ("late", {"after": 2.5}, r"after = 2\.5: "),
        ("late", {"after": True}, r"after = True: "),
        ("late", {"after": -1}, r"after = -1: must be a whole number, at least 0"),
        ("gsam", {"rho_min": 0.2}, r"rho_min = 0\.2: must be between 0 and rho = 0\.1"),
    ],
)
def test_a_setting_that_its_class_does_not_take_is_named(
    variant: str, own: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{said}"):
        check_settings(variant, 0.1, own)
    with pytest.raises(ValueError, match=said):
        sam_params(0.1, variant=variant, **own)


def test_every_variant_names_its_paper() -> None:
    for name, place in VARIANTS.places.items():
        if not place.startswith("sparse_sam."):
            continue  # of one's own
        chosen = VARIANTS.load(name)
        assert "arXiv:" in (chosen.__doc__ or "") + (
            __import__(chosen.__module__, fromlist=["x"]).__doc__ or ""
        )


OWN_VARIANT = """
from sparse_sam.sam import SAM

class HalfSAM(SAM):
    def __init__(self, params, base_optimizer, rho=0.05, *, part: float = 0.5, **options):
        if not 0 < part <= 1:
            raise ValueError(f"part = {part}: must be above 0 and at most 1")
        super().__init__(params, base_optimizer, part * rho, **options)
        self.part = part
"""


def test_a_variant_of_ones_own_is_named_by_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_variants_for_tests.py").write_text(OWN_VARIANT)
    monkeypatch.syspath_prepend(tmp_path)
    name = "own_variants_for_tests:HalfSAM"
    assert [own.default for own in variant_settings(name).values()] == [0.5]
    params = sam_params(0.4, variant=name, part=0.25)
    assert params.settings == {"part": 0.25}
    one, other = network(), network()
    run(one, build_sam(name, one, SGD, params.rho, settings=params.settings, lr=0.05), DATA)
    run(other, SAM(other.parameters(), SGD, 0.1, lr=0.05), DATA)
    assert same(weights(one), weights(other))
    with pytest.raises(ConfigError, match=r"^part = 2\.0: must be above 0 and at most 1$"):
        check_settings(name, 0.4, {"part": 2.0})
    allowed = f"allowed: one of {', '.join(VARIANTS)}, or package.module:attribute"
    for wrong, said in (
        ("own_variants_for_tests:Half", "cannot be imported"),
        ("own_variants_elsewhere:HalfSAM", "names the module 'own_variants_elsewhere'"),
    ):
        with pytest.raises(ConfigError) as raised:
            build_sam(wrong, network(), SGD, lr=0.1)
        assert str(raised.value).startswith(f"sam.variant = {wrong!r}: {said}")
        assert str(raised.value).endswith(allowed)


def test_build_passes_everything_on() -> None:
    model = network()
    optimizer = build_sam(
        "looksam", model, SGD, 0.2, settings={"k": 7}, nonfinite="skip", lr=0.3, momentum=0.5
    )
    assert isinstance(optimizer, LookSAM)
    assert (optimizer.k, optimizer.alpha, optimizer.model) == (7, 0.7, model)
    group = optimizer.base_optimizer.param_groups[0]
    assert (group["rho"], group["lr"], group["momentum"]) == (0.2, 0.3, 0.5)
    base = SGD(model.parameters(), lr=0.1)
    assert build_sam("gsam", model, base, 0.2).base_optimizer is base


def test_what_is_unknown_is_answered_with_what_there_is() -> None:
    for ask in (
        lambda: build_sam("esam", network(), SGD, lr=0.1),
        lambda: variant_settings("esam"),
    ):
        with pytest.raises(ConfigError) as raised:
            ask()
        assert str(raised.value) == (
            f"sam.variant = 'esam': must be one of {', '.join(VARIANTS)}, "
            "or package.module:attribute"
        )
    with pytest.raises(ConfigError, match=r"'looksam' has no setting 'beta'; allowed: k, alpha"):
        build_sam("looksam", network(), SGD, settings={"beta": 1}, lr=0.1)
    with pytest.raises(ConfigError, match=r"'sam' has no setting 'k'; allowed: none"):
        build_sam("sam", network(), SGD, settings={"k": 1}, lr=0.1)


def test_settings_out_of_range_are_refused() -> None:
    for variant, own in [
        ("asam", {"eta": -1.0}),
        ("periodic", {"k": 0}),
        ("looksam", {"k": 0}),
        ("looksam", {"alpha": -0.1}),
        ("late", {"after": -1}),
        ("late", {"after": 0.5}),
        ("late", {"after": float("nan")}),
        ("late", {"after": float("inf")}),
        ("gsam", {"alpha": float("nan")}),
        ("gsam", {"rho_min": 0.2}),
    ]:
        with pytest.raises(ValueError, match=next(iter(own))):
            build_sam(variant, network(), SGD, 0.1, settings=own, lr=0.1)
    for base, options in [(SGD, {}), (RMSprop, {})]:
        with pytest.raises(ValueError, match=f"with momentum.*{base.__name__} has none"):
            build_sam("momentum", network(), base, lr=0.1, **options)
    for option in ("dense_gradient", "track_kept_share"):
        with pytest.raises(ValueError, match=option):
            build_sam("momentum", network(), SGD, lr=0.1, momentum=0.9, **{option: True})
