"""``params.yaml``: what is right parses; what is wrong gives one readable line a fault."""

import copy
import os
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import sparse_sam
from sparse_sam.config import REFERENCE, Params, load_params, parse_params
from sparse_sam.data.registry import SOURCES
from sparse_sam.errors import ConfigError
from sparse_sam.evaluation.params import BudgetParams
from sparse_sam.networks.network import Network
from sparse_sam.networks.registry import NETWORKS
from sparse_sam.pruning.registry import CRITERIA, SCHEDULES, SCOPES
from sparse_sam.sam.build import variant_settings
from sparse_sam.sam.registry import VARIANTS
from sparse_sam.training.registry import ENGINES
from tests.recipes import (
    NOT_DISTILLED,
    prune_values,
    sam_params,
    sam_values,
    training_values,
)

TRAINING = training_values(momentum=0.0)
BUDGETS = tuple(BudgetParams.model_fields)
GOOD: dict[str, Any] = {
    "seeds": [0, 1],
    "device": "cpu",
    "threads": 1,
    "save_every_steps": None,
    "engine": {"name": "processes"},
    "data": {
        "source": "mnist-sample",
        "fraction": 1.0,
        "validation_fraction": 0.125,
        "test_fraction": 0.2,
        "split_seed": 0,
        "folder": None,
        "mirror": None,
        "channels": None,
        "image_size": None,
    },
    "model": {"name": "classifier", "arguments": {}, "files": [], "checkpoint": None},
    "train_dense": {**TRAINING, "optimizer": "sgd", "sam": sam_values()},
    "prune": prune_values(),
    "finetune": {
        "training": dict(TRAINING),
        "distillation": NOT_DISTILLED.model_dump(),
        "sam": sam_values(),
    },
    "evaluate": {
        "equivalence_margin": 0.005,
        "latency_seconds": 2.0,
        "budget_seconds": dict.fromkeys(BUDGETS, 60.0),
    },
    "registry": {"name": "sparse-sam"},
}
GRADUAL = {"name": "gradual", "initial": 0.0, "end": 0.75, "updates": 10}
ITERATIVE = {"name": "iterative", "rounds": 3, "rewind": "none"}
SETTINGS = {
    "sam": [],
    "asam": ["eta"],
    "periodic": ["k"],
    "looksam": ["k", "alpha"],
    "late": ["after"],
    "momentum": [],
    "gsam": ["alpha", "rho_min"],
}
NAN, INFINITY = float("nan"), float("inf")
ABSENT = object()


def dotted_keys(content: dict[str, Any], prefix: str = "") -> list[str]:
    keys = []
    for key, value in content.items():
        keys.append(prefix + key)
        if isinstance(value, dict):
            keys += dotted_keys(value, f"{prefix}{key}.")
    return keys


KEYS = dotted_keys(GOOD)
SECTIONS = ["", *(key for key in KEYS if any(other.startswith(f"{key}.") for other in KEYS))]


def changed(key: str, value: Any, of: dict[str, Any] = GOOD) -> dict[str, Any]:
    """The good parameters with one key set, or, where the value is ``ABSENT``, taken away."""
    content = copy.deepcopy(of)
    *path, last = key.split(".")
    section = content
    for part in path:
        section = section[part]
    if value is ABSENT:
        del section[last]
    else:
        section[last] = value
    return content


BASES = {"engine.address": changed("engine", {"name": "ray", "address": None})} | {
    f"prune.schedule.{key}": changed("prune.schedule", schedule)
    for schedule in (ITERATIVE, GRADUAL)
    for key in schedule
    if key != "name"
}
"""Parameters in which a key stands that those above do not have, by that key."""


def with_own_code(key: str, name: str) -> dict[str, Any]:
    """The good parameters with a name that is used wherever it stands."""
    return changed(key, name, changed("train_dense.optimizer", "sam"))


def fault(content: Any) -> str:
    with pytest.raises(ConfigError) as raised:
        parse_params(content, origin="params.yaml")
    return str(raised.value)


def test_the_reference_protocol_parses_and_is_what_the_docs_say() -> None:
    params = load_params(REFERENCE)
    assert len(params.seeds) >= 5
    assert params.prune.sparsity == 0.5
    assert params.train_dense.epochs == 10
    assert params.finetune.training.epochs == 3
    assert params.finetune.sam.rho == 0.05
    assert not params.prune.batchnorm


def test_every_key_of_the_model_is_in_the_reference_protocol() -> None:
    # The test below goes through the keys of GOOD; here is why that is all of them.
    dumped = load_params(REFERENCE).model_dump()
    assert dotted_keys(dumped) == KEYS


@pytest.mark.parametrize("key", [*KEYS, *BASES])
def test_no_key_has_a_default(key: str) -> None:
    message = fault(changed(key, ABSENT, BASES.get(key, GOOD)))
    assert message.startswith(f"params.yaml: {key} is missing; allowed: ")
    assert "\n" not in message


SAM_SECTIONS = ["train_dense.sam", "finetune.sam"]


@pytest.mark.parametrize("section", [one for one in SECTIONS if one not in SAM_SECTIONS])
def test_an_unknown_key_is_named_with_the_keys_allowed_there(section: str) -> None:
    key = f"{section}.lrr".removeprefix(".")
    message = fault(changed(key, 0.1))
    assert message.startswith(f"params.yaml: {key} = 0.1: unknown key; allowed here: ")
    siblings = [k for k in KEYS if k.rpartition(".")[0] == section]
    assert message.partition("allowed here: ")[2].split(", ") == [
        key.rpartition(".")[2] for key in siblings
    ]


@pytest.mark.parametrize("section", SAM_SECTIONS)
@pytest.mark.parametrize(("variant", "settings"), SETTINGS.items())
def test_an_unknown_key_is_named_with_the_settings_of_the_variant(
    section: str, variant: str, settings: list[str]
) -> None:
    values = sam_values(variant=variant, lrr=0.1)
    content = changed("finetune.training.momentum", 0.9, changed(section, values))
    assert fault(content) == (
        f"params.yaml: {section}.lrr = 0.1: variant {variant} has no such setting "
        f"(it has {', '.join(['rho', *settings])})"
    )


