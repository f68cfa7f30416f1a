"""Chromium without a window, driven by Playwright: pages are opened, asked, printed, photographed.

The browser is the system's (Debian: ``chromium``); it reaches this machine and no other.
"""

import importlib.util
import shutil
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from playwright.sync_api import ConsoleMessage, Page, Request, Response

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome")
_FLAGS = ("--hide-scrollbars", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
_OWN = ("http://127.0.0.1", "file:", "data:", "blob:", "about:")


def missing() -> str | None:
    """What there is no browser without, in words; None if all of it is there."""
    if importlib.util.find_spec("playwright") is None:
        return "Playwright is not installed (make setup-pictures)"
    return None if _program() else "no Chromium is installed"


def _program() -> str | None:
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


class Browser:
    """One page at a time in a browser of its own; a context, which ends the browser.

    Attributes:
        page: the page that was opened last, as Playwright knows it.
        complaints: what it did that it should not: it wanted something from other machines, did not
            find something here, or has an error on the console.
    """

    page: "Page"

    def __init__(self) -> None:
        from playwright.sync_api import sync_playwright

        self._driver = sync_playwright().start()
        self._browser = self._driver.chromium.launch(executable_path=_program(), args=_FLAGS)
        self._scripts: list[str] = []
        self.complaints: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._browser.close()
        self._driver.stop()

    def before_pages(self, script: str) -> None:
        """Run JavaScript in every page that is opened from now on, before its own."""
        self._scripts.append(script)

    def open(
        self, url: str, width: int, *, dark: bool = False, height: int = 900, scale: int = 1
    ) -> None:
        """Open a page in a window of a width.

        Pictures have ``scale`` pixels for every one of the window.
        """
        for context in self._browser.contexts:
            context.close()
        context = self._browser.new_context(
            viewport={"width": width, "height": height},
            device_scale_factor=scale,
            is_mobile=width < 600,
            color_scheme="dark" if dark else "light",
        )
        for script in self._scripts:
            context.add_init_script(script)
        self.page, self.complaints = context.new_page(), []
        self.page.on("request", self._requested)
        self.page.on("requestfailed", lambda request: self._missing(request.url))
        self.page.on("response", self._answered)
        self.page.on(
            "pageerror",
            lambda error: self.complaints.append(f"fails: {error.name}: {error.message}"),
        )
        self.page.on("console", self._said)
        self.page.goto(url)
        self.page.wait_for_timeout(100)

    def settle(self) -> None:
        """Load what waits to be scrolled to, and wait until half a second nothing happens."""
        self.page.evaluate("for (const one of document.images) one.loading = 'eager'")
        self.page.wait_for_timeout(500)
        self.page.wait_for_load_state("networkidle")

    def ask(self, script: str) -> Any:
        """Run JavaScript in the page, and return its value."""
        return self.page.evaluate(script)

    def wait(self, condition: str, patience: float = 60.0) -> None:
        """Wait until an expression in JavaScript is true in the page, for so many seconds."""
        self.page.wait_for_function(condition, timeout=1000 * patience)

    def picture(self, path: Path) -> None:
        """Write what the window shows, as PNG."""
        self.page.screenshot(path=path)

    def print(self, path: Path) -> None:
        """Write the page as it is printed on A4, as PDF."""
        self.page.pdf(path=path, format="A4", prefer_css_page_size=False)

    def _requested(self, request: "Request") -> None:
        if not request.url.startswith(_OWN):
            self.complaints.append(f"fetches {request.url}")

    def _answered(self, response: "Response") -> None:
        if response.status >= 400:
            self._missing(response.url)

    def _missing(self, url: str) -> None:
        # (For an icon a browser asks by itself; Playwright does not tell.)
        if url.startswith(_OWN):
            self.complaints.append(f"cannot load {url}")

    def _said(self, message: "ConsoleMessage") -> None:
        # What could not be loaded is told above.
        is_told = message.text.startswith("Failed to load resource: ")
        if message.type == "error" and not is_told:
            self.complaints.append(f"complains: {message.text}")
