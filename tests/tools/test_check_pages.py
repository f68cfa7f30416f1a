"""What nobody can see is found, in a real browser."""

import subprocess
import sys
from pathlib import Path

import pytest

from tools.browser import Browser, missing
from tools.check_pages import look, main, served

pytestmark = pytest.mark.skipif(missing() is not None, reason=f"{missing()}")
ROOT = Path(__file__).resolve().parents[2]
HEAD = (
    '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    "<style>:root { color-scheme: light dark } figure svg { overflow: hidden }</style>"
)


@pytest.fixture(scope="module")
def browser() -> Browser:  # type: ignore[misc]
    with Browser() as opened:
        yield opened


def seen(browser: Browser, folder: Path, body: str) -> tuple[list[str], list[str]]:
    """What is said of a page, once for all windows that it is said of."""
    (folder / "page.html").write_text(f"<!DOCTYPE html><title>x</title>{HEAD}<body>{body}")
    wrong, below = look(browser, (folder / "page.html").as_uri())
    return ([*wrong], [*below])


@pytest.mark.parametrize(
    "body",
    [
        "<p>Words</p>",
        # By hand: #767676 on white is 4.54.
        '<p style="color: #767676; background: #fff">Words</p>',
        '<p style="color: #fff; background: #000">Words</p>',
        '<div style="background: #000"><p style="color: rgb(255 255 255 / .9)">Words</p></div>',
        '<p style="color: #eee; visibility: hidden">Words</p>',
        '<p hidden style="color: #eee; background: #eee">Words</p>',
        '<div style="overflow-x: auto"><p style="width: 3000px">Words</p></div>',
        '<p style="width: 3em; overflow: hidden; text-overflow: ellipsis">Wordsthatgoonandon</p>',
        '<svg><rect fill="#06c" width="99" height="30"/><text y="9" fill="#fff">Words</text></svg>',
        '<svg><g id="f-xtick_1"><path d="M0 9h99" stroke="#ddd"/></g></svg>',
        '<svg><path d="M0 0h99v99z" fill="#888" opacity=".2"/></svg>',
    ],
)
def test_what_can_be_seen_is_well(browser: Browser, tmp_path: Path, body: str) -> None:
    assert seen(browser, tmp_path, body) == ([], [])


@pytest.mark.parametrize(
    ("body", "said", "windows"),
    [
        ('<p style="color: #999">Words</p>', '"Words" <p> has a contrast of 2.85', 2),
        (
            '<p style="color: #595959; opacity: .6">Words</p>',
            '"Words" <p> has a contrast of',
            4,  # grey through which the page shines, white or black
        ),
        ('<p style="color: #333; background: #555">Words</p>', "has a contrast of 1.69", 4),
        ('<svg><text y="20" fill="#aaa">Words</text></svg>', "has a contrast of 2.32", 2),
        (
            '<svg><rect fill="#06c" width="99" height="9"/><text y="9" fill="#444">W</text></svg>',
            '"W" <text> has a contrast of',
            4,
        ),
        (
            '<svg><path id="a" d="M0 9h99" fill="none" stroke="#ddd"/></svg>',
            "a mark <path> in #a has",
            2,
        ),
        ('<svg><circle r="9" fill="#333"/></svg>', "a mark <circle> has a contrast of", 2),
        ('<p style="width: 2000px">Words</p>', "the page is 20", 4),
        ('<p id="p" style="width: 600px">Words</p>', "wide, by <p> in #p among others", 2),
        (
            '<p style="width: 3em; overflow: hidden; white-space: nowrap">Words that go on</p>',
            "is cut",
            4,
        ),
        ('<figure><svg><text x="290" y="20" fill="#777">Words</text></svg></figure>', "is cut", 4),
    ],
)
def test_what_can_hardly_be_seen_is_found(
    browser: Browser, tmp_path: Path, body: str, said: str, windows: int
) -> None:
    wrong, _ = seen(browser, tmp_path, body)
    assert len(wrong) == windows, wrong
    assert all(said in one for one in wrong), wrong