@pytest.mark.parametrize("section", SECTIONS)
def test_a_key_that_is_not_text_is_an_unknown_key(section: str) -> None:
    content = changed(f"{section}.x".removeprefix("."), 0)
    place = content
    for part in filter(None, section.split(".")):
        place = place[part]
    place[7] = place.pop("x")
    assert f"{section}.7".removeprefix(".") + " = 7: unknown key" in fault(content)


NUMBER, WHOLE = "a finite number", "a whole number"
BELOW_ONE = f"{NUMBER}, at least 0 and less than 1"
COUNT = f"{WHOLE}, at least 1 and less than 2147483648"
SEED = f"{WHOLE}, at least 0 and less than 4294967296"
NOT_NUMBERS = [True, "0.5", None, [0.5], {}, NAN, INFINITY, -INFINITY, 10**400]
NOT_NEGATIVE = f"{NUMBER}, at least 0 and at most 1000000"
COUNT_OR_NULL = COUNT.replace(",", " or null,", 1)
NOT_COUNTS = [True, "3", None, 2.5, 3.0, 0, -1, 2**31, NAN, [3]]
OR_OWN = ", or package.module:attribute"
BAD: list[tuple[str, list[Any], str]] = [
    ("device", ["gpu", None, 1, ["cpu"], "CPU"], "one of auto, cpu, cuda"),
    (
        "data.source",
        ["cifar", None, 0, True],
        f"one of {', '.join(SOURCES)}{OR_OWN}",
    ),
    ("data.fraction", [*NOT_NUMBERS, 0, -0.1, 1.01], f"{NUMBER}, more than 0 and at most 1"),
    ("data.validation_fraction", [*NOT_NUMBERS, 1, 1.0, -0.1], BELOW_ONE),
    ("data.split_seed", [True, "0", None, 0.0, -1, 2**32], SEED),
    ("data.folder", [1, True, ["x"]], "text or null"),
    ("data.mirror", [1, True, {}], "text or null"),
    ("data.test_fraction", [-0.1, 1.0, None, "all"], BELOW_ONE),
    ("data.channels", [2, "3", 0], "one of 1, 3 or null"),
    (
        "data.image_size",
        [0, 4097, "32", 3.5, [32, 32]],
        f"{WHOLE} or null, at least 1 and at most 4096",
    ),
    (
        "engine",
        [None, [], "ray", 3],
        f"a mapping with name: one of {', '.join(ENGINES)}{OR_OWN}",
    ),
    ("engine.name", ["slurm", None, 0, [], {}], f"one of {', '.join(ENGINES)}{OR_OWN}"),
    ("engine.address", [6379, True, ["a:1"]], "text or null"),
    ("model.checkpoint", [1, True, [], ""], "text or null"),
    (
        "model.arguments",
        [None, [], "width=8", 3, {3: 1}, {None: 1}],
        "a mapping from names of arguments to their values",
    ),
    ("model.files", [None, "a.safetensors", 3, {}], "a list, each text"),
    ("data", [None, [], "mnist", 3], f"a mapping with the keys {', '.join(GOOD['data'])}"),
    ("finetune", [None, [1]], "a mapping with the keys training, distillation, sam"),
    ("finetune.distillation", [None, 0.5], "a mapping with the keys weight, temperature"),
    (
        "finetune.distillation.weight",
        [*NOT_NUMBERS, -0.1, 1.1],
        f"{NUMBER}, at least 0 and at most 1",
    ),
    (
        "finetune.distillation.temperature",
        [*NOT_NUMBERS, 0, -1.0, 1e7],
        f"{NUMBER}, more than 0 and at most 1000000",
    ),
    ("finetune.training", [0.05], f"a mapping with the keys {', '.join(TRAINING)}"),
    (
        "prune.sparsity",
        [*(one for one in NOT_NUMBERS if one is not None), 1.0, 1, -1e-9, 50],
        "a finite number or null, at least 0 and less than 1",
    ),
    ("prune.ignore", [None, "head.*", 3, {}], "a list, each text"),
    ("prune.overrides", [None, [], "head.*", 0.5], "a mapping"),
    ("prune.overrides.head", [*NOT_NUMBERS, 1.0, -0.1], BELOW_ONE),
    ("prune.scope", ["local", None, True], f"one of {', '.join(SCOPES)}{OR_OWN}"),
    ("prune.criterion", ["l1", None, 1], f"one of {', '.join(CRITERIA)}{OR_OWN}"),
    (
        "prune.schedule",
        [None, [], "gradual", 3, True],
        f"a mapping with name: one of {', '.join(SCHEDULES)}{OR_OWN}",
    ),
    (
        "prune.schedule.name",
        ["oneshot", None, 0, [], {}],
        f"one of {', '.join(SCHEDULES)}{OR_OWN}",
    ),
    ("threads", [*NOT_COUNTS, 1025], "a whole number, at least 1 and at most 1024"),
    ("save_every_steps", [v for v in NOT_COUNTS if v is not None], COUNT_OR_NULL),
    ("prune.schedule.rounds", NOT_COUNTS, COUNT),
    ("prune.schedule.rewind", ["early", True, None, 0], "one of none, dense, initial"),
    ("prune.schedule.initial", [*NOT_NUMBERS, 1.0, -0.1], BELOW_ONE),
    ("prune.schedule.end", [*NOT_NUMBERS, 0, 1.01], f"{NUMBER}, more than 0 and at most 1"),
    ("prune.schedule.updates", NOT_COUNTS, COUNT),
    ("prune.reestimate_batchnorm", [0, "no", None], "true or false"),
    ("prune.batchnorm", [0, 1, "false", None], "true or false"),
    ("prune.biases", [0, 1, "no", None], "true or false"),
    (
        "evaluate.equivalence_margin",
        [*NOT_NUMBERS, 0, 1, -0.01],
        f"{NUMBER}, more than 0 and less than 1",
    ),
    (
        "evaluate.latency_seconds",
        [*NOT_NUMBERS, -1, 3601],
        f"{NUMBER}, at least 0 and at most 3600",
    ),
    *(
        (
            f"evaluate.budget_seconds.{name}",
            [*NOT_NUMBERS, -1, 1e7],
            f"{NUMBER}, at least 0 and at most 1000000",
        )
        for name in BUDGETS
    ),
    (
        "registry.name",
        ["a/b", "a:1", "it's", "", " ", "a b", "é", None, 3, "x" * 101],
        "a name: up to 100 letters, digits and . _ + - only",
    ),
    ("train_dense.optimizer", ["adam", None, True], "one of sgd, sam"),
    *(
        (f"{section}.{key}", values, allowed)
        for section in SAM_SECTIONS
        for key, values, allowed in [
            ("variant", ["fsam", None, 1, "SAM"], f"one of {', '.join(VARIANTS)}{OR_OWN}"),
            ("rho", [*NOT_NUMBERS, -0.05, 1e7], NOT_NEGATIVE),
        ]
    ),
    *(
        (f"{section}.{key}", values, allowed)
        for section in ("train_dense", "finetune.training")
        for key, values, allowed in [
            ("epochs", NOT_COUNTS, COUNT),
            ("batch_size", [*NOT_COUNTS, 1], COUNT.replace("at least 1", "at least 2")),
            ("lr", [*NOT_NUMBERS, 0, -0.05, 1e39], f"{NUMBER}, more than 0 and at most 1000000"),
            ("base_optimizer", ["adam", None, 0, "SGD"], f"one of sgd, adamw{OR_OWN}"),
            ("momentum", [*NOT_NUMBERS, 1.0, -0.1], BELOW_ONE),
            ("warmup_epochs", [*NOT_NUMBERS, -0.5, 1e7], NOT_NEGATIVE),
            (
                "clip_norm",
                [*(one for one in NOT_NUMBERS if one is not None), 0, -1.0, 1e7],
                f"{NUMBER} or null, more than 0 and at most 1000000",
            ),
            ("flip", [0, 1, "yes", None], "true or false"),
            (
                "weight_decay",
                [*NOT_NUMBERS, -1e-4, 1e7],
                NOT_NEGATIVE,
            ),
            ("schedule", ["linear", None, 0], f"one of constant, cosine{OR_OWN}"),
            ("label_smoothing", [*NOT_NUMBERS, 1.0, -0.1], BELOW_ONE),
            *(
                (
                    name,
                    [-1, 0.5, "one", True, None, 2**15],
                    "a whole number, at least 0 and less than 32768",
                )
                for name in ("shift_pixels", "cutout_pixels")
            ),
            ("precision", ["float16", 32, None], "one of float32, bfloat16"),
        ]
    ),
]


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [(key, value, allowed) for key, values, allowed in BAD for value in values],
)
def test_a_bad_value_is_named_with_what_is_allowed(key: str, value: Any, allowed: str) -> None:
    shown = repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."
    content = changed(key, value, BASES.get(key, GOOD))
    assert fault(content) == f"params.yaml: {key} = {shown}: must be {allowed}"


