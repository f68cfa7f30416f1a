"""What the sections of a file of parameters are made of, and what a field takes, in words."""

from typing import Any, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict
from pydantic.fields import FieldInfo

from sparse_sam.files.bounds import hint_in_words
from sparse_sam.files.checked import Checked
from sparse_sam.files.registry import Registry


def _list_as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


FROM_LIST = BeforeValidator(_list_as_tuple)
"""Of a field that is a tuple, which YAML writes as a list."""


class Section(BaseModel):
    """A mapping with exactly its keys, frozen, whose values are taken as they stand."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def is_section(field: FieldInfo) -> bool:
    """Whether a field is a mapping of its own."""
    return isinstance(field.annotation, type) and issubclass(field.annotation, Section | Checked)


def chosen_places(section: Section) -> list[str]:
    """Where the code is that a section chooses by name, as ``package.module:attribute``, sorted."""
    found: set[str] = set()
    for name, field in type(section).model_fields.items():
        value: Any = getattr(section, name)
        for registry in field.metadata:
            if isinstance(registry, Registry):
                found.add(registry.place(value if isinstance(value, str) else value.name))
        if isinstance(value, Section):
            found.update(chosen_places(value))
    return sorted(found)


def in_words(field: FieldInfo) -> str:
    """What a field takes, in words: its type and its bounds."""
    hint: Any = field.annotation
    for registry in field.metadata:
        if isinstance(registry, Registry):
            return registry.allowed if hint is str else f"a mapping with name: {registry.allowed}"
    if is_section(field):
        return f"a mapping with the keys {', '.join(hint.model_fields)}"
    if get_origin(hint) is dict:
        return "a mapping"
    if get_origin(hint) is tuple:
        item = FieldInfo.from_annotation(get_args(hint)[0])
        least = any(getattr(limit, "min_length", 0) for limit in field.metadata)
        return f"a list{' of one or more' if least else ''}, each {in_words(item)}"
    return hint_in_words(hint, field.metadata)
