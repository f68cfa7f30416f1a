"""``sweep.yaml``: what is right expands to what it says; what is wrong gives one readable line."""

import copy
import itertools
from collections.abc import Callable
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparse_sam.errors import ConfigError
from sparse_sam.sweep.declaration import Sweep, load_sweep, parse_sweep

Declared = Callable[..., dict[str, Any]]


def put(content: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """With another value at ``path``, whose parts are separated by slashes."""
    content = copy.deepcopy(content)
    *parts, last = path.split("/")
    inner = content
    for part in parts:
        inner = inner[part]
    inner[last] = value
    return content


def test_every_combination_is_there_in_order(small: Sweep) -> None:
    labels = [tuple(label for _, label in regime.labels) for regime in small.regimes()]
    assert labels == [("sgd", 0.0), ("sgd", 0.8), ("sam", 0.0), ("sam", 0.8)]
    by_name = {arm.name: arm for arm in small.arms}
    assert by_name["sgd"].candidates == (
        (("finetune.training.lr", 0.02),),
        (("finetune.training.lr", 0.1),),
    )
    assert by_name["momentum"].candidates == ((),)


def test_a_cell_has_the_parameters_that_were_asked_for(small: Sweep) -> None:
    regime = list(small.regimes())[3]
    arm = small.arms[2]
    params = small.params(regime, arm, arm.candidates[1], 7)
    assert params.seeds == (7,)
    assert params.train_dense.optimizer == "sam"
    assert params.prune.sparsity == 0.8
    assert params.finetune.sam.rho == 0.1
    assert small.params(regime, small.arms[3], (), 7).finetune.sam.variant == "momentum"


def test_a_named_point_changes_several_parameters(declared: Declared) -> None:
    content = declared()
    content["axes"] = {
        "size": {
            "short": {"finetune.training.epochs": 1, "finetune.training.batch_size": 16},
            "long": {"finetune.training.epochs": 3},
        }
    }
    sweep = parse_sweep(content)
    found = [
        (dict(regime.labels)["size"], params.epochs, params.batch_size)
        for regime in sweep.regimes()
        for params in [sweep.params(regime, sweep.arms[1], (), 0).finetune.training]
    ]
    assert found == [("short", 1, 16), ("long", 3, 32)]


def test_a_named_point_changes_a_schedule_and_its_own_keys(declared: Declared) -> None:
    slowly = {"name": "gradual", "initial": 0.0, "end": 0.5, "updates": 10}
    content = declared()
    content["axes"] = {
        "schedule": {
            "at-once": {},
            "slowly": {f"prune.schedule.{key}": value for key, value in slowly.items()},
        }
    }
    sweep = parse_sweep(content)
    found = {
        dict(regime.labels)["schedule"]: sweep.params(regime, sweep.arms[1], (), 0).prune
        for regime in sweep.regimes()
    }
    assert asdict(found["slowly"].schedule) == slowly
    assert asdict(found["at-once"].schedule) == {"name": "one-shot"}


LR = "finetune.training.lr"


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("name", "a b", "name = 'a b': must be a name"),
        ("name", 3, "name = 3: must be a name"),
        ("extra", 1, "extra = 1: unknown key; allowed here: name, seeds, search,"),
        ("axes", [1], r"axes = \[1\]: must be a mapping with names as its keys"),
        ("axes/prune.sparsity", [], r"axes.prune.sparsity = \[\]: must be a list of values"),
        ("axes/prune.sparsity", 0.5, "axes.prune.sparsity = 0.5: must be a list of values"),
        ("axes/prune.sparsity", [0.5, 0.5], "axes.prune.sparsity: 0.5 is listed twice"),
        ("axes/prune.sparsity", [[0.5]], r"\[0.5\] must be a number, text, true, false or null"),
        ("axes/prune.sparsity", [0.5, 1.0], r"prune.sparsity = 1.0, arm sgd\): prune.sparsity = 1"),
        ("axes/prune.sparsty", [0.5], "prune.sparsty = 0.5: unknown key; allowed here: sparsity"),
        ("axes/prune.schedule.rounds", [2], "schedule.rounds = 2: unknown key; allowed here: name"),
        ("axes/finetune.sam.eta", [0.1], "eta = 0.1: variant sam has no such setting"),
        ("axes/model.name.x", [1], "model.name.x: name is not a section of the parameters"),
        ("axes/size", {"a b": {}}, "axes.size: 'a b' must be a name"),
        ("axes/size", {"a": 3}, "axes.size.a = 3: must be a mapping of parameters"),
        ("axes/seeds", [1], "axes.seeds: seeds is set by the sweep"),
        (
            "axes/finetune.sam.variant",
            ["asam", "sam"],
            "is already changed by axes.finetune.sam.variant",
        ),
        ("arms", {}, r"arms = \{\}: must name at least one arm"),
        ("arms/sgd/arm", "adam", "arms.sgd: arm = 'adam': must be one of sgd, sgd_2x, sam"),
        ("arms/sgd/choose", {LR: []}, f"arms.sgd.choose.{LR} = \\[\\]: must be a list of one"),
        ("arms/sgd/choose", {LR: {"low": 1}}, f"arms.sgd.choose.{LR}: high is missing"),
        (
            "arms/sgd/choose",
            {LR: {"low": 0.1, "high": 0.2, "log": True}},
            "a range needs random search; set search.samples",
        ),
        (
            "arms/sgd/fixed",
            {LR: 0.1},
            f"arms.sgd.choose: {LR} is already changed by arms.sgd.fixed",
        ),
        ("arms/sgd/fixed", {"prune.sparsity": 0}, "is already changed by axes.prune.sparsity"),
        ("seeds/choosing", [], "arm sgd has 2 candidates; give at least one seed"),
        ("seeds/choosing", [0], "reporting = .*: 0 is in choosing too; a seed that chose"),
        ("seeds/reporting", [1, 1], r"seeds.reporting = \[1, 1\]: a seed is listed twice"),
        ("seeds/reporting", [-1], r"seeds.reporting\[0\] = -1: must be a whole number, at least 0"),
        ("base/seeds", [1], "base.seeds: is set by the sweep"),
        (
            "base/data",
            {"source": date(2026, 1, 2)},
            "base = .*: holds a value that no parameter can have",
        ),
        ("axes/size", {"a": {1: 2}}, "axes.size.a: 1 must be the name of a parameter"),
        ("base/prune", 3, "prune.sparsity: prune is not a section of the parameters"),
        ("base/model", 3, "model = 3: must be a mapping with the keys name"),
        ("search/samples", 0, "search.samples = 0: must be a whole number or null, at least 1"),
        ("flatness/rho", 0.0, "flatness.rho = 0.0: must be a finite number, more than 0"),
        ("equivalence_margin", "x", "equivalence_margin = 'x': must be a finite number"),
    ],
)
def test_what_is_wrong_is_said(declared: Declared, path: str, value: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as raised:
        parse_sweep(put(declared(), path, value), origin="sweep.yaml")
    assert str(raised.value).startswith("sweep.yaml")


@pytest.mark.parametrize("key", ["name", "base", "axes", "arms", "seeds", "search", "flatness"])
def test_a_missing_key_is_said(declared: Declared, key: str) -> None:
    content = declared()
    del content[key]
    with pytest.raises(ConfigError, match=f"{key} is missing; allowed: "):
        parse_sweep(content)


def test_ranges_are_checked(declared: Declared) -> None:
    for bad, said in (
        ({"low": 0.2, "high": 0.1, "log": True}, "high = 0.1: must be more than low"),
        ({"low": 0.0, "high": 0.1, "log": True}, "low = 0.0: must be more than 0 when log"),
    ):
        content = declared(search={"samples": 3, "seed": 0})
        content["arms"]["sgd"]["choose"] = {LR: bad}
        with pytest.raises(ConfigError, match=said):
            parse_sweep(content)


def test_a_file_is_read_as_yaml(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match=r"sweep.yaml, line 1: not valid YAML"):
        load_sweep(tmp_path / "sweep.yaml")


# Search


def searched(declared: Declared, samples: int, seed: int) -> Sweep:
    content = declared(search={"samples": samples, "seed": seed})
    content["arms"]["sam"]["choose"] = {
        LR: {"low": 0.01, "high": 0.5, "log": True},
        "finetune.training.weight_decay": {"low": 0.0, "high": 0.1, "log": False},
        "finetune.sam.rho": [0.02, 0.05],
    }
    content["arms"]["sgd"]["choose"] = {LR: [0.01, 0.02, 0.05, 0.1]}
    return parse_sweep(content)


@given(samples=st.integers(1, 12), seed=st.integers(0, 99))
def test_a_search_draws_within_its_ranges_and_again_the_same(
    declared: Declared, samples: int, seed: int
) -> None:
    sweep = searched(declared, samples, seed)
    sgd, sam = sweep.arms[0].candidates, sweep.arms[2].candidates
    assert len(set(sgd)) == len(sgd) == min(samples, 4)
    assert len(sam) == samples
    for candidate in map(dict, sam):
        assert 0.01 <= candidate[LR] <= 0.5
        assert 0.0 <= candidate["finetune.training.weight_decay"] <= 0.1
        assert candidate["finetune.sam.rho"] in {0.02, 0.05}
    assert searched(declared, samples, seed).arms == sweep.arms


def test_a_search_is_another_one_with_another_seed(declared: Declared) -> None:
    assert searched(declared, 3, 0).arms[2] != searched(declared, 3, 1).arms[2]


@given(
    sparsities=st.lists(st.floats(0, 0.99), min_size=1, max_size=3, unique=True),
    scopes=st.lists(st.sampled_from(["layerwise", "global", "erk"]), min_size=1, unique=True),
    lrs=st.lists(st.floats(1e-4, 1.0), min_size=1, max_size=3, unique=True),
)
def test_a_grid_is_the_product_of_what_it_is_made_of(
    declared: Declared, sparsities: list[float], scopes: list[str], lrs: list[float]
) -> None:
    content = declared(axes={"prune.sparsity": sparsities, "prune.scope": scopes})
    content["arms"]["sgd"]["choose"] = {LR: lrs}
    sweep = parse_sweep(content)
    found = [
        (params.prune.sparsity, params.prune.scope, params.finetune.training.lr)
        for regime in sweep.regimes()
        for candidate in sweep.arms[0].candidates
        for params in [sweep.params(regime, sweep.arms[0], candidate, 0)]
    ]
    assert found == list(itertools.product(sparsities, scopes, lrs))
