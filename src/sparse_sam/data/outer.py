"""Where what lies outside the project is, as parameters name it."""

import os
from pathlib import Path

from sparse_sam.errors import DataError


def repository() -> Path:
    """What relative folders in the parameters are relative to.

    Experiments of DVC run in a copy of the repository; DVC_ROOT names the repository.
    """
    return Path(os.environ.get("DVC_ROOT", "."))


def outer_path(name: str) -> Path:
    """The file or folder that a parameter names. Raises DataError if nobody can be of that name."""
    try:
        return repository() / Path(name).expanduser()
    except RuntimeError as error:  # ~somebody, who is not known here
        raise DataError(f"data.folder = {name!r} is not a folder: {error}") from None


def cache_folder() -> Path:
    """Where downloads are kept, for all clones: SPARSE_SAM_CACHE, or the user's cache folder."""
    named = os.environ.get("SPARSE_SAM_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sparse-sam"
