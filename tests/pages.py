"""Pages of the documentation, and the examples in them."""

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"


def page_of(name: str) -> str:
    """The text of a page of ``docs``."""
    return (DOCS / name).read_text(encoding="utf-8")


def examples(page: str) -> dict[str, str]:
    """The code of a page's text below each ``<!-- example: name -->``, by name."""
    pattern = r"<!-- example: ([a-z ]+) -->\n```python\n(.*?)```\n"
    return dict(re.findall(pattern, page, flags=re.DOTALL))
