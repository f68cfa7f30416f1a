"""The regression gate, in real git repositories."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sparse_sam
from sparse_sam.evaluation.gate import RULES, load_rules

ROOT = Path(__file__).resolve().parents[2]
VALUES = [0.950, 0.954, 0.952, 0.948, 0.946]
# Variance of VALUES by hand: deviations 0, 4, 2, -2, -4 thousandths: 40 / 4 = 10 millionths. The
# difference of two such means has the standard error sqrt(2 · 10 / 5) = 2 thousandths.
NOISE = 0.002
GATE = """
metrics:
  - {file: metrics/summary.json, metric: arms.*.accuracy, better: higher, noise: 2}
  - {file: metrics/summary.json, metric: arms.*.gradient_evaluations, better: lower, absolute: 5}
"""


def summary(shift: float = 0.0, evaluations: int = 100) -> dict[str, Any]:
    values = [value + shift for value in VALUES]
    accuracy = {"mean": sum(values) / 5, "values": values}
    sgd = {"accuracy": {"mean": sum(VALUES) / 5, "values": VALUES}, "gradient_evaluations": 100}
    return {
        "arms": {"sgd": sgd, "sam": {"accuracy": accuracy, "gradient_evaluations": evaluations}}
    }


class Repository:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.git("init", "-q", "-b", "main")
        (path / "gate.yaml").write_text(GATE)
        self.write(summary())
        self.commit()

    def git(self, *arguments: str) -> str:
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.com"]
        done = subprocess.run(
            ["git", *identity, *arguments],
            cwd=self.path,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    def write(self, content: Any) -> None:
        path = self.path / "metrics" / "summary.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))

    def commit(self) -> None:
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", "metrics")

    def gate(self, *arguments: str) -> tuple[int, str]:
        library = str(Path(sparse_sam.__file__).parent.parent)
        done = subprocess.run(
            [sys.executable, "-m", "sparse_sam.evaluation.gate", *arguments],
            cwd=self.path,
            env=os.environ | {"PYTHONPATH": library},
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    repository = Repository(tmp_path)
    repository.git("checkout", "-q", "-b", "change")
    repository.commit()
    return repository


def row(output: str, metric: str) -> list[str]:
    (line,) = [line for line in output.splitlines() if f" {metric} |" in line]
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize(
    ("shift", "code", "outcome"),
    [
        (0.0, 0, "same"),
        (-1.9 * NOISE, 0, "within"),
        (1.9 * NOISE, 0, "within"),
        (-3 * NOISE, 1, "WORSE"),
        (3 * NOISE, 0, "better"),
    ],
)
def test_a_change_is_measured_in_noise(
    repository: Repository, shift: float, code: int, outcome: str
) -> None:
    repository.write(summary(shift))
    returned, output = repository.gate()
    assert returned == code, output
    cells = row(output, "metrics/summary.json: arms.sam.accuracy")
    assert cells[-1] == outcome
    assert math.isclose(float(cells[-2]), 2 * NOISE, rel_tol=1e-4)
    assert row(output, "metrics/summary.json: arms.sgd.accuracy")[-1] == "same"


@pytest.mark.parametrize(
    ("evaluations", "code", "outcome"), [(105, 0, "within"), (106, 1, "WORSE"), (90, 0, "better")]
)
def test_lower_may_be_better(
    repository: Repository, evaluations: int, code: int, outcome: str
) -> None:
    repository.write(summary(evaluations=evaluations))
    returned, output = repository.gate()
    assert returned == code
    metric = "metrics/summary.json: arms.sam.gradient_evaluations"
    assert row(output, metric)[-1] == outcome


def without_sam(content: dict[str, Any]) -> dict[str, Any]:
    del content["arms"]["sam"]
    return content


def test_a_metric_that_is_missing_now_fails(repository: Repository) -> None:
    repository.write(without_sam(summary()))
    returned, output = repository.gate()
    assert returned == 1
    assert row(output, "metrics/summary.json: arms.sam.accuracy")[-1] == "MISSING"
    (repository.path / "metrics" / "summary.json").unlink()
    assert repository.gate()[0] == 1


def test_a_metric_that_the_base_does_not_have_fails(repository: Repository) -> None:
    repository.git("checkout", "-q", "main")
    repository.write(without_sam(summary()))
    repository.commit()
    repository.git("checkout", "-q", "-b", "later")
    repository.write(summary())
    repository.commit()
    returned, output = repository.gate()
    assert returned == 1
    assert row(output, "metrics/summary.json: arms.sam.accuracy")[-1] == "MISSING"


def test_a_value_that_is_no_number_is_missing(repository: Repository) -> None:
    content = summary()
    content["arms"]["sam"]["gradient_evaluations"] = None
    repository.write(content)
    assert repository.gate()[0] == 1


def test_a_metric_that_was_not_measured_is_missing_and_says_why(repository: Repository) -> None:
    content = summary()
    content["arms"]["sam"]["gradient_evaluations"] = {"not_measured": "a | b"}
    repository.write(content)
    code, output = repository.gate("--base", "HEAD")
    assert code == 1
    name = "metrics/summary.json: arms.sam.gradient_evaluations (not measured: a \\| b)"
    assert f"| {name} | 100 |  |  |  | MISSING |" in output


def test_the_base_is_where_the_branch_left(repository: Repository) -> None:
    repository.git("checkout", "-q", "main")
    repository.write(summary(10 * NOISE))  # main goes on, and this branch does not have it
    repository.commit()
    repository.git("checkout", "-q", "change")
    assert repository.gate()[0] == 0
    assert repository.gate("--base", "main")[0] == 1
    repository.git("checkout", "-q", "main")  # here the base is the commit before
    returned, output = repository.gate()
    assert returned == 0
    assert row(output, "metrics/summary.json: arms.sam.accuracy")[-1] == "better"


def test_the_table_can_be_written_to_a_file(repository: Repository, tmp_path: Path) -> None:
    _, output = repository.gate("--output", "table.md")
    assert (tmp_path / "table.md").read_text() == output


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "gate.yaml is missing"),
        ("metrics: [", "not valid YAML"),
        ("metrics: []", "metrics = "),
        ("metrics: [{file: a, metric: b, better: higher}]", "a tolerance is needed"),
        ("metrics: [{file: a, metric: b, better: more, absolute: 1}]", "metrics.0.better = 'more'"),
        ("metrics: [{file: a, metric: b, better: lower, noise: -1}]", "metrics.0.noise"),
        (
            GATE.replace("absolute: 5", "noise: 1"),
            "noise needs the values of two or more seeds",
        ),
    ],
)
def test_a_broken_rule_is_named(repository: Repository, content: str | None, said: str) -> None:
    path = repository.path / "gate.yaml"
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    returned, output = repository.gate()
    assert returned == 2
    assert said in output


def test_an_unknown_base_is_named(repository: Repository) -> None:
    returned, output = repository.gate("--base", "nowhere")
    assert returned == 2
    assert "--base nowhere: git knows no such revision" in output


def test_our_own_rules_find_their_metrics() -> None:
    make: Callable[[str], Any] = lambda file: json.loads((ROOT / file).read_text())  # noqa: E731
    from sparse_sam.evaluation.gate import compare_metrics

    rules = load_rules(ROOT / RULES)
    contents = {rule.file: make(rule.file) for rule in rules.metrics}
    rows = compare_metrics(rules, contents, contents)
    assert len(rows) == 4 * 5
    assert {found.outcome for found in rows} == {"same"}
