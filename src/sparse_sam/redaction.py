"""What nobody may read: passwords, tokens and keys, taken out of whatever leaves a process.

Every error, journal and log passes through here. A secret is known by where it stands, the login
or a telling query parameter of a URL, or by its value, that of an environment variable whose name
says that it is one; also as URLs, JSON and Python write it.
"""

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import quote, quote_plus, unquote, unquote_plus

from sparse_sam.terminal import Shown

HIDDEN = "***"

_SHORTEST = 4
"""Characters of a value that is looked for anywhere; less would also hide what is no secret."""
_SURELY = 8
"""From so many on, it is looked for within words, too: it is in none by chance."""
_NAME = re.compile(
    r"(PASSWORD|PASSWD|PASSPHRASE|SECRET|CREDENTIAL|CONNECTION_STRING|TOKEN(?!IZER|S(_|$))|APIKEY"
    r"|_KEY(_|\d|$)|_PWD$|_PASS$|(^|_)PAT(_|$))(?!.*(FILE|PATH|DIR)$)",
    re.IGNORECASE,
)
_NO_SECRETS = {"true", "false", "none", "null"}
_SCHEME = r"((?<![a-z0-9+.\-])[a-z0-9+.\-]+://)"
# A password may have / ? and # in it, as those who forget to encode it write it; a port may not.
_LOGIN = re.compile(
    _SCHEME + r"([^\s/?#<>]*|[^\s/?#<>:@]*:(?!\d*[/?#])[^\s<>@]{0,256})@", re.IGNORECASE
)
_QUERY = re.compile(
    r"([?&;][\w.%\-]{0,50}(?:pass|pwd|secret|token|key|sig|cred|auth)[\w.%\-]{0,50}=)"
    r"([^&;#\s\"'<>]+)",
    re.IGNORECASE,
)


def redacted(text: str) -> str:
    """``text`` with ``***`` in place of every secret that this process can know of.

    ``scheme://user:password@host`` becomes ``scheme://***@host``; who logs in is no one's business
    either.
    """
    # What is known first: a password with @ and / in it is no longer whole after the others.
    known = _pattern(frozenset(_secrets()))
    text = known.sub(HIDDEN, text) if known else text
    text = _LOGIN.sub(rf"\1{HIDDEN}@", text)
    return _QUERY.sub(rf"\1{HIDDEN}", text)


def has_login(address: str) -> bool:
    """Whether a URL, or what could be meant as one (``name:password@host``), holds a secret."""
    if "://" in address:
        return "@" in address.partition("://")[2]
    return bool(re.match(r"(\w+:/)?[^/\s:@]+:[^/\s@][^\s@]*@", address))


def redacted_values(value: Any) -> Any:
    """A tree of plain values whose texts are redacted; keys stay, and so do numbers."""
    match value:
        case str():
            return redacted(value)
        case Mapping():
            return {key: redacted_values(inner) for key, inner in value.items()}
        case list() | tuple():
            return [redacted_values(inner) for inner in value]
    return value


def guard_output() -> None:
    """From now on this process writes nothing secret: messages, logs of libraries, tracebacks.

    What it writes comes above the line of ``terminal``, which holds no secrets, once redacted.
    Where a stream is closed, what is written there is gone, and ends no command.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # as Python has it where the descriptor is closed
            stream = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - to the end
        setattr(sys, name, _Guarded(Shown(stream)))


class _Guarded:
    """A stream that redacts whole lines, for a secret may come in pieces, or what is flushed."""

    def __init__(self, stream: TextIO | Shown) -> None:
        self._stream, self._held = stream, ""

    def write(self, text: str) -> int:
        lines, newline, self._held = (self._held + text).rpartition("\n")
        if newline:
            self._stream.write(redacted(lines + newline))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        self.write("".join(lines))

    def flush(self) -> None:
        held, self._held = self._held, ""
        if held:
            self._stream.write(redacted(held))
        self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _secrets() -> Iterator[str]:
    """The secrets in the environment, as it stands there."""
    for name, value in os.environ.items():
        if _NAME.search(name) and not _is_open(value):
            yield from {value, value.strip()}
            yield from (line for line in value.splitlines() if len(line) >= _SURELY)
            yield from (found for _, found in _QUERY.findall(value))
        if "://" in value:
            # The whole value is one URL, or a list of them: whatever stands before the last @.
            rest = value.partition("://")[2].rpartition("@")[0]
            yield rest.partition(":")[2] or rest
            for login in _LOGIN.findall(value):
                user, colon, password = login[1].partition(":")
                yield password if colon else user
            yield from (found for _, found in _QUERY.findall(value))


def _is_open(value: str) -> bool:
    """Whether a variable that sounds like a secret holds none: a setting, or where one is kept."""
    return value.lower() in _NO_SECRETS or (value.startswith("/") and os.path.exists(value))  # noqa: PTH110 - does not raise


@lru_cache(maxsize=8)
def _pattern(secrets: frozenset[str]) -> re.Pattern[str] | None:
    forms = {form for secret in secrets for form in _forms(secret)}
    found = sorted((form for form in forms if len(form) >= _SHORTEST), key=len, reverse=True)
    return re.compile("|".join(map(_searched, found))) if found else None


def _searched(form: str) -> str:
    """The expression for one form of a secret: a short one where it is a word, or encoded."""
    if len(form) >= _SURELY:
        return re.escape(form)
    before = r"(?:(?<!\w)|(?<=%[0-9A-Fa-f]{2})|(?<=\\[nrt]))" if form[0].isalnum() else ""
    return before + re.escape(form) + (r"(?!\w)" if form[-1].isalnum() else "")


def _forms(secret: str) -> Iterator[str]:
    """A secret as it is, decoded, and as URLs, JSON and Python write it."""
    for plain in (secret, unquote(secret), unquote_plus(secret)):
        yield plain
        for encode in (quote, quote_plus):
            encoded = encode(plain, safe="")
            yield encoded
            yield re.sub("%[0-9A-F]{2}", lambda code: code[0].lower(), encoded)
            yield encode(plain)
        for written in (json.dumps(plain), json.dumps(plain, ensure_ascii=False), repr(plain)):
            yield written[1:-1]
