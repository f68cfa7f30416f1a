"""Choices by name: what is registered, code of one's own, and what is said of what is neither."""

import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pytest

from sparse_sam.errors import ConfigError
from sparse_sam.files.fields import Section
from sparse_sam.files.registry import Registry
from sparse_sam.files.sections import parse_section
from sparse_sam.pruning.params import PruneParams
from sparse_sam.pruning.schedules import PruningSchedule
from tests.recipes import prune_values

LIBRARY = Path(__file__).resolve().parents[2] / "src" / "sparse_sam"
REGISTRIES = {
    found.key: (path.parent.name, found)
    for path in sorted(LIBRARY.glob("*/registry.py"))
    for found in vars(importlib.import_module(f"sparse_sam.{path.parent.name}.registry")).values()
    if isinstance(found, Registry)
}
"""Every choice of the library, and the room in which it is, by the parameter that makes it."""

COLOURS: Registry[str] = Registry(
    "paint.colour", {"red": "colours_for_tests:RED", "lost": "colours_for_tests:LOST"}
)
OWN = {
    "sam.variant": "from sparse_sam.sam import SAM\nclass THING(SAM): ...",
    "prune.schedule.name": (
        "from sparse_sam.pruning import PruningSchedule\nclass THING(PruningSchedule): ..."
    ),
    "engine.name": ("from sparse_sam.training import EngineParams\nclass THING(EngineParams): ..."),
    "prune.criterion": "class THING:\n    def scores(*_): ...\n    def pooled(*_): ...",
}
ALLOWED = "one of red, lost, or package.module:attribute"


class Paint(Section):
    colour: Annotated[str, COLOURS]
    coats: int


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write a module, by its name or its path in a package; it can be imported, and is not yet."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str, text: str) -> Path:
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        importlib.invalidate_caches()
        package = name.partition("/")[0]
        for module in [one for one in sys.modules if one.partition(".")[0] == package]:
            monkeypatch.delitem(sys.modules, module)
        return path

    return write


# Names


def test_names_are_those_of_the_table_in_its_order() -> None:
    assert list(COLOURS) == ["red", "lost"]
    assert "red" in COLOURS
    for name in ("blue", "", "colours_for_tests:RED", None, 3):
        assert name not in COLOURS
    assert COLOURS.allowed == ALLOWED


def test_the_choices_of_the_library_are_these() -> None:
    assert {key: room for key, (room, _) in REGISTRIES.items()} == {
        "data.source": "data",
        "model.name": "networks",
        "prune.criterion": "pruning",
        "prune.scope": "pruning",
        "prune.schedule.name": "pruning",
        "prune.structure": "pruning",
        "sam.variant": "sam",
        "schedule": "training",
        "optimizer": "training",
        "base_optimizer": "training",
        "engine.name": "training",
    }


@pytest.mark.parametrize("key", REGISTRIES)
def test_every_name_stands_for_code_of_its_room(key: str) -> None:
    room, registry = REGISTRIES[key]
    assert len(list(registry)) >= 2
    for name, place in registry.places.items():
        module, _, attribute = place.partition(":")
        assert module.startswith(f"sparse_sam.{room}.")
        stands_for = getattr(importlib.import_module(module), attribute)
        if type(registry) is Registry:
            assert registry.load(name) is stands_for
        assert f"{name}," in registry.allowed


@pytest.mark.parametrize("key", REGISTRIES)
def test_every_choice_says_what_it_is_when_a_name_is_unknown(key: str) -> None:
    _, registry = REGISTRIES[key]
    with pytest.raises(ConfigError) as raised:
        registry.load("no-such-name")
    assert str(raised.value) == f"{key} = 'no-such-name': must be {registry.allowed}"


@pytest.mark.parametrize("key", [key for key in REGISTRIES if key != "prune.structure"])
def test_every_choice_takes_code_of_ones_own(key: str, write: Write) -> None:
    write("own_thing_for_tests", OWN.get(key, "def THING(*_): ..."))
    thing = REGISTRIES[key][1].load("own_thing_for_tests:THING")
    assert thing is sys.modules["own_thing_for_tests"].THING


# Code by place


