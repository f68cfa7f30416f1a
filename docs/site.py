"""What MkDocs is told beside docs/*.md: README, changes and studies as pages, the API by rooms.

A hook of MkDocs (``mkdocs.yml``). Pages are written for GitHub, where they link to any file of the
repository; here such links lead to the page that the file became, or to a copy of the file.
"""

import ast
import logging
import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = ROOT / "src" / "sparse_sam"
ROOMS = (
    *("sam", "pruning", "networks", "data", "training", "evaluation", "export", "frameworks"),
    "files",
)
"""Those that are used from Python; the others are commands."""
_LINK = re.compile(r"(!?\[[^\]]*\]\()([^)\s]+)(\))")
_ADDRESS = re.compile(r'(<a\b[^>]*\bhref=")([^"#:]+)((?:#[^"]*)?")')
_SCRIPT = re.compile(r"<script\b[^>]*>.*?</script>\n?", re.DOTALL)
_REMOTE = re.compile(
    r"""(?:<(?:script|link|img|iframe)\b[^>]*(?:src|href)=|\bfrom |\bimport\()"""
    r"""["']?((?:https?:)?//[^"' >]+)"""
)
_LOG = logging.getLogger("mkdocs.hooks.site")
_SOURCES: dict[str, str] = {}
"""Of every page and file of the site, where it lies in the repository, and the other way round."""
_PAGES: dict[str, str] = {}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Name the studies and the rooms in the navigation."""
    nav: list[Any] = list(config.nav or [])
    for entry in nav:
        if isinstance(entry, dict) and "Studies" in entry:
            entry["Studies"] = [f"studies/{path.parent.name}.md" for path in reports()]
        if isinstance(entry, dict) and "API" in entry:
            entry["API"] = [f"api/{room}.md" for room in ROOMS]
    config.nav = nav
    return config


def reports() -> list[Path]:
    """The studies' reports."""
    return sorted(ROOT.glob("studies/*/REPORT.md"))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie elsewhere, and the files that pages link to."""
    _PAGES.clear()
    _PAGES.update({f"docs/{file.src_uri}": file.src_uri for file in files})
    own = {"README.md": "index.md", "CHANGELOG.md": "changelog.md"}
    own |= {f"{path.relative_to(ROOT)}": f"studies/{path.parent.name}.md" for path in reports()}
    for source, page in own.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    _PAGES.update(own)
    for room in ROOMS:
        files.append(File.generated(config, f"api/{room}.md", content=api(room)))
    for source in linked():
        if source not in _PAGES:
            target = f"files/{source}"
            files.append(File.generated(config, target, abs_src_path=str(ROOT / source)))
            _PAGES[source] = target
    _SOURCES.clear()
    _SOURCES.update({page: source for source, page in _PAGES.items()})
    return files


def linked() -> list[str]:
    """The files of the repository that pages link to, and that are no pages."""
    found = set()
    for source in [path for path in _PAGES if path.endswith((".md", ".ipynb"))]:
        text = (ROOT / source).read_text(encoding="utf-8")
        for _, target, _ in _LINK.findall(text):
            if "://" not in target and (path := resolved(source, target)[0]):
                found.add(path)
    return sorted(path for path in found if (ROOT / path).is_file())


def resolved(source: str, target: str) -> tuple[str, str]:
    """The path in the repository that a link in ``source`` leads to, and the heading."""
    path, _, heading = target.partition("#")
    if not path:
        return "", heading
    joined = os.path.normpath(PurePosixPath(source).parent / path)
    return PurePosixPath(joined).as_posix(), heading


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Links as they are in the site; the drawing of the house as a list."""
    source = _SOURCES.get(page.file.src_uri)
    if source is None:
        return markdown

    def moved(link: re.Match[str]) -> str:
        path, heading = resolved(source, link[2])
        if "://" in link[2] or path not in _PAGES:
            return link[0]
        return f"{link[1]}{beside(page, _PAGES[path])}{f'#{heading}' if heading else ''}{link[3]}"

    return _LINK.sub(moved, re.sub(r"```mermaid\n(.*?)```", layers, markdown, flags=re.DOTALL))


def beside(page: Page, other: str) -> str:
    """The way from a page to another."""
    return PurePosixPath(os.path.relpath(other, PurePosixPath(page.file.src_uri).parent)).as_posix()


def of_a_notebook(output: str, page: Page) -> str:
    """A notebook's page as the others are: MkDocs sees neither its links nor what it would load."""
    source = _SOURCES[page.file.src_uri]

    def moved(link: re.Match[str]) -> str:
        path = _PAGES.get(resolved(source, link[2])[0])
        if path is None:
            return link[0]
        to = re.sub(r"\.(md|ipynb)$", ".html", beside(page, path))
        return f"{link[1]}{to}{link[3]}"

    def kept(script: re.Match[str]) -> str:
        return "" if _REMOTE.search(script[0]) or 'src=""' in script[0] else script[0]

    return _SCRIPT.sub(kept, _ADDRESS.sub(moved, output))


def on_post_page(output: str, page: Page, **_: Any) -> str:
    """No page loads anything from elsewhere, as that of a notebook would Mermaid and MathJax."""
    text = output
    if page.file.src_uri.endswith(".ipynb"):
        text = of_a_notebook(output, page)
    for found in _REMOTE.findall(text):
        _LOG.warning("%s would load %s", page.file.src_uri, found)
    return text


def layers(drawing: re.Match[str]) -> str:
    """The layers of a drawing, from the highest down: Mermaid itself would have to be fetched."""
    names = re.findall(r'L\d+\["(.+?)"\]', drawing[1])
    return "\n".join(
        f"{number}. `{'`, `'.join(one.split('<br/>'))}`" for number, one in enumerate(names, 1)
    )


def api(room: str) -> str:
    """The page of a room: what it is, and every name at its front door."""
    text = ast.get_docstring(ast.parse((LIBRARY / room / "__init__.py").read_text("utf-8"))) or ""
    first, _, rest = text.partition("\n\n")
    name, _, purpose = first.partition(": ")
    said = f"{purpose[0].upper()}{purpose[1:]}\n\n{rest.partition('May use:')[0].strip()}"
    lines = [f"---\ntitle: {name}\n---\n# `sparse_sam.{room}`", "", said, ""]
    plain = []
    for node in ast.parse((LIBRARY / room / "__init__.pyi").read_text("utf-8")).body:
        for one in node.names if isinstance(node, ast.ImportFrom) else ():
            if node.module and one.name not in defined(LIBRARY / room, node.module):
                plain.append(f"`{one.name}`")
            else:
                inner = f"{node.module}.{one.name}" if node.module else one.name
                lines.append(f"::: sparse_sam.{room}.{inner}\n")
    also = ["## Numbers and names", "", ", ".join(plain)] if plain else []
    return "\n".join([*lines, *also])


def defined(folder: Path, module: str) -> set[str]:
    """The names that a module defines one by one, and not several in a line."""
    path = folder.joinpath(*module.split(".")).with_suffix(".py")
    found = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        match node:
            case ast.ClassDef() | ast.FunctionDef():
                found.add(node.name)
            case ast.Assign(targets=[ast.Name(name)]) | ast.AnnAssign(target=ast.Name(name)):
                found.add(name)
    return found
