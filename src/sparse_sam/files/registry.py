"""Names that may stand in a file of parameters, and the code that each stands for.

Every choice that is made by name (a criterion, a network, a data source, a variant of SAM, …) is
one ``Registry``: a table from the name to where the code is, as ``package.module:attribute``. The
code is imported when it is used, so that a file of parameters is checked without it; and what a
name may be is said in one place only. Code of one's own needs no entry: it is named by its place.

A field of a section takes such a name as ``Annotated[str, CRITERIA]``. A field that is a section
itself, whose ``name`` chooses and whose other keys what is chosen knows, is
``Annotated[SerializeAsAny[Base], SCHEDULES]``.
"""

import importlib.util
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from pydantic import GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from sparse_sam.errors import ConfigError
from sparse_sam.files.atomic import file_hash
from sparse_sam.redaction import redacted

Entry = TypeVar("Entry")


def brief(value: Any) -> str:
    """A value as messages show it, without its secrets."""
    text = redacted(repr(value))  # before it is cut: half a secret is not recognised
    return text if len(text) <= 60 else f"{text[:57]}..."


class Registry(Generic[Entry]):
    """A choice by name.

    Args:
        key: the parameter that holds the name, as ``prune.criterion``.
        places: where the code of each name is.
        base: where the class is that each entry must be a subclass of; without, it is anything that
            can be called.
    """

    def __init__(self, key: str, places: dict[str, str], *, base: str | None = None) -> None:
        self.key, self.places, self._base = key, places, base

    def __contains__(self, name: object) -> bool:
        """Whether a name is registered; code of one's own is not."""
        return name in self.places

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    @property
    def allowed(self) -> str:
        """What the parameter may be, in words."""
        return f"one of {', '.join(self.places)}, or package.module:attribute"

    def load(self, name: str) -> Entry:
        """The code that a name stands for, imported.

        Raises:
            ConfigError: the name is unknown, or there is no such code.
        """
        try:
            return self._imported(name)
        except ValueError as error:
            raise ConfigError(f"{self.key} = {name!r}: {error}") from None

    def _imported(self, name: Any) -> Entry:
        self.check(name)
        try:
            found = _at(self.places.get(name, name))
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(f"cannot be imported ({error}); allowed: {self.allowed}") from None
        if self._base is None:
            if not callable(found):
                raise ValueError(f"is not callable; allowed: {self.allowed}")
        elif not (isinstance(found, type) and issubclass(found, _at(self._base))):
            wanted = self._base.partition(":")[2]
            raise ValueError(f"is no subclass of {wanted}; allowed: {self.allowed}")
        return cast("Entry", found)

    def __get_pydantic_core_schema__(self, kind: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        parse = self.check if kind is str else self._chosen_section
        return core_schema.no_info_before_validator_function(parse, handler(kind))

    def _chosen_section(self, value: Any) -> Any:
        if not isinstance(value, dict):
            return value  # which is told what it has to be
        if "name" not in value:
            raise ValueError(f"name is missing; allowed: {self.allowed}")
        try:
            chosen: Any = self._imported(value["name"])
        except ValueError as error:
            raise ValueError(f"name = {brief(value['name'])}: {error}") from None
        try:
            return chosen.model_validate(value)
        except ValidationError as error:
            # As a ValueError its faults would be taken for those of the section around it.
            raise PydanticCustomError("chosen_section", "{error}", {"error": error}) from None

    def check(self, name: Any) -> Any:
        """The name, if the code that it stands for can be found; nothing of it is run.

        Raises:
            ValueError: it says what is allowed.
        """
        if isinstance(name, str) and name in self.places:
            return name
        module, colon, attribute = name.partition(":") if isinstance(name, str) else ("", "", "")
        parts = module.split(".")
        if not (colon and attribute.isidentifier() and all(map(str.isidentifier, parts))):
            raise ValueError(f"must be {self.allowed}")
        try:
            found = importlib.util.find_spec(module) is not None
        except (ImportError, ValueError):
            found = False
        except Exception as error:  # noqa: BLE001 - it runs the packages above the module
            raise ValueError(
                f"names the module {module!r}, which cannot be imported: {error!r}"
            ) from None
        if not found:
            raise ValueError(
                f"names the module {module!r}, which Python does not find from {Path.cwd().name}/; "
                f"allowed: {self.allowed}"
            )
        return name


def _at(place: str) -> Any:
    module, _, attribute = place.partition(":")
    return getattr(import_module(module), attribute)


def own_code(parameters: Any) -> dict[str, str]:
    """SHA-256 of the files of the user's own code that parameters name, by name.

    Only the file that is named: what it imports in turn is not followed.

    Args:
        parameters: a tree of plain values; every ``package.module:attribute`` in it counts.
    """
    match parameters:
        case dict():
            inner: Iterable[Any] = parameters.values()
        case list() | tuple():
            inner = parameters
        case str():
            module, _, attribute = parameters.partition(":")
            named = attribute.isidentifier() and all(map(str.isidentifier, module.split(".")))
            try:
                spec = importlib.util.find_spec(module) if named else None
            except (ImportError, ValueError):  # it only looks like the place of code
                return {}
            file = spec.origin if spec and spec.has_location else None
            return {parameters: file_hash(Path(file), "sha256")} if file else {}
        case _:
            return {}
    return {name: found for one in inner for name, found in own_code(one).items()}
