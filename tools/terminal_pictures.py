"""Take the terminal's pictures: ``python -m tools.terminal_pictures`` (some minutes).

Runs the pipeline with small parameters in a temporary clone of HEAD, on a pseudo-terminal; plays
what it wrote there on a screen of letters (pyte), and photographs that with headless Chromium: once
while it measures flatness, once at the end. Needs chromium.
"""

import codecs
import html
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyte

from tools.browser import Browser
from tools.on_a_terminal import played

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"
COLUMNS, LINES = 100, 34
SMALL = (
    (r"^seeds: .*", "seeds: [0, 1, 2]"),
    (r"^(train_dense:\n  epochs:) 10", r"\1 3"),
    (r"^(  sam:\n    variant: sam .*\n    rho:) 0.05", r"\1 0.1"),
)
"""What makes the run small; and a radius that is not the committed one, for the table to say so."""
COMMAND = (
    "dvc repro && python -m sparse_sam.tracking.publish && python -m sparse_sam.tracking.show"
    " && python -m sparse_sam.tracking.trainings --since 0"
)
"""What `make repro` runs, without the set-up."""
PAGE = """<!doctype html><meta charset="utf-8"><style>
body {{ margin: 0; padding: 14px 18px; background: #1b1f27; }}
pre {{ margin: 0; color: #d8dee9; font: 14px/1.35 "DejaVu Sans Mono", monospace; }}
.bold {{ font-weight: bold; color: #fff; }} .red {{ color: #ff7b72; }}
.brown {{ color: #e3b341; }} .cyan {{ color: #56d4dd; }} .green {{ color: #7ee787; }}
</style><pre>{lines}</pre>"""


def play(command: str, folder: Path) -> list[tuple[float, str]]:
    """Run a command on a terminal: what it wrote, and when, in seconds."""
    env = {name: value for name, value in os.environ.items() if name not in {"CI", "NO_COLOR"}}
    env |= {"TERM": "xterm-256color", "PYTHONPATH": str(folder / "src"), "DO_NOT_TRACK": "true"}
    env |= {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PATH": f"{Path(sys.executable).parent}:{env['PATH']}",
    }
    code, found = played(["bash", "-c", command], folder, env, (LINES, COLUMNS))
    if code or len(found) < 10:
        sys.exit(f"error: `{command}` ended with {code}:\n{found[-5:]}")
    decoder = codecs.getincrementaldecoder("utf-8")()
    return [(when, decoder.decode(piece)) for when, piece in found]


def shown(screen: pyte.Screen) -> str:
    """What a screen shows, as HTML."""
    lines = (screen.buffer[number] for number in range(screen.cursor.y + 1))
    return "\n".join(
        "".join(_letter(line[column]) for column in range(COLUMNS)).rstrip() for line in lines
    )


def _letter(letter: Any) -> str:
    style = " ".join(["bold"] * letter.bold + [letter.fg] * (letter.fg != "default"))
    escaped = html.escape(letter.data)
    return f'<span class="{style}">{escaped}</span>' if style else escaped


def photograph(browser: Browser, text: str, picture: Path) -> None:
    """The screen as a PNG."""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        page.write_text(PAGE.format(lines=text), encoding="utf-8")
        width, height = 36 + round(8.43 * COLUMNS), 28 + 19 * (text.count("\n") + 1)
        browser.open(page.as_uri(), width, height=height, scale=2)
        browser.picture(picture)


def while_measuring(pieces: list[tuple[float, str]]) -> str:
    """The screen while the second seed's flatness was measured, as HTML."""
    found, screen = [], pyte.Screen(COLUMNS, LINES)
    stream = pyte.Stream(screen)
    for _, piece in pieces:
        stream.feed(piece)
        last = screen.display[screen.cursor.y]
        if "measuring flatness, seed 2" in last and "left" in last:
            found.append(shown(screen))
    if not found:
        sys.exit("error: there was no moment at which the second seed's flatness was measured")
    return found[len(found) // 2]


def main() -> None:
    """Run it, and take both pictures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "sparse-sam"
        subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
        params = folder / "params.yaml"
        text = params.read_text(encoding="utf-8")
        for pattern, new in SMALL:
            text, count = re.subn(pattern, new, text, count=1, flags=re.MULTILINE)
            if not count:
                sys.exit(f"error: params.yaml has nothing like {pattern}")
        params.write_text(text, encoding="utf-8")
        pieces = play(COMMAND, folder)
    screen = pyte.Screen(COLUMNS, LINES)
    pyte.Stream(screen).feed("".join(piece for _, piece in pieces))
    with Browser() as browser:
        photograph(browser, while_measuring(pieces), IMAGES / "terminal-running.png")
        photograph(browser, shown(screen), IMAGES / "terminal-done.png")
    sys.stdout.write(f"the run took {pieces[-1][0]:.0f} s\n")


if __name__ == "__main__":
    main()
