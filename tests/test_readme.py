"""The README says what metrics/summary.json says."""

import json
from pathlib import Path

from sparse_sam.show import render

ROOT = Path(__file__).resolve().parent.parent


def test_the_published_table_is_that_of_the_committed_summary() -> None:
    summary = json.loads((ROOT / "metrics/summary.json").read_text(encoding="utf-8"))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"```\n{render(summary)}\n```" in readme, "run: python docs/make_figures.py"


def test_every_page_that_is_linked_exists() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "data" / "README.md"]:
        text = page.read_text(encoding="utf-8")
        for target in [part.split(")")[0] for part in text.split("](")[1:]]:
            if "://" not in target:
                file = target.partition("#")[0]
                assert (page.parent / file).exists(), f"{page.name} links to {target}"
