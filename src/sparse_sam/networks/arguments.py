"""``model.arguments``: whether a factory takes them, before it is called."""

import inspect
import json
from typing import Any

from sparse_sam.errors import ConfigError
from sparse_sam.files import brief, fits, hint_in_words, is_plain, parts_of
from sparse_sam.networks.network import Network
from sparse_sam.networks.registry import NETWORKS

_FROM_DATA = 2


def check_arguments(network: Network) -> None:
    """Check arguments against the signature of the factory: names, and types where it has them.

    A factory that takes ``**keywords`` is asked when it is called. Code of one's own is imported.

    Raises:
        ConfigError: there is no such network or argument, or not of this type; says what is.
    """
    given = network.arguments
    if not given:
        return
    parameters = _parameters(NETWORKS.load(network.name))
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    from_data = [one.name for one in parameters if one.kind in by_position][:_FROM_DATA]
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    allowed = {
        one.name: one.annotation
        for one in parameters
        if one.kind in by_name and one.name not in from_data
    }
    takes_any = any(one.kind is one.VAR_KEYWORD for one in parameters)
    for name, value in given.items():
        if name in from_data:
            raise ConfigError(f"{_said(name, value)}: is set from the data set; remove it")
        if name in allowed:
            _check_type(name, value, allowed[name])
        elif not takes_any:
            has = f"allowed: {', '.join(allowed)}" if allowed else "it takes none; remove it"
            raise ConfigError(f"{_said(name, value)}: {network.name} has no such argument; {has}")


def _parameters(factory: Any) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(factory, eval_str=True).parameters.values())
    except (NameError, SyntaxError, TypeError, AttributeError):
        pass  # annotations for type checkers alone
    except ValueError:  # code that is not Python's tells nothing of itself
        return [inspect.Parameter("arguments", inspect.Parameter.VAR_KEYWORD)]
    return list(inspect.signature(factory).parameters.values())


def _check_type(name: str, value: Any, hint: Any) -> None:
    """Raise ConfigError unless a value is of an annotated type, if that is one that JSON can be."""
    if hint is inspect.Parameter.empty or isinstance(hint, str):
        return
    if is_plain(hint):
        words = "" if fits(value, hint) else hint_in_words(*parts_of(hint))
    else:
        words = _unlike(value, hint)
    if words:
        raise ConfigError(f"{_said(name, value)}: must be {words}")


def _unlike(value: Any, hint: Any) -> str:
    """What a value had to be, in words; "" if it is, or where nothing can tell.

    Lists, mappings and classes are pydantic's to check. Without it the factory says what it takes.
    """
    try:
        from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError
        from pydantic.fields import FieldInfo
    except ModuleNotFoundError:
        return ""
    from sparse_sam.files import in_words

    strict = ConfigDict(strict=True, allow_inf_nan=False)
    try:
        TypeAdapter(hint, config=strict).validate_json(json.dumps(value))
    except ValidationError:
        return in_words(FieldInfo.from_annotation(hint))
    except PydanticUserError:  # of a class that pydantic does not know
        return ""
    return ""


def _said(name: str, value: Any) -> str:
    return f"model.arguments.{name} = {brief(value)}"
