"""Which stage runs belong together: every order that a person may start stages in."""

import multiprocessing
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from sparse_sam.config import REFERENCE, load_params
from sparse_sam.tracking.journal import Journal, Status, read_events
from sparse_sam.tracking.pipelines import (
    enter_all,
    journals,
    pipeline_content,
    place,
    repository_root,
    started_at,
    workspace_content,
)
from sparse_sam.tracking.stage_run import open_journal
from sparse_sam.tracking.stages import STAGES

PARAMS: dict[str, Any] = {"rho": 0.05}


class Clone:
    """A clone in which stages can be run without doing anything."""

    def __init__(self, root: Path, workspace: Path | None = None) -> None:
        self.root, self.workspace = root, workspace or root

    def copy(self, name: str) -> "Clone":
        """What an experiment works in: a copy whose tracking goes to the clone."""
        workspace = self.root / ".dvc" / "tmp" / name
        shutil.copytree(self.root / "runs", workspace / "runs")
        return Clone(self.root, workspace)

    def run(
        self,
        *stages: str,
        params: dict[str, Any] = PARAMS,
        status: Status = "FINISHED",
        made_by: dict[str, str] | None = None,
    ) -> Path:
        for stage in stages:
            with place(self.root, stage, params, self.workspace, made_by or {}, {}) as path:
                journal = Journal(path, stage=stage, params=params, tags={}, launcher={})
            journal.end(status)
            if status == "FINISHED":
                (self.workspace / "runs").mkdir(exist_ok=True)
                shutil.copy(path, self.workspace / "runs" / f"{stage}.jsonl")
        return path.parent

    def pipelines(self) -> list[Path]:
        return sorted((self.root / ".sparse-sam" / "pipelines").iterdir())


def names(pipeline: Path) -> list[str]:
    """The journals of a pipeline, cached ones marked."""
    return [
        path.name.split(".")[0] + ("*" if read_events(path)[0].get("cached") else "")
        for path in journals(pipeline)
    ]


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


def test_the_stages_of_one_repro_are_one_pipeline(clone: Clone) -> None:
    clone.run(*STAGES)
    (pipeline,) = clone.pipelines()
    assert names(pipeline) == list(STAGES)


def test_a_second_repro_of_everything_is_a_second_pipeline(clone: Clone) -> None:
    clone.run(*STAGES)
    clone.run(*STAGES)
    assert [names(pipeline) for pipeline in clone.pipelines()] == [list(STAGES)] * 2


def test_changed_params_enter_what_was_not_run_as_cached(clone: Clone) -> None:
    clone.run(*STAGES)
    clone.run("finetune_sam", "evaluate", params={"rho": 0.1})
    assert names(clone.pipelines()[1]) == [
        "download*",
        "train_dense*",
        "prune*",
        "finetune_sgd*",
        "finetune_sam",
        "evaluate",
    ]


def test_changed_code_of_a_late_stage_is_a_new_pipeline_of_the_same_params(clone: Clone) -> None:
    clone.run(*STAGES)
    second = clone.run("finetune_sam", "evaluate")
    assert len(clone.pipelines()) == 2
    assert names(second)[-2:] == ["finetune_sam", "evaluate"]


def test_a_failed_stage_that_is_run_again_stays_in_its_pipeline(clone: Clone) -> None:
    clone.run("download")
    clone.run("train_dense", status="FAILED")
    clone.run("train_dense", "prune")
    (pipeline,) = clone.pipelines()
    assert names(pipeline) == ["download", "train_dense", "train_dense", "prune"]


def test_a_stage_alone_does_not_get_into_the_next_repro(clone: Clone) -> None:
    clone.run(*STAGES)
    clone.run("prune")
    clone.run(*STAGES)
    assert [names(pipeline) for pipeline in clone.pipelines()] == [
        list(STAGES),
        ["download*", "train_dense*", "prune"],
        list(STAGES),
    ]


