"""Take README.md's picture, as GitHub shows it: ``python -m tools.readme_picture``.

The text goes through a renderer of GitHub's Markdown into a column as wide as GitHub's, its
diagram left as text. Needs chromium.
"""

import tempfile
from pathlib import Path

from markdown_it import MarkdownIt

from tools.browser import Browser

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "images" / "readme.png"
WIDTH, HEIGHT = 1012, 1400
PAGE = """<!doctype html><meta charset="utf-8"><base href="{base}"><style>
body {{ margin: 0 auto; padding: 32px; max-width: 838px; color: #1f2328; background: #fff;
  font: 16px/1.5 "DejaVu Sans", sans-serif; }}
h1, h2 {{ border-bottom: 1px solid #d1d9e0; padding-bottom: .3em; line-height: 1.25; }}
pre {{ padding: 16px; overflow: auto; font-size: 85%; line-height: 1.45; background: #f6f8fa; }}
img {{ max-width: 100%; }} a {{ color: #0969da; }}
</style>{body}"""


def main() -> None:
    """Render, and photograph the first screens."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    body = MarkdownIt("gfm-like", {"linkify": False}).render(text)
    with tempfile.TemporaryDirectory() as folder, Browser() as browser:
        page = Path(folder) / "readme.html"
        page.write_text(PAGE.format(base=f"{ROOT.as_uri()}/", body=body), encoding="utf-8")
        browser.open(page.as_uri(), WIDTH, height=HEIGHT)
        browser.picture(PICTURE)


if __name__ == "__main__":
    main()
