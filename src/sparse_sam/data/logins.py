"""Downloads that need a login: it stands in the user's ``.netrc``, and in no parameter.

``NETRC`` may name another file. A login is sent to the host that it is for, and nowhere else: a
redirection to another host, or from https to http, is followed without it.
"""

import os
import urllib.request
from base64 import b64encode
from netrc import NetrcParseError, netrc
from typing import IO, Any
from urllib.parse import urlsplit


def open_url(url: str, timeout: float) -> Any:
    """What ``urllib.request.urlopen`` gives, with the login of the URL's host if there is one.

    Args:
        url: http, https or file.
        timeout: seconds without a byte after which a server counts as stalled.

    A file of logins that cannot be used is as good as none; ``cure`` says so.

    Raises:
        OSError: as urlopen, HTTPError among them.
    """
    request = urllib.request.Request(url)  # noqa: S310 - who calls has checked the scheme
    _authorize(request)
    return urllib.request.build_opener(_Redirects).open(request, timeout=timeout)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows as urllib does; the login goes along on the same host only."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: Any,
        newurl: str,
    ) -> urllib.request.Request | None:
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None and _server(req.full_url) == _server(newurl):
            _authorize(request)
        return request


def _server(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port


def _authorize(request: urllib.request.Request) -> None:
    parts = urlsplit(request.full_url)
    found = _logins()[0].get(parts.hostname or "")
    if found and parts.scheme in {"http", "https"}:
        name, _, password = found
        encoded = b64encode(f"{name}:{password}".encode()).decode("ascii")
        # Not among the headers that urllib takes along when it is sent elsewhere.
        request.add_unredirected_header("Authorization", f"Basic {encoded}")


def cure() -> str:
    """What to do about a server that asks for a login, or for another one."""
    _, fault = _logins()
    return fault or f"put the login into {_file()}, {_FORM}"


_FORM = "as `machine HOST login NAME password PASSWORD`, readable by its owner only (chmod 600)"


def _file() -> str:
    return os.environ.get("NETRC") or "~/.netrc"


def _logins() -> tuple[dict[str, tuple[str, str | None, str | None]], str | None]:
    """Logins by host, and what is wrong with their file.

    ``default``, which would tell every host a secret, is not one of them.
    """
    try:
        hosts = netrc(os.environ.get("NETRC")).hosts
    except FileNotFoundError:
        return {}, None
    except (NetrcParseError, OSError, ValueError) as error:
        # Without the reason, which quotes the file.
        where = f", line {error.lineno}," if isinstance(error, NetrcParseError) else ""
        return {}, f"{_file()}{where} cannot be used; write each login {_FORM}"
    return {host.lower(): of for host, of in hosts.items() if host != "default"}, None