def test_a_stage_does_not_join_stages_that_did_not_make_its_inputs(clone: Clone) -> None:
    clone.run("download", "train_dense")
    clone.run("download", "train_dense", params={"rho": 0.1})  # other inputs lie in the workspace
    third = clone.run("prune")
    assert len(clone.pipelines()) == 3
    assert names(third) == ["download*", "train_dense*", "prune"]


def test_experiments_of_equal_params_are_kept_apart(clone: Clone) -> None:
    clone.run(*STAGES)
    first, second = clone.copy("a"), clone.copy("b")
    one = first.run("finetune_sam", made_by={"experiment": "a"})
    two = second.run("finetune_sam", made_by={"experiment": "b"})
    one_again = first.run("evaluate", made_by={"experiment": "a"})
    assert one == one_again != two
    assert len(clone.pipelines()) == 3


def test_results_have_one_name_wherever_they_lie(clone: Clone, tmp_path: Path) -> None:
    assert workspace_content(clone.root) is None
    pipeline = clone.run(*STAGES)
    assert pipeline_content(pipeline) == workspace_content(clone.root) is not None
    pulled = tmp_path / "other clone"
    shutil.copytree(clone.root / "runs", pulled / "runs")
    assert workspace_content(pulled) == workspace_content(clone.root)
    entered = enter_all(pulled, PARAMS, pulled, {}, {})
    assert pipeline_content(entered) == workspace_content(clone.root)
    assert names(entered) == [f"{stage}*" for stage in STAGES]
    clone.run("evaluate")
    assert workspace_content(pulled) != workspace_content(clone.root)


def test_a_cached_stage_has_an_identity_of_its_own_in_every_pipeline(clone: Clone) -> None:
    clone.run(*STAGES)
    clone.run("finetune_sam", params={"rho": 0.1})
    clone.run("finetune_sam", params={"rho": 0.2})
    starts = [read_events(path)[0] for folder in clone.pipelines() for path in journals(folder)]
    assert len({start["run"] for start in starts}) == len(starts) == 6 + 4 + 4
    sources = {start.get("source_run", start["run"]) for start in starts}
    assert len(sources) == 6 + 2


def test_the_folder_says_when_the_pipeline_began(clone: Clone) -> None:
    pipeline = clone.run("download")
    began = read_events(journals(pipeline)[0])[0]["time"]
    assert 0 <= began - started_at(pipeline) < 5_000


def test_an_experiment_in_a_copy_works_for_the_clone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DVC_ROOT", raising=False)
    (tmp_path / ".dvc").mkdir()
    inner = tmp_path / "stages"
    inner.mkdir()
    monkeypatch.chdir(inner)
    assert repository_root() == tmp_path
    monkeypatch.setenv("DVC_ROOT", "/somewhere/else")
    assert repository_root() == Path("/somewhere/else")


def test_equal_stages_that_start_at_once_have_journals_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPARSE_SAM_PUBLISH", "later")
    monkeypatch.delenv("DVC_ROOT", raising=False)
    params = load_params(REFERENCE)
    rounds, together = 10, 3
    context = multiprocessing.get_context("fork")
    barrier, paths = context.Barrier(together), context.SimpleQueue()

    def stage() -> None:
        for _ in range(rounds):
            barrier.wait(60)
            journal, _ = open_journal("download", params)
            journal.metrics({"images": os.getpid()})
            journal.end("FINISHED")
            paths.put((os.getpid(), journal.path))

    processes = [context.Process(target=stage) for _ in range(together)]
    for process in processes:
        process.start()
    found = [paths.get() for _ in range(rounds * together)]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert len({path for _, path in found}) == len(found)
    for writer, path in found:
        start, metrics, end = read_events(path)
        assert (start["event"], end["event"]) == ("start", "end")
        assert metrics["values"]["images"] == writer


def test_a_journal_that_is_deleted_makes_no_room_for_two_of_one_name(clone: Clone) -> None:
    for _ in range(3):
        clone.run("download", status="FAILED")
    (pipeline,) = clone.pipelines()
    journals(pipeline)[0].unlink()
    clone.run("download")
    left = [path.name for path in journals(pipeline)]
    assert left == ["download.1.jsonl", "download.2.jsonl", "download.3.jsonl"]
