"""Parameters that are chosen by patterns of their names: ``prune.ignore``, ``prune.overrides``."""

from collections.abc import Collection, Iterable, Sequence
from fnmatch import fnmatchcase

from sparse_sam.errors import MaskError

_SHOWN = 40


def match_each(
    names: Collection[str], patterns: Iterable[str], key: str, ignored: Sequence[str] = ()
) -> dict[str, str]:
    """The pattern of every name that one matches, by name.

    Args:
        names: of the parameters that can be pruned.
        patterns: such as ``head.*``: ``*`` stands for any text, dots too, ``?`` for a character.
        key: where ``params.yaml`` has the patterns, to name in errors with the argument's name.
        ignored: patterns of what is not among ``names`` on purpose.

    Raises:
        MaskError: a pattern matches no name, or two match the same.
    """
    found: dict[str, str] = {}
    where = f"{key.rpartition('.')[2]} ({key} in params.yaml)"
    for pattern in patterns:
        matched = [name for name in names if fnmatchcase(name, pattern)]
        if not matched:
            but = f" ({', '.join(map(repr, ignored))} are left dense)" if ignored else ""
            raise MaskError(
                f"{where}: {pattern!r} matches no parameter that can be pruned{but}. These can: "
                f"{listed(names)}. Patterns match whole names; '*' stands for any text"
            )
        for name in matched:
            if name in found:
                raise MaskError(
                    f"{where}: both {found[name]!r} and {pattern!r} match {name}; only one may"
                )
            found[name] = pattern
    return found


def listed(names: Collection[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(list(names)[:_SHOWN]) + more
