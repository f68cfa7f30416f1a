"""The map: its search has no edge, its chains go on where they stopped, its tests are SciPy's."""

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sparse_sam.data import Split, TrainingData
from sparse_sam.errors import SparseSamError
from sparse_sam.evaluation import adjust, signed
from sparse_sam.files import Store, write_json
from sparse_sam.training import on_threads
from studies.map import analysis, cells, report, run, simulate
from studies.map.analysis import (
    Difference,
    Task,
    best_within,
    by_regime,
    by_sparsity,
    not_below,
    over_regimes,
    pooled,
    with_best,
)
from studies.map.cells import Images, Lab, measured_key, searched_arm, tried_key
from studies.map.outcome import Results
from studies.map.search import Found, Line, Point, is_inside, neighbours, search
from studies.map.study import Bounds, Mask, Setting, Start, Study, load_study
from studies.rows import read_rows

LINES = [Line("lr", 0.05, 2.0, 1e-4), Line("rho", 0.1, 2.0, 1e-3), Line("wd", 5e-4, 4.0, 1e-6)]


def steps(point: Point) -> list[float]:
    """How many factors a point is from where the search begins."""
    return [
        float(np.log(value / line.start) / np.log(line.factor))
        for value, line in zip(point, LINES, strict=True)
    ]


@given(st.lists(st.floats(-6, 6), min_size=3, max_size=3))
def test_a_smooth_optimum_is_found_wherever_it_is(best: list[float]) -> None:
    def score(point: Point) -> float:
        return -sum((one - where) ** 2 for one, where in zip(steps(point), best, strict=True))

    found = search(LINES, score)
    for (at, where), line in zip(zip(steps(found.best), best, strict=True), LINES, strict=True):
        lowest = np.log(line.floor / line.start) / np.log(line.factor)
        assert abs(at - max(where, lowest)) < 1.0
    assert is_inside(found, LINES)


@given(st.integers(0, 10**6))
def test_a_noisy_search_ends_with_nothing_better_beside_it(seed: int) -> None:
    draw = np.random.default_rng(seed)
    asked: list[Point] = []

    def score(point: Point) -> float:
        asked.append(point)
        return float(-0.1 * np.square(steps(point)).sum() + draw.normal())

    found = search(LINES, score)
    assert len(asked) == len(set(asked)) == len(found.scores)  # each once
    for point in neighbours(found.best, LINES):
        assert found.scores[point] <= found.scores[found.best]
    assert min(value for point in asked for value in point) >= 1e-6 * (1 - 1e-9)


def test_there_and_back_is_the_same_value() -> None:
    found = search(LINES, lambda point: -abs(steps(point)[0] - 3) - abs(steps(point)[2] + 3))
    assert found.best == (0.4, 0.1, 7.813e-06)
    line = LINES[2]
    assert line.neighbours(7.813e-06)[-1] == 3.125e-05
    assert line.neighbours(1.1e-06) == [4.4e-06]  # the floor has nothing below it


def test_declared_recipes_cost_what_is_declared() -> None:
    """At equal cost stands what takes as many gradients."""
    for task in ("digits", "colour", "whole"):
        study = load_study(task)
        for method in study.arms.values():
            point = tuple(line.start for line in study.lines(method))
            recipe = study.finetuning(method, study.setting(method, point), steps=10)
            epochs, plain = recipe.training.epochs, study.task["finetune_epochs"]
            each = {None: 1, "momentum": 1, "sam": 2, "asam": 2}.get(method.variant)
            if each is None:  # late
                assert recipe.sam.settings == {"after": 10 * plain}
                gradients = plain + 2 * (epochs - plain)
            else:
                gradients = each * epochs
            assert gradients == method.cost * plain
        costs = {name: method.cost for name, method in study.arms.items()}
        costs |= {name: max(costs[arm] for arm in arms) for name, arms in study.within.items()}
        for first, second in study.compared:
            assert costs[first] == costs[second]
        assert not {study.choosing(seed) for seed in study.seeds} & {*study.seeds}
        assert not {*study.choosing_dense} & {*study.seeds}
        assert 0 < study.bounds.nothing < study.bounds.margin


