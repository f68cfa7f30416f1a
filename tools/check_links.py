"""No dead link in what people read: ``python -m tools.check_links`` (``make docs-check``).

Looks at the built site, the HTML report and the Markdown pages as GitHub shows them. Every link
and image within them must lead to a file that is there, and to a place in it; nothing may be loaded
from elsewhere. Links to elsewhere are not followed, only looked at: ``--external`` lists them.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from markdown_it import MarkdownIt

SITE, REPORT = Path("site"), Path("reports/report.html")
_ADDRESSES = {"href", "src", "xlink:href", "srcset", "poster", "data", "action"}
_IN_STYLE = re.compile(r"(?:url\(\s*['\"]?|@import\s+['\"])([^'\")]+)")
_HEADING = re.compile(r"<h([1-6])(\s[^>]*)?>(.*?)</h\1>", re.DOTALL)
_UNDEFINED = re.compile(r"\]\[([^\[\]]+)\]")
"""What is left in a text of ``[words][name]`` where nothing says what the name leads to."""
_HOST = re.compile(r"([a-z0-9-]+\.)+[a-z]{2,}|localhost|127\.0\.0\.1", re.IGNORECASE)
_FOLLOWED = {"a", "area"}
_VERBATIM = {"code", "pre", "script", "style"}
_SAID_ONLY = {"canonical", "alternate", "license", "next", "prev", "author", "help"}
"""What a ``<link>`` may be to another place: nothing is loaded for it."""


class Link(NamedTuple):
    """An address in a page, and whether it is loaded with the page or waits for a click."""

    address: str
    is_loaded: bool


class Page(HTMLParser):
    """The addresses of a page, and the places in it that an address can name."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.links: list[Link] = []
        self.places: set[str] = set()
        self.undefined: list[str] = []
        self._in_style = False
        self._in_code = 0
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what an element leads to, and what it is called."""
        self._in_style = tag == "style"
        self._in_code += tag in _VERBATIM
        given = {name: value or "" for name, value in attrs}
        self.places |= {given["id"]} if "id" in given else set()
        self.places |= {given["name"]} if tag == "a" and "name" in given else set()
        relation = set(given.get("rel", "").split())
        is_loaded = tag not in _FOLLOWED and not (tag == "link" and relation & _SAID_ONLY)
        for name in _ADDRESSES & given.keys():
            several = given[name].split(",") if name == "srcset" else [given[name]]
            self.links += [
                Link(one.split()[0] if one.split() else "", is_loaded) for one in several
            ]
        self.links += [Link(one, True) for one in _IN_STYLE.findall(given.get("style", ""))]

    def handle_endtag(self, tag: str) -> None:
        """Note that words are no code any more."""
        self._in_code -= tag in _VERBATIM

    def handle_data(self, data: str) -> None:
        """Note what a style sheet within the page loads, and links that were never made."""
        if not self._in_code:
            self.undefined += _UNDEFINED.findall(data)
        if self._in_style:
            self.links += [Link(one, True) for one in _IN_STYLE.findall(data)]


def check_site(folder: Path) -> tuple[list[str], set[str]]:
    """What is wrong with a folder of pages, a sentence each, and the addresses elsewhere."""
    said, elsewhere = [], set()
    for path in sorted(folder.rglob("*.html")):
        # A server shows this one at any address, so its own are from the top.
        is_absolute = path.name == "404.html"
        problems, others = _check(path, _page(path).links, folder, is_absolute=is_absolute)
        said += problems
        elsewhere |= others
    for path in sorted(folder.rglob("*.css")):
        loaded = [Link(one, True) for one in _IN_STYLE.findall(path.read_text(encoding="utf-8"))]
        said += _check(path, loaded, folder)[0]
    return said, elsewhere


def check_file(path: Path) -> tuple[list[str], set[str]]:
    """The same of one page that stands alone."""
    return _check(path, _page(path).links, path.parent)


def check_markdown(
    root: Path, pages: Iterable[Path], files: Iterable[Path] | None = None
) -> tuple[list[str], set[str]]:
    """The same of Markdown pages and notebooks, as GitHub shows them.

    Args:
        root: the repository.
        pages: its pages to check.
        files: those that others have as well; all by default.
    """
    shared = None
    if files is not None:
        resolved = [path.resolve() for path in files]
        shared = {*resolved, *(folder for path in resolved for folder in path.parents)}
    said, elsewhere = [], set()
    for path in pages:
        problems, others = _check(path, _page(path).links, root, shared=shared)
        said += problems
        said += [
            f"{path.relative_to(root)}: [{one}] is defined nowhere in the page"
            for one in dict.fromkeys(_page(path).undefined)
        ]
        elsewhere |= others
    return said, elsewhere


def files_in_git(root: Path) -> list[Path]:
    """The files that are in git, or are about to be: not those that it ignores."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, capture_output=True, check=True)
    names = sorted(set(os.fsdecode(listed.stdout).split("\0")) - {""})
    return [root / one for one in names if (root / one).exists()]


