"""The experiment says what it is and how it came out, in a real MLflow store."""

import json
import re
import shutil
from pathlib import Path

import pytest

from sparse_sam.config import REFERENCE
from sparse_sam.evaluation import DIFFERENCE, as_tags, described, in_points
from sparse_sam.files import read_json
from sparse_sam.tracking.experiment_page import OURS, counted
from sparse_sam.tracking.journal import PIPELINE, Journal
from sparse_sam.tracking.mlflow_store import NOTE, Tracker, as_shown
from sparse_sam.tracking.pipelines import place
from sparse_sam.tracking.publish import publish
from sparse_sam.tracking.ui import RUNS_VIEW

SUMMARY = read_json(Path(__file__).parents[2] / "metrics" / "summary.json", "")
OUTCOME = as_tags(SUMMARY)["outcome"]
LATER = {
    "subject": "mlpnet on digits, 3 seeds",
    "answer": "SAM is better by 9.00 points.",
    "outcome": "better",
}


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Path) -> Path:
    for name in ("MLFLOW_TRACKING_URI", "DVC_ROOT", "DVC_EXP_NAME", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    shutil.copy(empty_store, tmp_path)
    shutil.copy(REFERENCE, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def told(*outcomes: str) -> str:
    """How often runs came out how."""
    names = ("better", "worse", "equivalent", "undecided")
    return ", ".join(f"{name} in {outcomes.count(name)}" for name in names)


def evaluated(clone: Path, said: dict[str, str], changed: str) -> None:
    tags = {"params.changed": changed}
    own = {
        "finetune.sam.rho": 0.05,
        "data.channels": None,
        "prune.ignore": [],
        "prune.biases": False,
    }
    with place(clone, "evaluate", {"run": changed}, clone, {}, tags) as path:
        journal = Journal(path, stage="evaluate", params=own, tags=tags, launcher={})
    journal.metrics({"test_accuracy.dense": 0.9427999999999999}, child=PIPELINE)
    journal.metrics(in_points(SUMMARY), child=PIPELINE)
    journal.tags(said, child=PIPELINE)
    journal.note(described(SUMMARY), child=PIPELINE)
    journal.end("FINISHED")


def tags_of_the_experiment(clone: Path) -> dict[str, str]:
    tracker = Tracker(clone)
    return dict(tracker.client.get_experiment(tracker.experiment({})).tags)


def test_the_experiment_is_described_by_its_latest_run(clone: Path) -> None:
    evaluated(clone, as_tags(SUMMARY), "ρ 0.1")
    publish(clone, clone)
    tags = tags_of_the_experiment(clone)
    said = tags[NOTE].splitlines()
    assert said[0] == (
        f"1 run: SAM {told(OUTCOME)}. Latest run: "
        f"ρ 0.1, classifier on mnist-sample, 50 % sparse, 5 seeds. {SUMMARY['answer']}"
    )
    assert tags[NOTE].endswith(OURS)
    assert len(tags[NOTE]) < 5000
    assert len(tags[RUNS_VIEW]) < 5000
    view = json.loads(tags[RUNS_VIEW])

    tracker = Tracker(clone)
    run = tracker.find(tracker.experiment({}), "sparse_sam.kind", "pipeline")
    assert run is not None
    assert run.info.run_id in tags[NOTE]
    assert run.data.tags["answer"] == SUMMARY["answer"]
    decisive = SUMMARY["comparisons"][SUMMARY["primary"]]
    ends = (decisive["mean"], *decisive["ci95"])
    points = [f"{100 * one:+.2f}".replace("-", "−") for one in ends]
    shown = "{} points [{}, {}], corrected p ".format(*points)
    assert run.data.tags[DIFFERENCE].startswith(shown)
    p_value = float(run.data.tags[DIFFERENCE].removeprefix(shown).removeprefix("< "))
    assert p_value == pytest.approx(decisive["holm_p_value"], abs=0.001)
    assert run.data.params == {"finetune.sam.rho": "0.05", "prune.biases": "False"}
    assert run.data.metrics["test_accuracy.dense"] == 0.9428
    assert next(iter(run.data.metrics)) == "sam_vs_sgd_2x.points"
    for column in view["selectedColumns"]:
        kind, name = re.fullmatch(r"(\w+)\.`(.+)`", column).groups()
        known = {"params": run.data.params, "metrics": run.data.metrics, "tags": run.data.tags}
        own = name in known[kind]
        assert own or name.startswith(("prune.", "model.", "data.", "test_accuracy.")), column

    evaluated(clone, LATER, "ρ 0.2")
    publish(clone, clone)
    later = tags_of_the_experiment(clone)[NOTE]
    assert later.startswith(
        f"2 runs: SAM {told(OUTCOME, 'better')}. Latest run: "
        "ρ 0.2, mlpnet on digits, 3 seeds. SAM is better by 9.00"
    )


def test_what_a_person_wrote_stays(clone: Path) -> None:
    tracker = Tracker(clone)
    experiment = tracker.experiment({})
    tracker.client.set_experiment_tag(experiment, NOTE, "Our thesis.")
    evaluated(clone, as_tags(SUMMARY), "ρ 0.1")
    publish(clone, clone)
    assert tags_of_the_experiment(clone)[NOTE] == "Our thesis."


def test_an_older_run_that_comes_late_changes_nothing(clone: Path) -> None:
    evaluated(clone, as_tags(SUMMARY), "ρ 0.1")
    tracker = Tracker(clone)
    tracker.client.set_experiment_tag(tracker.experiment({}), "sparse_sam.latest", str(10**14))
    publish(clone, clone)
    assert NOTE not in tags_of_the_experiment(clone)


def test_runs_without_an_answer_are_counted_apart() -> None:
    said = counted(["better", None, "undecided", None, "worse", "better"])
    assert said == (
        "6 runs: SAM better in 2, worse in 1, equivalent in 0, undecided in 1, not told in 2."
    )


def test_no_number_has_digits_that_nobody_measured() -> None:
    assert str(as_shown(0.9427999999999999)) == "0.9428"
    assert str(as_shown(-0.0)) == "0.0"
    assert as_shown(123456789012.0) == 123456789012.0
    assert str(as_shown(float("nan"))) == "nan"
