"""Pruning in four verbs: zeros hold at every step, counts are exact, and it resumes to the bit."""

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils import prune as torch_prune
from torch.optim import SGD, Adam, Optimizer

import sparse_sam
from sparse_sam.errors import ConfigError, MaskError, StaleOptimizerError
from sparse_sam.pruning.criteria import Evidence
from sparse_sam.pruning.detaching import detach
from sparse_sam.pruning.forgetting import forget_pruned
from sparse_sam.pruning.magnitude import magnitude_masks
from sparse_sam.pruning.masks import (
    Masks,
    attach,
    attached_masks,
    masks_of,
    plain_parameters,
    plain_state,
)
from sparse_sam.pruning.sparsifier import Sparsifier
from tests.pruning.loops import (
    NETWORKS,
    OPTIMIZERS,
    SCHEDULES,
    WITHOUT_CHANNELS,
    NaNs,
    Residual,
    Run,
    check,
    loaded,
    mlp,
    same,
    schedule_of,
)
from tests.sample_networks import NAMES

STEPS = 7


def options(schedule: str = "one-shot", **changes: Any) -> dict[str, Any]:
    return {"sparsity": 0.6, "schedule": schedule_of(schedule), **changes}


def small_run(schedule: str = "gradual", optimizer: str = "sgd", **changes: Any) -> Run:
    return Run("mlp", optimizer, STEPS, options(schedule, **changes)).prepare()


# Zeros hold, counts are exact


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_zeros_hold_and_counts_are_exact_at_every_step(optimizer: str, schedule: str) -> None:
    run = Run("residual", optimizer, STEPS, options(schedule, scope="global")).prepare()
    kept, rewound = [], []
    for done in run.go_on():
        check(run)
        masks = masks_of(run.model)
        assert masks is not None
        kept.append(masks.kept)
        if schedule in {"rewound", "tickets"} and done in run.sparsifier.rewinds:
            rewound.append(done)
            assert not run.optimizer.state
    assert kept == sorted(kept, reverse=True)
    assert len(set(kept)) == {"one-shot": 1, "gradual": 5}.get(schedule, 3)
    assert len(rewound) == (2 if schedule in {"rewound", "tickets"} else 0)
    finished = run.sparsifier.finalize()
    assert not attached_masks(finished)
    trained = [name for name, tensor in run.initial.items() if tensor.is_floating_point()]
    state = finished.state_dict()
    assert list(state) == list(run.initial)
    assert all(not torch.equal(state[name], run.initial[name]) for name in trained)