def test_every_key_with_a_value_has_bad_values_above() -> None:
    tried = {key for key, _, _ in BAD} | {"seeds", "model", "model.name", "prune.structure"}
    assert {key for key in KEYS if key not in SECTIONS} <= tried
    for name in SCHEDULES:
        keys = {f"prune.schedule.{one.name}" for one in fields(SCHEDULES.load(name))}
        assert keys <= tried


A_NUMBER, AT_LEAST_0 = "must be a finite number or null", "must be at least 0"
AN_INTEGER, AT_MOST = "must be a whole number or null", "must be at most 1000000"
OF_NO_NUMBER = [True, "0.5", [0.5], {}, (0.5,), NAN, INFINITY]
BAD_SETTINGS: list[tuple[str, str, list[Any], str]] = [
    *(
        one
        for variant, name in [("asam", "eta"), ("looksam", "alpha"), ("gsam", "alpha")]
        for one in [
            (variant, name, OF_NO_NUMBER, A_NUMBER),
            (variant, name, [-0.05], AT_LEAST_0),
            (variant, name, [1e300, 1_000_001.0], AT_MOST),
        ]
    ),
    ("gsam", "rho_min", OF_NO_NUMBER, A_NUMBER),
    (
        "gsam",
        "rho_min",
        [-0.05, 0.06],
        "must be between 0 and rho = 0.05, or None",
    ),
    *(
        one
        for variant, name, least, an_integer in [
            ("periodic", "k", 1, AN_INTEGER),
            ("looksam", "k", 1, AN_INTEGER),
            ("late", "after", 0, AN_INTEGER.removesuffix(" or null")),
        ]
        for one in [
            (variant, name, [True, "3", 2.5, 3.0, NAN, INFINITY, [3], {}], an_integer),
            (variant, name, [least - 1, -7], f"must be a whole number, at least {least}"),
            (variant, name, [2**31, 10**400], "must be at most 2147483647"),
        ]
    ),
]


@pytest.mark.parametrize("section", SAM_SECTIONS)
@pytest.mark.parametrize(
    ("variant", "name", "value", "says"),
    [(*one, value, says) for *one, values, says in BAD_SETTINGS for value in values],
)
def test_a_bad_setting_of_a_variant_is_named_as_its_class_names_it(
    section: str, variant: str, name: str, value: Any, says: str
) -> None:
    shown = repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."
    content = changed(section, sam_values(variant=variant, **{name: value}))
    assert fault(content) == f"params.yaml: {section}.{name} = {shown}: {says}"


@pytest.mark.parametrize("section", SAM_SECTIONS)
@pytest.mark.parametrize(
    ("variant", "name"),
    [("asam", "eta"), ("looksam", "alpha"), ("gsam", "alpha"), ("gsam", "rho_min")],
)
@pytest.mark.parametrize("value", [NAN, INFINITY, -INFINITY])
def test_every_setting_is_finite(section: str, variant: str, name: str, value: float) -> None:
    message = fault(changed(section, sam_values(variant=variant, **{name: value})))
    assert message.startswith(f"params.yaml: {section}.{name} = {value!r}: ")
    assert "\n" not in message