def test_every_mask_has_an_anchor_at_or_above_it_or_the_last() -> None:
    study = load_study("colour")
    masks = list(study.masks("sgd"))
    assert len(masks) == len(set(masks)) == 11
    assert Mask("magnitude", 0.0) in masks
    assert Mask("obs", 0.0) not in masks
    assert study.anchor(Mask("obs", 0.9)) == Mask("magnitude", 0.95)
    assert study.anchor(Mask("obs", 0.98)) == Mask("magnitude", 0.95)
    assert study.anchor(Mask("magnitude", 0.8)) == Mask("magnitude", 0.8)
    assert study.anchor(Mask("magnitude", 0.0)) == Mask("magnitude", 0.8)
    assert [mask.criterion for mask in study.masks("sam")] == ["magnitude"] * 6
    part = study.in_float32
    assert part is not None
    assert part.task["training"]["precision"] == "float32"
    assert [(kind, [*part.masks(kind)]) for kind in part.dense] == [
        ("sgd", [Mask("magnitude", 0.9)])
    ]


@pytest.fixture
def lab(
    tiny_net: str, make_data: Callable[..., TrainingData], tmp_path: Path, monkeypatch: Any
) -> Lab:
    """The study of a small network in seconds; its results in a folder of their own."""
    monkeypatch.setattr(run, "HERE", tmp_path)
    values: Any = copy.deepcopy(load_study("digits").values)
    task = values["tasks"]["digits"]
    task |= {"network": tiny_net, "dense_epochs": 2, "finetune_epochs": 2, "seeds": [0, 1]}
    task["training"] |= {"batch_size": 8}
    task |= {
        "criteria": {"magnitude": ["sgd", "sgd_2x", "sam"], "obs": ["sgd"]},
        "anchors": [0.5, 0.8],
        "float32": {"dense": ["sgd"], "criterion": "magnitude", "sparsities": [0.8]},
    }
    values |= {"sparsities": [0.0, 0.8], "compared": [["late", "sgd_within_2x"]]}
    arms = ("sgd", "sgd_2x", "late")
    values["arms"] = {arm: values["arms"][arm] for arm in arms}
    values["within"] = {"sgd_within_2x": ["sgd", "sgd_2x"]}
    data = make_data()
    assert isinstance(data.validation, Split)
    images = Images(data, data.validation, data.train)
    return Lab(Study("digits", values), images, Store(tmp_path / "store"))


def rows(step: str) -> list[dict[str, Any]]:
    return read_rows(run.table("digits", step))