@pytest.mark.parametrize("schedule", ["one-shot", "gradual", "rewound", "tickets"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_going_on_at_any_step_equals_never_having_stopped(optimizer: str, schedule: str) -> None:
    chosen = options(schedule, criterion="random" if optimizer == "adamw" else "magnitude")
    network = "residual" if schedule == "gradual" else "mlp"
    whole = Run(network, optimizer, STEPS, chosen).prepare()
    saved = [whole.saved() for _ in whole.go_on()]
    end = loaded(saved[-1])
    assert len(saved) == STEPS + 1
    for done, state in enumerate(map(loaded, saved)):
        # Another process: its own weights, and whatever it drew before.
        again = Run(network, optimizer, STEPS, chosen, seed=1 + done).prepare()
        parts: list[Callable[[], object]] = [
            lambda: again.model.load_state_dict(state["model"]),  # noqa: B023 - called now
            lambda: again.optimizer.load_state_dict(state["optimizer"]),  # noqa: B023
            lambda: again.sparsifier.load_state_dict(state["sparsifier"]),  # noqa: B023
        ]
        for place in range(3):  # in any order
            parts[(place + done) % 3]()
        check(again)
        for _ in again.go_on():
            check(again)
        assert same(again.state(), end)


def chosen_networks() -> Any:
    return st.sampled_from(sorted(NETWORKS))


@st.composite
def runs(draw: st.DrawFn) -> dict[str, Any]:
    network = draw(chosen_networks())
    structures = ["unstructured", "2:4"]
    structure = draw(st.sampled_from([*structures, "channels"]))
    if structure == "channels" and network in WITHOUT_CHANNELS:
        structure = "unstructured"
    return {
        "network": network,
        "optimizer_name": draw(st.sampled_from(sorted(OPTIMIZERS))),
        "steps": draw(st.integers(1, 6)),
        "made_late": draw(st.booleans()),
        "options": {
            "sparsity": 0.5 if structure == "2:4" else draw(st.sampled_from([0.0, 0.3, 0.7])),
            "scope": draw(st.sampled_from(["layerwise", "global", "erk"])),
            "criterion": draw(st.sampled_from(["magnitude", "random"])),
            "structure": structure,
            "schedule": schedule_of(draw(st.sampled_from(sorted(SCHEDULES)))),
        },
    }


@given(drawn=runs(), stop=st.integers(0, 6))
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_any_network_structure_schedule_and_optimizer(drawn: dict[str, Any], stop: int) -> None:
    try:
        run = Run(**drawn).prepare()
        saved = b""
        for done in run.go_on():
            check(run)
            if done == min(stop, run.steps):
                saved = run.saved()
    except MaskError as error:
        if "would prune all" in str(error):  # as it should, of a tensor without large weights
            return
        raise
    again = Run(**drawn, seed=5)
    again.sparsifier.load_state_dict(loaded(saved)["sparsifier"])  # before prepare, this time
    again.prepare()
    again.model.load_state_dict(loaded(saved)["model"])
    again.optimizer.load_state_dict(loaded(saved)["optimizer"])
    for _ in again.go_on():
        check(again)
    assert same(again.state(), run.state())
    images, _ = run.batch(0)
    run.model.eval()
    before, parameters = run.model(images), set(run.model.parameters())
    plain = run.sparsifier.finalize()
    assert torch.equal(plain(images), before)
    assert set(plain.parameters()) == parameters
    assert list(plain.state_dict()) == list(run.initial)
    assert not any(parametrize.is_parametrized(module) for module in plain.modules())
    run.sparsifier.verify()


@pytest.mark.parametrize("made_late", [False, True])
def test_no_optimizer_brings_a_weight_back(made_late: bool) -> None:
    run = Run("mlp", "adversary", STEPS, options("gradual"), made_late=made_late).prepare()
    for done in run.go_on():
        check(run)
        if done:
            weight = plain_parameters(run.model)["1.weight"]
            assert run.optimizer.state[weight]["stale"].any()
    # What the adversary does is seen, without the step after it.
    run.optimizer.step()
    name = "1.weight"
    with pytest.raises(
        MaskError, match=rf"240 of the 240 pruned weights of {name} are not 0: call"
    ):
        run.sparsifier.verify()
    run.sparsifier.hold()
    run.sparsifier.verify()


def test_a_quotient_of_zeros_stays_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    # Adam with ε = 0 divides 0 by 0 wherever a gradient was always 0, in weights that are pruned.
    monkeypatch.setitem(OPTIMIZERS, "nans", lambda model: NaNs(model.parameters()))
    run = Run("mlp", "nans", STEPS, options("gradual")).prepare()
    for _ in run.go_on():
        check(run)
        assert all(parameter.isfinite().all() for parameter in run.model.parameters())


def test_an_optimizer_that_trained_before_forgets() -> None:
    torch.manual_seed(0)
    model = mlp()
    optimizer = Adam(model.parameters(), lr=0.01)
    inputs = torch.randn(8, 25)
    for _ in range(3):
        model(inputs).square().sum().backward()
        optimizer.step()
    sparsifier = Sparsifier(model, 0.8)
    sparsifier.prepare(optimizer)
    masks = masks_of(model)
    assert masks is not None
    for name, mask in masks.items():
        state = optimizer.state[plain_parameters(model)[name]]
        assert state["exp_avg"][mask].all()
        assert not state["exp_avg"][~mask].any()
        assert state["step"] == 3
    optimizer.zero_grad(set_to_none=False)
    optimizer.step()  # without the verb: momentum alone would move what is pruned
    sparsifier.verify()


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64, torch.complex64])
def test_weights_and_memory_of_any_kind(kind: torch.dtype) -> None:
    model = nn.Linear(8, 8, dtype=kind)
    sparsifier, optimizer = Sparsifier(model, 0.5), SGD(model.parameters(), lr=0.1)
    sparsifier.prepare(optimizer)
    (one,) = attached_masks(model)
    held = {"same": torch.ones_like(one.original), "wide": torch.ones(8, 8, dtype=torch.float32)}
    counters = torch.ones(8, 8, dtype=torch.int64)
    optimizer.state[one.original] = {**held, "counters": counters, "rows": torch.ones(8)}
    before = one.original.detach().clone()
    with torch.no_grad():
        one.original[one.mask == 0] = torch.nan
    sparsifier.step()
    assert torch.equal(one.original, before)
    for value in held.values():
        assert torch.equal(value != 0, one.mask != 0)
    assert counters.all()
    assert optimizer.state[one.original]["rows"].all()