def markdown_pages(files: Iterable[Path]) -> list[Path]:
    """The pages and notebooks among files."""
    # (Those of the template lie elsewhere once a project is made of them.)
    return [
        path
        for path in files
        if path.suffix in {".md", ".ipynb"} and "/template/" not in path.as_posix()
    ]


def rendered(path: Path) -> str:
    """A page's HTML: of Markdown with GitHub's names of headings."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n\n".join(
            "".join(one["source"]) for one in cells if one["cell_type"] == "markdown"
        )
    elif path.suffix != ".md":
        return text
    known: Counter[str] = Counter()

    def named(heading: re.Match[str]) -> str:
        plain = unescape(re.sub(r"<[^>]+>", "", heading[3]))
        place = re.sub(r"[^\w\- ]", "", plain.strip().lower()).replace(" ", "-")
        known[place] += 1
        number = f"-{known[place] - 1}" if known[place] > 1 else ""
        return f'<a id="{place}{number}"></a>{heading[0]}'

    html = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(text)
    return _HEADING.sub(named, html)


@cache
def _page(path: Path) -> Page:
    return Page(rendered(path))


def _check(
    path: Path,
    links: Iterable[Link],
    root: Path,
    *,
    is_absolute: bool = False,
    shared: set[Path] | None = None,
) -> tuple[list[str], set[str]]:
    said, elsewhere = [], set()
    for link in dict.fromkeys(links):
        parts = urlsplit(link.address)
        if parts.scheme in {"data", "mailto", "javascript", "about"}:
            continue
        if parts.scheme or parts.netloc:
            elsewhere.add(link.address)
            problem = _of_another_place(link)
        else:
            problem = _of_a_place_here(
                link.address, path, root, is_absolute=is_absolute, shared=shared
            )
        if problem:
            said.append(f"{path.relative_to(root)}: {link.address or '(empty)'} {problem}")
    return said, elsewhere


def _of_another_place(link: Link) -> str:
    parts = urlsplit(link.address)
    if link.is_loaded:
        return "would be loaded from elsewhere"
    if parts.scheme not in {"http", "https"} or not _HOST.fullmatch(parts.hostname or ""):
        return "is no address of a page"
    return ""


def _of_a_place_here(
    address: str, page: Path, root: Path, *, is_absolute: bool, shared: set[Path] | None
) -> str:
    parts = urlsplit(address)
    if not address:
        return "leads nowhere"
    path = unquote(parts.path)
    if path.startswith("/") and not is_absolute:
        return "begins at the top of the server, where the page need not lie"
    target = (root / path.lstrip("/") if path.startswith("/") else page.parent / path).resolve()
    if not path:
        target = page
    elif target.is_dir() and root.joinpath("index.html").is_file():
        target /= "index.html"
    if not target.resolve().is_relative_to(root.resolve()):
        return "leads out of here"
    if not target.exists():
        return "is not there"
    if shared is not None and target.resolve() not in shared:
        return "is not in git: only you have it"
    place = unquote(parts.fragment)
    if place in {"", "top"} or target.suffix not in {".html", ".md", ".ipynb"}:
        return ""
    return "" if place in _page(target).places else "names a place that is not in the page"


def _all(site: Path, report: Path, root: Path) -> Iterator[tuple[str, list[str], set[str]]]:
    if site.is_dir():
        count = len(list(site.rglob("*.html")))
        yield f"{site}/: {count} pages", *check_site(site)
    if report.is_file():
        yield str(report), *check_file(report)
    files = files_in_git(root)
    pages = markdown_pages(files)
    yield f"{len(pages)} Markdown pages", *check_markdown(root, pages, files)


def main() -> int:
    """Say what is wrong; 1 if anything is."""
    parser = argparse.ArgumentParser(prog="python -m tools.check_links", description=__doc__)
    parser.add_argument("--site", type=Path, default=SITE, help="the built site (default: site/)")
    parser.add_argument("--report", type=Path, default=REPORT, help="(default: %(default)s)")
    parser.add_argument("--external", action="store_true", help="list addresses elsewhere, too")
    options = parser.parse_args()
    failed = 0
    elsewhere: set[str] = set()
    for what, said, others in _all(options.site, options.report, Path()):
        print(f"{what}: {f'{len(said)} dead links' if said else 'no dead link'}")
        sys.stdout.writelines(f"  {line}\n" for line in said)
        failed += len(said)
        elsewhere |= others
    print(f"{len(elsewhere)} addresses elsewhere, which are not followed")
    if options.external:
        sys.stdout.writelines(f"  {one}\n" for one in sorted(elsewhere))
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
