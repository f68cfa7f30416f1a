"""Which code a result is made by: what is imported from where it begins, read without layout.

A file counts as its syntax tree, without comments, docstrings and layout, so that a better comment
makes no other result; nor does a release, which changes ``__version__``. Imports are followed as
they stand in the text, also those within functions; no code is run. What stands behind a front door
(``attach_stub``) counts name by name, and what a registry can load only where it is chosen: a run
with plain SAM does not depend on GSAM.

Followed is this project's code, and code of the user's own: whatever is not installed, and the
packages that parameters name. Of other packages that own code imports the version counts.

Code of the user's own is read with more suspicion. Whatever it says in quotes that is the name of
one of its modules counts as an import, and so do imports for type checkers alone; and where any of
it can read its own text (docstrings, sources, TorchScript's comments), all of it counts by bytes.
"""

import ast
import hashlib
import importlib.util
import pkgutil
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache, lru_cache
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import Any, NamedTuple

from sparse_sam.files.atomic import file_hash, file_state

_LIBRARY = "sparse_sam"
_OBSERVERS = (
    *("sparse_sam.config", "sparse_sam.errors", "sparse_sam.redaction", "sparse_sam.tracking"),
    *(
        "sparse_sam.terminal",
        "sparse_sam.stages.runner",
        "sparse_sam.stages.inputs",
        "sparse_sam.files.front_door",
    ),
)
"""They report, check or name, and make no number: every value that they pass on is hashed."""
_TABLE = "registry"
"""The module of a room that says what stands for which name; what is chosen is hashed itself."""
_HANDS_ON = {"sparse_sam.networks.torchvision_models": ("torchvision",)}
"""Modules of this project that give out what another package makes: its version counts."""
_PYTHONS = {".py", ".pyi", ".pyc", ".typed", ".tmp"}
_LEFTOVERS = ("~", ".orig", ".bak", ".swp", ".swo", "#")
"""What editors leave beside a file."""
_OUTPUTS = {"data", "models", "metrics", "plots", "runs", "reports", "inputs"}
"""The pipeline's own folders: a package there has results beside it."""
_READS_TEXT = {
    *("__doc__", "getdoc", "getcomments", "getsource", "getsourcelines", "linecache"),
    *("jit", "script"),  # TorchScript and numba compile a function's text, with its type comments
}
_MODULE_NAME = re.compile(r"\.*[A-Za-z_]\w*(\.[A-Za-z_]\w*)*(:[A-Za-z_]\w*)?", re.ASCII)
_LONGEST_NAME = 100
_INSTALLED = {"site-packages", "dist-packages"}
_STANDARD = Path(sysconfig.get_paths()["stdlib"])
_LAYOUT = {"ctx", "type_comment", "kind", "type_ignores"}
_VALIDATORS = {"model_validator", "field_validator"}
_HASH_LENGTH = 32


def code_of(roots: Iterable[str]) -> dict[str, str]:
    """The code that is run from some modules on: a hash a module, a version an installed package.

    Args:
        roots: modules, or places as ``package.module:attribute``, which need not be importable.
    """
    return dict(sorted(_walked(roots).found.items()))


def files_behind(roots: Iterable[str]) -> tuple[tuple[Path, ...], bool]:
    """The files behind ``code_of``, and whether they are this project's alone.

    Which those are does not change while none of them does. Code of the user's own may find a
    module in another place, where something was put beside it.
    """
    walk = _walked(roots)
    return tuple(sorted(walk.files)), not walk.own


def state_of(files: Iterable[Path]) -> str:
    """A text that changes when one of the files is touched, and be it put back since."""
    marks = [f"{path} {file_state(path)}" for path in files]
    return hashlib.sha256("\n".join(marks).encode("utf-8", "surrogateescape")).hexdigest()


def _walked(roots: Iterable[str]) -> "_Walk":
    places = list(roots)
    modules = [root.partition(":")[0] for root in places]
    _located.cache_clear()  # modules come and go
    walk = _Walk({_LIBRARY, *(name.partition(".")[0] for name in modules)})
    for name in modules:
        walk.enter(name)
    # Two choices may lie in one module.
    walk.found.update({place: "chosen" for place in places if ":" in place})
    if any(source.reads_text for source in walk.own.values()):
        walk.found.update({name: source.bytes for name, source in walk.own.items()})
    return walk


class _Import(NamedTuple):
    """An import: of a module, or of names from it. ``level`` counts leading dots."""

    module: str
    names: tuple[str, ...] | None
    level: int


