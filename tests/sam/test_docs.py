"""The examples of docs/sam.md run as they stand."""

import re
from typing import Any

import pytest
import torch
from sam_cases import batches, flat, weights, with_batchnorm
from torch import nn

from sparse_sam.sam.build import variant_settings
from sparse_sam.sam.registry import VARIANTS
from tests.pages import examples, page_of

PAGE = page_of("sam.md")
EXAMPLES = examples(PAGE)


def run_example(name: str, model: nn.Module) -> dict[str, Any]:
    names: dict[str, Any] = {"model": model, "loader": batches(6, size=32), "epochs": 2}
    exec(compile(EXAMPLES[name], f"docs/sam.md, {name}", "exec"), names)  # noqa: S102
    return names


def test_every_block_of_code_is_an_example_that_is_tested() -> None:
    assert PAGE.count("```python") == len(EXAMPLES)
    assert set(EXAMPLES) == {
        *("plain", "two calls", "amp", "ddp", "fsdp", "accumulation", "in three parts")
    }


# (``fsdp`` runs in two processes, in test_fsdp.py.)
@pytest.mark.parametrize("name", sorted(EXAMPLES.keys() - {"fsdp"}))
def test_examples_train(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "ddp":  # as torchrun would start one process
        environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "RANK": "0"}
        for variable, value in {**environment, "WORLD_SIZE": "1"}.items():
            monkeypatch.setenv(variable, value)
    model = with_batchnorm()
    before = flat(weights(model))
    names = run_example(name, model)
    assert flat(weights(model)).isfinite().all()
    assert float((flat(weights(model)).cpu() - before).norm()) > 1e-3
    # The first pass of every step is what BatchNorm remembers.
    passes = {"plain": 12, "accumulation": 12}.get(name, 6)
    assert int(model[1].num_batches_tracked) == passes
    if name == "amp":
        assert names["scaler"].get_scale() > 0


def test_the_plain_example_has_fifteen_lines() -> None:
    lines = [line for line in EXAMPLES["plain"].splitlines() if line.strip()]
    assert len(lines) <= 15


def test_the_two_calls_and_the_closure_give_the_same_network() -> None:
    one, two = with_batchnorm(), with_batchnorm()
    run_example("two calls", one)
    names: dict[str, Any] = {"model": two, "loader": batches(6, size=32), "epochs": 1}
    exec(EXAMPLES["plain"], names)  # noqa: S102
    # The schedule of the plain example acts after the only epoch.
    torch.testing.assert_close(flat(weights(one)), flat(weights(two)), rtol=0, atol=0)


def test_the_table_of_variants_is_that_of_the_code() -> None:
    rows = re.findall(r"^\| `([a-z]+)` \| `([A-Za-z]+)` \|(.*)\|$", PAGE, flags=re.MULTILINE)
    assert [(name, kind) for name, kind, _ in rows] == [
        (name, VARIANTS.load(name).__name__) for name in VARIANTS
    ]
    for name, _, rest in rows:
        for setting, parameter in variant_settings(name).items():
            default = parameter.default
            words = {None: "", parameter.empty: " (no default)"}.get(default, f" {default}")
            shown = f"`{setting}`{words}"
            assert shown in rest
