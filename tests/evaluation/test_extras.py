"""What is measured beside the comparison: of all arms or of none, and what is missing says why."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sparse_sam.data import DataParams, RawData, TrainingData, build_dataset, save_dataset
from sparse_sam.evaluation.flatness import arms, measure
from sparse_sam.evaluation.flatness.arms import measure_arms
from sparse_sam.evaluation.flatness.measure import FlatnessSettings, Point
from sparse_sam.evaluation.params import BudgetParams
from sparse_sam.files.unmeasured import NotMeasured, gaps
from tests.jobs_for_workers import hard_checkpoint

ARMS, SEEDS = ("dense", "sgd", "sam"), (0, 1)
KINDS = {"sharpness", "top eigenvalues", "trace", "slice", "surface"}
SECOND = {"top eigenvalues", "trace"}


def budget(**changes: float) -> BudgetParams:
    return BudgetParams(**{**dict.fromkeys(BudgetParams.model_fields, 1000.0), **changes})


@pytest.fixture
def take(
    monkeypatch: pytest.MonkeyPatch, make_data: Callable[..., TrainingData], tmp_path: Path
) -> Callable[..., tuple[dict[str, Any], Any, Any]]:
    """Measure a network's arms in this process, so that what a test patches is what runs."""
    data = make_data(train=30)
    monkeypatch.setattr(measure, "training_data_on", lambda *_: data)

    def one_after_the_other(work: Any, jobs: Any, **_: Any) -> Any:
        return {job: work(job, lambda _: None) for job in jobs}

    monkeypatch.setattr(arms, "run_jobs", one_after_the_other)
    monkeypatch.setattr(arms, "training_data_on", lambda *_: data)

    def run(name: str, allowed: BudgetParams | None = None) -> tuple[dict[str, Any], Any, Any]:
        return measure_arms(
            partial(hard_checkpoint, name=name, shape=(1, 5, 5), classes=3),
            tmp_path,
            ARMS,
            SEEDS,
            pictured=("sgd", "sam"),
            budget=allowed or budget(),
            threads=1,
            name="test",
        )

    return run


def names(metrics: dict[str, Any]) -> set[str]:
    """What is missing."""
    return {name for of in gaps(metrics).values() for name in of.split(", ")}


def seconds_apart(metrics: dict[str, Any]) -> dict[str, Any]:
    return {**metrics, "budget": {**metrics["budget"], "seconds": None}}


@pytest.mark.parametrize("name", ["moody", "vit", "vit_of_stripes", "cross_attention"])
def test_everything_is_measured_of_a_network_that_allows_it(
    name: str, take: Callable[..., Any]
) -> None:
    metrics, slices, surfaces = take(name)
    assert gaps(metrics) == {}
    assert len(slices) == len(ARMS) * FlatnessSettings().slice_points
    assert len(surfaces) == 2 * FlatnessSettings().surface_points ** 2
    assert {len(one["values"]) for one in metrics["arms"]["sam"]["sharpness"]} == {1, 2}
    for of in metrics["arms"].values():
        assert math.isfinite(of["top_eigenvalues"][0]["mean"])
        assert math.isfinite(of["trace"]["mean"])


@pytest.mark.parametrize(
    ("mood", "missing", "why"),
    [
        ("once", SECOND, "dense, seed 0: RuntimeError: trying to differentiate twice"),
        ("key", {"sharpness", *SECOND}, "dense, seed 0: KeyError: 'gradient'"),
        ("nan", {"sharpness", *SECOND}, "dense, seed 0: the length of "),
    ],
)
def test_what_a_network_refuses_is_missing_and_the_rest_is_the_same(
    mood: str,
    missing: set[str],
    why: str,
    take: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, slices, surfaces = take("moody")
    monkeypatch.setenv("MOOD", mood)
    metrics, *points = take("moody")
    assert names(metrics) == missing
    assert all(one.startswith(why) for one in gaps(metrics)) or mood == "nan"
    assert points == [slices, surfaces]
    for arm, of in metrics["arms"].items():
        kept = {key: value for key, value in of.items() if key.replace("_", " ") not in missing}
        assert kept == {key: whole["arms"][arm][key] for key in kept}
        assert len(kept) == 3 - len(missing)


@pytest.mark.parametrize(
    ("short", "missing"),
    [
        ("sharpness", {"sharpness"}),
        ("curvature", SECOND),
        ("landscape", {"slice", "surface"}),
    ],
)
@pytest.mark.parametrize("seconds", [0.0, 1e-6])
def test_a_budget_takes_a_measure_away_whole_and_changes_no_other(
    short: str, missing: set[str], seconds: float, take: Callable[..., Any]
) -> None:
    whole, *everything = take("vit")
    metrics, *points = take("vit", budget(**{short: seconds}))
    assert names(metrics) == missing
    (why,) = gaps(metrics)
    assert why.endswith(f"(evaluate.budget_seconds.{short})")
    assert ("for all arms" in why) == bool(seconds)
    for arm, of in metrics["arms"].items():
        for key, value in of.items():
            if key.replace("_", " ") not in missing:
                assert value == whole["arms"][arm][key]
    if short == "landscape":
        assert points == [NotMeasured(why)] * 2
        assert (metrics["slice"], metrics["surface"]) == (NotMeasured(why).as_json(),) * 2
    else:
        assert points == everything


def test_an_arm_alone_that_cannot_be_measured_takes_the_others_along(
    take: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = measure._take

    def fails(name: str, model: Any, *given: Any, **named: Any) -> Any:
        if name in {"trace", "surface"} and float(model.head.weight.detach().sum()) == fatal:
            raise ArithmeticError("only here")
        return plain(name, model, *given, **named)

    sam: Any = hard_checkpoint("sam", 0, "moody", (1, 5, 5), 3).build()
    fatal = float(sam.head.weight.detach().sum())
    monkeypatch.setattr(measure, "_take", fails)
    metrics, slices, surfaces = take("moody")
    assert gaps(metrics) == {"sam, seed 0: ArithmeticError: only here": "trace, surface"}
    assert surfaces == NotMeasured("sam, seed 0: ArithmeticError: only here")
    assert len(slices) == len(ARMS) * FlatnessSettings().slice_points


def test_a_mistake_of_ours_is_not_hidden(
    take: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*_: Any, **__: Any) -> Any:
        return {}["eigenvalues"]

    monkeypatch.setattr(measure, "top_eigenvalues", wrong)
    with pytest.raises(KeyError, match="eigenvalues"):
        take("moody")


def test_a_killed_process_costs_the_measures_that_kill_it(
    digits: RawData,
    data_params: Callable[..., DataParams],
    tmp_path: Path,
) -> None:
    """Real processes: those that compute gradients are killed, and the pictures need none."""
    path = tmp_path / "data.safetensors"
    save_dataset(path, build_dataset(digits, data_params(fraction=0.05)))
    metrics, slices, surfaces = measure_arms(
        partial(hard_checkpoint, name="mortal", shape=(1, 28, 28), classes=10),
        path,
        ARMS,
        SEEDS,
        pictured=("sgd",),
        budget=budget(),
        threads=1,
        name="test",
    )
    assert names(metrics) == {"sharpness", *SECOND}
    (why,) = gaps(metrics)
    assert "killed from outside, possibly because memory ran out" in why
    rows: list[Point] = [*slices, *surfaces]
    assert len(rows) == 3 * FlatnessSettings().slice_points + FlatnessSettings().surface_points ** 2
