"""Take the pictures of docs/report.md: ``python docs/make_report_screenshots.py`` after repro.

Opens reports/report.html in headless Chromium, as wide as a desktop and as a phone.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

REPORT = Path("reports/report.html")
PICTURES = {"desktop": (1180, 1500), "phone": (375, 1500)}


def main() -> None:
    """Take both."""
    if not REPORT.is_file():
        sys.exit(f"error: {REPORT} is missing. Run `make repro`.")
    for name, (width, height) in PICTURES.items():
        with tempfile.TemporaryDirectory() as profile:
            subprocess.run(
                [
                    *("chromium", "--headless", "--no-sandbox", "--disable-gpu"),
                    *("--hide-scrollbars", "--no-first-run", f"--user-data-dir={profile}"),
                    f"--window-size={width},{height}",
                    f"--screenshot={Path(f'docs/images/report-{name}.png').absolute()}",
                    REPORT.absolute().as_uri(),
                ],
                check=True,
                timeout=120,
                stderr=subprocess.DEVNULL,
            )


if __name__ == "__main__":
    main()
