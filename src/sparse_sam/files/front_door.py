"""Front doors: names that are loaded when they are first used, and what is missing for them said.

A room's ``__init__.pyi`` says what it offers, to type checkers and to ``attach_stub``, which makes
a module's ``__getattr__`` of it (PEP 562). So ``import sparse_sam`` costs nothing, the optimizer
and the masks need torch and nothing more, and whatever needs another package says which extra of
this one brings it.
"""

import ast
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

EXTRAS = {
    "statistics": ("scipy", "statsmodels"),
    "training": (
        *("PIL", "filelock", "joblib", "numpy", "pydantic", "pydantic_core", "ruamel"),
        *("safetensors", "sklearn", "tqdm"),
    ),
    "pipeline": (
        "dvc",
        "jinja2",
        "markupsafe",
        "matplotlib",
        "mlflow",
        "mlxtend",
        "tabulate",
        "torchvision",
    ),
    "export": ("onnx", "onnxruntime", "onnxscript"),
    "sweep": ("ray",),
    "huggingface": ("datasets",),
    "frameworks": ("accelerate", "lightning", "transformers"),
}
"""The packages that each extra brings, by the name that is imported."""

_EXTRA_OF = {package: extra for extra, packages in EXTRAS.items() for package in packages}
_FOR_STATISTICS = {
    ("numpy", f"sparse_sam.evaluation.{name}")
    for name in ("ALPHA", "adjust", "compare_paired", "smallest_permutation_p", "summarize")
} | {("numpy", "sparse_sam.evaluation.top_eigenvalues")}


def attach_stub(
    package: str, file: str
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """``__getattr__``, ``__dir__`` and ``__all__`` of a package, by the stub beside its file.

    Args:
        package: its ``__name__``.
        file: its ``__file__``; the stub, ``__init__.pyi``, holds ``from .module import name as
            name``, and ``from . import module as module``.
    """
    places: dict[str, tuple[str, str]] = {}
    for node in ast.parse(Path(file).with_suffix(".pyi").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            for one in node.names:
                inner, attribute = (node.module, one.name) if node.module else (one.name, "")
                places[one.asname or one.name] = f"{package}.{inner}", attribute

    def load(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, attribute = places[name]
        with needed_by(f"{package}.{name}"):
            loaded = import_module(module)
        found = getattr(loaded, attribute) if attribute else loaded
        setattr(sys.modules[package], name, found)
        return found

    return load, lambda: sorted(places), sorted(places)


@contextmanager
def needed_by(what: str, extra: str = "") -> Iterator[None]:
    """Within it, a package that is not installed is named together with the extra that brings it.

    Args:
        what: needs it.
        extra: brings all that it needs; by itself the one that brings the package.

    Raises:
        ModuleNotFoundError: as Python does, in these words, with the same ``name``.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        top = (error.name or "").partition(".")[0]
        if top not in _EXTRA_OF:
            raise
        # Two extras bring it: the statistics need no more of the other.
        alone = "statistics" if (top, what) in _FOR_STATISTICS else _EXTRA_OF[top]
        raise ModuleNotFoundError(
            f"{what} needs {top}, which is not installed: "
            f"pip install 'sparse-sam[{extra or alone}]'",
            name=error.name,
        ) from error