class Wrapper:
    """As accelerate and Lightning hold an optimizer."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.param_groups = optimizer.param_groups

    @property
    def state(self) -> Any:
        return self.optimizer.state


def test_an_optimizer_within_another_forgets_too() -> None:
    run = small_run("one-shot", "looksam")
    for _ in run.go_on():
        pass
    optimizer: Any = run.optimizer
    directions = optimizer._lookahead
    weight = plain_parameters(run.model)["1.weight"]
    directions[weight].fill_(1.0)
    optimizer.state[weight]["momentum_buffer"].fill_(1.0)
    forget_pruned(Wrapper(optimizer), run.model)  # type: ignore[arg-type]
    mask = (masks_of(run.model) or {})["1.weight"]
    assert torch.equal(directions[weight] != 0, mask)
    assert torch.equal(optimizer.state[weight]["momentum_buffer"] != 0, mask)


def test_several_optimizers() -> None:
    model = mlp()
    one, two = (Adversary_of(layer) for layer in (model[1], model[4]))
    sparsifier = Sparsifier(model, 0.5)
    sparsifier.prepare([one, two])
    model(torch.randn(8, 25)).square().sum().backward()
    for optimizer in (one, two):
        optimizer.step()
    sparsifier.step()
    sparsifier.verify()
    for weight in plain_parameters(model).values():
        state = {**one.state, **two.state}[weight]
        if weight.dim() > 1:
            assert int((state["momentum_buffer"] == 0).sum()) >= weight.numel() // 2


def Adversary_of(layer: nn.Module) -> Optimizer:  # noqa: N802
    from tests.pruning.loops import Adversary

    return Adversary(layer.parameters(), lr=0.1, momentum=0.9)


def test_the_ordinary_step_does_not_wait_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    run = small_run("one-shot", "sgd")
    run.step()
    asked: list[str] = []
    for name in ("item", "__bool__", "__int__", "__float__", "tolist", "nonzero", "numpy", "cpu"):
        before = getattr(Tensor, name)

        def telling(*given: Any, name: str = name, before: Any = before, **named: Any) -> Any:
            asked.append(name)
            return before(*given, **named)

        monkeypatch.setattr(Tensor, name, telling)
    run.sparsifier.step()
    assert not asked
    run.sparsifier.verify()
    assert asked


# Taking up what is there


def test_zeros_that_are_there_are_the_masks() -> None:
    torch.manual_seed(0)
    model = mlp()
    masks = magnitude_masks(model, 0.7)
    with torch.no_grad():
        for name, mask in masks.items():
            model.get_parameter(name).mul_(mask)
    dense = copy.deepcopy(model)
    sparsifier, optimizer = Sparsifier(model, None), SGD(model.parameters(), lr=0.1)
    sparsifier.prepare(optimizer)
    found = masks_of(model)
    assert found is not None
    assert same(dict(found), dict(masks))
    model(torch.randn(8, 25)).square().sum().backward()
    optimizer.step()
    sparsifier.step()
    sparsifier.finalize()
    for name, mask in masks.items():
        assert torch.equal(model.get_parameter(name) != 0, mask)
        assert not torch.equal(model.get_parameter(name), dense.get_parameter(name))
    with pytest.raises(MaskError, match="no zeros"):
        Sparsifier(mlp(), None).prepare()
    # The same, resumed on a network that has no zeros yet.
    state = {"model": dense.state_dict()}
    other, more = Sparsifier(dense, None), Sparsifier(mlp(), None)
    other.prepare()
    more.load_state_dict(other.state_dict())
    more.prepare()
    more.model.load_state_dict(dense.state_dict())
    more.verify()
    assert same(plain_state(more.model), state["model"])


@pytest.mark.parametrize("by", ["attach", "torch"])
def test_a_network_that_is_pruned_already_keeps_its_masks_or_loses_more(by: str) -> None:
    def pruned(sparsity: float) -> nn.Module:
        torch.manual_seed(0)
        model = mlp()
        masks = magnitude_masks(model, sparsity)
        if by == "attach":
            attach(model, masks)
        else:
            for name, mask in masks.items():
                layer, _, own = name.rpartition(".")
                torch_prune.custom_from_mask(model.get_submodule(layer), own, mask)
        return model

    for first in (0.3, 0.6):
        model = pruned(first)
        before = masks_of(model)
        sparsifier = Sparsifier(model, 0.6)
        sparsifier.prepare(SGD(model.parameters(), lr=0.1))
        after = masks_of(model)
        assert before is not None
        assert after is not None
        assert (same(dict(before), dict(after))) is (first == 0.6)
        assert not any((after[name] & ~mask).any() for name, mask in before.items())
        sparsifier.step()
        sparsifier.finalize()
        assert sorted(model.state_dict()) == sorted(mlp().state_dict())
        assert int((model[1].weight == 0).sum()) == 240
    with pytest.raises(MaskError, match=r"280 of 400 weights of 1\.weight are pruned, but lay"):
        Sparsifier(pruned(0.7), 0.6).prepare()


def test_a_criterion_that_mends_what_is_kept_mends_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = """
import torch
class Doubles:
    def scores(self, model, weights, evidence):
        return {name: weight.detach().abs() for name, weight in weights.items()}
    def pooled(self, blocks):
        return blocks.mean(dim=1)
    def compensated(self, model, weights, masks, evidence):
        return {name: 2 * weight.detach() for name, weight in weights.items()}
