"""A new project: whole or not there, of the files that this repository uses itself."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

import sparse_sam
from sparse_sam import new
from sparse_sam.config import REFERENCE, load_params
from sparse_sam.tracking.stages import STAGES

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = Path(sparse_sam.__file__).parent
SOURCE = "sparse-sam[pipeline,export] @ git+https://example.org/sparse-sam.git@abc"


def run(folder: Path, *command: str, fails: bool = False) -> str:
    """What a command in a project says, with this library as if it were installed."""
    foreign = ("MLFLOW_", "DVC_", "PYTEST_", "GIT_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env={**clean, "PYTHONPATH": str(LIBRARY.parent), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout + done.stderr
    assert (done.returncode != 0) == fails, said
    assert "Traceback" not in said
    return said


def everything(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
    }


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("projects") / "My digits, 2"
    new.new_project(folder, SOURCE)
    return folder


def test_every_file_of_the_template_is_there_under_its_own_name(project: Path) -> None:
    made = {name for name in everything(project) if not name.startswith(".git/")}
    for name in (
        *("params.yaml", "dvc.yaml", "gate.yaml", "README.md", "Makefile", "requirements.txt"),
        *(".gitignore", ".dvcignore", ".dvc/config", ".dvc/.gitignore", ".dvc/plots/seeds.json"),
        ".dvc/plots/page.html",
        *(".github/workflows/ci.yml", "networks.py", "tests/test_networks.py", "constraints.txt"),
    ):
        assert name in made
    assert not [name for name in made if "dot-" in name or "__pycache__" in name]
    texts = [(project / name).read_text() for name in made if (project / name).is_file()]
    assert not [text for text in texts if "{{project}}" in text or "{{library}}" in text]
    assert (project / "README.md").read_text().startswith("# My-digits-2\n")
    assert (project / "requirements.txt").read_text().splitlines()[2] == SOURCE
    assert not list(project.parent.glob(".*.tmp"))
    umask = os.umask(0)
    os.umask(umask)
    assert project.stat().st_mode & 0o777 == 0o777 & ~umask


def test_its_parameters_are_the_reference_protocol_with_a_network_of_its_own(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(project)
    own = load_params(project / "params.yaml").flat()
    reference = load_params(REFERENCE).flat()
    differing = {key for key in own if own[key] != reference[key]}
    assert own.keys() == reference.keys()
    assert differing == {"model.name", "registry.name"}
    assert (own["model.name"], own["registry.name"]) == ("networks:small", "My-digits-2")


def test_its_pipeline_is_ours_with_the_installed_stages(project: Path) -> None:
    def read(path: Path) -> Any:
        return YAML(typ="safe", pure=True).load(path)

    ours, own = read(ROOT / "dvc.yaml"), read(project / "dvc.yaml")
    for name in ("inputs", *STAGES):
        assert own["stages"][name].pop("cmd") == f"python -m sparse_sam.stages.{name}"
        del ours["stages"][name]["cmd"]
    assert own["stages"] == ours["stages"]
    assert own["plots"] == ours["plots"]


def test_its_commands_are_known_to_make_and_to_python(project: Path) -> None:
    text = (project / "Makefile").read_text() + (project / "dvc.yaml").read_text()
    modules = set(re.findall(r"python -m (sparse_sam[.\w]+)", text))
    assert len(modules) > 10
    for module in modules:
        path = LIBRARY.parent / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module
    done = subprocess.run(
        ["make", "-C", str(project), "help"], capture_output=True, text=True, check=True
    )
    for target in ("setup", "repro", "test", "check", "ui"):
        assert f"make {target} " in done.stdout


def test_its_tests_and_its_gate_pass_as_it_is(project: Path) -> None:
    said = run(project, "pytest", "-q", "-p", "no:cacheprovider")
    assert "passed" in said
    assert "there is nothing to compare" in run(project, "sparse_sam.evaluation.gate")


def test_code_of_its_own_is_hashed_beside_the_librarys(project: Path) -> None:
    file = project / "networks.py"
    text = file.read_text()

    def code(stage: str) -> dict[str, str]:
        run(project, "sparse_sam.stages.inputs")
        found: dict[str, str] = json.loads((project / f"inputs/{stage}.json").read_text())["code"]
        return found

    before = code("train_dense")
    assert {"networks", "networks:small"} <= before.keys()
    assert {"sparse_sam.training.loop", "sparse_sam.stages.train_dense"} <= before.keys()
    file.write_text(text + "\n# a remark\n")
    assert code("train_dense") == before
    file.write_text(text.replace("nn.ReLU()", "nn.Tanh()"))
    after = code("train_dense")
    file.write_text(text)
    assert {name for name in after if after[name] != before[name]} == {"networks"}


def test_its_ci_runs_what_the_makefile_has(project: Path) -> None:
    workflow = YAML(typ="safe", pure=True).load(project / ".github/workflows/ci.yml")
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    script = "\n".join(step["run"] for step in steps if "run" in step)
    for step in steps:  # a tag can be moved, a commit cannot
        assert re.search(r"@[0-9a-f]{40}$", step.get("uses", "@" + "0" * 40))
    targets = set(re.findall(r"^([a-z]+):", (project / "Makefile").read_text(), re.MULTILINE))
    asked = set(re.findall(r"make (?:--silent )?(\w+)", script))
    assert asked == {"test", "check", "repro"}
    assert asked <= targets


@pytest.mark.parametrize("name", ["work", "work/.hidden"])
def test_nothing_is_overwritten(tmp_path: Path, name: str) -> None:
    folder, file = tmp_path / "work", tmp_path / name
    folder.mkdir()
    if file == folder:
        file = folder / "thesis.txt"
    file.write_text("mine")
    before = everything(tmp_path)
    said = run(tmp_path, "sparse_sam.new", "work", fails=True)
    assert f"{folder} is not empty: it holds {file.name}. Nothing was written" in said
    assert everything(tmp_path) == before


def test_a_file_and_the_folder_one_is_in_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "here").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    before = everything(tmp_path)
    assert "is not a folder" in run(tmp_path, "sparse_sam.new", "file", fails=True)
    assert "is not a folder" in run(tmp_path, "sparse_sam.new", "link", fails=True)
    assert "is the current folder" in run(tmp_path / "here", "sparse_sam.new", ".", fails=True)
    assert everything(tmp_path) == before


def test_an_empty_folder_is_taken_and_parents_are_made(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    said = run(tmp_path, "sparse_sam.new", "empty")
    assert "cd empty && make repro" in said
    run(tmp_path, "sparse_sam.new", "a/b", "--from", "git+https://example.org/x.git")
    for name in ("empty", "a/b"):
        assert (tmp_path / name / "params.yaml").is_file()
        assert (tmp_path / name / ".git" / "HEAD").is_file()


def test_what_fails_on_the_way_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device", str(folder))

    monkeypatch.setattr(new, "_make_repository", full)
    assert new.main([str(tmp_path / "work")]) == 2
    assert list(tmp_path.iterdir()) == []


def test_what_somebody_writes_there_meanwhile_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "work"
    folder.mkdir()

    def meanwhile(_: Path) -> None:
        (folder / "thesis.txt").write_text("mine")

    monkeypatch.setattr(new, "_make_repository", meanwhile)
    assert new.main([str(folder)]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert {path.name for path in tmp_path.rglob("*")} == {"work", "thesis.txt"}


class Installed:
    """What pip remembers of an installed package."""

    version = "1.2.3"

    def __init__(self, record: Any) -> None:
        self.record = record

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return self.record and json.dumps(self.record)


@pytest.mark.parametrize(
    ("record", "line"),
    [
        (None, "==1.2.3"),
        ({"url": "file:///home/a%20b/x", "dir_info": {}}, " @ file:///home/a%20b/x"),
        ({"url": "https://e.org/x.whl", "archive_info": {}}, " @ https://e.org/x.whl"),
        (
            {"url": "https://e.org/x.git", "vcs_info": {"vcs": "git", "commit_id": "0a1b"}},
            " @ git+https://e.org/x.git@0a1b",
        ),
        (
            {
                "url": "https://e.org/x.git",
                "vcs_info": {"vcs": "git", "commit_id": "0a1b"},
                "subdirectory": "lib",
            },
            " @ git+https://e.org/x.git@0a1b#subdirectory=lib",
        ),
    ],
)
def test_an_installed_library_is_installed_from_where_it_came(
    record: Any, line: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    site = tmp_path / "lib" / "site-packages" / "sparse_sam" / "new.py"
    monkeypatch.setattr(new, "__file__", str(site))
    monkeypatch.setattr(new, "distribution", lambda _: Installed(record))
    assert new.requirement() == f"sparse-sam[pipeline,export]{line}"


def test_a_clone_is_named_as_a_folder_and_anything_else_is_refused(tmp_path: Path) -> None:
    clone = f"sparse-sam[pipeline,export] @ {ROOT.as_uri()}"
    assert new.requirement() == clone
    assert new.requirement(str(ROOT)) == clone
    said = run(tmp_path, "sparse_sam.new", "work", "--from", "nowhere", fails=True)
    assert "nowhere is neither a clone of sparse-sam nor a URL" in said
    url = "git+https://ann:Tr0ub4dor@example.org/x.git"
    said = run(tmp_path, "sparse_sam.new", "work", "--from", url, fails=True)
    assert "holds a login" in said
    assert "Tr0ub" not in said
    assert list(tmp_path.iterdir()) == []


def test_the_wheel_has_every_file_of_the_template() -> None:
    code = (
        "import json, sys\n"
        "from setuptools import Distribution\n"
        "made = Distribution()\n"
        "made.parse_config_files(['pyproject.toml'])\n"
        "command = made.get_command_obj('build_py')\n"
        "command.package_dir = {'': 'src'}\n"
        "command.package_data = made.package_data\n"
        "command.exclude_package_data = {}\n"
        "command.manifest_files = {}\n"
        "found = command.find_data_files('sparse_sam', 'src/sparse_sam')\n"
        "json.dump(sorted(found), sys.stdout)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    packed = set(json.loads(done.stdout))
    files = {source.relative_to(ROOT).as_posix() for source, _ in new._files()}
    assert len(files) > 15
    assert files <= packed
