"""What `make repro` would run, in plain words."""

import json
from collections.abc import Callable

import pytest

from sparse_sam.stages.status import in_words
from tests.pipeline.conftest import Clone

STAGES = ["download", "train_dense", "prune"]


@pytest.mark.parametrize("found", [{}, {"download": []}])
def test_what_is_up_to_date_is_one_line(found: dict[str, list[str]]) -> None:
    said = in_words(found, STAGES)
    assert said == "Nothing is out of date: `make repro` would run no stage.\n"


def test_each_stale_stage_has_a_line_with_its_reasons() -> None:
    found = json.loads("""{
        "train_dense": [
            {"changed deps": {"inputs/train_dense.json": "modified",
                              "params.yaml": {"seeds": "modified", "train_dense.lr": "new"}}},
            {"changed outs": {"models/dense": "not in cache"}},
            "changed command"
        ],
        "download": [{"changed outs": {"a": "deleted", "b": "deleted", "c": "deleted"}}]
    }""")
    reasons = (
        "its code, packages or files changed; its entry in dvc.yaml changed; "
        "seeds and train_dense.lr changed in params.yaml; models/dense is missing"
    )
    assert in_words(found, STAGES).splitlines() == [
        "`make repro` would run 2 of 3 stages:",
        "  download, because a, b and 1 more are missing",
        f"  train_dense, because {reasons}",
        "Later stages run too if what they read changes.",
    ]


def test_a_clone_where_nothing_ran_would_run_everything(make_clone: Callable[..., Clone]) -> None:
    clone = make_clone()
    clone.run("python", "-m", "stages.inputs")
    said = clone.run("python", "-m", "stages.status").stdout
    assert said.startswith("`make repro` would run all 6 stages:\n  download, because ")
    assert said.count("\n") == 7
    verbose = clone.run("python", "-m", "stages.status", "--verbose").stdout
    assert verbose.startswith(f"{said}\n")
    assert "changed outs:" in verbose
