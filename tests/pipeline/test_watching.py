"""Real stages on a real terminal, and in a pipe."""

import re
import sys

import pytest

from tests.pipeline.conftest import LATER, Clone
from tests.watching import watched

pytestmark = pytest.mark.pipeline


def on_a_terminal(clone: Clone, stage: str) -> str:
    env = {"PYTHONPATH": str(clone.path / "src"), **LATER}
    code, said = watched([sys.executable, "-m", f"stages.{stage}"], clone.path, env)
    assert code == 0, said
    return re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", said)


def test_a_stage_says_which_of_six_it_is_and_what_it_does(clone: Clone) -> None:
    before = clone.hashes("models/pruned/*")
    said = on_a_terminal(clone, "prune")
    assert "[3/6] prune  starting" in said
    assert re.search(r"\[3/6\] prune  pruning .*0 of 2 networks", said)  # which takes no time here
    assert re.search(r"\n?\[3/6\] prune  done in \d+ s\n$", said)
    assert clone.hashes("models/pruned/*") == before


def test_evaluation_says_what_it_measures(clone: Clone) -> None:
    said = on_a_terminal(clone, "evaluate")
    for doing in (  # seed 2 may take less time here than a line stays
        *("testing", "comparing the arms", "measuring flatness, seed 1 of 2"),
        *("measuring sizes and latency", "writing the report"),
    ):
        assert f"[6/6] evaluate  {doing}" in said


def test_in_a_pipe_a_stage_writes_a_few_plain_lines(clone: Clone) -> None:
    done = clone.run("python", "-m", "stages.prune", **LATER)
    assert [re.sub(r"in .*", "in …", line) for line in done.stdout.splitlines()] == [
        "[3/6] prune: pruning, 2 networks",
        "[3/6] prune: done in …",
    ]
    assert done.stderr == ""
