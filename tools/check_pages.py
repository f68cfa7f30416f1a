"""What people see is to be seen: ``python -m tools.check_pages`` (``make docs-look``).

Opens the pages of the built site and the HTML report in Chromium, at the width of a phone and of a
desktop, light and dark. No text and no mark has a contrast below 3:1, no page is wider than its
window, no word is cut off at a side, no image is missing, nothing is fetched from elsewhere, and no
script fails. Text below 4.5:1 is counted. What is not looked at: text on gradients, in inputs, in
frames and in pseudo-elements, and text below other elements.
"""

import argparse
import functools
import http.server
import json
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tools.browser import Browser, missing

WIDTHS = (390, 1280)
LEAST, NORM = 3.0, 4.5
"""The contrast that is asked for, and that of WCAG 2.2 AA for text."""
_SCRIPT = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - so it is called
        """Say nothing of what is asked for."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a folder, as long as the context lasts."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def look(browser: Browser, url: str) -> tuple[Counter[str], Counter[str]]:
    """What is wrong with a page, and what is below the norm: each with how often it was seen."""
    wrong: Counter[str] = Counter()
    below: Counter[str] = Counter()
    for width in WIDTHS:
        for dark in (False, True):
            where = f"{width} px, {'dark' if dark else 'light'}"
            browser.open(url, width, dark=dark)
            browser.settle()
            asked = {"least": LEAST, "norm": NORM, "width": width}
            found = browser.ask(f"({_SCRIPT.strip()})({json.dumps(asked)})")
            wrong.update(browser.complaints)
            wrong.update(f"{where}: {one}" for one in found["said"])
            below.update(f"{where}: {one}" for one in found["below"])
    return wrong, below


def _pages(site: Path, report: Path, address: str) -> Iterator[tuple[str, str]]:
    for path in sorted(site.rglob("*.html")):
        name = path.relative_to(site).as_posix()
        yield f"{site.name}/{name}", f"{address}/{name}"
    if report.is_file():
        yield str(report), report.absolute().as_uri()
    else:
        print(f"{report} is not there, so nobody looked at it: `make repro` writes it")


def main() -> int:
    """Look at everything; 1 if anything is wrong, or if there is no browser to look with."""
    parser = argparse.ArgumentParser(prog="python -m tools.check_pages", description=__doc__)
    parser.add_argument("--site", type=Path, default=Path("site"))
    parser.add_argument("--report", type=Path, default=Path("reports/report.html"))
    parser.add_argument("--all", action="store_true", help="say what is below 4.5:1, too")
    options = parser.parse_args()
    if why := missing():
        sys.exit(f"error: {why}, so nobody looked at the pages")
    from playwright.sync_api import Error

    failed = looked = 0
    try:
        with Browser() as browser, served(options.site) as address:
            for name, url in _pages(options.site, options.report, address):
                wrong, below = look(browser, url)
                print(f"{name}: {len(wrong) or 'nothing'} wrong, {len(below)} below {NORM}:1")
                shown = [*wrong, *(below if options.all else ())]
                sys.stdout.writelines(f"  {line}\n" for line in shown)
                failed += len(wrong)
                looked += 1
    except Error as error:
        sys.exit(f"error: {error}")
    if not looked:
        sys.exit(f"error: there is no {options.site}/ and no {options.report} to look at")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