def test_what_is_below_the_norm_is_no_mistake(browser: Browser, tmp_path: Path) -> None:
    wrong, below = seen(browser, tmp_path, '<p style="color: #949494">Words</p>')
    assert wrong == []
    assert len(below) == 2
    assert "contrast of 3.03" in below[0]


def test_what_is_fetched_from_elsewhere_is_found(browser: Browser, tmp_path: Path) -> None:
    script = '<script>fetch("https://unpkg.com/mermaid").catch(() => 0)</script>'
    wrong, _ = seen(browser, tmp_path, f"<p>Words</p>{script}")
    assert wrong == ["fetches https://unpkg.com/mermaid"]


@pytest.mark.parametrize(
    "body",
    [
        '<img src="gone.x" width="9" height="9">',
        '<script src="gone.x"></script>',
        '<link rel="stylesheet" href="gone.x">',
        '<p style="background: url(gone.x)">Words</p>',
    ],
)
def test_what_is_missing_here_is_found(browser: Browser, tmp_path: Path, body: str) -> None:
    wrong, _ = seen(browser, tmp_path, f"<p>Words</p>{body}")
    images = [one for one in wrong if "an image is not shown: file://" in one]
    assert len(images) == (4 if "<img" in body else 0)
    assert {*wrong} - {*images} == {f"cannot load {(tmp_path / 'gone.x').as_uri()}"}
    with served(tmp_path) as address:
        wrong_there, _ = look(browser, f"{address}/page.html")
    assert f"cannot load {address}/gone.x" in wrong_there
    assert len(wrong_there) == len(wrong)


def test_every_window_is_seen_as_for_the_first_time(browser: Browser, tmp_path: Path) -> None:
    remembers = """<p>Words</p><script>
        const now = String(matchMedia("(prefers-color-scheme: dark)").matches)
        const dark = localStorage.getItem("dark") ?? now
        localStorage.setItem("dark", dark)
        document.body.style = `background: #fff; color: ${dark === "true" ? "#999" : "#000"}`
    </script>"""
    wrong, _ = seen(browser, tmp_path, remembers)
    assert [one.partition(":")[0] for one in wrong] == ["390 px, dark", "1280 px, dark"]


def test_a_script_that_fails_is_found(browser: Browser, tmp_path: Path) -> None:
    wrong, _ = seen(browser, tmp_path, "<p>Words</p><script>nothing.there()</script>")
    assert len(wrong) == 1
    assert wrong[0].startswith("fails: ReferenceError: nothing is not defined")


def test_what_comes_late_is_found(browser: Browser, tmp_path: Path) -> None:
    """Pictures that wait to be scrolled to, and scripts that wait."""
    late = (
        '<p style="height: 9000px">Words</p>'
        '<img loading="lazy" src="gone.png" width="9" height="9">'
        "<script>setTimeout(() => { throw new Error('late') }, 300)</script>"
        '<link rel="preconnect" href="https://elsewhere.example">'
    )
    wrong, _ = seen(browser, tmp_path, late)
    for said in ("cannot load file:", "/gone.png", "late", "connects to"):
        assert any(said in one for one in wrong), said


def checked(*options: str) -> tuple[int, str]:
    """What the command says: in a process of its own, as one has one Playwright."""
    command = [sys.executable, "-m", "tools.check_pages", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def test_a_site_and_a_report_are_looked_at(tmp_path: Path) -> None:
    site, report = tmp_path / "site", tmp_path / "report.html"
    site.mkdir()
    (site / "index.html").write_text(f"<!DOCTYPE html>{HEAD}<p>Words</p>")
    report.write_text(f'<!DOCTYPE html>{HEAD}<p style="color: #999">Words</p>')
    code, said = checked("--site", str(site), "--report", str(report))
    assert code == 1
    assert "site/index.html: nothing wrong, 0 below 4.5:1\n" in said
    assert "report.html: 2 wrong" in said
    assert checked("--site", str(site), "--report", "gone")[0] == 0
    with served(site) as address:
        assert address.startswith("http://127.0.0.1:")


def test_without_a_browser_nobody_looks_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tools.check_pages.missing", lambda: "no Chromium is installed")
    monkeypatch.setattr("sys.argv", ["x"])
    with pytest.raises(SystemExit, match="no Chromium is installed, so nobody looked"):
        main()
