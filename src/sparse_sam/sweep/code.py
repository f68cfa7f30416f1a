"""Which version of the code computes a cell: a hash over the files that its numbers depend on."""

import ast
import hashlib
import importlib.util
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path

import sparse_sam
from sparse_sam.config import MODEL_NAMES

_PACKAGE = Path(sparse_sam.__file__).parent
_ROOT = "sparse_sam.sweep.compute"
# They check, name or write, and make no number. (config has no defaults: every value that it
# passes on is hashed with the parameters.)
_OBSERVERS = {
    "sparse_sam",
    "sparse_sam.config",
    "sparse_sam.config_base",
    "sparse_sam.config_prune",
    "sparse_sam.config_read",
    "sparse_sam.errors",
    "sparse_sam.files",
}


@cache
def code_version(model: str) -> str:
    """SHA-256 of torch's version, of the library's files behind a cell, and of the model's own.

    Args:
        model: a network's name. One of ``package.module:factory`` adds the file of that module;
            what this imports in turn is not followed.
    """
    digest = hashlib.sha256(f"torch {version('torch')}".encode())
    for name, path in sorted(files().items()):
        digest.update(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}".encode())
    if model not in MODEL_NAMES:
        found = importlib.util.find_spec(model.partition(":")[0])
        if found and found.origin:
            digest.update(hashlib.sha256(Path(found.origin).read_bytes()).digest())
    return digest.hexdigest()


def files() -> dict[str, Path]:
    """The library's modules that a cell's numbers depend on, and their files."""
    waiting, seen = [_ROOT], {}
    while waiting:
        module = waiting.pop()
        path = _file_of(module)
        if path is None or module in seen or module in _OBSERVERS:
            continue
        seen[module] = path
        waiting += [name for name in imports(path) if name.startswith("sparse_sam")]
        waiting.append(module.rpartition(".")[0])
    return seen


def _file_of(module: str) -> Path | None:
    base = _PACKAGE.parent / Path(*module.split("."))
    return next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()), None)


def imports(path: Path) -> Iterator[str]:
    """The modules that a file imports at run time, also inside functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and id(node) not in for_types:
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Import) and id(node) not in for_types:
            yield from (name.name for name in node.names)
