"""Any file of parameters: read as YAML, checked as a section, and what is wrong in it, in words."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from sparse_sam.errors import ConfigError
from sparse_sam.files.fields import Section, in_words, is_section
from sparse_sam.files.registry import brief

AnySection = TypeVar("AnySection", bound=Section)


def read_yaml(path: Path) -> Any:
    """The content of a file of parameters, not checked. Raises ConfigError if it is not YAML."""
    try:
        return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"{path} is missing. Check the path, or run from the repository's root."
        ) from None
    except MarkedYAMLError as error:
        where = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}{where}: not valid YAML: {error.problem}") from None
    except (YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None


def parse_section(kind: type[AnySection], content: Any, origin: str) -> AnySection:
    """Check a section of any kind; ``origin`` is named in errors. Raises ConfigError."""
    if not isinstance(content, dict):
        raise ConfigError(f"{origin} must hold a mapping of parameters, not {brief(content)}")
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        faults = [f"{origin}: {fault}" for fault in _explain_all(error, kind)]
    raise ConfigError("\n".join(faults))


def _explain_all(error: ValidationError, root: type[Section], above: str = "") -> Iterator[str]:
    faults = error.errors()
    # A list with a bad item is reported as too short besides.
    inner = {fault["loc"][:-1] for fault in faults}
    for fault in faults:
        if fault["type"] == "chosen_section":  # its faults are those of what its name chose
            key, cause = ".".join(map(str, fault["loc"])), fault["ctx"]
            yield from _explain_all(cause["error"], cause["section"], f"{above}{key}.")
        elif fault["type"] == "chosen_values":  # likewise, in words already
            key = ".".join(map(str, fault["loc"]))
            yield from (f"{above}{key}.{said}" for said in fault["ctx"]["faults"])
        elif fault["type"] != "too_short" or fault["loc"] not in inner:
            yield above + _explain(fault, root)


def _explain(fault: Any, root: type[Section]) -> str:
    location, value, kind = fault["loc"], fault["input"], fault["type"]
    key = ".".join(map(str, location))
    if kind in {"extra_forbidden", "invalid_key"}:
        allowed = _keys(location[:-1], root)
        return f"{key} = {brief(value)}: unknown key; allowed here: {allowed}"
    if kind == "missing":
        return f"{key} is missing; allowed: {in_words(_field(location, root))}"
    # The other faults with a number in their location are those of a list's items.
    key = re.sub(r"\.(\d+)$", r"[\1]", key)
    message = fault["msg"].removeprefix("Value error, ")
    if kind != "value_error":
        return f"{key} = {brief(value)}: must be {in_words(_field(location, root))}"
    if is_section(_field(location, root)):  # a check over several of its keys names one of them
        return f"{key}.{message}".removeprefix(".")
    return f"{key} = {brief(value)}: {message}"


def _field(location: tuple[Any, ...], root: type[Section]) -> FieldInfo:
    """The field at a fault's location under ``root``, or the nearest above it that is known.

    Within a list or a mapping that is the type of its items; a union has no parts.
    """
    field = FieldInfo.from_annotation(root)
    for part in location:
        hint: Any = field.annotation
        if is_section(field) and part in (inner := getattr(hint, "model_fields", {})):
            field = inner[part]
        elif get_origin(hint) in {tuple, list, dict}:
            field = FieldInfo.from_annotation(get_args(hint)[-1 if get_origin(hint) is dict else 0])
        else:
            break
    return field


def _keys(location: tuple[Any, ...], root: type[Section]) -> str:
    section: Any = _field(location, root).annotation
    return ", ".join(section.model_fields)


def first_fault(error: ValidationError) -> str:
    """Where, and what: of a file that is no one's to write by hand, in one safe line."""
    fault = error.errors(include_url=False)[0]
    where = ascii(".".join(map(str, fault["loc"])) or "its content")[1:-1][:60]
    return f"{where}: {ascii(fault['msg'])[1:-1][:200]}"