class _Source(NamedTuple):
    """A file: its hashes, what it imports, and what it says in quotes."""

    digest: str
    imports: tuple[_Import, ...] = ()
    is_front_door: bool = False
    words: frozenset[str] = frozenset()
    reads_text: bool = False
    bytes: str = ""


class _Walk:
    """What was found so far from the roots on."""

    def __init__(self, followed: set[str]) -> None:
        self.found: dict[str, str] = {}
        self.files: set[Path] = set()
        self.own: dict[str, _Source] = {}
        self._followed = followed
        self._seen: set[str] = set()

    def enter(self, name: str) -> None:
        """A module, the packages above it, and all that they import."""
        waiting = [name]
        while waiting:
            waiting.extend(self._one(waiting.pop()))

    def _one(self, name: str) -> Iterator[str]:
        """Take a module in, and give those that it needs."""
        if name in self._seen or _is_observer(name):
            return
        self._seen.add(name)
        above = name.rpartition(".")[0]
        if above:
            yield above
        top = name.partition(".")[0]
        spec = _spec(name)
        if spec is None:
            return
        is_ours = top == _LIBRARY
        if top not in self._followed and _is_installed(spec, top, is_ours=is_ours):
            return
        for inner, path in _beside(top, spec):
            self.files.add(path)
            self.found[f"{name}/{inner}"] = _bytes_of(path, *file_state(path))
        if not spec.has_location or not spec.origin:
            return
        file = Path(spec.origin)
        self.files.add(file)
        source = _source(file, is_ours=is_ours)
        self.found[name] = source.digest
        self.found |= {one: f"version {_version_of(one)}" for one in _HANDS_ON.get(name, ())}
        package = name if spec.submodule_search_locations is not None else above
        if not is_ours:
            self.own[name] = source
            if not _is_installed(spec, top, is_ours=True):
                yield from self._spoken_of(source.words, package)
        for one in source.imports:
            yield from self._needed(one, package, is_ours=is_ours)

    def _spoken_of(self, words: Iterable[str], package: str) -> Iterator[str]:
        """The modules of one's own whose names stand in quotes, whole or below a package."""
        names = {word.partition(":")[0] for word in words}
        bases = {package, *(name for name in names if name[0] != "." and _is_package(name))} - {""}
        for name in names:
            inner = name.lstrip(".")
            for whole in (inner, *(f"{base}.{inner}" for base in bases)):
                spec = _spec(whole)
                if spec and spec.has_location and spec.origin:
                    top = whole.partition(".")[0]
                    if not _is_installed(spec, top, is_ours=False):
                        yield whole

    def _needed(self, one: _Import, package: str, *, is_ours: bool) -> Iterator[str]:
        parts = package.split(".") if package else []
        base = parts[: len(parts) - one.level + 1] if one.level else []
        module = ".".join([*base, *filter(None, [one.module])])
        top = module.partition(".")[0]
        if not module:
            return
        spec = _spec(module)
        if top not in self._followed and _is_installed(spec or _spec(top), top, is_ours=is_ours):
            if not is_ours and top not in sys.stdlib_module_names and _spec(top) is not None:
                self.found[top] = f"version {_version_of(top)}"
            return
        yield module
        folder = spec and spec.submodule_search_locations
        if not folder or not spec or not spec.origin:
            if folder:  # a namespace: what is named is a module of it
                yield from (f"{module}.{name}" for name in one.names or ())
            return
        door = Path(spec.origin)
        if _source(door, is_ours=top == _LIBRARY).is_front_door:
            yield from _behind(door, module, one.names, is_ours=is_ours)
        elif one.names == ("*",) and not is_ours:  # and __all__ may name modules
            yield from (f"{module}.{found.name}" for found in pkgutil.iter_modules(list(folder)))
        else:
            inner = (f"{module}.{name}" for name in one.names or ())
            yield from (name for name in inner if _spec(name) is not None)


def _is_observer(name: str) -> bool:
    top, _, rest = name.partition(".")
    if top == _LIBRARY and rest.rpartition(".")[2] == _TABLE:
        return True
    return any(name == one or name.startswith(f"{one}.") for one in _OBSERVERS)


