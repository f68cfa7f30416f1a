"""inputs/ names all code that a stage runs: compared with what Python loads when it runs."""

import json
import sys
from typing import Any

import pytest

from tests.pipeline.conftest import SMALL, STAGES, Clone

pytestmark = pytest.mark.pipeline

# They report, check or name, and make no number that a stage writes: a change to them needs no
# training. (config.py has no defaults: every value that it passes on stands in params.yaml.)
OBSERVERS = (
    "sparse_sam.config",
    "sparse_sam.errors",
    "sparse_sam.redaction",
    "sparse_sam.tracking",
)


RUN = """
import json, os, runpy, sys
stage = sys.argv[1]
sys.argv = [stage]
try:
    runpy.run_module(f"sparse_sam.stages.{stage}", run_name="__main__", alter_sys=True)
except SystemExit as end:
    assert not end.code, end.code
modules = {name: getattr(one, "__file__", None) for name, one in list(sys.modules.items())}
with open(os.environ["LOADED"], "w") as file:
    json.dump({name: path for name, path in modules.items() if path}, file)
"""


@pytest.fixture(scope="module")
def clone(make_clone: Any) -> Clone:
    """A clone in which one thing after the other runs, in one process a stage, SAM's arm too."""
    made: Clone = make_clone("loading", {**SMALL, "seeds": [0], "data.fraction": 0.1})
    made.run(sys.executable, "-m", "stages.inputs")
    return made


def code_of(stage: str, clone: Clone) -> set[str]:
    """The modules that inputs/ says a stage is made by."""
    return set(json.loads((clone.path / "inputs" / f"{stage}.json").read_text())["code"])


@pytest.fixture(scope="module")
def loaded(clone: Clone, tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """What each stage loads of this project when it really runs, and nothing is taken.

    This is what Python says, and no reading of imports.
    """
    folder = tmp_path_factory.mktemp("loaded")
    alone = {"SPARSE_SAM_CORES": "1", "SPARSE_SAM_PUBLISH": "later"}
    found = {}
    for stage in STAGES:
        report = folder / f"{stage}.json"
        clone.run(sys.executable, "-c", RUN, stage, LOADED=str(report), **alone)
        names = json.loads(report.read_text())
        found[stage] = {name for name in names if name.startswith("sparse_sam")}
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_whatever_a_stage_loads_stands_in_its_inputs(
    stage: str, loaded: dict[str, set[str]], clone: Clone
) -> None:
    makes_numbers = {
        name
        for name in loaded[stage]
        if not name.startswith(OBSERVERS)
        and name not in {"sparse_sam.stages.runner", "sparse_sam.stages.inputs"}
        and not name.endswith(".registry")
    }
    # To check params.yaml a stage loads all sections, which are no part of what it computes; and
    # to name a training, or to keep it, nothing more than that.
    lacking = makes_numbers - code_of(stage, clone)
    assert lacking <= (loaded["download"] | CHECKS), lacking
    assert len(makes_numbers) > (5 if stage == "download" else 30)


CHECKS = {"sparse_sam.sam.build"}


def test_the_arms_do_not_depend_on_each_others_optimizers(clone: Clone) -> None:
    for stage in STAGES:
        has_sam = "sparse_sam.sam.optimizer" in code_of(stage, clone)
        assert has_sam == (stage in {"finetune_sam", "evaluate"}), stage
        names = ("asam", "counted", "gsam", "late", "momentum", "periodic")
        assert not {f"sparse_sam.sam.{name}" for name in names} & code_of(stage, clone)
    assert "sparse_sam.networks.mlpnet" in code_of("train_dense", clone)
    assert "sparse_sam.networks.lenet" not in code_of("train_dense", clone)


def test_a_change_to_evaluation_and_export_retrains_nothing(clone: Clone) -> None:
    rooms = ("sparse_sam.evaluation", "sparse_sam.export")
    for stage in STAGES:
        reports = any(name.startswith(rooms) for name in code_of(stage, clone))
        assert reports == (stage == "evaluate")