def test_a_name_is_loaded_when_it_is_asked_for(write: Write) -> None:
    write("colours_for_tests", "def RED(): return 'ff0000'")
    assert COLOURS.load("red")() == "ff0000"
    assert COLOURS.load("colours_for_tests:RED")() == "ff0000"


def test_code_in_a_package_is_found(write: Write) -> None:
    write("own_paints/__init__", "")
    write("own_paints/blues", "def NAVY(): return '000080'")
    assert COLOURS.check("own_paints.blues:NAVY") == "own_paints.blues:NAVY"
    assert COLOURS.load("own_paints.blues:NAVY")() == "000080"


def test_a_file_that_names_ones_own_code_is_checked_by_importing_it(
    write: Write, tmp_path: Path
) -> None:
    """No stage is to find out after hours of work; whether a name can be is said without."""
    write("own_greys", f"open({str(tmp_path / 'ran')!r}, 'w').close()\nraise ImportError('no ink')")
    name = "own_greys:DARK"
    assert COLOURS.check(name) == name
    assert "own_greys" not in sys.modules
    assert not (tmp_path / "ran").exists()
    with pytest.raises(ConfigError) as raised:
        parse_section(Paint, {"colour": name, "coats": 2}, "paint.yaml")
    assert (tmp_path / "ran").exists()
    assert str(raised.value) == (
        f"paint.yaml: colour = 'own_greys:DARK': cannot be imported (no ink); allowed: {ALLOWED}"
    )


@pytest.mark.parametrize("does", ["1 / 0", "def x(:", "import sys; sys.exit(0)", "raise Exception"])
def test_whatever_a_module_does_when_it_is_imported_is_an_error_of_the_file(
    write: Write, does: str
) -> None:
    write("own_greys", does)
    with pytest.raises(ConfigError, match="colour = 'own_greys:DARK': cannot be imp"):
        parse_section(Paint, {"colour": "own_greys:DARK", "coats": 2}, "paint.yaml")


def test_a_registered_name_is_checked_without_its_code() -> None:
    assert COLOURS.check("lost") == "lost"
    with pytest.raises(
        ConfigError, match=r"paint\.colour = 'lost': cannot be imported \("
    ) as raised:
        COLOURS.load("lost")
    assert str(raised.value).endswith(f"; allowed: {ALLOWED}")


def test_what_is_not_in_its_module_is_said(write: Write) -> None:
    write("colours_for_tests", "def RED(): return 'ff0000'")
    for name in ("colours_for_tests:BLUE", "lost"):
        attribute = "LOST" if name == "lost" else "BLUE"
        with pytest.raises(ConfigError) as raised:
            COLOURS.load(name)
        assert str(raised.value) == (
            f"paint.colour = {name!r}: cannot be imported (module 'colours_for_tests' has no "
            f"attribute '{attribute}'); allowed: {ALLOWED}"
        )


@pytest.mark.parametrize(
    "name",
    [
        *("blue", "", ":", "a:", ":b", "a.b", ".a:b", "..x:y", "a..b:c", "a.:b", "a b:c", "a-b:c"),
        *("json:a.b", "json:3", "3:json", "json:loads:more", " json:loads", "json :loads"),
        *("os.path", "../x:y", "https://host/x:y", "json:loads()", "json:\nloads", "RED", "Red"),
        *(None, 3, 0.5, True, [], {}, ["red"], ("json", "loads"), b"json:loads"),
    ],
)
def test_what_is_neither_a_name_nor_a_place_is_told_what_is_allowed(name: Any) -> None:
    with pytest.raises(ValueError, match=f"^must be {re.escape(ALLOWED)}$"):
        COLOURS.check(name)
    with pytest.raises(ConfigError) as said:
        COLOURS.load(name)
    assert str(said.value) == f"paint.colour = {name!r}: must be {ALLOWED}"


@pytest.mark.parametrize(
    "module", ["no_such_package", "no_such_package.blues", "json.blues", "json.decoder.blues"]
)
def test_a_module_that_is_not_there_is_said_and_from_where(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "studio").mkdir()
    monkeypatch.chdir(tmp_path / "studio")
    with pytest.raises(ConfigError) as raised:
        COLOURS.load(f"{module}:NAVY")
    assert str(raised.value) == (
        f"paint.colour = '{module}:NAVY': names the module {module!r}, which Python cannot find "
        f"from studio/ (put it there or on PYTHONPATH, or install it); allowed: {ALLOWED}"
    )