def _beside(top: str, spec: ModuleSpec) -> Iterator[tuple[str, Path]]:
    """What else lies in a package, such as templates and weights: its modules may read it."""
    if not spec.has_location or not spec.submodule_search_locations or top in _OUTPUTS:
        return  # (a namespace may be any folder)
    for folder in map(Path, spec.submodule_search_locations):
        for path in sorted(folder.glob("*.j2") if top == _LIBRARY else folder.rglob("*")):
            inner = path.relative_to(folder)
            hidden = any(part[0] == "." or part == "__pycache__" for part in inner.parts)
            is_left = path.name.endswith(_LEFTOVERS) or path.name[0] == "#"
            if path.is_file() and path.suffix not in _PYTHONS and not (hidden or is_left):
                yield inner.as_posix(), path


@cache
def _bytes_of(path: Path, *state: int) -> str:
    del state  # a file that has changed is read again
    return file_hash(path, "sha256")[:_HASH_LENGTH]


def _behind(
    door: Path, package: str, names: tuple[str, ...] | None, *, is_ours: bool
) -> Iterator[str]:
    """The modules that the names of a front door stand for; all of them for a bare import.

    (This project's own code never uses a room through a bare import, which tests hold.)
    """
    offered: dict[str, str] = {}
    for node in ast.parse(door.with_suffix(".pyi").read_bytes()).body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                inner = node.module or alias.name
                offered[alias.asname or alias.name] = f"{package}.{inner}"
    if names is None or "*" in names:
        names = () if is_ours and package == _LIBRARY else tuple(offered)
    for name in names:
        place = offered.get(name, f"{package}.{name}")
        if _spec(place) is not None:
            yield place
            yield from _further(place, name, is_ours=is_ours)


def _further(place: str, name: str, *, is_ours: bool) -> Iterator[str]:
    """Where a name is from, if the module that a front door names is a front door itself."""
    spec = _spec(place)
    if spec and spec.submodule_search_locations and spec.origin:
        door = Path(spec.origin)
        if _source(door, is_ours=True).is_front_door:
            yield from _behind(door, place, (name,), is_ours=is_ours)


@cache
def _located(name: str, path: tuple[str, ...], above: tuple[str, ...] | None) -> ModuleSpec | None:
    del path  # what a top-level name means depends on it
    if above is not None:
        try:
            return PathFinder.find_spec(name, above)
        except KeyError:  # a namespace in a package that is not imported
            folders = [Path(one) / name.rpartition(".")[2] for one in above]
            spec = ModuleSpec(name, None, is_package=True)
            spec.submodule_search_locations = [str(one) for one in folders if one.is_dir()]
            return spec
    with suppress(ImportError, ValueError, AttributeError):
        found = importlib.util.find_spec(name)
        # (One that was loaded may be gone.)
        if found is None or not found.has_location or Path(found.origin or "").is_file():
            return found
    return PathFinder.find_spec(name)


def _spec(name: str) -> ModuleSpec | None:
    """Where a module is; nothing is imported for it."""
    above, _, _ = name.rpartition(".")
    if not above:
        return _located(name, tuple(sys.path), None)
    parent = _spec(above)
    if parent is None or parent.submodule_search_locations is None:
        return None
    return _located(name, (), tuple(parent.submodule_search_locations))


def _is_package(name: str) -> bool:
    spec = _spec(name)
    return spec is not None and spec.submodule_search_locations is not None


def _is_installed(spec: ModuleSpec | None, top: str, *, is_ours: bool) -> bool:
    """Whether a module is of Python or of a package that was installed, and no one's own."""
    if spec is None:
        return True
    where = [spec.origin] if spec.has_location and spec.origin else []
    places = [Path(place) for place in (*where, *(spec.submodule_search_locations or ()))]
    return all(_is_elsewhere(place, top, is_ours=is_ours) for place in places)


def _is_elsewhere(place: Path, top: str, *, is_ours: bool) -> bool:
    if _INSTALLED & set(place.parts):
        # A project may lie in a folder that is called so.
        return is_ours or top in _distributions()
    return place.is_relative_to(_STANDARD)


@lru_cache(maxsize=1)
def _distributions() -> Any:
    return packages_distributions()


def _version_of(package: str) -> str:
    """The public version of an installed package: builds for other processors are called alike."""
    found = []
    for name in sorted(set(_distributions().get(package, ()))):
        try:
            found.append(version(name).partition("+")[0])
        except PackageNotFoundError:
            continue
    return ", ".join(found) or "unknown"


def _source(path: Path, *, is_ours: bool) -> _Source:
    return _read(path, *file_state(path), is_ours=is_ours)


