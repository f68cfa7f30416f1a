"""The regimes study: its tables are whole and honest, and its report says what they say."""

import dataclasses
import xml.etree.ElementTree as ET

import pytest

from sparse_sam.evaluation.statistics import ALPHA
from sparse_sam.sweep.cells import find, possible_cells
from studies.regimes import figures, report
from studies.regimes.study import (
    COMPARED,
    DENSE,
    LR,
    NAMES,
    RHO,
    SPARSITY,
    TITLES,
    Row,
    Study,
    by_rho,
    compare,
    load,
    shown,
)
from tests.sweep.conftest import known_of

MEASURED = load()
EVERY = pytest.mark.parametrize("study", MEASURED, ids=lambda study: study.network)
PLACE = ("classifier", "sgd", 0.5, COMPARED["sam", "sgd_2x"])


def place_of(row: Row) -> tuple[str, str, str]:
    return row[DENSE], row[SPARSITY], row["arm"]


def test_both_networks_are_measured() -> None:
    assert [study.network for study in MEASURED] == list(TITLES)


@EVERY
def test_every_regime_has_every_arm_and_ten_seeds(study: Study) -> None:
    assert study.sparsities == [0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99]
    assert study.dense == ["sgd", "sam"]
    assert [arm.name for arm in study.sweep.arms] == list(NAMES)
    reported = [(*place_of(r), int(r["seed"])) for r in study.rows if r["purpose"] == "report"]
    assert len(reported) == len(set(reported)) == 2 * 7 * 5 * 10
    assert {seed for *_, seed in reported} == set(range(10))


@EVERY
def test_the_best_on_validation_was_reported_and_choosing_saw_no_test_image(study: Study) -> None:
    tried: dict[tuple[str, str, str], list[Row]] = {}
    for row in study.rows:
        if row["purpose"] == "choose":
            assert row["test_accuracy"] == row["sharpness"] == ""
            assert int(row["seed"]) in study.sweep.seeds.choosing
            tried.setdefault(place_of(row), []).append(row)
    assert len(tried) == 2 * 7 * 5
    best = {
        place: max(
            of, key=lambda r: (float(r["validation_accuracy"]), -float(r["validation_loss"]))
        )
        for place, of in tried.items()
    }
    for row in study.rows:
        if row["purpose"] == "report":
            assert [row[name] for name in (LR, RHO)] == [
                best[place_of(row)][name] for name in (LR, RHO)
            ]


@EVERY
def test_arms_that_are_called_equal_in_compute_are(study: Study) -> None:
    counts: dict[str, set[str]] = {}
    for row in study.rows:
        if row["purpose"] == "report":
            counts.setdefault(row["arm"], set()).add(row["gradient_evaluations"])
            assert float(row["sparsity"]) == pytest.approx(float(row[SPARSITY]), abs=1e-3)
    assert counts["sgd_2x"] == counts["sam"] == counts["asam"]
    assert counts["sgd"] == counts["momentum"]
    assert len(counts["sam"]) == 1


def test_the_committed_report_is_that_of_the_tables() -> None:
    text = report.REPORT.read_text(encoding="utf-8")
    assert text == report.report(MEASURED), "run: python -m studies.regimes.report"


def test_the_command_in_the_report_names_the_cell_that_it_shows() -> None:
    (study,) = (one for one in MEASURED if one.network == "classifier")
    row = report.drawn(study)
    _, known = known_of(study.sweep)
    cell = find(list(possible_cells(study.sweep, known)), row["cell"])
    assert (cell.purpose, cell.arm, cell.seed) == ("report", row["arm"], int(row["seed"]))
    assert [str(label) for _, label in cell.regime.labels] == [row[DENSE], row[SPARSITY]]


def planted(difference: float, noise: float) -> list[Study]:
    """The study, but with SAM ahead of SGD (2× epochs) at ``PLACE`` by so much."""
    network, dense, sparsity, _ = PLACE
    studies = []
    for study in MEASURED:
        start = study.values(dense, sparsity, "sgd_2x", "test_accuracy")
        rows = []
        for row in study.rows:
            here = (study.network, *place_of(row)) == (network, dense, str(sparsity), "sam")
            if here and row["purpose"] == "report":
                seed = int(row["seed"])
                value = start[seed] + difference + noise * (-1) ** seed
                rows.append({**row, "test_accuracy": repr(float(value))})
            else:
                rows.append(dict(row))
        studies.append(dataclasses.replace(study, rows=rows))
    return studies


@pytest.mark.parametrize("sign", [1, -1])
def test_a_planted_difference_is_found_and_said(sign: int) -> None:
    studies = planted(sign * 0.02, noise=0.001)
    compared = compare(studies)
    assert compared[PLACE]["mean"] == pytest.approx(sign * 0.02)
    assert shown(compared[PLACE]) == sign
    text = report.report(studies)
    said = "The gain: SAM − SGD at equal compute, classifier after dense training with SGD"
    assert (said in text) == (sign > 0)


def test_what_one_test_alone_would_show_is_not_shown_among_many() -> None:
    compared = compare(planted(0.0009, noise=0.001))[PLACE]
    assert compared["p_value"] < ALPHA
    assert shown(compared) == 0


def test_no_difference_is_no_gain() -> None:
    compared = compare(planted(0.0, noise=0.0))[PLACE]
    assert (compared["mean"], shown(compared)) == (0.0, 0)


def test_a_candidate_that_diverged_is_at_no_rho() -> None:
    (study,) = (one for one in MEASURED if one.network == "classifier")
    whole = by_rho(study, "sgd", 0.9, "sam")
    assert len(whole) == 3
    lost = max(whole)
    rows = [
        {**row, "diverged": "1", "validation_accuracy": ""}
        if place_of(row) == ("sgd", "0.9", "sam") and row[RHO] and float(row[RHO]) == lost
        else row
        for row in study.rows
    ]
    del whole[lost]
    assert by_rho(dataclasses.replace(study, rows=rows), "sgd", 0.9, "sam") == whole


@pytest.mark.parametrize("name", figures.FIGURES)
def test_a_figure_is_of_the_tables(name: str) -> None:
    drawn = figures.FIGURES[name](MEASURED)
    assert drawn == figures.FIGURES[name](MEASURED)
    root = ET.fromstring(drawn)  # noqa: S314 - our own
    assert root.tag.endswith("svg")
    committed = (report.HERE / name).read_text(encoding="utf-8")
    labels = [each.text for each in root.iter() if each.tag.endswith("text")]
    was = [each.text for each in ET.fromstring(committed).iter() if each.tag.endswith("text")]  # noqa: S314
    assert labels == was, "run: python -m studies.regimes.report"
