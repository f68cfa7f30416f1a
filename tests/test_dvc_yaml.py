"""dvc.yaml says what the stages really read: code, parameters, outputs."""

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from sparse_sam.sweep.code_version import imports
from sparse_sam.tracking.stages import STAGES
from stages import layout

ROOT = Path(__file__).resolve().parent.parent
DVC = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())

# They report, check or name, and make no number that a stage writes: a change to them needs no
# training. (config.py has no defaults: every value that it passes on stands in params.yaml.)
OBSERVERS = {
    "src/sparse_sam/__init__.py",
    "src/sparse_sam/config.py",
    "src/sparse_sam/config_base.py",
    "src/sparse_sam/config_prune.py",
    "src/sparse_sam/config_read.py",
    "src/sparse_sam/errors.py",
    "src/sparse_sam/files.py",
    "src/sparse_sam/journal.py",
    "src/sparse_sam/live.py",
    "src/sparse_sam/pipelines.py",
    "src/sparse_sam/redaction.py",
    "stages/__init__.py",
    "stages/layout.py",
    "stages/runner.py",
}


def file_of(module: str) -> Path | None:
    base = ROOT / ("src" if module.startswith("sparse_sam") else "") / Path(*module.split("."))
    candidates = (base.with_suffix(".py"), base / "__init__.py")
    return next((path for path in candidates if path.is_file()), None)


def code_of(stage: str) -> set[str]:
    """Every file of this repository that a stage's numbers depend on."""
    waiting, seen = [ROOT / "stages" / f"{stage}.py"], set()
    while waiting:
        path = waiting.pop()
        name = path.relative_to(ROOT).as_posix()
        if name in seen or name in OBSERVERS:
            continue
        seen.add(name)
        ours = (m for m in imports(path) if m.split(".")[0] in {"sparse_sam", "stages"})
        waiting += [file for file in map(file_of, ours) if file]
    return seen


def outputs_of(entry: dict[str, Any]) -> list[Any]:
    return [*entry["outs"], *entry["metrics"], *entry.get("plots", [])]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_exactly_the_code_that_it_imports(stage: str) -> None:
    listed = {dep for dep in DVC["stages"][stage]["deps"] if dep.endswith(".py")}
    assert listed == code_of(stage)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_the_parameters_that_it_logs(stage: str) -> None:
    assert tuple(DVC["stages"][stage]["params"]) == layout.STAGE_PARAMS[stage]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_declares_the_outputs_that_it_writes(stage: str) -> None:
    module = __import__(f"stages.{stage}", fromlist=["OUTPUTS"])
    entry = DVC["stages"][stage]
    declared = {
        name for item in outputs_of(entry) for name in (item if isinstance(item, dict) else [item])
    }
    assert declared == {path.as_posix() for path in (*module.OUTPUTS, layout.run(stage))}


def test_the_stages_and_their_order_are_those_of_the_pipeline() -> None:
    assert list(DVC["stages"]) == list(STAGES)
    made_by = {
        name: stage
        for stage, entry in DVC["stages"].items()
        for item in outputs_of(entry)
        for name in (item if isinstance(item, dict) else [item])
    }
    for stage, entry in DVC["stages"].items():
        direct = {made_by[dep] for dep in entry["deps"] if dep in made_by}
        through = {far for near in direct for far in STAGES[near]}
        assert direct | through == set(STAGES[stage])


def test_observers_exist() -> None:
    assert all((ROOT / name).is_file() for name in OBSERVERS)


def test_report_code_retrains_nothing() -> None:
    reporting = {"src/sparse_sam/summary.py", "src/sparse_sam/statistics.py"}
    for stage in ("download", "train_dense", "prune", "finetune_sgd", "finetune_sam"):
        assert not reporting & code_of(stage)
    assert reporting <= code_of("evaluate")


def test_only_metrics_and_plots_stay_out_of_the_cache() -> None:
    """DVC restores a stage from its cache only if every other output is cached."""
    for entry in DVC["stages"].values():
        assert all(isinstance(name, str) for name in entry["outs"])
