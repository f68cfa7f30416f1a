"""Take the pictures of docs/report.md: ``python -m tools.report_pictures`` after ``make repro``.

Opens reports/report.html in Chromium: on a desktop, light and dark, on a phone, and as it is
printed on A4. Needs chromium, and pdftoppm (of poppler-utils) for the printed pages.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from tools.browser import Browser

REPORT = Path("reports/report.html")
IMAGES = Path("docs/images")
PICTURES = {
    "report-desktop": (1180, False),
    "report-dark": (1180, True),
    "report-phone": (390, False),
}
"""The width of the window, and whether it is dark."""


def main() -> None:
    """Take them all, and say how many pages are printed."""
    if not REPORT.is_file():
        sys.exit(f"error: {REPORT} is missing. Run `make repro`.")
    with tempfile.TemporaryDirectory() as folder, Browser() as browser:
        for name, (width, dark) in PICTURES.items():
            browser.open(REPORT.absolute().as_uri(), width, dark=dark, height=1500)
            browser.picture(IMAGES / f"{name}.png")
        printed = Path(folder) / "report.pdf"
        browser.print(printed)
        subprocess.run(["pdftoppm", "-r", "40", "-png", printed, f"{folder}/page"], check=True)
        pages = sorted(Path(folder).glob("page*.png"))
        (IMAGES / "report-print.png").write_bytes(pages[0].read_bytes())
    print(f"{len(pages)} pages when printed")


if __name__ == "__main__":
    main()
