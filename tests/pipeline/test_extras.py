"""The comparison is there, the same to the byte, whatever becomes of what is measured beside it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sparse_sam.files.unmeasured import gaps
from sparse_sam.tracking.stages import STAGES as TABLE
from tests.pipeline.conftest import LATER, ROOT, SMALL, STAGES, Clone

pytestmark = [pytest.mark.pipeline, pytest.mark.timeout(900)]

RESULT = ("metrics/evaluate.json", "metrics/summary.json")
BESIDE = ("flatness", "cost", "compression")
GRADIENTS = {"sharpness", "top eigenvalues", "trace"}
MEMORY = {"peak step memory bytes"}
MOODS = {
    # What fails, and how: what is missing, and a reason that is given for it.
    "once": ({"top eigenvalues", "trace"}, "dense, seed 0: RuntimeError: trying to different"),
    "batch": ({"latency"}, "256 images at a time: ValueError: who has 256 images?"),
    "nan": (GRADIENTS, "dense, seed 0: the length of the gradient at step 1 of "),
    "key": (GRADIENTS | MEMORY, "KeyError: 'gradient'"),
    "killed": (GRADIENTS | MEMORY, "memory ran out"),
    "slow": (GRADIENTS, "would take about "),
    "chatty": (set(), ""),
}
OFTEN = {"once", "slow"}
"""The others fail in tests of single measures, too."""


def with_hard_networks(make_clone: Callable[..., Clone], factory: str) -> Clone:
    clone = make_clone(factory, {**SMALL, "model.name": f"lab.networks:{factory}"})
    (clone.path / "lab").mkdir()
    shutil.copy(ROOT / "tests" / "hard_networks.py", clone.path / "lab" / "networks.py")
    clone.commit("a network")
    return clone


def run_stages(clone: Clone) -> None:
    """All of them, in one process."""
    each = "; ".join(f"runpy.run_module('stages.{name}', run_name='__main__')" for name in STAGES)
    clone.run("python", "-c", f"import runpy; {each}", **LATER)


@pytest.fixture(scope="module")
def moody(make_clone: Callable[..., Clone]) -> Clone:
    """A clone that compared the arms of a network in a good mood."""
    clone = with_hard_networks(make_clone, "moody")
    run_stages(clone)
    return clone


def result(clone: Clone) -> list[bytes]:
    return [(clone.path / name).read_bytes() for name in RESULT]


def missing(clone: Clone) -> dict[str, str]:
    """By reason, what was not measured."""
    found: dict[str, str] = {}
    for name in BESIDE:
        content = json.loads((clone.path / f"metrics/{name}.json").read_text())
        for why, of in gaps(content).items():
            found[why] = ", ".join(filter(None, (found.get(why), of)))
    return found


def kinds(found: dict[str, str]) -> set[str]:
    return {name for of in found.values() for name in of.split(", ")}


def without(clone: Clone) -> None:
    """Remove the outputs of evaluate, as DVC does before it runs the stage."""
    for name in TABLE["evaluate"].outputs:
        path = clone.path / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def evaluate(clone: Clone, *, fails: bool = False, **env: str) -> Any:
    without(clone)
    return clone.run("python", "-m", "stages.evaluate", fails=fails, **LATER, **env)


def check_everything_is_said(clone: Clone, stderr: str) -> None:
    """Wherever somebody looks for a measure that is missing."""
    for name in TABLE["evaluate"].outputs:
        assert (clone.path / name).exists()
    page = (clone.path / "reports/report.html").read_text()
    short = (clone.path / "reports/report.md").read_text()
    shown = clone.run("python", "-m", "sparse_sam.tracking.show").stdout
    for why, names in missing(clone).items():
        if names not in {"slice", "surface"}:
            assert why.replace("'", "&#39;") in page
            assert why in short
        assert f": {why}\n" in stderr
        assert f": {why}\n" in shown
    for name in ("loss_slice", "loss_surface"):
        lines = (clone.path / f"plots/{name}.csv").read_text().splitlines()
        assert len(lines) > 1
        assert ("not measured: " in lines[1]) == (name[5:] in kinds(missing(clone)))


@pytest.mark.parametrize(
    "mood",
    [pytest.param(one, marks=[pytest.mark.slow] * (one not in OFTEN)) for one in MOODS],
)
def test_what_fails_is_said_and_the_comparison_is_the_same_to_the_byte(
    moody: Clone, mood: str
) -> None:
    whole = result(moody)
    if mood == "slow":
        moody.set_all(
            {"evaluate.budget_seconds.sharpness": 0.5, "evaluate.budget_seconds.curvature": 0.5}
        )
    done = evaluate(moody, MOOD=mood)
    moody.run("git", "checkout", "-q", "params.yaml")
    assert "Traceback" not in done.stderr
    assert result(moody) == whole
    names, why = MOODS[mood]
    assert kinds(missing(moody)) == names
    assert any(why in one for one in missing(moody)) or not names
    check_everything_is_said(moody, done.stderr)


def test_without_any_budget_nothing_is_measured_and_the_comparison_is_the_same(
    moody: Clone,
) -> None:
    whole = result(moody)
    moody.set_all({f"evaluate.budget_seconds.{name}": 0.0 for name in ("landscape", "latency")})
    moody.set_all(
        {
            f"evaluate.budget_seconds.{name}": 0.0
            for name in ("sharpness", "curvature", "step_memory", "compression")
        }
    )
    done = evaluate(moody)
    moody.run("git", "checkout", "-q", "params.yaml")
    assert result(moody) == whole
    assert kinds(missing(moody)) == (GRADIENTS | MEMORY | {"slice", "surface", "latency", "bytes"})
    check_everything_is_said(moody, done.stderr)


def test_a_mistake_of_ours_is_no_gap_and_comes_after_the_comparison(moody: Clone) -> None:
    whole = result(moody)
    without(moody)
    code = (
        "import runpy, sparse_sam.export.latency as latency\n"
        "latency.count_multiply_adds = lambda _: {}['total']\n"
        "runpy.run_module('stages.evaluate', run_name='__main__')"
    )
    done = moody.run("python", "-c", code, fails=True, **LATER)
    assert "KeyError: 'total'" in done.stderr
    assert result(moody) == whole
    assert not (moody.path / "metrics/compression.json").exists()


def test_attention_is_measured_like_everything_else(make_clone: Callable[..., Clone]) -> None:
    """With DVC, as a person runs it."""
    clone = with_hard_networks(make_clone, "vit_of_stripes")
    done = clone.run("dvc", "repro", **LATER)
    assert missing(clone) == {}
    assert "not measured" not in done.stderr
    compression = json.loads((clone.path / "metrics/compression.json").read_text())
    assert compression["multiply_adds"]["left_out"] == ["patches.class_token", "patches.positions"]
    check_everything_is_said(clone, done.stderr)
    shown = Path(clone.path / "reports/report.html").read_text()
    assert "but not weights that are used in other ways (patches.class_token" in shown
    clone.set_all({"evaluate.budget_seconds.landscape": 0.0})
    done = clone.run("dvc", "repro", **LATER)
    assert kinds(missing(clone)) == {"slice", "surface"}
    clone.run("dvc", "plots", "show")
    clone.run("dvc", "metrics", "show")
    assert "'evaluate' didn't change" in clone.run("dvc", "repro", **LATER).stdout
