"""Which network: the name of its factory, and the arguments that the factory is given."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MOST_TEXT, MOST_DEPTH = 2000, 4
"""How long all arguments may be as JSON, and how deep lists may lie in lists."""

_NUMBERS_BELOW = 2**53


@dataclass(frozen=True)
class Network:
    """What makes a network beside images, classes and seed. Two are equal if all of it is.

    Attributes:
        name: in ``NETWORKS``, ``torchvision:NAME``, or ``package.module:factory``.
        written: the keyword arguments of its factory as JSON, by name. (As text they can be neither
            changed nor taken for others, as 1 for true.)
    """

    name: str
    written: str = "{}"

    @classmethod
    def of(cls, network: "str | Network", /, **arguments: Any) -> "Network":
        """A network with arguments: ``Network.of("resnet-20", width=8)``.

        Without arguments what is given already is one, or the name of one, is that.

        Raises:
            ValueError: an argument is no plain value; the message begins with its name.
        """
        if isinstance(network, Network) and not arguments:
            return network
        if isinstance(network, Network):
            arguments = network.arguments | arguments
            network = network.name
        check_plain(arguments)
        return cls(network, json.dumps(arguments, sort_keys=True, ensure_ascii=False))

    @property
    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of the factory, a copy for whoever asks."""
        return dict(json.loads(self.written))

    def content(self) -> dict[str, Any]:
        """Name and arguments under the names that parameters have; no ``arguments`` without any."""
        arguments = self.arguments
        return {"model": self.name} | ({"arguments": arguments} if arguments else {})

    def __str__(self) -> str:
        return self.name if self.written == "{}" else f"{self.name} with arguments {self.written}"


def check_plain(arguments: Mapping[Any, Any]) -> None:
    """Raise ValueError unless these can be keyword arguments, of values that JSON has.

    The message begins with the name and the value of the first that cannot, and says why.
    """
    for name, value in arguments.items():
        if not isinstance(name, str) or not name.isidentifier() or len(name) > 100:
            raise ValueError(
                f"{_shown(name)} = {_shown(value)}: its name cannot be that of an argument; use "
                "letters, digits and _, at most 100"
            )
        if not _is_plain(value):
            raise ValueError(
                f"{name} = {_shown(value)}: must be a finite number, text on one line, true, "
                "false, null, or a list of these"
            )
    if len(json.dumps(arguments)) > MOST_TEXT:
        name = max(arguments, key=lambda one: len(json.dumps(arguments[one])))
        raise ValueError(
            f"{name} = {_shown(arguments[name])}: all arguments together may have at most "
            f"{MOST_TEXT} characters; shorten this one"
        )


def _is_plain(value: Any, depth: int = 0) -> bool:
    if isinstance(value, list):
        return (
            depth < MOST_DEPTH
            and len(value) <= MOST_TEXT
            and all(_is_plain(one, depth + 1) for one in value)
        )
    if isinstance(value, str):
        return len(value) <= MOST_TEXT and value.isprintable()
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, bool) or _is_whole(value)


def _shown(value: Any) -> str:
    try:
        return ascii(value)[:60]
    except (ValueError, RecursionError):  # a number of thousands of digits, lists in lists
        return "what cannot be shown"


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and -_NUMBERS_BELOW < value < _NUMBERS_BELOW