def test_every_setting_of_a_variant_has_bad_values_above() -> None:
    assert list(VARIANTS) == list(SETTINGS)
    for variant, names in SETTINGS.items():
        assert list(variant_settings(variant)) == names
        assert {name for one, name, _, _ in BAD_SETTINGS if one == variant} == set(names)


@pytest.mark.parametrize(
    "value", ["2:2", "4:2", "0:4", "2:4 ", "2 : 4", "rows", 124, None, 0.5, True, [], "²:4"]
)
def test_a_structure_that_there_is_not_is_named(value: Any) -> None:
    assert fault(changed("prune.structure", value)) == (
        f"params.yaml: prune.structure = {value!r}: must be one of unstructured, channels, N:M"
        f"{OR_OWN}"
    )


def test_a_structure_without_its_numbers_is_told_how_they_are_written() -> None:
    assert fault(changed("prune.structure", "N:M")) == (
        "params.yaml: prune.structure = 'N:M': replace N and M by numbers with N < M, in quotes, "
        "such as '2:4'"
    )


@pytest.mark.parametrize(
    "section",
    [
        prune_values(structure="2:4"),
        prune_values(structure="1:4", sparsity=0.75),
        prune_values(structure="2:3", sparsity=1 / 3),
        prune_values(structure="channels", criterion="random", scope="erk"),
        prune_values(schedule=GRADUAL, structure="2:4", scope="global"),
        prune_values(schedule=ITERATIVE, criterion="saliency", reestimate_batchnorm=True),
        prune_values(schedule={**GRADUAL, "initial": 0.5, "end": 1.0}),
    ],
)
def test_every_axis_can_be_chosen(section: dict[str, Any]) -> None:
    params = parse_params(changed("prune", section))
    assert params.prune.model_dump() == section


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            prune_values(structure="2:4", sparsity=0.9),
            "sparsity = 0.9: must be 0.5 for structure 2:4",
        ),
        (
            prune_values(structure="channels", biases=True),
            "biases = True: structure channels prunes weights only; allowed: false",
        ),
        (
            prune_values(structure="2:4", batchnorm=True),
            "batchnorm = True: structure 2:4 prunes weights only; allowed: false",
        ),
        (
            prune_values(schedule={"rounds": 3}),
            "schedule.rounds = 3: unknown key; allowed here: name",
        ),
        (
            prune_values(schedule={**GRADUAL, "rewind": "none"}),
            ("schedule.rewind = 'none': unknown key; allowed here: name, initial, end, updates"),
        ),
        (
            prune_values(schedule={**GRADUAL, "end": None}),
            "schedule.end = None: must be a finite number, more than 0 and at most 1",
        ),
        (
            prune_values(schedule={**ITERATIVE, "rewind": None}),
            "schedule.rewind = None: must be one of none, dense, initial",
        ),
        (
            prune_values(schedule={**GRADUAL, "initial": 0.6}),
            "schedule.initial = 0.6: must be at most sparsity = 0.5",
        ),
        (
            prune_values(schedule={**GRADUAL, "initial": 0.3}, overrides={"head.*": 0.2}),
            "schedule.initial = 0.3: must be at most overrides.head.* = 0.2",
        ),
        (
            prune_values(structure="2:4", overrides={"head.*": 0.2}),
            (
                "overrides = {'head.*': 0.2}: structure 2:4 has one sparsity for all tensors; "
                "allowed: {}. Use prune.ignore to keep a tensor dense"
            ),
        ),
        (
            prune_values(overrides={"head.*": 1.5}),
            "overrides.head.* = 1.5: must be a finite number, at least 0 and less than 1",
        ),
        (
            prune_values(sparsity=None),
            (
                "sparsity = None: keeps the zeros of model.checkpoint, but there is no "
                "checkpoint; allowed: a number, at least 0 and less than 1, or set model.checkpoint"
            ),
        ),
        *(
            (
                prune_values(sparsity=None, **{key: value}),
                (
                    f"{shown}: prune.sparsity: null keeps the zeros that the network has; "
                    f"allowed: {allowed}"
                ),
            )
            for key, value, shown, allowed in (
                ("schedule", ITERATIVE, "schedule.name = 'iterative'", "one-shot"),
                (
                    "structure",
                    "channels",
                    "structure = 'channels'",
                    "unstructured, which leaves every zero where it is",
                ),
                ("overrides", {"a": 0.5}, "overrides = {'a': 0.5}", "{}"),
            )
        ),
    ],
)
def test_choices_that_do_not_go_together_are_named(section: dict[str, Any], message: str) -> None:
    assert fault(changed("prune", section)) == f"params.yaml: prune.{message}"


@pytest.mark.parametrize("value", [True, 0.0, 0.5, "0", None, -1, 2**32, [0]])
def test_a_bad_seed_is_named_by_its_place(value: Any) -> None:
    assert fault(changed("seeds", [3, value])) == (
        f"params.yaml: seeds[1] = {value!r}: must be {SEED}"
    )


@pytest.mark.parametrize("value", [[], 0, "0", None, {}, {0: 1}, {0, 1}])
def test_seeds_must_be_a_list_of_at_least_one(value: Any) -> None:
    message = fault(changed("seeds", value))
    assert message.startswith("params.yaml: seeds = ")
    assert message.endswith(f": must be a list of one or more, each {SEED}")


def test_a_bad_single_seed_is_one_fault_and_not_two() -> None:
    assert fault(changed("seeds", [-1])).count("\n") == 0


def test_a_seed_may_stand_once_only() -> None:
    message = fault(changed("seeds", [0, 3, 0]))
    assert message == "params.yaml: seeds = [0, 3, 0]: a seed is listed twice; list each once"


def test_every_fault_of_a_file_has_its_line() -> None:
    content = changed("prune.sparsity", 2)
    content["prune"]["schedule"] = {"name": "iterative", "rounds": 0, "rewind": "late", "end": 1}
    content["finetune"]["sam"]["rho"] = -1
    content["seeds"] = []
    lines = fault(content).splitlines()
    assert [line.split(" ")[1] for line in lines] == [
        "seeds",
        "prune.sparsity",
        "prune.schedule.rounds",
        "prune.schedule.rewind",
        "prune.schedule.end",
        "finetune.sam.rho",
    ]
    assert all(line.startswith("params.yaml: ") for line in lines)