@cache
def _read(path: Path, *state: int, is_ours: bool) -> _Source:
    del state  # a file that has changed is read again
    content = path.read_bytes()
    whole = hashlib.sha256(content).hexdigest()[:_HASH_LENGTH]
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # compiled code, or none
        return _Source(whole, bytes=whole)
    if is_ours:
        tree.body = [one for one in tree.body if not _is_version(one)]
    nodes = list(ast.walk(tree))
    names = {getattr(node, "attr", getattr(node, "id", "")) for node in nodes}
    names |= {node.name for node in nodes if isinstance(node, ast.alias)}
    texts = {node.value for node in nodes if isinstance(node, ast.Constant)}
    words = {one for one in texts if isinstance(one, str) and len(one) <= _LONGEST_NAME}
    digest = hashlib.sha256()
    try:
        _write(tree, digest)
    except RecursionError:  # as in code that a program wrote
        digest = hashlib.sha256(content)
    return _Source(
        digest.hexdigest()[:_HASH_LENGTH],
        tuple(_imports(tree, is_ours=is_ours)),
        "attach_stub" in names and path.with_suffix(".pyi").is_file(),
        frozenset(filter(_MODULE_NAME.fullmatch, words)),
        not _READS_TEXT.isdisjoint(names | words),
        whole,
    )


def _write(node: Any, digest: Any) -> None:
    """Feed a tree to a hash, as it is in every version of Python."""
    if isinstance(node, ast.Constant):
        value = node.value
        # (Of a huge whole number Python gives no decimal digits.)
        said = hex(value) if type(value) is int else repr(value)
        digest.update(f"{type(value).__name__} {said};".encode("utf-8", "replace"))
    elif isinstance(node, ast.Delete) and _has_tuple(node):
        # `del (a, b)`, which is how formatters break `del a, b`
        whole = [inner for one in node.targets for inner in getattr(one, "elts", [one])]
        _write(ast.Delete(whole), digest)
    elif isinstance(node, ast.AST):
        digest.update(f"{type(node).__name__}(".encode())
        for name, value in ast.iter_fields(node):
            if name in _LAYOUT or value is None or value == []:
                continue
            digest.update(f"{name}=".encode())
            _write(value, digest)
        digest.update(b")")
    elif isinstance(node, list):
        digest.update(b"[")
        for one in node:
            if not _is_document(one):
                _write(one, digest)
        digest.update(b"]")
    else:
        digest.update(f"{node!r};".encode("utf-8", "replace"))


def _has_tuple(node: ast.Delete) -> bool:
    return any(isinstance(one, ast.Tuple) for one in node.targets)


def _is_document(node: Any) -> bool:
    """A docstring, or one of an attribute's: text that stands alone."""
    if not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Constant):
        return False
    return isinstance(node.value.value, str)


def _is_version(node: ast.stmt) -> bool:
    """The library's own version, which none of its code reads."""
    return isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__"


def _imports(tree: ast.AST, *, is_ours: bool) -> Iterator[_Import]:
    waiting = [tree]
    while waiting:
        for child in ast.iter_child_nodes(waiting.pop()):
            match child:
                case ast.Import():
                    yield from (_Import(alias.name, None, 0) for alias in child.names)
                case ast.ImportFrom():
                    names = tuple(alias.name for alias in child.names)
                    yield _Import(child.module or "", names, child.level)
                case ast.If(
                    test=ast.Name("TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING")
                ) if is_ours:
                    waiting.append(ast.Module(child.orelse, []))
                case ast.FunctionDef() if is_ours and _is_validator(child):
                    continue  # it checks what is hashed as a value, and is let load what it checks
                case _:
                    if name := _loaded_by(child):
                        rest = name.lstrip(".")
                        yield _Import(rest, None, len(name) - len(rest))
                    waiting.append(child)


def _loaded_by(node: ast.AST) -> str:
    """The module that a call loads by a literal name; "" if it is no such call."""
    match node:
        case ast.Call(
            func=ast.Name(id="import_module" | "__import__")
            | ast.Attribute(attr="import_module" | "__import__")
        ):
            named = (one.value for one in node.keywords if one.arg == "name")
            for value in (*node.args[:1], *named):
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    return value.value
    return ""


def _is_validator(function: ast.FunctionDef) -> bool:
    return any(
        isinstance(one, ast.Call) and ast.unparse(one.func) in _VALIDATORS
        for one in function.decorator_list
    )
