"""``python -m sparse_sam.new DIR``: start a project of your own that uses this library.

Creates a project with parameters (the reference protocol, with a network of its own), the pipeline
for DVC, a gate, tests, a Makefile and CI, from the files in ``template/``. A folder that is not
empty is not touched, and the new one appears complete or not at all.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from sparse_sam.errors import SparseSamError
from sparse_sam.redaction import redacted

_TEMPLATE = Path(__file__).parent / "template"
_NAME, _EXTRAS = "sparse-sam", "pipeline,export"
_DOT = "dot-"
"""How the name of a file in the template begins that is hidden in a project: git, ruff and DVC
would obey it here."""
_TITLE, _LIBRARY = "{{project}}", "{{library}}"
_CHANGES = {
    "params.yaml": (
        (r"^  name: classifier #", "  name: networks:small #"),
        (rf"^  name: {_NAME} #", f'  name: "{_TITLE}" #'),
    ),
    "dvc.yaml": ((r"python -m stages\.", "python -m sparse_sam.stages."),),
}
"""What is said otherwise in a project than in this repository, where the same files are used."""


def new_project(folder: Path, library: str) -> None:
    """Write a project.

    Args:
        folder: where; it is made, and may be there if it is empty.
        library: what pip installs the library from, as a line of ``requirements.txt``.

    Raises:
        SparseSamError: the folder is not empty, is none, or is the one that this process is in; or
            there is no git.
        OSError: it cannot be written.
    """
    folder = folder.absolute()
    _check_free(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent
    ) as temporary:
        made = Path(temporary) / "new"
        made.mkdir()
        title = re.sub(r"[^\w.+-]+", "-", folder.name, flags=re.ASCII).strip("-._+")[:100]
        for source, path in _files():
            target = made / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(
                _filled(path, source.read_text("utf-8"), title or _NAME, library), "utf-8"
            )
        _make_repository(made)
        _check_free(folder)
        made.rename(folder)  # which replaces an empty folder, and no other


def _check_free(folder: Path) -> None:
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise SparseSamError(f"{folder} is not a folder. Nothing was written. Name another folder.")
    if not folder.exists():
        return
    inside = sorted(one.name for one in folder.iterdir())
    if inside:
        more = f" and {len(inside) - 3} more" if len(inside) > 3 else ""
        raise SparseSamError(
            f"{folder} is not empty: it holds {', '.join(inside[:3])}{more}. Nothing was "
            "written. Name a folder that is empty or does not exist yet."
        )
    if folder.resolve() == Path.cwd():
        raise SparseSamError(
            f"{folder} is the current folder. Nothing was written. Run the command from the "
            "folder above it."
        )


def _files() -> list[tuple[Path, Path]]:
    """The files of the template, and where each lies in a project."""
    found = []
    for source in sorted(_TEMPLATE.rglob("*")):
        inner = source.relative_to(_TEMPLATE)
        # What tools leave here is hidden, or compiled.
        is_left = any(part[0] == "." or part == "__pycache__" for part in inner.parts)
        if source.is_file() and not is_left:
            parts = (re.sub(f"^{_DOT}", ".", part) for part in inner.parts)
            found.append((source, Path(*parts)))
    return found


def _filled(path: Path, text: str, title: str, library: str) -> str:
    """A file of the template as it stands in a project."""
    for pattern, new in _CHANGES.get(path.as_posix(), ()):
        text = re.sub(pattern, new, text, flags=re.MULTILINE)
    return text.replace(_TITLE, title).replace(_LIBRARY, library)


def _make_repository(folder: Path) -> None:
    """Make a folder a git repository, without a commit: DVC and the gate need one."""
    outer = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "init", "--quiet", "--initial-branch=main", str(folder)]
    try:
        done = subprocess.run(command, env=outer, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise SparseSamError(
            "git is not installed, but a project needs it. Install it and run again."
        ) from None
    if done.returncode:
        raise SparseSamError(f"git cannot create a repository: {' '.join(done.stderr.split())}")


def requirement(named: str | None = None) -> str:
    """What pip installs the library from: a line of ``requirements.txt``.

    Args:
        named: a folder, or a URL as pip knows it (``git+https://…``); None is where the library
            that runs here came from: the clone that it lies in, or what pip was given.

    Raises:
        SparseSamError: the folder is none of this library, or it cannot be told.
    """
    whole = f"{_NAME}[{_EXTRAS}]"
    if named and redacted(named) != named:
        raise SparseSamError(
            "the URL of the library holds a login, which would end up in a file that git keeps. "
            "Remove it from the URL: git and pip read logins from ~/.netrc and credential "
            "helpers"
        )
    if named and "://" in named:
        return f"{whole} @ {named}"
    clone = Path(named).expanduser() if named else Path(__file__).parents[2]
    if (clone / "pyproject.toml").is_file():
        return f"{whole} @ {clone.resolve().as_uri()}"
    if named:
        raise SparseSamError(
            f"{named} is neither a clone of {_NAME} nor a URL; allowed: a folder with its "
            "pyproject.toml, or a URL that pip can install from, such as "
            "git+https://example.org/sparse-sam.git"
        )
    return f"{whole}{_installed_from()}"


def _installed_from() -> str:
    """What pip was told when it installed the library, by its own record (PEP 610)."""
    try:
        found = distribution(_NAME)
    except PackageNotFoundError:
        raise SparseSamError(
            f"{_NAME} was not installed by pip, so its source is not known; name it with --from "
            "(or FROM=…): a folder or a URL"
        ) from None
    record: Any = json.loads(found.read_text("direct_url.json") or "{}")
    if "url" not in record:
        return f"=={found.version}"
    source = record.get("vcs_info")
    url = f"{source['vcs']}+{record['url']}@{source['commit_id']}" if source else record["url"]
    inner = record.get("subdirectory")
    return f" @ {url}{f'#subdirectory={inner}' if inner else ''}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Make it and say how to go on: 0 when it is there, 2 when nothing was written."""
    parser = argparse.ArgumentParser(
        prog="python -m sparse_sam.new", description=(__doc__ or "").partition("\n\n")[2]
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="an empty or new folder")
    parser.add_argument(
        "--from",
        dest="source",
        metavar="SOURCE",
        help="where the project installs the library from: a clone, or a URL for pip "
        "(git+https://…); default: where this copy came from",
    )
    options = parser.parse_args(arguments)
    try:
        library = requirement(options.source)
        new_project(options.folder, library)
    except SparseSamError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        sys.stderr.write(f"error: {where}{error.strerror or error}. Nothing was written.\n")
        return 2
    sys.stdout.write(
        f"{options.folder}: new project, with its own network in networks.py.\n"
        f"requirements.txt installs the library from: {library}\n"
    )
    if "file://" in library:
        sys.stdout.write(
            "Only this computer has that folder: put a URL there before others, or CI, set up the "
            "project.\n"
        )
    sys.stdout.write(f"Next: cd {options.folder} && make repro   (see its README.md)\n")
    return 0


if __name__ == "__main__":
    from sparse_sam.redaction import guard_output

    guard_output()
    sys.exit(main())
