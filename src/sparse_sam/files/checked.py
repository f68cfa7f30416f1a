"""Frozen classes of values that check themselves, without pydantic."""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, dataclass_transform, get_type_hints

from sparse_sam.files.bounds import fits, hint_in_words, parts_of
from sparse_sam.files.registry import Registry, brief


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Checked:
    """Base of frozen dataclasses, each field of which is checked by its annotation.

    A class that inherits is a frozen dataclass with keyword-only fields, without a decorator. In
    ``params.yaml`` it is a section whose keys are its fields.

    Raises:
        ValueError: a value is not of its type or out of its bounds; the message has a line for
            every fault: key, value, what is allowed.
    """

    def __init_subclass__(cls, **keywords: Any) -> None:
        """Make it the dataclass that it says it is."""
        super().__init_subclass__(**keywords)
        dataclass(frozen=True, kw_only=True)(cls)

    def __post_init__(self) -> None:
        """Check the values, and take each as its field is: 1 as 1.0, a mapping as a section."""
        if faults := self.faults(vars(self)):
            raise ValueError("\n".join(faults))
        for name, hint in _hints(type(self)).items():
            object.__setattr__(self, name, _taken(name, getattr(self, name), hint))

    @classmethod
    def faults(cls, values: Mapping[Any, Any]) -> list[str]:
        """What is wrong with these values, by key: bad ones, missing and unknown ones."""
        hints = _hints(cls)
        found: list[str] = []
        for one in fields(cls):  # type: ignore[arg-type]
            hint = hints[one.name]
            if one.name in values:
                found += _faults_of(one.name, values[one.name], hint)
            elif one.default is MISSING and one.default_factory is MISSING:
                found.append(f"{one.name} is missing; allowed: {_words(hint)}")
        for name, value in values.items():
            if name not in hints:
                shown = brief(value if isinstance(name, str) else name)
                found.append(f"{name} = {shown}: unknown key; allowed here: {', '.join(hints)}")
        return found


def _hints(kind: type[Any]) -> dict[str, Any]:
    found = get_type_hints(kind, include_extras=True)
    return {one.name: found[one.name] for one in fields(kind)}


def _registry_of(hint: Any) -> Registry[Any] | None:
    return next((one for one in parts_of(hint)[1] if isinstance(one, Registry)), None)


def _faults_of(name: str, value: Any, hint: Any) -> list[str]:
    registry = _registry_of(hint)
    if registry and isinstance(value, dict):
        try:
            chosen = registry.chosen_by(value)
        except ValueError as error:
            return [f"{name}.{error}"]
        return [f"{name}.{said}" for said in chosen.faults(value)]
    if registry and isinstance(value, str) and parts_of(hint)[0] is str:
        try:
            registry.checked_name(value)
        except ValueError as error:
            return [f"{name} = {brief(value)}: {error}"]
    return [] if fits(value, hint) else [f"{name} = {brief(value)}: must be {_words(hint)}"]


def _taken(name: str, value: Any, hint: Any) -> Any:
    if parts_of(hint)[0] is float:
        return float(value)
    registry = _registry_of(hint)
    if not registry or not isinstance(value, dict):
        return value
    try:
        return registry.chosen_by(value)(**value)
    except ValueError as error:
        lines = str(error).splitlines()
        raise ValueError("\n".join(f"{name}.{line}" for line in lines)) from None


def _words(hint: Any) -> str:
    plain, limits = parts_of(hint)
    if registry := _registry_of(hint):
        return registry.allowed if plain is str else f"a mapping with name: {registry.allowed}"
    return hint_in_words(plain, limits)
