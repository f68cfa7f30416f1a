"""Execute docs/tutorial.ipynb and write it back with its outputs, without what differs by machine.

``python docs/make_tutorial.py`` is ``make tutorial``. Needs the extra ``test``.
"""

import argparse
import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

PAGE = Path(__file__).resolve().parent / "tutorial.ipynb"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
SECONDS = 300


def executed(notebook: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    """The notebook with fresh outputs, run in ``folder``. Raises CellExecutionError."""
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
    client = NotebookClient(
        notebook,
        timeout=SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
    )
    return plain(client.execute())


def plain(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Without times, versions and random names; cells are called by their number."""
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL})
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number}", nbformat.from_dict({})
        for output in cell.get("outputs", []):
            if "metadata" in output:
                output.metadata = nbformat.from_dict({})
    return notebook


def main() -> int:
    """Write it."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    notebook = nbformat.read(PAGE, as_version=4)
    made = executed(notebook, PAGE.parent)
    nbformat.validate(made)
    PAGE.write_text(nbformat.writes(made, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