@pytest.mark.parametrize("section", SAM_SECTIONS)
@pytest.mark.parametrize("variant", SETTINGS)
def test_a_setting_belongs_to_its_variants(section: str, variant: str) -> None:
    for name in ("eta", "k", "alpha", "after", "rho_min"):
        content = changed(section, sam_values(2.0, variant=variant, **{name: 1}))
        content["finetune"]["training"]["momentum"] = 0.9
        if name in SETTINGS[variant]:
            parse_params(content)
        else:
            message = fault(content)
            assert message == (
                f"params.yaml: {section}.{name} = 1: variant {variant} has no such setting "
                f"(it has {', '.join(['rho', *SETTINGS[variant]])})"
            )


def test_settings_left_to_the_paper_are_not_passed_on() -> None:
    assert sam_params().settings == {}
    assert sam_params(variant="looksam").settings == {}
    assert sam_params(variant="looksam", k=None, alpha=None).settings == {}
    assert sam_params(variant="looksam", k=2).settings == {"k": 2}
    assert sam_params(variant="looksam", k=2, alpha=None).settings == {"k": 2}
    both = sam_params(variant="gsam", alpha=0.3, rho_min=0.0)
    assert both.settings == {"alpha": 0.3, "rho_min": 0.0}


@pytest.mark.parametrize("section", SAM_SECTIONS)
def test_a_setting_that_the_paper_has_no_value_for_is_needed(section: str) -> None:
    for own in ({}, {"after": None}):
        content = changed(section, {"variant": "late", "rho": 0.05, **own})
        assert fault(content) == (
            f"params.yaml: {section}.after is missing: variant late has no default for it"
        )
    for after in (0, 10):
        content = changed(section, {"variant": "late", "rho": 0.05, "after": after})
        parse_params(content)
    assert sam_params(variant="late", after=10).settings == {"after": 10}


def test_the_smallest_rho_is_not_above_rho() -> None:
    values = sam_values(0.05, variant="gsam", rho_min=0.06)
    message = fault(changed("finetune.sam", values))
    assert message == (
        "params.yaml: finetune.sam.rho_min = 0.06: must be between 0 and rho = 0.05, or None"
    )
    parse_params(changed("finetune.sam", sam_values(0.06, variant="gsam", rho_min=0.06)))


def test_momentum_sam_needs_momentum_where_it_trains() -> None:
    momentum = sam_values(variant="momentum")
    message = fault(changed("finetune.sam", momentum))
    assert message.startswith("params.yaml: finetune.sam.variant = 'momentum': ")
    assert "training.momentum is 0" in message
    content = changed("train_dense.sam", momentum)
    parse_params(content)  # the dense network is trained with SGD
    content["train_dense"]["optimizer"] = "sam"
    message = fault(content)
    assert message.startswith("params.yaml: train_dense.sam.variant = 'momentum': ")
    content["train_dense"]["momentum"] = 0.9
    parse_params(content)


RECIPES = pytest.mark.parametrize("section", ["train_dense", "finetune.training"])


@RECIPES
def test_momentum_is_sgds(section: str) -> None:
    content = changed(f"{section}.momentum", 0.9, changed(f"{section}.base_optimizer", "adamw"))
    assert fault(content) == (
        f"params.yaml: {section}.momentum = 0.9: only SGD has it, and base_optimizer is "
        "'adamw'; allowed: 0.0"
    )
    parse_params(changed(f"{section}.momentum", 0.0, content))


@RECIPES
def test_momentum_sam_needs_no_momentum_of_sgds_with_adamw(section: str) -> None:
    content = changed("train_dense.optimizer", "sam")
    content = changed(f"{section}.base_optimizer", "adamw", content)
    sam = f"{section.removesuffix('.training')}.sam"
    parse_params(changed(sam, sam_values(variant="momentum"), content))


@RECIPES
def test_a_warm_up_is_shorter_than_its_training(section: str) -> None:
    for epochs in (3.0, 7.5):
        assert fault(changed(f"{section}.warmup_epochs", epochs)) == (
            f"params.yaml: {section}.warmup_epochs = {epochs}: must be less than epochs = 3"
        )
    parse_params(changed(f"{section}.warmup_epochs", 2.9))


def test_a_warm_up_is_shorter_than_a_round_that_is_rewound() -> None:
    for rewind in ("dense", "initial"):
        content = changed("prune.schedule", {**ITERATIVE, "rewind": rewind})
        assert fault(changed("finetune.training.warmup_epochs", 1.0, content)) == (
            "params.yaml: finetune.training.warmup_epochs = 1.0: each round of prune.schedule "
            "has 1 epochs and warms up again; allowed: less than 1, fewer rounds, or rewind: none"
        )
        parse_params(changed("finetune.training.warmup_epochs", 0.5, content))
    parse_params(
        changed("finetune.training.warmup_epochs", 1.0, changed("prune.schedule", ITERATIVE))
    )


@pytest.mark.parametrize(
    ("data", "key"),
    [
        ({"source": "idx"}, "data.folder = None"),
        ({"source": "idx", "folder": ""}, "data.folder = ''"),
        ({"source": "mnist", "folder": "digits"}, "data.folder = 'digits'"),
        ({"mirror": "https://example.org"}, "data.mirror = 'https://example.org'"),
        ({"source": "idx", "folder": "d", "mirror": "m"}, "data.mirror = 'm'"),
    ],
)
def test_folder_and_mirror_belong_to_their_sources(data: dict[str, Any], key: str) -> None:
    content = copy.deepcopy(GOOD)
    content["data"] |= data
    message = fault(content)
    assert message.startswith(f"params.yaml: {key}: ")
    assert "\n" not in message


def test_folder_and_mirror_are_taken_by_their_sources() -> None:
    content = copy.deepcopy(GOOD)
    content["data"] |= {"source": "idx", "folder": "digits"}
    assert parse_params(content).data.folder == "digits"
    content["data"] |= {"source": "kmnist", "folder": None, "mirror": "somewhere"}
    assert parse_params(content).data.mirror == "somewhere"


