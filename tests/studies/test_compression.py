"""The LeNets' study: no test image chooses, what was stopped goes on, the page is the rows'."""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparse_sam.data import Split, TrainingData
from sparse_sam.errors import SparseSamError
from sparse_sam.files import Store
from studies.compression import report, run
from studies.compression.run import Lab, Study, load_study
from studies.lenet.run import ARMS
from studies.rows import Row, check_kept, read_rows


@pytest.fixture
def study(tiny_net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """The study of a small network in seconds; its results in a folder of their own."""
    values: Any = copy.deepcopy(load_study("lenet-5").values)
    monkeypatch.setattr(run, "HERE", tmp_path)
    own = values["networks"]["lenet-5"] | {"compressions": [2, 4], "choosing_compression": 4}
    first, second, *_ = own["phases"]
    phases = [
        {**phase, "epochs": 1, "updates": 3, "compression": at}
        for phase, at in ((first, 1.5), (second, 2), (second, 4))
    ]
    few = copy.deepcopy(values["networks"]["lenet-300-100"]["candidates"])
    values["networks"] = {
        tiny_net: own
        | {"phases": phases, "precision": "float32", "arguments": {}, "candidates": few}
    }
    values["dense"] |= {"epochs": 2, "batch_size": 8}
    return Study({**values, "seeds": [0, 1]}, tiny_net)


@pytest.fixture
def choosing(study: Study, make_data: Callable[..., TrainingData], tmp_path: Path) -> Lab:
    """Where recipes are chosen: on held-out images."""
    data = make_data()
    assert isinstance(data.validation, Split)
    return Lab(study, data, data.validation, Store(tmp_path / "store"))


@pytest.fixture
def measuring(choosing: Lab, make_data: Callable[..., TrainingData]) -> Lab:
    """Where they are tested."""
    return replace(choosing, data=make_data(validation=0), tested=choosing.data.train)


def digits(rows: list[Row]) -> list[Row]:
    """Rows in an order of their own, without what depends on the time of day."""
    kept = [{name: value for name, value in row.items() if name != "seconds"} for row in rows]
    return sorted(kept, key=lambda row: json.dumps(row, sort_keys=True))


@pytest.mark.timeout(300)
def test_what_was_stopped_goes_on_and_the_page_says_what_the_rows_say(
    study: Study, choosing: Lab, measuring: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(SparseSamError, match="not every candidate was tried: run `python -m"):
        run.measure(measuring)
    run.choose(choosing)
    tried = read_rows(run.table(study, "choose"))
    assert len(tried) == 2 * len(study.candidates())
    for shift in (0, 1):
        for arm in ARMS:
            own = [row for row in tried if (row["shift"], row["arm"]) == (shift, arm)]
            chosen = vars(run.best(study, shift, arm))
            least = min(own, key=lambda row: float(row["error"]))
            assert chosen == {name: least[name] for name in chosen}
    results = report.Results(study)
    with pytest.raises(SparseSamError, match="not every seed of"):
        report.page([results])

    run.measure(measuring)
    measured = read_rows(run.table(study, "measure"))
    assert len(measured) == 2 * 2 * 2 * 2  # seeds, shifts, compressions, arms
    gradients = {row["arm"]: row["gradient_evaluations"] for row in measured}
    assert gradients["sgd_2x"] == gradients["sam"]
    for row in measured:
        asked = 1 - 1 / row["compression"]
        assert row["weights"] - row["kept"] == round(asked * row["weights"])
        place = (row["seed"], row["shift"])
        alike = {one["start"] for one in measured if (one["seed"], one["shift"]) == place}
        assert len(alike) == 1

    # A stop: half of the rows were never written, and another processor made one dense network.
    kept = [{**row, "start": "of another"} if row["seed"] else row for row in measured[::2]]
    run.table(study, "measure").write_text("".join(f"{json.dumps(row)}\n" for row in kept))
    run.measure(measuring)
    assert digits(read_rows(run.table(study, "measure"))) == digits(measured)

    results = report.Results(study)
    page = report.page([results])
    errors = [
        row["error"]
        for row in sorted(measured, key=lambda row: row["seed"])
        if (row["shift"], row["compression"], row["arm"]) == (0, 4, "sam")
    ]
    assert f"{np.mean(errors):.2f} ({' '.join(f'{one:.2f}' for one in errors)})" in page
    monkeypatch.setattr(report, "FIGURE", tmp_path / "errors.svg")
    report.draw([results])
    assert "not shifted" in (tmp_path / "errors.svg").read_text()


def test_rows_of_another_declaration_do_not_count(study: Study, choosing: Lab) -> None:
    run.choose(choosing)
    run.best(study, 1, "sam")
    longer: Any = copy.deepcopy(study.values)
    longer["networks"][study.network]["phases"][0]["epochs"] = 3
    with pytest.raises(SparseSamError, match="not every candidate was tried"):
        run.best(Study(longer, study.network), 1, "sam")
    fewer: Any = copy.deepcopy(study.values)
    fewer["networks"][study.network]["candidates"]["sam"].pop()
    run.best(Study(fewer, study.network), 1, "sam")  # rows name what was tried
    elsewhere: Any = copy.deepcopy(study.values)
    elsewhere["data"] |= {"source": "idx", "folder": "elsewhere"}  # the same digits
    run.best(Study(elsewhere, study.network), 1, "sam")


def test_rows_of_other_images_are_not_mixed(tmp_path: Path) -> None:
    path = tmp_path / "results" / "images.json"
    for _ in range(2):
        check_kept(path, {"fingerprint": "0123"})
    with pytest.raises(SparseSamError, match="the rows beside it are of other images"):
        check_kept(path, {"fingerprint": "4567"})


def test_what_is_published_is_what_is_measured() -> None:
    """Every row that was published has a cell, and the choosing seed has none."""
    for network, published in report.PUBLISHED.items():
        declared = load_study(network)
        assert list(published) == declared.own["compressions"]
        assert declared.values["choosing_seed"] not in declared.values["seeds"]
        candidates = declared.own["candidates"]
        assert len(candidates["sgd_2x"]) == len(candidates["sam"])
        for recipe in declared.candidates():
            for shift in declared.values["shifts"]:
                for phase in declared.phases_to(max(published)):
                    training = declared.finetuning(recipe, shift, phase).training
                    assert (training.lr, training.shift_pixels) == (recipe.lr, shift)


def test_what_diverges_is_a_row_and_is_not_chosen(study: Study, choosing: Lab) -> None:
    wild: Any = copy.deepcopy(study.values)
    for arm in ARMS:
        wild["networks"][study.network]["candidates"][arm][0]["lr"] = 1e6
    lab = replace(choosing, study=Study(wild, study.network))
    run.choose(lab)
    diverged = [row for row in read_rows(run.table(study, "choose")) if row["error"] == 100.0]
    assert len(diverged) == 2 * 2
    for arm in ARMS:
        assert run.best(lab.study, 0, arm).lr < 1


def test_phases_go_to_what_is_asked_and_share_what_they_have_in_common(
    study: Study, choosing: Lab
) -> None:
    dense, recipe = choosing.dense(0, 0), study.candidates()[0]
    rows = [choosing.finetuned(dense, recipe, 0, at) for at in (2, 4)]
    assert [round(row["weights"] / row["kept"], 1) for row in rows] == [2, 4]
    kinds = {path.parent.name for path in (choosing.store.folder / "entries").glob("*/*.json")}
    trained = [key for kind in kinds for key in choosing.store.keys(kind)]
    assert len(trained) == 4  # the dense network, and three phases
    gradients = [row["gradient_evaluations"] for row in rows]
    assert gradients[1] == gradients[0] * 3 / 2


def test_what_has_no_other_candidate_is_not_tried(study: Study, choosing: Lab) -> None:
    alone: Any = copy.deepcopy(study.values)
    for candidates in alone["networks"][study.network]["candidates"].values():
        del candidates[1:]
    lab = replace(choosing, study=Study(alone, study.network))
    run.choose(lab)
    assert not run.table(lab.study, "choose").exists()
    assert run.best(lab.study, 0, "sam") == lab.study.candidates()[1]
    said = "\n".join(report._tried(report.Results(lab.study)))
    assert "SAM: lr 0.1, weight decay 0.0001, ρ 0.05; chosen before, on held-out images." in said
