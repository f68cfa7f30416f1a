"""The README says what metrics/summary.json says."""

import json
import re
import subprocess
from pathlib import Path

from sparse_sam.evaluation.table import comparison_table

ROOT = Path(__file__).resolve().parent.parent


def committed(path: str) -> str:
    """A file as it is in the last commit: who runs the experiment has other seconds."""
    command = ["git", "show", f"HEAD:{path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    return done.stdout.decode("utf-8")


def test_the_published_table_is_that_of_the_committed_summary() -> None:
    summary = json.loads(committed("metrics/summary.json"))
    readme = committed("README.md")
    assert f"```\n{comparison_table(summary)}\n```" in readme, "run: python docs/make_figures.py"


def test_every_page_that_is_linked_exists() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "data" / "README.md"]:
        text = page.read_text(encoding="utf-8")
        for target in [part.split(")")[0] for part in text.split("](")[1:]]:
            if "://" not in target:
                file = target.partition("#")[0]
                assert (page.parent / file).exists(), f"{page.name} links to {target}"


def test_every_test_that_is_named_exists() -> None:
    for page in [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")]:
        for name in re.findall(r"tests/[\w/]+\.py", page.read_text(encoding="utf-8")):
            assert (ROOT / name).is_file(), f"{page.name} names {name}"
