"""The code in a key against what Python really loads: trainings run in processes of their own."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import sparse_sam
from sparse_sam.files import code_of
from sparse_sam.sam import VARIANTS
from sparse_sam.sweep.sections import FlatnessParams
from sparse_sam.sweep.work import Work
from sparse_sam.training.made_by import Dense, Finetuning
from sparse_sam.training.params import DenseParams, FinetuneParams
from sparse_sam.training.registry import BASE_OPTIMIZERS
from tests.recipes import prune_params, prune_values, sam_values, training_values

LIBRARY = Path(sparse_sam.__file__).parent
RECIPE = training_values(epochs=1, batch_size=8, lr=0.1)
ADAMW = {"base_optimizer": "adamw", "momentum": 0.0}
RUN = """
import json, os, sys

import torch


def run(case):
    from types import SimpleNamespace
    from sparse_sam.data import DataInfo, Split, TestData, TrainingData
    from sparse_sam.pruning import PruneParams
    from sparse_sam.training import DenseParams, FinetuneParams

    def split(count):
        return Split(torch.randn(count, 1, 28, 28), torch.arange(count) % 3)

    counts = {"train": [4, 4, 4], "validation": [2, 2, 2]}
    info = DataInfo("made", "data", (1, 28, 28), tuple("012"), (0.25,), (0.5,), counts, {})
    data, model = TrainingData(split(12), split(6), info), case["model"]
    if case["kind"] == "dense":
        from sparse_sam.training import train_dense
        train_dense(data, model, DenseParams(**case["dense"]), 0, lambda _: None)
        return
    params = FinetuneParams(**case["finetune"])
    pruning = PruneParams.model_validate(case["prune"])
    if case["kind"] == "finetuning":
        from sparse_sam.training import finetune, initial_checkpoint, prune
        dense = initial_checkpoint(data, model, 0)
        pruned = prune(dense, pruning, data)
        finetune(pruned, data, params, case["arm"], lambda _: None, None, pruning, dense)
        return
    from sparse_sam.sweep import compute
    dense = SimpleNamespace(model=model, recipe=DenseParams(**case["dense"]), seed=0)
    flatness = SimpleNamespace(images=4, rho=0.05, steps=1)
    work = SimpleNamespace(
        dense=dense, prune=pruning, arm=case["arm"], finetune=params, flatness=flatness
    )
    found = compute.dense_network(dense, data)
    assert not compute.measure(work, found.checkpoint, data, TestData(split(6), info)).diverged


for case in json.load(sys.stdin):
    reads, writes = os.pipe()
    if os.fork() == 0:
        run(case)
        names = [name for name in sys.modules if name.partition(".")[0] == "sparse_sam"]
        os.write(writes, json.dumps(names).encode())
        os._exit(0)
    os.close(writes)
    print(open(reads).read() or "null", flush=True)
    os.wait()
"""


@dataclass(frozen=True)
class Case:
    """A training that is run, and what its key is made of."""

    task: Dense | Finetuning | Work
    told: dict[str, Any]


def dense(**changes: Any) -> Case:
    model = changes.pop("model", "mlpnet")
    params = {**RECIPE, "optimizer": "sgd", "sam": sam_values(), **changes}
    task = Dense("data", model, DenseParams(**params), 0)
    return Case(task, {"kind": "dense", "model": model, "dense": params})


def finetuning(
    arm: str,
    sam: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
    weight: float = 0.0,
    **prune: Any,
) -> Case:
    params: dict[str, Any] = {
        "training": {**RECIPE, **(training or {})},
        "distillation": {"weight": weight, "temperature": 2.0},
        "sam": sam or sam_values(),
    }
    task = Finetuning("", "mlpnet", prune_params(**prune), arm, FinetuneParams(**params), 0)
    told = {"finetune": params, "prune": prune_values(**prune)}
    return Case(task, {"kind": "finetuning", "model": "mlpnet", "arm": arm, **told})


def cell(arm: str) -> Case:
    first, then = dense(), finetuning(arm)
    assert isinstance(first.task, Dense)
    assert isinstance(then.task, Finetuning)
    flatness = FlatnessParams(images=4, rho=0.05, steps=1)
    work = Work(first.task, then.task.prune, arm, then.task.recipe, flatness, tested=True)
    return Case(work, {**first.told, **then.told, "kind": "cell"})


CASES = {
    "dense": dense(),
    "dense, cosine": dense(schedule="cosine", shift_pixels=1, precision="bfloat16"),
    "dense, lenet-5": dense(model="lenet-5"),
    "dense, adamw": dense(**ADAMW, warmup_epochs=0.5, clip_norm=1.0, flip=True, cutout_pixels=3),
    "dense by SAM": dense(optimizer="sam"),
    "sgd": finetuning("sgd"),
    "sam": finetuning("sam"),
    "sgd, adamw": finetuning("sgd", training=ADAMW),
    "sam, adamw": finetuning("sam", training=ADAMW),
    "distilled": finetuning("sgd", weight=0.5),
    **{name: finetuning("sam", sam_values(variant=name)) for name in ("asam", "gsam")},
    "gradual": finetuning(
        "sgd", schedule={"name": "gradual", "initial": 0.1, "end": 0.5, "updates": 2}
    ),
    "saliency": finetuning("sgd", criterion="saliency", scope="erk", reestimate_batchnorm=True),
    "random, 2:4": finetuning("sgd", criterion="random", structure="2:4"),
    "channels": finetuning("sgd", structure="channels", scope="global"),
    "cell, sgd": cell("sgd"),
    "cell, sam": cell("sam"),
}


def loaded() -> dict[str, set[str]]:
    """The modules of the project that are there when a training has been run, of every case."""
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        input=json.dumps([case.told for case in CASES.values()]),
        env={**os.environ, "PYTHONPATH": str(LIBRARY.parent), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == len(CASES), done.stderr
    assert None not in found, done.stderr
    return dict(zip(CASES, map(set, found), strict=True))


OBSERVERS = {"sparse_sam.errors", "sparse_sam.redaction", "sparse_sam.terminal"} | {
    *("sparse_sam.files.registry", "sparse_sam.files.front_door"),
    *(f"sparse_sam.{room}.registry" for room in ("networks", "pruning", "sam", "training")),
}
"""They are loaded and make no number: words, and tables of names whose choices count."""
SCALED = {f"sparse_sam.data.{name}" for name in ("params", "stratify")}
"""How the data set was made, which its fingerprint does not say."""


def test_a_key_holds_what_a_training_loads_and_nothing_else() -> None:
    for name, modules in loaded().items():
        # (What was chosen of a module stands there too.)
        code = {one for one in code_of(CASES[name].task.code()) if ":" not in one}
        assert modules - OBSERVERS == code - SCALED, name
        assert code >= SCALED


def test_sgd_holds_no_sam_and_sam_no_other_variant() -> None:
    code = {name: set(code_of(case.task.code())) for name, case in CASES.items()}
    variants = {place.partition(":")[0].rpartition(".")[2] for place in VARIANTS.places.values()}
    assert {"optimizer", "asam", "gsam"} < variants

    def of_sam(name: str) -> set[str]:
        return {one for one in variants if f"sparse_sam.sam.{one}" in code[name]}

    for name in ("dense", "sgd", "gradual", "cell, sgd"):
        assert of_sam(name) == set()
    for name in ("dense by SAM", "sam", "cell, sam"):
        assert of_sam(name) == {"optimizer"}
    assert of_sam("gsam") == {"optimizer", "gsam"}
    assert of_sam("asam") == {"optimizer", "asam"}


def test_a_base_holds_no_other_base() -> None:
    modules = {base: place.partition(":")[0] for base, place in BASE_OPTIMIZERS.places.items()}
    assert {"sgd", "adamw"} <= modules.keys()
    for name, case in CASES.items():
        base = "adamw" if "adamw" in name else "sgd"
        code = code_of(case.task.code())
        assert {one for one, module in modules.items() if module in code} == {base}, name


# On a copy of the whole library

CODES = """
import ast, json, os, sys
from pathlib import Path

