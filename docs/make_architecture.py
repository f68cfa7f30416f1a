"""Draw the house into docs/architecture.md, from the contracts in pyproject.toml.

``python docs/make_architecture.py`` brings the page up to date; with ``--check`` it exits with 1
where the page is not.
"""

import argparse
import ast
import sys
import tomllib
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- house: python docs/make_architecture.py -->", "<!-- end of house -->"


def layers() -> list[list[str]]:
    """The rooms and modules at the top of the library, from the highest layer to the lowest."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    (house,) = [one for one in contracts if one.get("containers") == ["sparse_sam"]]
    return [[name.strip() for name in layer.split("|")] for layer in house["layers"]]


def uses() -> dict[str, list[str]]:
    """Which others each of them imports, in the order of the layers."""
    order = [name for layer in layers() for name in layer]
    graph = grimp.build_graph("sparse_sam", cache_dir=None)
    found = {}
    for name in order:
        module = f"sparse_sam.{name}"
        inside = [module, *graph.find_descendants(module)]
        near = {far for one in inside for far in graph.find_modules_directly_imported_by(one)}
        rooms = {far.split(".")[1] for far in near if "." in far} - {name}
        found[name] = sorted(rooms, key=order.index)
    return found


def purpose(name: str) -> str:
    """The first line of what a room or module says of itself."""
    base = ROOT / "src" / "sparse_sam" / name
    path = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    line = text.partition("\n")[0]
    said = line.partition(": ")[2] if base.is_dir() else line
    return said[0].upper() + said[1:]


def house() -> str:
    """The diagram and the table, as Markdown."""
    drawn = ["```mermaid", "flowchart TD"]
    stacked = layers()
    for number, layer in enumerate(stacked):
        names = "<br/>".join(layer) if len(layer) > 1 else layer[0]
        drawn.append(f'  L{number}["{names}"]')
    drawn += [f"  L{number} --> L{number + 1}" for number in range(len(stacked) - 1)]
    table = ["| room | what it is for | uses |", "|---|---|---|"]
    for name, used in uses().items():
        shown = ", ".join(f"`{one}`" for one in used) or "nothing of the library"
        table.append(f"| `{name}` | {purpose(name)} | {shown} |")
    return "\n".join([*drawn, "```", "", *table])


def updated(page: str) -> str:
    """The page with the house of today."""
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n{house()}\n{END}{after}"


def main() -> int:
    """Write the page, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    page = PAGE.read_text(encoding="utf-8")
    new = updated(page)
    if parser.parse_args().check:
        return int(page != new)
    PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