@pytest.mark.parametrize(
    "name",
    [
        "resnet",
        "",
        "a:",
        ":b",
        "..x:y",
        "a b:c",
        "pkg.mod",
        "json:a.b",
        "json:3",
        None,
        1,
        True,
        [],
        {},
    ],
)
def test_an_unknown_model_is_told_the_known_ones(name: Any) -> None:
    message = fault(changed("model.name", name))
    assert message == (
        f"params.yaml: model.name = {name!r}: must be one of {', '.join(NETWORKS)}, "
        "torchvision:NAME, or package.module:attribute"
    )


@pytest.mark.parametrize("module", ["no_such_package.nets", "json.nets", "json.decoder.nets"])
def test_a_model_whose_module_is_not_there_is_told_so(module: str) -> None:
    message = fault(changed("model.name", f"{module}:tiny"))
    assert message.startswith(f"params.yaml: model.name = '{module}:tiny': names the module")
    assert all(name in message for name in NETWORKS)


def test_a_model_in_a_package_that_cannot_be_imported_is_told_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "a_broken_package"
    package.mkdir()
    (package / "__init__.py").write_text("1 / 0")
    (package / "nets.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    message = fault(changed("model.name", "a_broken_package.nets:tiny"))
    assert message.startswith("params.yaml: model.name = 'a_broken_package.nets:tiny': ")
    assert "division by zero" in message


def test_a_model_of_ones_own_is_imported_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_own_nets.py").write_text("def tiny(image_shape, num_classes): ...\n1 / 0")
    (tmp_path / "my_nets.py").write_text("def tiny(image_shape, num_classes): ...")
    monkeypatch.syspath_prepend(tmp_path)
    params = parse_params(changed("model.name", "my_nets:tiny"))
    assert params.model.name == "my_nets:tiny"
    message = fault(changed("model.name", "my_own_nets:tiny"))
    assert message.startswith(
        "params.yaml: model.name = 'my_own_nets:tiny': cannot be imported (Zer"
    )


ARGUED = {
    "width": (
        [0, 1025, 8.0, "8", True, None, [8]],
        "must be a whole number, at least 1 and at most 1024",
    ),
    "shortcut": (["C", 1, None, "a"], "must be one of A, B"),
    "depth": ([20, None], "resnet-20 has no such argument; allowed: width, shortcut"),
    "num_classes": ([10], "is set from the data set; remove it"),
    "image_shape": ([[3, 32, 32]], "is set from the data set; remove it"),
}
PLAIN = "must be a finite number, text on one line, true, false, null, or a list of these"


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [(name, value, says) for name, (values, says) in ARGUED.items() for value in values],
)
def test_an_argument_that_the_network_does_not_take_is_told_what_it_takes(
    name: str, value: Any, says: str
) -> None:
    content = changed("model.name", "resnet-20", changed("model.arguments", {name: value}))
    assert fault(content) == f"params.yaml: model.arguments.{name} = {value!r}: {says}"


@pytest.mark.parametrize("value", [NAN, INFINITY, {}, {"a": 1}, [NAN], "a\nb", (1,), [[[[[1]]]]]])
def test_an_argument_that_is_no_plain_value_is_named(value: Any) -> None:
    content = changed("model.arguments", {"width": value})
    assert fault(content) == f"params.yaml: model.arguments.width = {value!a}: {PLAIN}"


def test_a_network_without_arguments_says_so() -> None:
    message = fault(changed("model.arguments", {"width": 8}))
    assert message == (
        "params.yaml: model.arguments.width = 8: classifier has no such argument; it takes none; "
        "remove it"
    )


def test_what_no_argument_can_be_called_is_named() -> None:
    message = fault(changed("model.arguments", {"wide st": 8}))
    assert message == (
        "params.yaml: model.arguments.'wide st' = 8: its name cannot be that of an argument; use "
        "letters, digits and _, at most 100"
    )


def test_arguments_are_parameters_by_their_names() -> None:
    given = {"width": 8, "shortcut": "B"}
    content = changed("model.name", "resnet-20", changed("model.arguments", given))
    flat = parse_params(content).flat(["model"])
    assert flat == {
        "model.name": "resnet-20",
        "model.arguments.width": 8,
        "model.arguments.shortcut": "B",
        "model.files": [],
        "model.checkpoint": None,
    }
    assert parse_params(content).model.network == Network.of("resnet-20", **given)
    assert parse_params(GOOD).model.network == Network.of("classifier")