def test_a_package_that_cannot_be_imported_is_said(write: Write) -> None:
    write("broken_paints/__init__", "1 / 0")
    write("broken_paints/blues", "def NAVY(): return '000080'")
    with pytest.raises(ConfigError) as raised:
        COLOURS.load("broken_paints.blues:NAVY")
    assert str(raised.value) == (
        "paint.colour = 'broken_paints.blues:NAVY': names the module 'broken_paints.blues', which "
        "cannot be imported: ZeroDivisionError('division by zero')"
    )


def test_no_message_shows_a_secret() -> None:
    with pytest.raises(ConfigError) as raised:
        COLOURS.load("https://ann:Tr0ub4dor@host/x:y")
    assert "Tr0ub" not in str(raised.value)


# A field that takes a name


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"colour": "blue", "coats": 2}, f"colour = 'blue': must be {ALLOWED}"),
        ({"colour": None, "coats": 2}, f"colour = None: must be {ALLOWED}"),
        ({"coats": 2}, f"colour is missing; allowed: {ALLOWED}"),
        ({"colour": "red", "coats": "2"}, "coats = '2': must be a whole number"),
        (
            {"colour": "red", "coats": 2, "hue": 1},
            "hue = 1: unknown key; allowed here: colour, coats",
        ),
    ],
)
def test_a_field_that_takes_a_name_says_what_is_allowed(content: Any, says: str) -> None:
    assert parse_section(Paint, {"colour": "red", "coats": 2}, "paint.yaml").colour == "red"
    with pytest.raises(ConfigError) as raised:
        parse_section(Paint, content, "paint.yaml")
    assert str(raised.value) == f"paint.yaml: {says}"


# A field that is a section, which its name chooses

SCHEDULES = "one of one-shot, iterative, gradual, or package.module:attribute"
COUNT = "a whole number, at least 1 and less than 2147483648"
OWN_SCHEDULES = """
from typing import Annotated

from sparse_sam.files import Count, Section
from sparse_sam.pruning.registry import SCHEDULES
from sparse_sam.pruning.schedules import PruningSchedule

class Halves(PruningSchedule):
    first: Count
    last: Count

    def __post_init__(self):
        super().__post_init__()
        if self.first > self.last:
            raise ValueError(f"first = {self.first}: must be at most last = {self.last}")

    def sparsity(self, final, progress):
        return final if progress == 1 else final / 2

class Delayed(PruningSchedule):
    by: Count
    then: Annotated[PruningSchedule, SCHEDULES]

class Other(Section):
    name: str

def function(): ...
"""


@pytest.fixture
def own(write: Write) -> str:
    """The name of a module of schedules."""
    write("own_schedules_for_tests", OWN_SCHEDULES)
    return "own_schedules_for_tests"


def pruning(schedule: Any) -> PruneParams:
    return parse_section(PruneParams, {**prune_values(), "schedule": schedule}, "prune.yaml")


def faults(schedule: Any) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        pruning(schedule)
    lines = str(raised.value).splitlines()
    assert all(line.startswith("prune.yaml: ") for line in lines)
    return [line.removeprefix("prune.yaml: ") for line in lines]


GRADUAL = {"name": "gradual", "initial": 0.1, "end": 0.5, "updates": 4}
ITERATIVE = {"name": "iterative", "rounds": 3, "rewind": "dense"}


@pytest.mark.parametrize(
    ("section", "kind"),
    [({"name": "one-shot"}, "OneShot"), (ITERATIVE, "Iterative"), (GRADUAL, "Gradual")],
)
def test_the_name_chooses_the_section_and_all_its_keys_are_there(
    section: dict[str, Any], kind: str
) -> None:
    schedule = pruning(section).schedule
    assert type(schedule).__name__ == kind
    assert pruning(section).model_dump()["schedule"] == section
    assert pruning(schedule).schedule == schedule


