"""Where the store of results is: in the clone, in a folder that several share, or behind a remote.

``SPARSE_SAM_STORE`` says so: a folder, or ``remote:NAME``, one of DVC's remotes, whose storage is
then asked for what the clone's own store does not have, and given what is computed here.
"""

import os
from pathlib import Path
from typing import Any

from sparse_sam.errors import ConfigError
from sparse_sam.files import Store
from sparse_sam.redaction import redacted
from sparse_sam.tracking.pipelines import state_folder

_VARIABLE = "SPARSE_SAM_STORE"
_REMOTE = "remote:"


def open_store(root: Path) -> Store:
    """The store of a clone's results.

    Raises:
        ConfigError: ``SPARSE_SAM_STORE`` names a remote that the clone does not have, or nobody's
            home.
    """
    named = os.environ.get(_VARIABLE, "")
    own = state_folder(root) / "store"
    if named.startswith(_REMOTE):
        return Store(own, DVCRemote(root, named.removeprefix(_REMOTE)))
    try:
        return Store(root / Path(named).expanduser() if named else own)
    except RuntimeError:
        raise ConfigError(
            f"{_VARIABLE} = {named!r}: there is no such user's home. It must be a folder, or "
            f"{_REMOTE}NAME with one of DVC's remotes (dvc remote list)"
        ) from None


def is_shared() -> bool:
    """Whether others may keep results where this clone does."""
    named = os.environ.get(_VARIABLE, "")
    return bool(named) and not named.startswith(_REMOTE)


class DVCRemote:
    """A remote of DVC as the second place of a store; its results lie in ``sparse-sam/`` there.

    Args:
        root: the clone.
        name: of the remote, as in `dvc remote list`.
    """

    def __init__(self, root: Path, name: str) -> None:
        self._root, self._name = root, name
        self._opened: tuple[Any, str] | None = None
        config = self._config()
        if name not in config:
            known = ", ".join(sorted(config)) or "none"
            raise ConfigError(
                f"{_VARIABLE} = {_REMOTE + name!r}: this clone has no such remote (it has "
                f"{known}). Add it: dvc remote add {name or 'NAME'} URL"
            )

    def pull(self, name: str, place: Path) -> bool:
        """Write what is kept under a name; False if there is nothing. Raises OSError."""
        try:
            fs, folder = self._open()
            fs.get_file(f"{folder}/{name}", str(place))
        except FileNotFoundError:
            return False
        except OSError:
            raise
        except Exception as error:
            raise self._failed(error) from error
        return True

    def push(self, name: str, file: Path, *, replace: bool = False) -> None:
        """Keep a file, unless one is there that is not to be replaced. Raises OSError."""
        try:
            fs, folder = self._open()
            place = f"{folder}/{name}"
            if replace or not fs.exists(place):
                fs.makedirs(place.rpartition("/")[0], exist_ok=True)
                fs.put_file(str(file), place)
        except OSError:
            raise
        except Exception as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> OSError:
        reason = " ".join(redacted(str(error)).split())[:300]
        return OSError(0, f"remote {self._name}: {reason}", f"{_REMOTE}{self._name}")

    def _config(self) -> Any:
        from dvc.config import Config
        from dvc.exceptions import DvcException

        try:
            return Config(dvc_dir=str(self._root / ".dvc"))["remote"]
        except DvcException as error:
            raise ConfigError(f"{self._root / '.dvc'}: {redacted(str(error))}") from None

    def _open(self) -> tuple[Any, str]:
        if self._opened is None:
            from dvc.repo import Repo

            remote = Repo(str(self._root)).cloud.get_remote(self._name)
            self._opened = remote.fs, f"{str(remote.path).rstrip('/')}/sparse-sam"
        return self._opened
