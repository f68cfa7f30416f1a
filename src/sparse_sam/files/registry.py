"""Names that may stand in a file of parameters, and the code that each stands for.

Every choice that is made by name (a criterion, a network, a data source, a variant of SAM, …) is
one ``Registry``: a table from the name to where the code is, as ``package.module:attribute``. The
project's own code is imported when it is used, so that a file of parameters is checked without
it; and what a name may be is said in one place only. Code of one's own needs no entry: it is named
by its place, and imported when the file is checked, so that no stage finds out too late. So are the
members of a family, ``torchvision:resnet18``, whose names another package knows.

A field of a section takes such a name as ``Annotated[str, CRITERIA]``. A field that is a section
itself, whose ``name`` chooses and whose other keys what is chosen knows, is
``Annotated[SerializeAsAny[Base], SCHEDULES]``, or ``Annotated[Base, SCHEDULES]`` in a class that
checks itself. Pydantic is needed only where pydantic asks.
"""

import importlib.util
import inspect
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from sparse_sam.errors import ConfigError
from sparse_sam.redaction import redacted

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema

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
        arguments: how many an entry must take when it is called.
        base: where the class is that each entry must be a subclass of.
        has: what an entry, which must be a class then, must have.
        families: by prefix, the module of this project that has every member as an attribute.
    """

    def __init__(
        self,
        key: str,
        places: dict[str, str],
        *,
        arguments: int | None = None,
        base: str | None = None,
        has: tuple[str, ...] = (),
        families: Mapping[str, str] | None = None,
    ) -> None:
        self.key, self.places, self.families = key, places, dict(families or {})
        self._arguments, self._base, self._has = arguments, base, has

    def __contains__(self, name: object) -> bool:
        """Whether a name is registered; code of one's own is not, nor is a family's member."""
        return name in self.places

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    @property
    def allowed(self) -> str:
        """What the parameter may be, in words."""
        names = [*self.places, *(f"{family}:NAME" for family in self.families)]
        return f"one of {', '.join(names)}, or package.module:attribute"

    def place(self, name: str) -> str:
        """Where the code of a name is, as ``package.module:attribute``; it need not be there."""
        family, colon, member = name.partition(":")
        if colon and family in self.families:
            return f"{self.families[family]}:{member}"
        return self.places.get(name, name)

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
            found = _at(self.place(name))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a module does
            why = str(error) if isinstance(error, ImportError | AttributeError) else repr(error)
            raise ValueError(f"cannot be imported ({why}); allowed: {self.allowed}") from None
        if fault := self._fault(found):
            raise ValueError(f"{fault}; allowed: {self.allowed}")
        return cast("Entry", found)

    def _fault(self, found: Any) -> str:
        """Why an entry cannot be what its name stands for; "" if nothing is known against it."""
        if self._base and not (isinstance(found, type) and issubclass(found, _at(self._base))):
            return f"is not a subclass of {self._base.partition(':')[2]}"
        if not callable(found):
            return "is not callable"
        lacking = [name for name in self._has if not hasattr(found, name)]
        if self._has and (lacking or not isinstance(found, type)):
            return f"is not a class with {', '.join(self._has)}"
        if self._arguments is not None:
            try:
                inspect.signature(found).bind(*[None] * self._arguments)
            except TypeError:
                return f"does not take {self._arguments} arguments"
            except ValueError:  # code that is not Python's tells nothing of itself
                return ""
        return ""

    def __get_pydantic_core_schema__(
        self, kind: Any, handler: "GetCoreSchemaHandler"
    ) -> "CoreSchema":
        from pydantic_core import core_schema

        parse = self.checked_name if kind is str else self._chosen_section
        return core_schema.no_info_before_validator_function(parse, handler(kind))

    def checked_name(self, name: Any) -> Any:
        """The name; code of one's own is imported for it. Raises ValueError as ``check`` does."""
        self.check(name)
        if name not in self:
            self._imported(name)
        return name

    def _chosen_section(self, value: Any) -> Any:
        from pydantic import ValidationError
        from pydantic_core import PydanticCustomError

        from sparse_sam.files.checked import Checked

        if not isinstance(value, dict):
            return value  # which is told what it has to be
        chosen = self.chosen_by(value)
        if issubclass(chosen, Checked):
            if faults := chosen.faults(value):
                raise PydanticCustomError("chosen_values", "{faults}", {"faults": faults})
            return chosen(**value)
        try:
            return chosen.model_validate(value)
        except ValidationError as error:
            # As a ValueError its faults would be taken for those of the section around it.
            raise PydanticCustomError(
                "chosen_section", "{error}", {"error": error, "section": chosen}
            ) from None

    def chosen_by(self, section: Mapping[Any, Any]) -> Any:
        """What the ``name`` of a section stands for. Raises ValueError, which says what may be."""
        if "name" not in section:
            raise ValueError(f"name is missing; allowed: {self.allowed}")
        try:
            return self._imported(section["name"])
        except ValueError as error:
            raise ValueError(f"name = {brief(section['name'])}: {error}") from None

    def check(self, name: Any) -> Any:
        """The name, if the code that it stands for can be found; nothing of it is run.

        Raises:
            ValueError: it says what is allowed.
        """
        if isinstance(name, str) and name in self.places:
            return name
        place = self.place(name) if isinstance(name, str) else ""
        module, colon, attribute = place.partition(":")
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
                f"names the module {module!r}, which Python cannot find from {Path.cwd().name}/ "
                f"(put it there or on PYTHONPATH, or install it); allowed: {self.allowed}"
            )
        return name


def _at(place: str) -> Any:
    module, _, attribute = place.partition(":")
    try:
        found = import_module(module)
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
        # Code of one's own imports a torchvision that was built for another torch: as ours does.
        from sparse_sam.files.with_torchvision import import_torchvision

        import_torchvision()
        found = import_module(module)
    return getattr(found, attribute)