from sparse_sam.files.code import code_of

library = Path(sys.argv[1])
assert code_of.__code__.co_filename.startswith(str(library))
cases = json.load(sys.stdin)


def codes():
    return {name: code_of(roots) for name, roots in cases.items()}


before = codes()
found = {"before": before}
if sys.argv[2] == "once":
    print(json.dumps(found))
    sys.exit()
for path in sorted(library.rglob("*.py")):
    text = path.read_text()
    path.write_text(text + "\\nANOTHER = 1\\n")
    after = codes()
    path.write_text(text)
    assert codes() == before
    module = ".".join(path.relative_to(library.parent).with_suffix("").parts)
    found[module.removesuffix(".__init__")] = {
        name: [one for one in {*after[name], *code} if after[name].get(one) != code.get(one)]
        for name, code in before.items()
    }
print(json.dumps(found))
"""


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    place = tmp_path / "src" / "sparse_sam"
    shutil.copytree(LIBRARY, place, ignore=shutil.ignore_patterns("__pycache__"))
    return place


def codes(library: Path, how: str, *names: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", CODES, str(library), how],
        input=json.dumps({name: CASES[name].task.code() for name in names}),
        env={**os.environ, "PYTHONPATH": str(library.parent)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_changed_constant_changes_its_module_and_no_other(copied: Path) -> None:
    names = ("dense", "sam", "cell, sgd")
    found = codes(copied, "each", *names)
    before = found.pop("before")
    assert len(found) > 100
    for module, changed in found.items():
        for name in names:
            assert changed[name] == ([module] if module in before[name] else [])


class Words(ast.NodeTransformer):
    """Other docstrings."""

    def visit(self, node: ast.AST) -> ast.AST:
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            node.body[0] = ast.Expr(ast.Constant("Said otherwise."))
        return self.generic_visit(node)


def test_a_release_changes_nothing(copied: Path) -> None:
    before = codes(copied, "once", *CASES)
    page = copied / "__init__.py"
    assert page.read_text().count('__version__ = "') == 1
    page.write_text(re.sub('__version__ = ".+"', '__version__ = "99.1"', page.read_text()))
    assert codes(copied, "once", *CASES) == before


def test_layout_comments_and_docstrings_of_all_files_change_nothing(copied: Path) -> None:
    before = codes(copied, "once", *CASES)
    assert before["before"] == {name: code_of(case.task.code()) for name, case in CASES.items()}
    narrow = ["ruff", "format", "--isolated", "--line-length", "50", "-q", str(copied)]
    subprocess.run([sys.executable, "-m", *narrow], check=True)
    assert codes(copied, "once", *CASES) == before
    for path in copied.rglob("*.py"):
        tree = Words().visit(ast.parse(path.read_text()))
        path.write_text(ast.unparse(ast.fix_missing_locations(tree)))  # and no comments
    assert codes(copied, "once", *CASES) == before
