"""What docs/robustness.md promises about the code as a whole."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CODE = sorted((ROOT / "src").rglob("*.py"))
UNPICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
# They unpickle unless they are told not to, or run what they are given.
CALLS = {"torch.load", "numpy.load", "np.load", "pd.read_pickle", "eval", "exec"}


# Processes of one training hand each other work and results: what a file holds never gets there.
ALLOWED = {
    "src/sparse_sam/training/jobs.py": {"pickle.dumps"},
    "src/sparse_sam/training/worker.py": {"pickle.loads"},
    "src/sparse_sam/training/cores.py": {"joblib.cpu_count"},
    "src/sparse_sam/files/weights.py": {"pickle.UnpicklingError"},
}

# Where a package is known that another could take the place of: a room, or a module.
KNOWN_BY = {
    "mlflow": "src/sparse_sam/tracking/mlflow_store.py",
    "torchvision": "src/sparse_sam/files/with_torchvision.py",
    "safetensors": "src/sparse_sam/files/",
    "onnx": "src/sparse_sam/export/onnxfile.py",
    "onnxruntime": "src/sparse_sam/export/onnxfile.py",
    "ray": "src/sparse_sam/training/on_ray.py",
}


def name_of(path: Path) -> str:
    """A file of this repository, as the tables above name it."""
    return path.relative_to(ROOT).as_posix()


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name.split(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


def used(tree: ast.AST) -> set[str]:
    """What of the modules that unpickle is imported or called, by dotted names."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in UNPICKLERS:
            names |= {f"{node.module}.{name.name}" for name in node.names}
        elif isinstance(node, ast.Attribute):
            names |= {ast.unparse(node)} if ast.unparse(node.value) in UNPICKLERS else set()
        elif isinstance(node, ast.Import):
            # Under another name, or as a part, nothing of it could be recognised.
            parts = [one for one in node.names if one.name.split(".")[0] in UNPICKLERS]
            names |= {
                f"{one.name} as {one.asname}" for one in parts if one.asname or "." in one.name
            }
    return names


@pytest.mark.parametrize("path", CODE, ids=name_of)
def test_nothing_is_unpickled(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert used(tree) == ALLOWED.get(name_of(path), set())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    called = {ast.unparse(node.func) for node in calls if not is_safe(node)}
    assert not CALLS & called


def is_safe(call: ast.Call) -> bool:
    """Whether a reader is told, in so many words, to unpickle nothing but tensors and numbers."""
    given = {one.arg: ast.unparse(one.value) for one in call.keywords}
    said = {"torch.load": ("weights_only", "True"), "np.load": ("allow_pickle", "False")}
    key, value = said.get(ast.unparse(call.func), ("", ""))
    return given.get(key) == value


@pytest.mark.parametrize(
    ("code", "safe"),
    [
        ("torch.load(path)", False),
        ("torch.load(path, weights_only=False)", False),
        ("torch.load(path, weights_only=not careful)", False),
        ("torch.load(path, weights_only=True)", True),
        ("np.load(path)", False),
        ("np.load(path, allow_pickle=True)", False),
        ("np.load(path, allow_pickle=False)", True),
        ("eval(code)", False),
    ],
)
def test_a_reader_is_safe_only_if_it_says_so(code: str, safe: bool) -> None:
    (call,) = (node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call))
    assert is_safe(call) == safe


def test_what_unpickles_is_where_it_is_allowed() -> None:
    assert set(ALLOWED) <= set(map(name_of, CODE))


@pytest.mark.parametrize(("package", "place"), KNOWN_BY.items())
def test_a_package_is_known_in_one_place_only(package: str, place: str) -> None:
    knows = [name_of(path) for path in CODE if package in imported(ast.parse(path.read_text()))]
    assert knows
    assert [name for name in knows if not name.startswith(place)] == []
