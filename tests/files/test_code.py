"""What counts as the code behind a result, and what about it."""

import ast
import io
import shutil
import subprocess
import sys
import tokenize
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from textwrap import dedent

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sparse_sam
from sparse_sam.files.code import code_of, files_behind, state_of

LIBRARY = Path(sparse_sam.__file__).parent
SOURCES = sorted(LIBRARY.rglob("*.py"))
Write = Callable[..., None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write modules by their paths below a folder that Python looks in."""
    monkeypatch.syspath_prepend(tmp_path)

    def act(**files: str) -> None:
        for name, text in files.items():
            path = tmp_path / f"{name.replace('_of_', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(dedent(text))

    return act


def modules(*roots: str) -> set[str]:
    found = code_of(roots)
    assert {name for name, what in found.items() if what == "chosen"} == {
        one for one in roots if ":" in one
    }
    return {name for name, what in found.items() if what != "chosen"}


# Imports


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import mine_b", {"mine_b"}),
        ("import mine_b as other", {"mine_b"}),
        ("from mine_b import x", {"mine_b"}),
        ("from mine_b import *", {"mine_b"}),
        ("def f():\n    import mine_b", {"mine_b"}),
        ("class A:\n    def f(self):\n        from mine_b import x", {"mine_b"}),
        ("try:\n    import mine_b\nexcept ImportError:\n    import mine_c", {"mine_b", "mine_c"}),
        ("if 1:\n    import mine_b\nelse:\n    import mine_c", {"mine_b", "mine_c"}),
        ("with open('x') as f:\n    import mine_b", {"mine_b"}),
        ("x = lambda: __import__('mine_b')", {"mine_b"}),
        ("import importlib\nb = importlib.import_module('mine_b')", {"mine_b"}),
        ("import importlib\nb = importlib.import_module(name='mine_b')", {"mine_b"}),
        (
            "from importlib import import_module as i, import_module\nimport_module('mine_b')",
            {"mine_b"},
        ),
        ("match 1:\n    case 1:\n        import mine_b", {"mine_b"}),
        (
            # (In one's own code the name may be a variable like any other.)
            "if TYPE_CHECKING:\n    import mine_b\nelse:\n    import mine_c",
            {"mine_b", "mine_c"},
        ),
        ("import typing\nif typing.TYPE_CHECKING:\n    import mine_b", {"mine_b"}),
        ("x = __import__('mine_b', fromlist=['y'])", {"mine_b"}),
        ("from importlib import import_module as i\ni('mine_b')", {"mine_b"}),
        ("NAMES = {'b': 'mine_b:x', 'c': ('mine_c',)}", {"mine_b", "mine_c"}),
        ("import pkgutil\npkgutil.resolve_name('mine_b:x')", {"mine_b"}),
        ("if not TYPE_CHECKING:\n    import mine_b", {"mine_b"}),
        ("import json, os.path, numpy", set()),
        ("x = 'import mine_b'", set()),
    ],
)
def test_imports_are_followed_as_they_are_run(write: Write, text: str, found: set[str]) -> None:
    write(mine_b="x = 1", mine_c="x = 2")
    write(mine_a="from typing import TYPE_CHECKING\n" + text)
    assert {name for name in modules("mine_a") if name.startswith("mine_")} == {"mine_a", *found}


def test_packages_relative_imports_and_what_stands_above(write: Write, tmp_path: Path) -> None:
    write(
        lab_of___init__="from lab.shared import everywhere",
        lab_of_shared="everywhere = 1",
        lab_of_nets_of___init__="",
        lab_of_nets_of_small="from . import parts\nfrom ..layers import Layer",
        lab_of_nets_of_parts="from .deep.inner import x",
        lab_of_nets_of_deep_of_inner="x = 1",  # a namespace within
        lab_of_layers="class Layer: ...",
        lab_of_unused="x = 1",
    )
    expected = {"lab", "lab.shared", "lab.nets", "lab.nets.small", "lab.nets.parts", "lab.layers"}
    assert modules("lab.nets.small:Small") == {*expected, "lab.nets.deep.inner"}
    (tmp_path / "lab" / "nets" / "weights.bin").write_bytes(b"1")
    before = code_of(["lab.nets.small"])
    beside = {"lab.nets/weights.bin", "lab/nets/weights.bin"}  # of both packages
    assert before.keys() == {*expected, "lab.nets.deep.inner", *beside}
    (tmp_path / "lab" / "nets" / "weights.bin").write_bytes(b"22")
    assert code_of(["lab.nets.small"]) != before


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import space.mod", {"space.mod"}),
        ("import space.mod as other", {"space.mod"}),
        ("from space import mod", {"space.mod"}),
        ("from space.mod import x", {"space.mod"}),
        ("from space import mod, other", {"space.mod", "space.other"}),
        ("import lab.b.c", {"lab", "lab.b", "lab.b.c"}),
        ("from lab.b import c as d", {"lab", "lab.b", "lab.b.c"}),
        ("from lab import *", {"lab", "lab.b"}),  # which __all__ may name
    ],
)
def test_namespaces_and_what_lies_above_a_module(write: Write, text: str, found: set[str]) -> None:
    write(space_of_mod="x = 1", space_of_other="x = 1")
    write(lab_of___init__="", lab_of_b_of___init__="", lab_of_b_of_c="x = 1")
    write(mine_a=text)
    assert modules("mine_a") == {"mine_a", *found}


def test_a_module_that_is_loaded_by_a_relative_name(write: Write) -> None:
    write(
        lab_of___init__="",
        lab_of_a="from importlib import import_module\nimport_module('.b', __package__)",
        lab_of_b="x = 1",
    )
    assert modules("lab.a") == {"lab", "lab.a", "lab.b"}


def test_code_that_a_program_wrote_may_be_deep(write: Write, tmp_path: Path) -> None:
    """Python runs it, so that it is code like any other."""
    terms, path = " + ".join(["x"] * 2000), tmp_path / "mine_a.py"
    before = digest_of(f"from mine_b import x\n\nx = {terms}\n", path)
    write(mine_b="x = 1")
    assert modules("mine_a") == {"mine_a", "mine_b"}
    subprocess.run([sys.executable, "-c", "import mine_a"], cwd=tmp_path, check=True)
    assert digest_of(f"from mine_b import x\n\nx = {terms} + 1\n", path) != before
    calls = "x" + ".a()" * 1000
    digest_of(f"import mine_b\n\ndef f():\n    {calls}\n", path)
    assert modules("mine_a") == {"mine_a", "mine_b"}


def test_circles_end_and_what_is_not_there_is_left_out(write: Write) -> None:
    write(mine_a="import mine_b, no_such_module_anywhere", mine_b="import mine_a")
    assert modules("mine_a") == {"mine_a", "mine_b"}
    assert modules("no_such_module_anywhere:x") == set()


def test_modules_come_and_go_while_a_process_lives(write: Write, tmp_path: Path) -> None:
    """As in a notebook: what was not there, or is not there any more, is looked for again."""
    write(mine_a="import mine_b, mine_c.d", mine_c_of___init__="")
    assert modules("mine_a") == {"mine_a", "mine_c"}
    write(mine_b="x = 1", mine_c_of_d="x = 1")
    assert modules("mine_a") == {"mine_a", "mine_b", "mine_c", "mine_c.d"}
    (tmp_path / "mine_b.py").unlink()
    (tmp_path / "mine_c" / "d.py").unlink()
    assert modules("mine_a") == {"mine_a", "mine_c"}
    write(mine_b_of___init__="import mine_c.d", mine_c_of_d="x = 2")
    assert modules("mine_a") == {"mine_a", "mine_b", "mine_c", "mine_c.d"}
    # Nor does it help that a module is loaded.
    write(mine_loaded="x = 1")
    import_module("mine_loaded")
    assert modules("mine_loaded") == {"mine_loaded"}
    (tmp_path / "mine_loaded.py").unlink()
    assert modules("mine_loaded") == set()
    del sys.modules["mine_loaded"]


def test_a_module_that_is_called_as_one_of_pythons_counts(write: Write) -> None:
    """One of one's own comes first on the path, if Python has not loaded its own already."""
    assert "sndhdr" in sys.stdlib_module_names
    assert "sndhdr" not in sys.modules
    write(mine_a="import sndhdr", sndhdr="import mine_b", mine_b="x = 1")
    assert modules("mine_a") == {"mine_a", "sndhdr", "mine_b"}
    assert modules("sndhdr:net") == {"sndhdr", "mine_b"}


def test_nothing_is_run(write: Write, tmp_path: Path) -> None:
    write(
        loud_of___init__=f"open({str(tmp_path / 'ran')!r}, 'w').close()",
        loud_of_inner=f"open({str(tmp_path / 'ran')!r}, 'w').close()\nraise ValueError",
    )
    assert modules("loud.inner:x") == {"loud", "loud.inner"}
    assert not (tmp_path / "ran").exists()


def test_of_installed_packages_that_own_code_imports_the_version_counts(write: Write) -> None:
    write(mine_a="import mine_b", mine_b="import tabulate, torch\nfrom jinja2 import Template")
    found = code_of(["mine_a"])
    assert found["tabulate"] == f"version {version('tabulate')}"
    assert found["torch"] == f"version {version('torch').partition('+')[0]}"
    assert set(found) == {"mine_a", "mine_b", "tabulate", "torch", "jinja2"}
    # One that is named itself is read, as far as it is itself.
    named = modules("tabulate:tabulate")
    assert "tabulate" in named
    assert all(name.startswith("tabulate") or name == "wcwidth" for name in named)


def test_a_front_door_counts_name_by_name() -> None:
    found = modules("sparse_sam.training.with_sgd")
    assert {"sparse_sam.sam", "sparse_sam.sam.uncompiled", "sparse_sam.sam.params"} <= found
    assert not {f"sparse_sam.sam.{name}" for name in ("optimizer", "gsam", "build")} & found
    assert {"sparse_sam.sam.optimizer", "sparse_sam.sam.build"} <= modules(
        "sparse_sam.training.with_sam"
    )


def test_a_registrys_entries_count_only_where_they_are_chosen() -> None:
    for room in ("sam", "networks", "pruning", "data", "training"):
        assert not any(name.endswith(".registry") for name in modules(f"sparse_sam.{room}.params"))
    assert "sparse_sam.networks.lenet" not in modules("sparse_sam.networks.build")


def test_own_code_that_takes_the_librarys_front_door_whole_depends_on_all_behind_it(
    write: Write,
) -> None:
    write(mine_a="import sparse_sam.sam\nclass Mine(sparse_sam.sam.GSAM): ...")
    assert {"sparse_sam.sam.gsam", "sparse_sam.sam.optimizer"} <= modules("mine_a")
    write(mine_b="from sparse_sam.sam import GSAM")
    assert "sparse_sam.sam.gsam" in modules("mine_b")
    assert "sparse_sam.sam.asam" not in modules("mine_b")
    write(mine_d="import sparse_sam\nx = sparse_sam.magnitude_masks")
    assert "sparse_sam.pruning.magnitude" in modules("mine_d")
    write(mine_c="from sparse_sam import SAM")
    assert "sparse_sam.sam.optimizer" in modules("mine_c")


# What of a file counts


def reads_its_text(file: Path) -> bool:
    """A file that may see its own words is compared by bytes where it is one's own."""
    words = ("__doc__", "getdoc", "getcomments", "getsource", "linecache", "jit", "script")
    return any(word in file.read_text() for word in words)


def digest_of(text: str, path: Path) -> str:
    path.write_text(text)
    return code_of([path.stem])[path.stem]


SAME = [
    ("x = 1", "x = 1  # one"),
    ("x = 1", '"""Says."""\n\n\nx = (1)\n"""What x is."""\n'),
    ("def f(a, b):\n    return a", 'def f(\n    a,\n    b,\n):\n    """Says."""\n    return a'),
    ("x = 'a' 'b'", "x = 'ab'"),
    ("x = 'a'", 'x = "a"'),
    ("x = f'{a}b'", 'x = f"{a}" "b"'),
    ("x = 1000", "x = 1_000"),
    ("del a, b", "del (\n    a,\n    b,\n)"),
    ("class A:\n    x = 1", 'class A:\n    """Says."""\n    x = 1\n    """Says."""'),
    ("from a import (b, c)", "from a import b, c"),
    ("with a as b, c as d: x", "with (\n    a as b,\n    c as d,\n):\n    x"),
    ("x = a if b else c", "x = (\n    a\n    if b\n    else c\n)"),
]
OTHER = [
    ("x = 1", "x = 2"),
    ("x = 1", "x = 1.0"),
    ("x = 1", "x = True"),
    ("x = 1", "x = '1'"),
    ("x = b'1'", "x = '1'"),
    ("x = None", "x = ..."),
    ("x = 1", "y = 1"),
    ("x = 1", "x = 1\nx = 1"),
    ("x = a - b - c", "x = a - (b - c)"),
    ("def f(a, /, b): ...", "def f(a, b): ..."),
    ("def f(a, *, b): ...", "def f(a, b): ..."),
    ("def f(a, b=1): ...", "def f(a=1, b=1): ..."),
    ("def f(*, a, b=1): ...", "def f(*, a=1, b): ..."),
    ("x: int = 1", "x = 1"),
    ("x = {**a, 'b': 1}", "x = {'b': 1, **a}"),
    ("x[1:2]", "x[1, 2]"),
    ("async def f(): ...", "def f(): ..."),
    ("x = not a", "x = -a"),
    ("a < b < c", "a < b and b < c"),
    ("import a", "import a as b"),
    ("from . import a", "from .. import a"),
    ("try: x\nexcept A: y", "try: x\nexcept B: y"),
    ("try: x\nexcept* A: y", "try: x\nexcept A: y"),
    ("x = f'{a!r}'", "x = f'{a!s}'"),
    ("x = f'{a:3}'", "x = f'{a:4}'"),
    ("x = 0.1", "x = 0.1000000000000001"),
    ("x = 0.0", "x = -0.0"),
    ("x = ['a']", "x = []"),
    ("f('a')", "f()"),
    ("return_ = lambda: 'a'", "return_ = lambda: 'b'"),
    ("@a\ndef f(): ...", "def f(): ..."),
    ("for i in x: a\nelse: b", "for i in x: a"),
    ("global_ = [i for i in x if i]", "global_ = [i for i in x]"),
    ("yield_ = (yield 'a')", "yield_ = (yield 'b')"),
    ("match x:\n    case 'a': y", "match x:\n    case 'b': y"),
    ("del a, b", "del a"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_layout_and_words_do_not_count(write: Write, tmp_path: Path, one: str, other: str) -> None:
    path = tmp_path / "mine_a.py"
    assert digest_of(one, path) == digest_of(other, path)


@pytest.mark.parametrize(("one", "other"), OTHER)
def test_everything_that_is_run_counts(write: Write, tmp_path: Path, one: str, other: str) -> None:
    path = tmp_path / "mine_a.py"
    assert digest_of(one, path) != digest_of(other, path)


@pytest.mark.parametrize(
    ("one", "other", "reader"),
    [
        ('def f():\n    """a"""', 'def f():\n    """b"""', "x = mine_a.f.__doc__"),
        ('"""a"""', '"""b"""', "import inspect\nx = inspect.getdoc(mine_a)"),
        ('"""a"""', '"""b"""', "x = getattr(mine_a, '__doc__')"),
        ("x = 1  # a", "x = 1  # b", "import inspect\nx = inspect.getsource(mine_a)"),
        ("def f(n):\n    # type: (int) -> int\n    return n", "def f(n):\n    return n", "jit = 1"),
        ("x = 1", "x  =  1", "import torch\ny = torch.jit.script(mine_a.f)"),
    ],
)
def test_where_code_can_read_its_text_all_of_ones_own_counts_by_bytes(
    write: Write, tmp_path: Path, one: str, other: str, reader: str
) -> None:
    write(mine_reader=f"import mine_a\n{reader}\n", mine_plain="import mine_a")
    found = []
    for text in (one, other):
        (tmp_path / "mine_a.py").write_text(text)
        found.append(code_of(["mine_reader"])["mine_a"])
    assert found[0] != found[1]
    plain = digest_of("x = 1  # b", tmp_path / "mine_a.py")
    assert plain == digest_of("x = 1  # c", tmp_path / "mine_a.py")


def test_two_choices_of_one_module_are_two(write: Write) -> None:
    for one, other in (("Magnitude", "Random"), ("Magnitude", "Saliency")):
        places = [f"sparse_sam.pruning.criteria:{name}" for name in (one, other)]
        assert code_of(places[:1]) != code_of(places[1:])


def test_modules_that_are_named_in_quotes_below_a_package(write: Write) -> None:
    write(
        lab_of___init__="import lazy_loader\nlazy_loader.attach(__name__, {}, {'b': ['x']})",
        lab_of_b="x = 1",
        lab_of_c="x = 1",
        mine_a="import importlib\nimportlib.import_module('.c', 'lab')",
    )
    # lazy_loader itself counts where it is installed.
    assert modules("mine_a") - {"lazy_loader"} == {"mine_a", "lab", "lab.b", "lab.c"}


def test_a_project_may_lie_where_packages_are_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "site-packages"
    folder.mkdir()
    (folder / "mine_a.py").write_text("import mine_b, numpy")
    (folder / "mine_b.py").write_text("x = 1")
    monkeypatch.syspath_prepend(folder)
    assert modules("mine_a") == {"mine_a", "mine_b", "numpy"}


def test_what_editors_leave_does_not_count_and_weights_in_folders_do(
    write: Write, tmp_path: Path
) -> None:
    write(lab_of___init__="", models_of___init__="")
    before = code_of(["lab"])
    for name in ("net.py~", ".net.swp", "#net.py#", "net.orig", "__pycache__/x.pyc", ".git/x"):
        (tmp_path / "lab" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "lab" / name).write_text("x")
    assert code_of(["lab"]) == before
    (tmp_path / "lab" / "weights").mkdir()
    (tmp_path / "lab" / "weights" / "w.txt").write_text("1")
    assert code_of(["lab"]) != before
    before = code_of(["models"])
    (tmp_path / "models" / "result.txt").write_text("1")
    assert code_of(["models"]) == before


def test_a_file_that_was_touched_and_put_back_is_another_state(
    write: Write, tmp_path: Path
) -> None:
    write(mine_a="import mine_b", mine_b="x = 1")
    files, are_ours = files_behind(["mine_a"])
    assert not are_ours
    before, code = state_of(files), code_of(["mine_a"])
    assert state_of(files_behind(["mine_a"])[0]) == before
    (tmp_path / "mine_b.py").write_text("x = 2")
    (tmp_path / "mine_b.py").write_text("x = 1")
    assert code_of(["mine_a"]) == code
    assert state_of(files) != before


def test_the_files_of_this_library_are_known_once_they_were_looked_for() -> None:
    files, are_ours = files_behind(["sparse_sam.training.experiment"])
    assert are_ours
    assert any(path.name == "experiment.py" for path in files)
    assert any(path.name == "masks.py" for path in files)


def test_huge_numbers_are_read(write: Write, tmp_path: Path) -> None:
    path = tmp_path / "mine_a.py"
    assert digest_of(f"x = 0x{'f' * 5000}", path) != digest_of(f"x = 0x{'f' * 4999}e", path)


def test_a_file_that_is_no_python_counts_by_its_bytes(write: Write, tmp_path: Path) -> None:
    path = tmp_path / "mine_a.py"
    assert digest_of("def f(:", path) != digest_of("def f(: ", path)
    assert digest_of("x = 1\0", path) != digest_of("x = 2\0", path)


class Mutation(ast.NodeTransformer):
    """One constant, name, attribute, operator or order of a file, changed."""

    def __init__(self, at: int) -> None:
        self.left, self.done = at, False

    def visit(self, node: ast.AST) -> ast.AST:
        made = self.other(node)
        if made is not None:
            self.left -= 1
            if self.left < 0 and not self.done:
                self.done = True
                return ast.copy_location(made, node)
        return self.generic_visit(node)

    def other(self, node: ast.AST) -> ast.AST | None:
        match node:
            case ast.Constant(value=bool() as value):
                return ast.Constant(not value)
            case ast.Constant(value=int() | float() as number):
                return ast.Constant(number + 1)
            case ast.Name(id=name, ctx=ctx):
                return ast.Name(f"{name}_", ctx)
            case ast.Attribute(value=of, attr=name, ctx=ctx):
                return ast.Attribute(of, f"{name}_", ctx)
            case ast.BinOp(left=left, op=op, right=right):
                return ast.BinOp(left, ast.Sub() if isinstance(op, ast.Add) else ast.Add(), right)
            case ast.Compare(left=left, ops=[ast.Lt(), *rest], comparators=others):
                return ast.Compare(left, [ast.LtE(), *rest], others)
            case ast.Return(value=ast.AST()):
                return ast.Return(ast.Constant(None))
        return None


@settings(max_examples=60)
@given(
    file=st.sampled_from([one for one in SOURCES if not reads_its_text(one)]),
    at=st.integers(0, 400),
)
def test_any_change_of_what_a_real_file_says_counts(
    file: Path, at: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "mutated"
    folder.mkdir(exist_ok=True)
    tree, mutation = ast.parse(file.read_text()), Mutation(at)
    changed = ast.unparse(ast.fix_missing_locations(mutation.visit(tree)))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        path = folder / "mine_mutated.py"
        original = digest_of(file.read_text(), path)
        assert digest_of(ast.unparse(ast.parse(file.read_text())), path) == original
        assert (digest_of(changed, path) != original) == mutation.done


def edited(text: str, data: st.DataObject) -> str:
    """The same code with remarks and blank lines at the ends of some of its lines."""
    lines = text.splitlines(keepends=True)
    ends = [
        token.end[0] - 1
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.NEWLINE
    ]
    for at in data.draw(st.sets(st.sampled_from(ends), max_size=20)):
        remark = data.draw(st.text("abc ρ\"'#\\\\(", max_size=20))
        after = data.draw(st.sampled_from(["", "\n", "\f\n", "# alone\n", "        # far\n\n"]))
        lines[at] = f"{lines[at].rstrip(chr(10))}  # {remark}\n{after}"
    return "".join(lines)


@settings(max_examples=60)
@given(
    file=st.sampled_from([one for one in SOURCES if one.read_text() and not reads_its_text(one)]),
    data=st.data(),
)
def test_no_remark_and_no_blank_line_in_a_real_file_counts(
    file: Path, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "edited"
    folder.mkdir(exist_ok=True)
    text = file.read_text()
    other = edited(text, data)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        path = folder / "mine_edited.py"
        assert digest_of(other, path) == digest_of(text, path)


@pytest.mark.parametrize("width", [40, 200])
def test_how_wide_a_formatter_makes_lines_does_not_count(width: int, tmp_path: Path) -> None:
    for number, file in enumerate(one for one in SOURCES if not reads_its_text(one)):
        shutil.copy(file, tmp_path / f"wide_{width}_{number}.py")
    names = sorted(path.stem for path in tmp_path.glob("*.py"))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        before = {name: code_of([name])[name] for name in names}
        texts = {name: (tmp_path / f"{name}.py").read_text() for name in names}
        command = ["ruff", "format", "--isolated", "--line-length", str(width), "-q", "."]
        subprocess.run([sys.executable, "-m", *command], cwd=tmp_path, check=True)
        changed = [name for name in names if (tmp_path / f"{name}.py").read_text() != texts[name]]
        assert len(changed) > 50
        assert {name: code_of([name])[name] for name in names} == before


def test_every_version_of_python_says_the_same(tmp_path: Path) -> None:
    """The hash is of names and values; what a version adds to its trees is empty in old code."""
    text = "def f(a: int, *b) -> str:\n    return f'{a:>{b}}' + 'c'\n\n\nclass A(B, m=1): ...\n"
    (tmp_path / "mine_versions.py").write_text(text)
    code = (
        "from sparse_sam.files.code import code_of\n"
        "print(code_of(['mine_versions'])['mine_versions'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{LIBRARY.parent}:{tmp_path}", "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "2ec4fac0d274f4b4177085c0615856c5"
