"""The regression gate, in real git repositories."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import sparse_sam
from tests.watching import watched

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


def test_rules_that_a_change_takes_away_are_shown(repository: Repository) -> None:
    assert "rules of the base" not in repository.gate()[1]
    page = repository.path / "gate.yaml"
    page.write_text(GATE.replace("noise: 2", "noise: 200") + "# A remark.\n")
    returned, output = repository.gate("--base", "main")
    assert returned == 0
    assert "changes or removes rules of the base" in output
    assert "- metrics/summary.json: arms.*.accuracy, higher, noise 2\n" in output
    assert "gradient_evaluations, lower" not in output
    page.write_text(GATE + "# A remark.\n")
    assert "rules of the base" not in repository.gate()[1]


@pytest.mark.parametrize(
    ("shift", "code", "outcome"),
    [
        (0.0, 0, "unchanged"),
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
    assert row(output, "metrics/summary.json: arms.sgd.accuracy")[-1] == "unchanged"


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


@pytest.mark.parametrize(
    ("evaluations", "code", "outcome"),
    [(100, 0, "unchanged"), (105, 0, "within"), (106, 1, "WORSE"), (90, 0, "changed")],
)
def test_a_cost_that_falls_is_changed_and_not_better(
    repository: Repository, evaluations: int, code: int, outcome: str
) -> None:
    rules = GATE.replace("absolute: 5", "absolute: 5, cost: true")
    (repository.path / "gate.yaml").write_text(rules)
    repository.write(summary(evaluations=evaluations))
    returned, output = repository.gate()
    assert returned == code
    metric = "metrics/summary.json: arms.sam.gradient_evaluations"
    assert row(output, metric)[-1] == outcome
    assert "0 better" in output
    assert ("1 changed" in output) == (outcome == "changed")


def on_a_terminal(repository: Repository, **env: str) -> str:
    """What the gate says there."""
    command = [sys.executable, "-m", "sparse_sam.evaluation.gate"]
    return watched(command, repository.path, env)[1]


def test_on_a_terminal_the_columns_line_up(repository: Repository) -> None:
    repository.write(summary(-3 * NOISE))
    plain = on_a_terminal(repository, NO_COLOR="1")
    assert "|" not in plain
    assert "**" not in plain
    assert "\x1b" not in plain
    lines = plain.splitlines()
    assert lines[0].startswith("Metrics against ")
    assert lines[2].split() == ["metric", "base", "now", "change", "tolerance"]
    assert lines[4] == "metrics/summary.json"
    # What fails comes first, and every number ends where its heading does.
    assert lines[5].split()[0] == "arms.sam.accuracy"
    assert lines[5].endswith("  WORSE")
    for line in lines[5:]:
        for heading in ("base", "now", "change", "tolerance"):
            end = lines[2].index(heading) + len(heading)
            assert line[end - 1] != " "
            assert line[end : end + 1] in {" ", ""}
    coloured = on_a_terminal(repository)
    assert f"\x1b[1;31m{lines[5]}\x1b[0m" in coloured
    assert repository.gate()[1].startswith("**Metrics against ")
    assert "\x1b" not in repository.gate()[1]


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


def test_a_seed_that_collapsed_does_not_widen_what_is_allowed(repository: Repository) -> None:
    content = summary()
    values = [*VALUES[:4], 0.1]
    content["arms"]["sam"]["accuracy"] = {"mean": sum(values) / 5, "values": values}
    repository.write(content)
    returned, output = repository.gate()
    assert returned == 1
    cells = row(output, "metrics/summary.json: arms.sam.accuracy")
    assert (float(cells[-2]), cells[-1]) == (pytest.approx(2 * NOISE), "WORSE")


def test_on_the_main_branch_uncommitted_results_are_compared_with_the_last_commit(
    repository: Repository,
) -> None:
    repository.git("checkout", "-q", "main")
    repository.write(summary(10 * NOISE))
    repository.commit()
    repository.write(summary(5 * NOISE))  # better than HEAD^, worse than HEAD
    returned, output = repository.gate()
    assert returned == 1
    assert row(output, "metrics/summary.json: arms.sam.accuracy")[-1] == "WORSE"
    repository.commit()
    assert repository.gate()[0] == 1
    assert repository.gate("--base", "HEAD~2")[0] == 0


def test_what_cannot_be_compared_is_said(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = summary()
    content["arms"]["sam"]["accuracy"]["values"][0] = None
    repository.write(content)
    returned, output = repository.gate()
    assert returned == 2
    assert "arms.sam.accuracy of the workspace has [None, " in output
    page = repository.path / "metrics" / "summary.json"
    page.write_text("{")
    repository.commit()
    repository.write(summary())
    returned, output = repository.gate("--base", "HEAD")
    assert returned == 2
    assert "metrics/summary.json of " in output
    assert " is damaged (" in output
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    returned, output = repository.gate()
    assert returned == 2
    assert "git cannot be run" in output


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
            "noise needs values of two or more seeds",
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
    assert "--base nowhere: git does not know this revision" in output


# What results are of

DATA, OTHER = "a" * 64, "b" * 64


def write_subject(
    repository: Repository, data: str = DATA, source: str = "mnist", network: str = "lenet-5"
) -> None:
    """Results, and what they are of; a larger network has more multiply-adds."""
    folder = repository.path / "metrics"
    name, _, size = network.partition("*")
    repository.write({**summary(), "dataset": source, "model": name})
    download = {"source": source, "fingerprint": data}
    (folder / "download.json").write_text(json.dumps(download))
    work = {"multiply_adds": {"dense": int(size or 1000)}}
    (folder / "compression.json").write_text(json.dumps(work))


@pytest.fixture
def of_data(tmp_path: Path) -> Repository:
    """A repository whose base says what its results are of."""
    repository = Repository(tmp_path)
    write_subject(repository)
    repository.commit()
    repository.git("checkout", "-q", "-b", "change")
    repository.commit()
    return repository


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data": OTHER}, f"of other data: mnist, {OTHER} (the base's: mnist, {DATA})"),
        ({"source": "idx"}, f"of other data: idx, {DATA} (the base's: mnist, {DATA})"),
        ({"network": "lab.nets:mine"}, "of another network: lab.nets:mine (1000 multiply-adds)"),
        ({"network": "lenet-5*2000"}, "of another network: lenet-5 (2000 multiply-adds)"),
    ],
)
def test_results_of_something_else_are_refused_and_accepted_on_purpose(
    of_data: Repository, change: dict[str, str], said: str
) -> None:
    assert of_data.gate()[0] == 0
    write_subject(of_data, **change)
    returned, output = of_data.gate()
    assert returned == 2
    assert output.startswith("error: these results cannot be compared with those of ")
    assert said in output
    assert "gate.yaml" in output
    # What the refusal says is what is to be written there, and no more.
    asked = output.partition("accept:\n")[2]
    assert ("data:" in asked, "network:" in asked) == ("network" not in change, "network" in change)
    rules = of_data.path / "gate.yaml"
    rules.write_text(f"{GATE}accept:{output.partition('accept:')[2]}")
    returned, output = of_data.gate()
    assert returned == 0, output
    assert row(output, "metrics/summary.json: arms.sam.accuracy")[-1] == "new"
    # Only that: something else again is refused.
    write_subject(of_data, data="c" * 64, network="lab.nets:third")
    assert of_data.gate()[0] == 2
    # Once it is the base, results of it are compared with it, and fall as others do.
    write_subject(of_data, **change)
    of_data.commit()
    of_data.git("checkout", "-q", "-B", "main")
    of_data.git("checkout", "-q", "-b", "later")
    of_data.commit()
    assert row(of_data.gate()[1], "metrics/summary.json: arms.sam.accuracy")[-1] == "unchanged"
    path = of_data.path / "metrics" / "summary.json"
    worse = json.loads(path.read_text()) | {"arms": summary(-3 * NOISE)["arms"]}
    path.write_text(json.dumps(worse))
    assert of_data.gate()[0] == 1


def test_data_and_network_are_accepted_each_by_itself(of_data: Repository) -> None:
    write_subject(of_data, data=OTHER, network="lab.nets:mine")
    (of_data.path / "gate.yaml").write_text(f"{GATE}accept: {{data: {OTHER}}}\n")
    returned, output = of_data.gate()
    assert returned == 2
    assert "other data" not in output
    assert "of another network: lab.nets:mine" in output


def test_what_is_accepted_must_not_be_missing_a_metric(of_data: Repository) -> None:
    write_subject(of_data, data=OTHER)
    (of_data.path / "gate.yaml").write_text(f"{GATE}accept: {{data: {OTHER}}}\n")
    path = of_data.path / "metrics" / "summary.json"
    path.write_text(json.dumps(without_sam(json.loads(path.read_text()))))
    returned, output = of_data.gate()
    assert returned == 1
    assert row(output, "metrics/summary.json: arms.sam.accuracy")[-1] == "MISSING"


def test_results_that_no_longer_say_what_they_are_of_are_refused(of_data: Repository) -> None:
    (of_data.path / "metrics" / "download.json").unlink()
    returned, output = of_data.gate()
    assert returned == 2
    assert "of other data: mnist, ?" in output


def test_a_size_that_was_not_measured_is_no_other_network(of_data: Repository) -> None:
    page = of_data.path / "metrics" / "compression.json"
    page.write_text(json.dumps({"multiply_adds": {"not_measured": "another operator"}}))
    assert of_data.gate()[0] == 0
    page.unlink()
    returned, output = of_data.gate()
    assert returned == 0
    assert row(output, "metrics/summary.json: arms.sam.accuracy")[-1] == "unchanged"
    of_data.commit()
    write_subject(of_data)
    assert of_data.gate("--base", "HEAD")[0] == 0
    write_subject(of_data, network="lab.nets:mine")
    page.unlink()
    returned, output = of_data.gate()
    assert returned == 2
    assert "of another network: lab.nets:mine (the base's: lenet-5 (1000 multiply-adds))" in output


def test_an_unknown_key_to_accept_is_named(repository: Repository) -> None:
    (repository.path / "gate.yaml").write_text(f"{GATE}accept: {{dta: x}}\n")
    returned, output = repository.gate()
    assert returned == 2
    assert "gate.yaml: accept.dta = 'x'" in output


# The first results


@pytest.fixture
def empty(tmp_path: Path) -> Repository:
    """A repository as a new project is: no results, and no commit."""
    repository = Repository.__new__(Repository)
    repository.path = tmp_path
    repository.git("init", "-q", "-b", "main")
    (tmp_path / "gate.yaml").write_text(GATE)
    return repository


def test_the_first_results_pass_in_every_state_of_a_new_repository(empty: Repository) -> None:
    assert empty.gate() == (
        0,
        "**No results, here or in no commit: there is nothing to compare.**\n",
    )
    write_subject(empty)
    outcomes = []
    for _ in range(3):  # before a commit, in the first, and in the second
        returned, output = empty.gate()
        assert returned == 0, output
        outcomes.append(row(output, "metrics/summary.json: arms.sam.accuracy")[-1])
        empty.commit()
    assert outcomes == ["new", "new", "unchanged"]


def test_first_results_that_lack_a_metric_fail(empty: Repository) -> None:
    write_subject(empty)
    (empty.path / "gate.yaml").write_text(GATE.replace("arms.*.accuracy", "arms.*.precision"))
    returned, output = empty.gate()
    assert returned == 1
    assert row(output, "metrics/summary.json: arms.*.precision")[-1] == "MISSING"


def test_what_git_has_lost_of_the_base_is_no_new_result(repository: Repository) -> None:
    """As in a clone without blobs whose origin is gone: worse results would pass as new ones."""
    blob = repository.git("rev-parse", "main:metrics/summary.json")
    (repository.path / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    repository.write(summary(shift=-0.1))
    returned, output = repository.gate("--base", "main")
    assert returned == 2
    assert "git does not give metrics/summary.json of" in output


def test_in_a_clone_that_was_cut_the_first_commit_is_no_first_one(
    of_data: Repository, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cut = tmp_path_factory.mktemp("cut") / "clone"
    of_data.git("checkout", "-q", "main")
    of_data.git("clone", "-q", "--depth", "1", f"file://{of_data.path}", str(cut))
    shallow = Repository.__new__(Repository)
    shallow.path = cut
    returned, output = shallow.gate()
    assert returned == 2
    assert "there is no base revision to compare with" in output