"""
    (tmp_path / "doubles_for_tests.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    torch.manual_seed(0)
    model = nn.Linear(10, 10)
    dense = model.weight.detach().clone()
    criterion = "doubles_for_tests:Doubles"
    made = {"criterion": criterion, "schedule": schedule_of("iterative")}
    Sparsifier(model, 0.6, **made).prepare()  # type: ignore[arg-type]
    sparsifier = Sparsifier(model, 0.6, **made)  # type: ignore[arg-type]
    sparsifier.prepare(SGD(model.parameters(), lr=0.1), steps=6)
    kept = model.weight != 0
    assert torch.equal(model.weight, 2 * dense * kept)
    for _ in range(2):
        sparsifier.step()
    assert torch.equal(model.weight, 4 * dense * (model.weight != 0))
    sparsifier.verify()


# The end


@pytest.mark.parametrize("name", [*NETWORKS, *NAMES])
def test_a_finalized_network_is_as_plain_as_it_was(name: str) -> None:
    from tests.pruning.loops import images_of, sample

    torch.manual_seed(0)
    model = NETWORKS[name]() if name in NETWORKS else sample(name)()
    before = copy.deepcopy(model)
    images = torch.randn(4, *images_of(name))
    sparsifier = Sparsifier(model, 0.5, batchnorm=True, biases=True, ignore=["nothing*"][1:])
    sparsifier.prepare()
    pruned = model.eval()(images)
    report = sparsifier.report()
    assert sparsifier.finalize() is model
    for layer in model.modules():
        if isinstance(layer, nn.RNNBase):  # it remembers what it was last read with
            held = zip(layer._flat_weights, layer.parameters(), strict=True)
            assert all(one is two for one, two in held)
    twin = copy.deepcopy(model)
    assert torch.equal(model(images), pruned)
    assert list(model.state_dict()) == list(before.state_dict())
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in before.named_parameters()]
    kinds = [type(module) for module in model.modules()]
    assert kinds == [type(module) for module in before.modules()]
    before.load_state_dict(model.state_dict())
    assert torch.equal(before.eval()(images), pruned)
    assert torch.equal(twin(images), pruned)
    assert sparsifier.report() == report
    zeros = sum(int((one == 0).sum()) for one in model.parameters())
    assert zeros >= report["weights_total"] - report["weights_kept"]
    model(images).square().sum().backward()
    assert all(one.grad is not None for one in model.parameters() if one.requires_grad)


def test_a_network_with_weight_normalisation() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(8, 8)), nn.Linear(8, 3))
    before, inputs = copy.deepcopy(model), torch.randn(2, 8)
    sparsifier = Sparsifier(model, 0.5)
    sparsifier.prepare()
    assert len(sparsifier.report()["layers"]) == 2
    pruned = model(inputs)
    sparsifier.finalize()
    assert torch.equal(model(inputs), pruned)
    assert list(model.state_dict()) == list(before.state_dict())


def test_what_was_parametrized_further_is_named() -> None:
    model = mlp()
    sparsifier = Sparsifier(model, 0.5)
    sparsifier.prepare()
    parametrize.register_parametrization(model[4], "weight", nn.Tanh())
    with pytest.raises(MaskError, match=r"4\.weight has other parametrizations .* \(Tanh\)"):
        sparsifier.finalize()
    assert len(attached_masks(model)) == 2  # nothing was half done


def test_an_end_before_the_end() -> None:
    run = small_run("gradual")
    run.step()
    message = r"1 of 7 steps are done, and the sparsity is 0, not 0\.6: call"
    with pytest.raises(MaskError, match=message):
        run.sparsifier.finalize()
    assert attached_masks(run.model)
    run.sparsifier.finalize(unfinished=True)
    assert not attached_masks(run.model)
    run.sparsifier.verify()


def test_steps_beyond_the_last_keep_the_final_sparsity() -> None:
    run = small_run("rewound")
    for _ in run.go_on():
        pass
    for _ in range(3):
        assert not run.step()
        check(run)
    assert run.sparsifier.report()["step"] == STEPS + 3
    run.sparsifier.finalize()


def test_a_network_that_is_trained_on_is_verified_too() -> None:
    run = small_run("one-shot")
    run.sparsifier.finalize()
    run.sparsifier.verify()
    with torch.no_grad():
        run.model[1].weight.add_(1.0)
    with pytest.raises(MaskError, match=r"240 of the 240 pruned weights of 1\.weight"):
        run.sparsifier.verify()


# What is said of it


def test_the_report_is_plain_and_counts() -> None:
    run = small_run("gradual", ignore="4.*")
    for done in run.go_on():
        report = json.loads(json.dumps(run.sparsifier.report()))
        (layer,) = report["layers"].values()
        zeros = int((run.model[1].weight == 0).sum())
        assert layer == {
            "sparsity": zeros / 400,
            "weights_kept": 400 - zeros,
            "weights_total": 400,
        }
        assert (report["step"], report["steps"]) == (done, STEPS)
        metrics = run.sparsifier.metrics()
        assert metrics["sparsity"] == metrics["sparsity/1.weight"] == zeros / 400
        assert run.sparsifier.sparsity == pytest.approx(zeros / 400)
        assert all(type(value) is float for value in metrics.values())
        assert all(re.fullmatch(r"[\w./ -]+", name) for name in metrics)  # what MLflow takes
    assert metrics["sparsity"] == 0.6


def test_it_is_offered_at_the_root() -> None:
    assert sparse_sam.Sparsifier is Sparsifier


# What is refused


def test_verbs_in_the_wrong_order() -> None:
    model = mlp()
    optimizer = SGD(model.parameters(), lr=0.1)
    sparsifier = Sparsifier(model, 0.5)
    for verb in ("step", "verify", "finalize", "hold", "report", "metrics", "state_dict"):
        with pytest.raises(RuntimeError, match="call prepare first; it attaches the masks"):
            getattr(sparsifier, verb)()
    sparsifier.prepare()
    with pytest.raises(RuntimeError, match=r"prepare: the network is already prepared"):
        sparsifier.prepare(optimizer)
    with pytest.raises(RuntimeError, match="has no optimizer: pass one"):
        sparsifier.step()
    sparsifier.step(optimizer)
    sparsifier.step()
    sparsifier.finalize()
    for verb in ("step", "finalize", "hold", "state_dict"):
        with pytest.raises(
            RuntimeError, match="already finalized, and its zeros are no longer held"
        ):
            getattr(sparsifier, verb)()
    with pytest.raises(RuntimeError, match="already finalized"):
        sparsifier.prepare()


def test_prepare_refuses_what_cannot_be() -> None:
    model = mlp()
    with pytest.raises(ValueError, match="steps = 0: must be at least 1"):
        Sparsifier(model, 0.5).prepare(steps=0)
    with pytest.raises(StaleOptimizerError, match="holds no parameter of this network"):
        Sparsifier(model, 0.5).prepare(SGD(mlp().parameters(), lr=0.1))
    with pytest.raises(MaskError, match=r"copy model\.state_dict\(\) before training, and pass"):
        Sparsifier(model, 0.5, schedule=schedule_of("tickets")).prepare(steps=9)
    tickets = Sparsifier(model, 0.5, schedule=schedule_of("tickets"))
    with pytest.raises(MaskError, match="does not fit the model"):
        tickets.prepare(steps=9, rewind_to={})
    scheduled = Sparsifier(mlp(), 0.5, schedule=schedule_of("gradual"))
    optimizer = SGD(scheduled.model.parameters(), lr=0.1)
    with pytest.raises(RuntimeError, match=r"pass the number of steps, prepare\(…, steps=…\)"):
        scheduled.prepare(optimizer)
    assert masks_of(scheduled.model) is None
    scheduled.prepare()
    with pytest.raises(RuntimeError, match=r"pass the number of steps, prepare\(…, steps=…\)"):
        scheduled.step(optimizer)
    with pytest.raises(
        MaskError,
        match=r"^ignore \(prune\.ignore in params\.yaml\): 'nothing' matches no parameter",
    ):
        Sparsifier(mlp(), 0.5, ignore=["nothing"]).prepare()


@pytest.mark.parametrize(
    ("sparsity", "changes", "error", "message"),
    [
        (1.0, {}, MaskError, r"sparsity = 1\.0: must be at least 0 and less than 1"),
        (-0.1, {}, MaskError, "must be at least 0"),
        (0.5, {"overrides": {"1.*": 1.5}}, MaskError, r"1\.\* = 1\.5: must be"),
        (
            0.5,
            {"criterion": "size"},
            ConfigError,
            r"criterion = 'size' \(prune\.criterion in params\.yaml\): must be one of",
        ),
        (
            0.5,
            {"scope": "size"},
            ConfigError,
            r"scope = 'size' \(prune\.scope in params\.yaml\): must be one of",
        ),
        (
            0.5,
            {"structure": "size"},
            ConfigError,
            r"structure = 'size' \(prune\.structure in params\.yaml\): must be one of",
        ),
        (0.6, {"structure": "2:4"}, MaskError, r"0\.6: must be 0\.5 for structure 2:4"),
        (0.5, {"structure": "2:4", "overrides": {"1.*": 0.5}}, MaskError, "has one sparsity"),
        (None, {"structure": "channels"}, MaskError, "keeps the zeros that the network has"),
        (None, {"overrides": {"1.*": 0.5}}, MaskError, "no overrides"),
    ],
)
def test_choices_that_do_not_go_together(
    sparsity: float | None, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Sparsifier(mlp(), sparsity, **changes)


class Falling:
    rewinds_to = "none"

    def sparsity(self, final: float, progress: float) -> float:
        return final + 0.2 * (1 - progress)


def test_a_schedule_that_falls_is_refused() -> None:
    falling: Any = Falling()
    with pytest.raises(
        MaskError, match="Falling: its sparsity must start at 0 or more, never fall"
    ):
        Sparsifier(mlp(), 0.5, schedule=falling)
    with pytest.raises(MaskError, match=r"it starts at 0\.7 and ends at 0\.5"):
        Sparsifier(mlp(), 0.5, schedule=falling)


def test_masks_that_somebody_else_changed_are_named() -> None:
    run = small_run("gradual")
    for _ in range(3):
        run.step()
    (_, second) = attached_masks(run.model)
    kept = int(second.mask.count_nonzero())
    flat = second.mask.view(-1)
    here, there = int(flat.argmax()), int(flat.argmin())
    flat[here], flat[there] = 0.0, 1.0  # as many as before
    assert int(second.mask.count_nonzero()) == kept
    with pytest.raises(
        MaskError, match=r"the mask of 4\.weight was changed in 2 places, and not by the Sp"
    ):
        run.sparsifier.verify()
    with pytest.raises(MaskError, match=r"4\.weight was changed"):
        for _ in run.go_on():  # whenever masks shrink, too
            pass
    detach(run.model)
    with pytest.raises(MaskError, match=r"the mask of 1\.weight was removed"):
        run.sparsifier.verify()


def test_a_count_that_is_not_exact_is_named() -> None:
    run = small_run("one-shot")
    run.sparsifier._held.masks = Masks(
        {**run.sparsifier._held.masks, "4.weight": torch.ones(4, 16, dtype=torch.bool)}
    )
    attached_masks(run.model)[1].mask.fill_(1.0)
    with pytest.raises(MaskError, match=r"0 of 64 weights of 4\.weight are pruned, but layerwise"):
        run.sparsifier.verify()


def test_states_that_do_not_fit() -> None:
    run = small_run("gradual")
    run.step()
    state = run.sparsifier.state_dict()
    for changes, message in (
        ({"sparsity": 0.5}, r"with sparsity = 0\.6, but this Sparsifier has 0\.5"),
        ({"criterion": "random"}, "with criterion = 'magnitude', but this Sparsifier has 'random'"),
        ({"ignore": ["4.*"]}, r"with ignore = \[\], but this Sparsifier has \['4\.\*'\]"),
        ({"schedule": None}, "with schedule = "),
    ):
        other = Sparsifier(mlp(), **{**options("gradual"), **changes})
        with pytest.raises(MaskError, match=message):
            other.load_state_dict(state)
    with pytest.raises(MaskError, match="with steps = 7, but this Sparsifier has 9"):
        Run("mlp", "sgd", 9, options("gradual")).prepare().sparsifier.load_state_dict(state)
    with pytest.raises(MaskError, match="not the state of a Sparsifier: it lacks"):
        run.sparsifier.load_state_dict(run.optimizer.state_dict())
    with pytest.raises(
        MaskError, match="the state is of another network: only one of the two has masks of"
    ):
        Run("residual", "sgd", STEPS, options("gradual")).prepare().sparsifier.load_state_dict(
            state
        )
    # The masks of another step, from the model alone.
    early = loaded(run.saved())
    for _ in run.go_on():
        pass
    run.model.load_state_dict(early["model"])
    with pytest.raises(MaskError, match=r"Load state_dicts of model and sparsifier from the same"):
        run.sparsifier.verify()
    run.sparsifier.load_state_dict(early["sparsifier"])
    check(run)


def test_a_tensor_that_would_lose_all_is_named_and_nothing_is_counted() -> None:
    torch.manual_seed(0)
    model = mlp()
    with torch.no_grad():
        model[4].weight.mul_(1e-6)
    optimizer = SGD(model.parameters(), lr=0.1)
    made = options("gradual", scope="global")
    sparsifier = Sparsifier(model, **made)
    sparsifier.prepare(optimizer, 9)
    sparsifier.step()
    for _ in range(2):
        with pytest.raises(MaskError, match=r"would prune all 64 weights of 4\.weight"):
            sparsifier.step()
        sparsifier.verify()


def test_saliency_needs_no_more_than_its_evidence() -> None:
    from tests.conftest import make_split

    torch.manual_seed(0)
    model = Residual()
    evidence = Evidence(3, make_split(20, torch.Generator().manual_seed(0)))
    sparsifier = Sparsifier(
        model, 0.8, criterion="saliency", schedule=schedule_of("gradual"), evidence=evidence
    )
    optimizer = SGD(model.parameters(), lr=0.1)
    sparsifier.prepare(optimizer, 5)
    statistics = model.stem[1].running_mean.clone()
    for _ in range(5):
        sparsifier.step()
        sparsifier.verify()
    assert model.training
    assert torch.equal(model.stem[1].running_mean, statistics)
    assert all(parameter.grad is None for parameter in model.parameters())