def test_arguments_of_ones_own_network_are_checked_by_its_signature(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_argued_nets.py").write_text(
        "from __future__ import annotations\n"
        "def typed(shape, classes, size: int = 3, *, rates: tuple[float, ...] = (0.1,)): ...\n"
        "def untyped(shape, classes, size=3): ...\n"
        "def elsewhere(shape, classes, size: Unknown = 3): ...\n"
        "def open_ended(shape, classes, **others): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    def with_arguments(factory: str, **given: Any) -> dict[str, Any]:
        return changed("model.name", f"my_argued_nets:{factory}", changed("model.arguments", given))

    for factory, fits in (
        ("typed", {"size": 4, "rates": [0.5, 1]}),
        ("untyped", {"size": "large"}),
        ("elsewhere", {"size": [4]}),
        ("open_ended", {"whatever": None}),
    ):
        assert parse_params(with_arguments(factory, **fits)).model.arguments == fits
    for factory, wrong, says in (
        ("typed", {"size": 4.5}, "size = 4.5: must be a whole number"),
        ("typed", {"rates": [0.5, "1"]}, "rates = [0.5, '1']: must be a list, each a finite"),
        ("untyped", {"rates": 1}, "rates = 1: my_argued_nets:untyped has no such argument; al"),
        ("untyped", {"shape": 1}, "shape = 1: is set from the data set"),
    ):
        message = fault(with_arguments(factory, **wrong))
        assert message.startswith(f"params.yaml: model.arguments.{says}")


OWN_CODE_IS_USED = ["data.source", "prune.schedule.name", "finetune.sam.variant"]
OWN_CODE_IS_USED += ["train_dense.sam.variant"]


@pytest.mark.parametrize("key", OWN_CODE_IS_USED)
def test_own_code_that_is_needed_to_check_and_cannot_be_imported_is_said(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_code_that_lacks_it.py").write_text("")
    (tmp_path / "own_code_that_lacks_more.py").write_text("import no_such_package")
    monkeypatch.syspath_prepend(tmp_path)
    for name, why in [
        ("own_code_that_lacks_it:Thing", "has no attribute 'Thing'"),
        ("own_code_that_lacks_more:Thing", "No module named 'no_such_package'"),
    ]:
        message = fault(with_own_code(key, name))
        assert message.startswith(f"params.yaml: {key} = {name!r}: cannot be imported (")
        assert why in message
        assert message.endswith(OR_OWN)
        assert "\n" not in message


@pytest.mark.parametrize("key", OWN_CODE_IS_USED[1:])
@pytest.mark.parametrize("name", ["json:loads", "json:__doc__", "pathlib:Path"])
def test_own_code_of_another_kind_is_an_error_of_the_file(key: str, name: str) -> None:
    message = fault(with_own_code(key, name))
    assert message.startswith(f"params.yaml: {key} = {name!r}: ")
    assert "\n" not in message


OWN_CODE = """
from sparse_sam.files import Count
from sparse_sam.pruning.schedules import PruningSchedule
from sparse_sam.sam.optimizer import SAM

class Late(PruningSchedule):
    after: Count

    def sparsity(self, final, progress):
        return final if progress >= 1 / self.after else 0.0

class Far(SAM):
    def __init__(self, params, base_optimizer, rho=0.05, *, factor: float = 2.0, **options):
        if not factor > 1:
            raise ValueError(f"factor = {factor}: must be more than 1")
        super().__init__(params, base_optimizer, rho * factor, **options)
"""


@pytest.fixture
def own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module with a schedule ``Late`` and a variant ``Far``."""
    (tmp_path / "own_choices_for_config.py").write_text(OWN_CODE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_choices_for_config", raising=False)
    return "own_choices_for_config"


def test_a_schedule_of_ones_own_has_its_own_keys(own_code: str) -> None:
    section = {"name": f"{own_code}:Late", "after": 2}
    params = parse_params(changed("prune.schedule", section))
    assert params.model_dump()["prune"]["schedule"] == section
    assert params.flat(["prune.schedule"]) == {
        f"prune.schedule.{key}": value for key, value in section.items()
    }
    assert [params.prune.asked_at(progress).sparsity for progress in (0.0, 0.5)] == [0.0, 0.5]
    for key, value, says in [
        ("after", 0, f"= 0: must be {COUNT}"),
        ("rounds", 3, "= 3: unknown key; allowed here: name, after"),
        ("after", ABSENT, f"is missing; allowed: {COUNT}"),
    ]:
        whole = f"prune.schedule.{key}"
        content = changed(whole, value, changed("prune.schedule", section))
        assert fault(content) == f"params.yaml: {whole} {says}"


def test_patterns_stay_whole_in_flat_parameters() -> None:
    content = changed("prune.overrides", {"head.*": 0.25, "*.bias": 0.0})
    content = changed("prune.ignore", ["stem.*"], content)
    params = parse_params(content)
    flat = params.flat(["prune"])
    assert flat["prune.overrides"] == {"head.*": 0.25, "*.bias": 0.0}
    assert params.prune.ignore == ("stem.*",)
    asked = params.prune.asked_at(0.0)
    assert (asked.sparsity, asked.overrides) == (0.5, {"head.*": 0.25, "*.bias": 0.0})


@pytest.mark.parametrize("section", SAM_SECTIONS)
def test_a_variant_of_ones_own_has_its_own_settings(section: str, own_code: str) -> None:
    def parsed(**settings: Any) -> dict[str, Any]:
        values = sam_values(variant=f"{own_code}:Far", **settings)
        return changed(section, values, changed("train_dense.optimizer", "sam"))

    params = parse_params(parsed(factor=3.0))
    assert params.flat([section])[f"{section}.factor"] == 3.0
    key = f"params.yaml: {section}"
    assert fault(parsed(factor=1.0)) == f"{key}.factor = 1.0: must be more than 1"
    assert fault(parsed(factor="3")) == f"{key}.factor = '3': {A_NUMBER}"
    assert fault(parsed(k=3)) == (
        f"{key}.k = 3: variant {own_code}:Far has no such setting (it has rho, factor)"
    )


@pytest.mark.parametrize("content", [None, [GOOD], "seeds", 3, [["a", 1]]])
def test_what_is_not_a_mapping_is_refused(content: Any) -> None:
    assert fault(content).startswith("params.yaml must hold a mapping of parameters, not ")


@pytest.mark.parametrize(
    ("key", "base"),
    [
        *((key, GOOD) for key in ("device", "model.name", "prune.schedule.name")),
        *(("finetune.sam.variant", GOOD), ("finetune.sam.alpha", GOOD)),
        ("finetune.sam.alpha", changed("finetune.sam.variant", "gsam")),
    ],
)
def test_long_values_are_cut_in_messages(key: str, base: dict[str, Any]) -> None:
    assert len(fault(changed(key, "x" * 10_000, base))) < 300


def test_params_are_frozen() -> None:
    params = parse_params(GOOD)
    with pytest.raises(ValidationError):
        params.prune.sparsity = 0.9  # type: ignore[misc]


# The file


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "must hold a mapping of parameters, not None"),
        ("- seeds\n- device\n", "must hold a mapping of parameters, not ['seeds', 'device']"),
        ("seeds: [0]\nseeds: [1]\n", 'line 2: not valid YAML: found duplicate key "seeds"'),
        ("seeds: [0\ndevice: cpu\n", "line 2: not valid YAML"),
        ("seeds: [0]\n\tdevice: cpu\n", "line 2: not valid YAML"),
        ("a: *x\n", "line 1: not valid YAML"),
        ("a: !!python/object:os.system x\n", "not valid YAML"),
        ("a: 2001-99-99\n", "not valid YAML"),
        ("a: 1\n---\nb: 2\n", "not valid YAML"),
        ("[" * 2000, "not valid YAML"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as raised:
        load_params(path)
    assert str(raised.value).startswith(str(path))
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ConfigError, match=r"params\.yaml is not valid YAML"):
        load_params(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"params\.yaml is missing\. Check the path, or run from"):
        load_params(tmp_path / "params.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_params(tmp_path)


def test_scientific_notation_is_a_number_and_no_is_text(tmp_path: Path) -> None:
    text = REFERENCE.read_text()
    path = tmp_path / "params.yaml"
    path.write_text(text.replace("weight_decay: 0.0", "weight_decay: 1e-3"))
    params = load_params(path)
    assert params.train_dense.weight_decay == 0.001
    assert params.finetune.training.weight_decay == 0.001
    # YAML 1.1 would read a boolean here, and take it.
    path.write_text(text.replace("batchnorm: false", "batchnorm: no"))
    with pytest.raises(ConfigError, match=r"prune\.batchnorm = 'no': must be true or false"):
        load_params(path)


# No content whatever gives another exception

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.dates(),
    st.binary(max_size=4),
    st.sampled_from(["cosine", "global", "idx", "json:loads", "a.b:c", 0, 1, 0.5, 2**31, 2**32]),
)
KEY = st.one_of(st.sampled_from(KEYS), st.text(max_size=4), st.integers(), st.none())
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(KEY, inner, max_size=3), st.tuples(inner)
    ),
    max_leaves=5,
)


@given(data=st.data())
def test_any_change_gives_params_or_a_config_error(data: st.DataObject) -> None:
    content = copy.deepcopy(GOOD)
    for _ in range(data.draw(st.integers(1, 3))):
        section = content
        for part in filter(None, data.draw(st.sampled_from(SECTIONS)).split(".")):
            section = section.get(part, {}) if isinstance(section.get(part, {}), dict) else section
        key = data.draw(st.one_of(st.sampled_from(sorted(section, key=str) or ["x"]), KEY))
        if key in section and data.draw(st.booleans()):
            del section[key]
        else:
            section[key] = data.draw(VALUES)
    try:
        params = parse_params(content, origin="params.yaml")
    except ConfigError as error:
        lines = str(error).split("\nparams.yaml: ")
        assert lines[0].startswith("params.yaml: ")
        assert all(" = " in line or " is missing" in line for line in lines)
    else:
        # What is taken is taken as it stands: nothing was rounded, converted or filled in.
        taken = params.model_dump()
        taken["model"]["files"] = list(taken["model"]["files"])
        taken["prune"]["ignore"] = list(taken["prune"]["ignore"])
        content["prune"]["ignore"] = list(content["prune"]["ignore"])
        assert {**taken, "seeds": list(taken["seeds"])} == {
            **content,
            "seeds": list(content["seeds"]),
        }
        assert isinstance(params, Params)


@given(text=st.text(alphabet=st.characters(codec="utf-8"), max_size=40))
def test_any_text_gives_params_or_a_config_error(
    text: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"fuzz\.yaml"):
        load_params(path)


# The command


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    library = str(Path(sparse_sam.__file__).parent.parent)
    return subprocess.run(
        [sys.executable, "-m", "sparse_sam.config"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": library},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_says_what_is_wrong_at_once(tmp_path: Path) -> None:
    text = REFERENCE.read_text().replace("sparsity: 0.5", "sparsity: 1.0")
    (tmp_path / "params.yaml").write_text(text)
    started = time.perf_counter()
    done = run(tmp_path)
    assert time.perf_counter() - started < 3
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "error: params.yaml: prune.sparsity = 1.0: must be a finite number or null, at least 0 and "
        "less than 1\n"
    )


def test_the_command_is_silent_when_all_is_well(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(REFERENCE.read_text())
    done = run(tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    "mirror",
    [
        "https://ann:Tr0ub4dor@example.org/mnist",
        "https://Tr0ub4dor@example.org/mnist",
        "https://ann:12?Tr0ub4dor@example.org/mnist",
        "https://example.org/mnist?sig=Tr0ub4dor",
        "https://example.org/mnist?Tr0ub4dor",
        "https://example.org/mnist#Tr0ub4dor",
        "ann:Tr0ub4dor@example.org:/mnist",
        "https:/ann:Tr0ub4dor@example.org/mnist",
    ],
)
@pytest.mark.parametrize("data", [{"source": "mnist"}, {"source": "mnist-sample"}])
def test_a_mirror_with_a_secret_is_refused_and_not_shown(data: dict[str, Any], mirror: str) -> None:
    content = copy.deepcopy(GOOD)
    content["data"] |= {**data, "mirror": mirror}
    with pytest.raises(ConfigError) as raised:
        parse_params(content)
    message = str(raised.value)
    assert message.startswith("params: data.mirror holds a login, a query or a fragment")
    assert "~/.netrc: machine HOST login NAME password PASSWORD" in message
    assert "Tr0ub" not in message
    assert "ann" not in message.partition("Allowed")[0].removeprefix("params: ")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data.mirorr", "https://ann:Tr0ub4dor" + "x" * 60 + "@example.org/"),
        ("data.folder", "smb://ann:Tr0ub4dor@example.org/"),
        ("data.mirror", ["https://ann:Tr0ub4dor@example.org/"]),
        ("model.name", "https://ann:Tr0ub4dor@example.org/"),
        ("data.source", "https://ann:Tr0ub4dor@example.org/"),
        ("prune.schedule.name", "https://ann:Tr0ub4dor" + "x" * 60 + "@example.org/"),
        ("prune.schedule.mirror", "https://ann:Tr0ub4dor" + "x" * 60 + "@example.org/"),
        ("finetune.sam.mirror", "https://ann:Tr0ub4dor" + "x" * 60 + "@example.org/"),
    ],
)
def test_no_message_shows_a_secret_wherever_it_was_written(key: str, value: object) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_params(changed(key, value))
    assert "Tr0ub" not in str(raised.value)
    assert key in str(raised.value)