@pytest.mark.parametrize("bad", [None, [], "gradual", 3, [ITERATIVE]])
def test_what_is_no_section_is_told_which_there_are(bad: Any) -> None:
    assert faults(bad) == [f"schedule = {bad!r}: must be a mapping with name: {SCHEDULES}"]


@pytest.mark.parametrize("section", [{}, {"rounds": 3}, {"Name": "gradual"}, {None: "gradual"}])
def test_a_section_without_its_name_is_told_which_there_are(section: dict[Any, Any]) -> None:
    assert faults(section) == [f"schedule.name is missing; allowed: {SCHEDULES}"]


@pytest.mark.parametrize("name", ["linear", "", None, 3, [], {}, {"name": "gradual"}])
def test_a_name_that_chooses_nothing_is_told_which_there_are(name: Any) -> None:
    assert faults({**GRADUAL, "name": name}) == [f"schedule.name = {name!r}: must be {SCHEDULES}"]


def test_every_fault_of_a_chosen_section_is_named_with_its_whole_key() -> None:
    assert faults({"name": "iterative", "rounds": 0, "rewind": "late", "end": 1}) == [
        f"schedule.rounds = 0: must be {COUNT}",
        "schedule.rewind = 'late': must be one of none, dense, initial",
        "schedule.end = 1: unknown key; allowed here: name, rounds, rewind",
    ]
    assert faults({"name": "gradual", "initial": 1.0, "end": None}) == [
        "schedule.initial = 1.0: must be a finite number, at least 0 and less than 1",
        "schedule.end = None: must be a finite number, more than 0 and at most 1",
        f"schedule.updates is missing; allowed: {COUNT}",
    ]
    assert faults({"name": "one-shot", "rounds": 3}) == [
        "schedule.rounds = 3: unknown key; allowed here: name"
    ]


def test_its_faults_stand_among_those_of_the_section_around_it() -> None:
    content = prune_values(sparsity=2, schedule={**ITERATIVE, "rounds": 0}, biases=0)
    with pytest.raises(ConfigError) as raised:
        parse_section(PruneParams, content, "prune.yaml")
    assert [line.split(" ")[1] for line in str(raised.value).splitlines()] == [
        "sparsity",
        "biases",
        "schedule.rounds",
    ]


def test_a_section_of_ones_own_is_as_those_that_are_registered(own: str) -> None:
    section = {"name": f"{own}:Halves", "first": 2, "last": 3}
    params = pruning(section)
    assert isinstance(params.schedule, PruningSchedule)
    assert params.asked_at(0.5).sparsity == params.sparsity / 2
    assert params.model_dump()["schedule"] == section
    assert faults({**section, "last": 0, "rounds": 3}) == [
        f"schedule.last = 0: must be {COUNT}",
        "schedule.rounds = 3: unknown key; allowed here: name, first, last",
    ]
    assert faults({**section, "last": 1}) == ["schedule.first = 2: must be at most last = 1"]


def test_a_section_within_a_chosen_one_is_chosen_by_its_own_name(own: str) -> None:
    section = {"name": f"{own}:Delayed", "by": 2, "then": ITERATIVE}
    assert pruning(section).model_dump()["schedule"] == section
    assert faults({**section, "by": 0, "then": {**ITERATIVE, "rounds": 0}}) == [
        f"schedule.by = 0: must be {COUNT}",
        f"schedule.then.rounds = 0: must be {COUNT}",
    ]
    assert faults({**section, "then": {"name": "late"}}) == [
        f"schedule.then.name = 'late': must be {SCHEDULES}"
    ]
    # One section may be within another of its kind.
    assert faults({**section, "then": {**section, "by": 0}}) == [
        f"schedule.then.by = 0: must be {COUNT}"
    ]


@pytest.mark.parametrize("attribute", ["Other", "function", "PruningSchedule.sparsity", "Missing"])
def test_own_code_that_is_no_schedule_is_an_error_of_the_file(own: str, attribute: str) -> None:
    [fault] = faults({"name": f"{own}:{attribute}"})
    assert fault.startswith("schedule")
    assert f"{own}:{attribute}" in fault
    assert fault.endswith(SCHEDULES)