def of(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """The search that a row belongs to."""
    return row["method"], row["dense"], row["sparsity"], row["seed"]


def digits(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row without what depends on the time of day."""
    return {name: value for name, value in row.items() if "seconds" not in name}


def _check_values_are_taken_where_they_were_searched(study: Study) -> None:
    """All values of SGD's networks; lr alone of the others, from where that search ended."""
    known = {tried_key(row): row for row in rows("tried")}
    for arm, kind, anchor, seed in run.choices(study):
        found = searched_arm(study, known, (arm, kind, anchor, seed))
        lines = study.lines(study.arms[arm])
        if kind == "sgd":
            assert is_inside(found, lines)
            continue
        assert is_inside(
            Found(found.best[:1], {at[:1]: one for at, one in found.scores.items()}), lines[:1]
        )
        begun = searched_arm(study, known, (arm, "sgd", anchor, seed)).best
        assert next(iter(found.scores)) == begun
        assert {at[1:] for at in found.scores} == {begun[1:]}


def _check_recheck_has_one_thread(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the workers had that made the rows: large sums have other digits on two."""
    seen = []

    def again(_: Lab, __: Any, row: Any) -> Any:
        seen.append(torch.get_num_threads())
        return row

    with monkeypatch.context() as patch, on_threads(2):
        patch.setattr(Lab, "side_by_side", False)  # in this process
        patch.setattr(cells, "again", again)
        run.recheck(lab)
    assert seen == [1] * run.RECHECKED


@pytest.mark.timeout(300)
def test_what_was_stopped_goes_on_to_the_same_digits(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = lab.study
    with pytest.raises(SparseSamError, match="not at its end"):
        run.choose(lab)
    run.choose_dense(lab)
    with pytest.raises(SparseSamError, match="not at its end"):
        run.measure(lab)
    run.choose(lab)
    run.measure(lab)
    regimes = [(kind, mask) for kind in study.dense for mask in study.masks(kind)]
    assert len(regimes) == 3 + 2 + 2
    measured = rows("measured")
    assert len(measured) == 2 * (len(study.dense) + len(regimes) * (1 + len(study.arms)))
    chosen = run.chosen_dense(study) | run.chosen_arms(study)
    assert len(run.chosen_arms(study)) == 2 * 3 * 2 * len(study.arms)  # seeds, dense, anchors
    for row in measured:
        if row["arm"] in study.arms:
            anchor = study.anchor(Mask(row["criterion"], row["sparsity"]))
            setting = chosen[row["arm"], row["dense"], anchor, row["seed"]]
            assert (row["lr"], row["rho"]) == (setting.lr, setting.rho)
            alike = {
                one["start"]
                for one in measured
                if measured_key(one)[:4] == measured_key(row)[:4] and "start" in one
            }
            assert len(alike) == 1
            assert row["curve"][-1][0] == row["gradient_evaluations"]

    run.recheck(lab)
    _check_recheck_has_one_thread(lab, monkeypatch)
    wrong = [{**row, "accuracy": row["accuracy"] + 1e-4} for row in rows("measured")]
    run.table("digits", "measured").write_text("".join(f"{json.dumps(row)}\n" for row in wrong))
    with pytest.raises(SparseSamError, match="accuracy differ"):
        run.recheck(lab)
    run.table("digits", "measured").write_text("".join(f"{json.dumps(row)}\n" for row in measured))

    _check_values_are_taken_where_they_were_searched(study)

    # A stop: half of the rows were never written, another processor made one regime's start, and
    # one row is of values that were not chosen.
    for step, key in (("tried", tried_key), ("measured", measured_key)):
        whole = {key(row): digits(row) for row in rows(step)}
        kept = rows(step)[::2]
        if step == "measured":
            kept = [{**row, "start": "of another"} if "start" in row else row for row in kept]
            kept += [row for row in measured if row not in rows("measured")[::2]][:5]
            kept[-1] = kept[-1] | ({"lr": 1.0} if "lr" in kept[-1] else {})
        run.table("digits", step).write_text("".join(f"{json.dumps(row)}\n" for row in kept))
        (run.choose if step == "tried" else run.measure)(lab)
        assert {key(row): digits(row) for row in rows(step)} == whole


@pytest.mark.timeout(300)
def test_the_report_says_what_the_rows_say(lab: Lab) -> None:
    for step in (run.choose_dense, run.choose, run.measure, run.control, run.check_precision):
        step(lab)
    results = Results(lab.study)
    assert results.missing == 0
    said = report.page([results])
    arms = results.task.accuracies["sam", Mask("magnitude", 0.8)]
    alike = [row for row in rows("measured") if row["sparsity"] == 0.8]
    known = {tried_key(row): row for row in rows("tried")}
    scores = {
        arm: np.mean(
            [
                max(searched_arm(lab.study, known, (arm, "sam", mask, seed)).scores.values())
                for seed in (0, 1)
            ]
        )
        for arm in ("sgd", "sgd_2x")
        for mask in [Mask("magnitude", 0.8)]
    }
    best = "sgd" if scores["sgd"] >= scores["sgd_2x"] else "sgd_2x"
    of_sam = {(row["seed"], row["arm"]): row["accuracy"] for row in alike if row["dense"] == "sam"}
    assert list(arms["sgd_within_2x"]) == [of_sam[seed, best] for seed in (0, 1)]
    pruned = [arms for (_, mask), arms in results.task.accuracies.items() if mask.sparsity]
    mean = 100 * np.mean([np.subtract(arms["late"], arms["sgd_within_2x"]) for arms in pruned])
    assert f"SGD, then SAM − SGD (up to 2×): {signed(float(mean))} [" in said
    (advice,) = [line for line in said.splitlines() if "| 80 % | 2× |" in line]
    accuracy = 100 * np.mean([arms["sgd_within_2x"] for arms in pruned])
    usual = report.NAMES[results.usual(0.8, "sgd_within_2x")]
    assert f" | {usual}: {accuracy:.2f} | {usual} | " in advice
    searches = [
        line for line in said.splitlines() if line.startswith(f"| {results.title} | SGD | ")
    ]
    assert "| 12 |" in searches[-1]  # two seeds, two anchors, three dense trainings
    _check_what_is_done_otherwise(said, results)
    control = [row["accuracy"] for row in rows("control") if row["sparsity"] == 0.8]
    sam = [of_sam[seed, "pruned"] for seed in (0, 1)]
    gained = signed(100 * float(np.mean(np.subtract(sam, control))))
    assert f"| {100 * np.mean(control):.2f} | {gained} [" in said
    # (The small study is in float32 anyway, so this part is the same.)
    compared = next(line for line in said.splitlines() if "SGD, magnitude, 80 % |" in line)
    assert compared.split(" | ")[3] == compared.split(" | ")[4].removesuffix(" |")
    drawn = report.drawings([results])
    assert set(drawn) == {"forest.svg", "heat_map-digits.svg", "curves-digits.svg"}
    for name, drawing in drawn.items():
        assert drawing == report.drawings([results])[name]
    # What is half done says nothing.
    kept = [row for row in rows("measured") if (row["seed"], row["arm"]) != (1, "late")]
    run.table("digits", "measured").write_text("".join(f"{json.dumps(row)}\n" for row in kept))
    assert Results(lab.study).missing == 7 * 4  # regimes, with all their rows
    kept = [{**row, "lr": 9.0} if row.get("arm") == "late" else row for row in rows("measured")]
    run.table("digits", "measured").write_text("".join(f"{json.dumps(row)}\n" for row in kept))
    assert Results(lab.study).missing == 2 * 7 * 4


def _check_what_is_done_otherwise(said: str, results: Results) -> None:
    lines = {line.split(" | ")[0]: line for line in said.splitlines() if line.startswith("| ")}
    task = results.task
    pruned = [of for of in task.accuracies if of[1].sparsity]
    by_seed = np.mean(
        [np.subtract(task.accuracies[of]["late"], task.accuracies[of]["sgd_2x"]) for of in pruned],
        axis=0,
    )
    assert (
        signed(100 * float(by_seed.mean()))
        in lines["| SGD has as many gradients, and no choice of fewer"]
    )
    searched = [of for of in pruned if of[1].criterion == "magnitude"]
    (pair,) = task.compared
    alone = np.mean([task.difference(pair, of) for of in searched])
    assert (
        signed(100 * float(alone))
        in lines["| only regimes whose values were searched in themselves"]
    )
    each = np.mean([task.difference(pair, of) for of in pruned], axis=0)
    ends = [signed(100 * float(one)) for one in sorted(each)]
    assert (
        f"{ends[0]} to {ends[1]}"
        in lines["| one seed is left out: the least mean, and the largest"]
    )
    falls = sum(
        int(np.sum(np.subtract(arms["pruned"], arms["late"]) > 0.005))
        for of, arms in task.accuracies.items()
        if of in pruned
    )
    assert lines[f"| collapsed, of {len(pruned) * 2}"].split(" | ")[3] == f"{falls} |"


def test_a_control_that_was_stopped_goes_on(lab: Lab) -> None:
    sparse = Study("digits", {**lab.study.values, "sparsities": [0.0, 0.5, 0.8]})
    lab = replace(lab, study=sparse)
    run.choose_dense(lab)
    run.control(lab)
    whole = {measured_key(row): digits(row) for row in rows("control")}
    assert len(whole) == 2 * 2
    stopped = "".join(f"{json.dumps(row)}\n" for row in rows("control")[:-1])
    run.table("digits", "control").write_text(stopped)
    run.control(lab)
    assert {measured_key(row): digits(row) for row in rows("control")} == whole


def test_a_report_is_refused_in_a_line(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report.main(["digits"]) == 1
    assert "is reported together with the others" in capsys.readouterr().err
    monkeypatch.setattr(report, "tasks", lambda: ["digits"])
    assert report.main([]) == 1
    assert "networks are missing" in capsys.readouterr().err
    write_json(run.table("digits", "tried").with_name("images.json"), {"declared": "another"})
    assert report.main([]) == 1
    assert "are of another declaration (declared another, and here " in capsys.readouterr().err
    assert report.main([]) == 1  # nor does this repository, while its networks are missing


def test_what_to_use_is_the_largest_gain_that_is_shown() -> None:
    shown, beside = {"holm_differs": 0.01}, {"holm_differs": 0.2}
    gain, more = (Difference(mean, 0.0, 1.0, 0.0, 1.0, **shown) for mean in (0.1, 0.2))
    undecided = Difference(0.3, -0.5, 1.0, 0.0, 1.0, **beside)
    loss = Difference(-0.4, -1.0, 0.0, 0.0, 1.0, **shown)
    assert report.best_gain({"sam": gain, "late": more, "asam": undecided}) == "late"
    assert report.best_gain({"sam": loss, "late": undecided}) is None


def test_what_diverges_counts_as_what_it_began_with(lab: Lab) -> None:
    run.choose_dense(lab)
    wild = Setting(lr=1e6, weight_decay=0.0, rho=None)
    mask = Mask("magnitude", 0.8)
    chosen = run.chosen_dense(lab.study) | {
        (arm, "sgd", anchor, 0): wild for arm in lab.study.arms for anchor in lab.study.anchors()
    }
    told: list[Any] = []
    cells.measure(lab, {}, chosen, Start("sgd", 0), told.append)
    (pruned,) = [row for row in told if measured_key(row) == ("sgd", 0, *mask, "pruned")]
    (diverged,) = [row for row in told if measured_key(row) == ("sgd", 0, *mask, "sgd")]
    assert diverged["diverged"]
    assert (diverged["accuracy"], diverged["held_out"]) == (pruned["accuracy"], pruned["held_out"])


PAIRS = (("sam", "sgd_2x"), ("momentum", "sgd"))


def drawn_task(draw: np.random.Generator, name: str, bounds: Bounds) -> Task:
    masks = [Mask("magnitude", 0.0), Mask("magnitude", 0.5), Mask("obs", 0.5)]
    arms = ("sam", "sgd_2x", "momentum", "sgd")
    found = {("sgd", mask): {arm: draw.normal(0.5, 0.01, 5) for arm in arms} for mask in masks}
    return Task(name, found, PAIRS, bounds)


def test_the_best_of_some_is_that_of_each_regime() -> None:
    half, more = ("sgd", Mask("magnitude", 0.5)), ("sgd", Mask("obs", 0.9))
    tested_on = {
        half: {"sgd": [0.1, 0.2], "sgd_2x": [0.3, 0.4]},
        more: {"sgd": [0.5, 0.6], "sgd_2x": [0.7, 0.8]},
    }
    judged = {
        half: {"sgd": [0.9, 0.4], "sgd_2x": [0.1, 0.9]},
        more: {"sgd": [0.2, 0.2], "sgd_2x": [0.1, 0.3]},  # of equals, the first
    }
    within = {"best": ["sgd", "sgd_2x"]}
    found = with_best(tested_on, best_within(judged, within))
    assert [arms["best"] for arms in found.values()] == [[0.1, 0.2], [0.5, 0.6]]
    # One choice for a sparsity: the mean over its regimes.
    same = {half: judged[half], ("sam", Mask("obs", 0.5)): {"sgd": [0.1, 0], "sgd_2x": [0.8, 0]}}
    assert best_within(same, within)[half, "best"] == "sgd"
    assert best_within(pooled(same), within)[half, "best"] == "sgd_2x"


def test_what_falls_below_its_start_on_held_out_images_counts_as_that() -> None:
    of = ("sgd", Mask("magnitude", 0.5))
    found = not_below(
        {of: {"pruned": [0.5, 0.5], "sam": [0.4, 0.4]}},
        {of: {"pruned": [0.5, 0.5], "sam": [0.6, 0.3]}},
        "pruned",
    )
    assert found[of]["sam"].tolist() == [0.4, 0.5]  # type: ignore[union-attr]


def test_tests_are_scipys() -> None:
    draw = np.random.default_rng(3)
    tasks = [drawn_task(draw, name, Bounds(0.0, 0.01)) for name in ("one", "two")]
    primary = over_regimes(tasks)
    by_hand = {}
    for task in tasks:
        for first, second in PAIRS:
            pruned = [arms for (_, mask), arms in task.accuracies.items() if mask.sparsity == 0.5]
            pooled = [
                np.mean([np.asarray(arms[arm]) for arms in pruned], axis=0)
                for arm in (first, second)
            ]
            by_scipy = stats.ttest_rel(*pooled)
            found = primary[task.name, (first, second)]
            assert found.differs == pytest.approx(by_scipy.pvalue)
            low, high = by_scipy.confidence_interval(0.95)
            assert (found.low, found.high) == pytest.approx((low, high))
            by_hand[f"{task.name} {first}"] = by_scipy.pvalue
    holm = adjust(by_hand)
    assert [one.holm_differs for one in primary.values()] == pytest.approx(list(holm.values()))
    regimes = by_regime(tasks)
    assert len(regimes) == 2 * 2 * 3
    assert len(by_sparsity(tasks)) == 2 * 2 * 2
    arms = tasks[0].accuracies["sgd", Mask("obs", 0.5)]
    alone = regimes["one", PAIRS[0], ("sgd", Mask("obs", 0.5))]
    assert alone.differs == pytest.approx(stats.ttest_rel(arms["sam"], arms["sgd_2x"]).pvalue)


def test_what_counts_as_nothing_is_not_shown_and_what_does_not_matter_is_equivalent() -> None:
    """SciPy's one-sided tests against the edges."""
    difference = 0.02 + np.random.default_rng(5).normal(0, 0.001, 5)
    found = analysis.tested([difference], Bounds(0.015, 0.05))
    beyond = stats.ttest_1samp(difference, 0.015, alternative="greater").pvalue
    assert found.differs == pytest.approx(beyond, rel=1e-3)
    assert analysis.tested([difference], Bounds(0.03, 0.05)).differs > 0.5
    inside = stats.ttest_1samp(difference, 0.05 - 0.015, alternative="less").pvalue
    assert found.equivalent == pytest.approx(inside)
    assert analysis.tested([difference], Bounds(0.015, 0.03)).equivalent > 0.5
    assert (
        analysis.tested([difference], Bounds(0.03, 0.06)).verdict == "undecided"
    )  # not corrected yet
    arms = {"sam": difference, "sgd": 0 * difference}
    alone = Task("", {("sgd", Mask("obs", 0.5)): arms}, [("sam", "sgd")], Bounds(0.015, 0.05))
    (one,) = by_regime([alone]).values()
    assert one.verdict == "gain"


def test_choosing_once_for_all_seeds_finds_what_is_not_there() -> None:
    """The reason for which each seed chooses for itself."""
    worlds = {"colour": simulate.World(noise=0.6, cost=0.3)}
    once = simulate.simulated(worlds, 0.0, 8, alone=False)
    each = simulate.simulated(worlds, 0.0, 8, alone=True)
    assert once["a difference, primary"] > each["a difference, primary"] + 0.3
