"""What docs/robustness.md promises about the code as a whole."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CODE = sorted([*(ROOT / "src").rglob("*.py"), *(ROOT / "stages").rglob("*.py")])
UNPICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
# They unpickle unless they are told not to, or run what they are given.
CALLS = {"torch.load", "numpy.load", "np.load", "pd.read_pickle", "eval", "exec"}


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name.split(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("path", CODE, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_is_unpickled(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert not UNPICKLERS & set(imported(tree))
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert not CALLS & called


def test_only_two_modules_know_mlflow_and_one_knows_onnx() -> None:
    knows: dict[str, set[str]] = {}
    for path in CODE:
        for package in imported(ast.parse(path.read_text())):
            knows.setdefault(package, set()).add(path.name)
    assert knows["mlflow"] == {"tracking.py", "registry.py"}
    assert knows["onnxruntime"] | knows["onnx"] == {"onnxfile.py"}


def test_the_ui_is_bound_to_loopback() -> None:
    done = subprocess.run(
        ["make", "-n", "ui", "READY=none"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert re.search(r"mlflow ui .*--host 127\.0\.0\.1 ", done.stdout.replace("\\\n", ""))
