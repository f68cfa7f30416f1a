"""What a person sees: colour where it is wanted, and one line that says what is done now.

On a terminal the line is drawn over again and again: what is done, how far it is, and how long the
rest takes. In a pipe and in CI there is a plain line for whatever begins, and one a minute of what
takes long. Nothing that happens here ends a command: who looks away loses no result. Work that
takes long also gives signs of life (``beat``), to whoever listens.
"""

import math
import os
import re
import shutil
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, Literal, Self, TextIO

Style = Literal["heading", "answer", "warning", "error"]

_CODES: dict[Style, str] = {"heading": "1;36", "answer": "1", "warning": "1;33", "error": "1;31"}
_WORDS: dict[Style, re.Pattern[str]] = {
    "error": re.compile(r"^error:", re.MULTILINE),
    "warning": re.compile(r"^warning:", re.MULTILINE),
}
_TICK_SECONDS = 0.5
_PLAIN_SECONDS = 60.0
_SOONEST_SECONDS = 1.0
"""Of work that has taken less, nothing is known yet."""
_UNITS = ("B", "kB", "MB", "GB", "TB")
_listeners: list[Callable[[], None]] = []


def beat() -> None:
    """Say that a step is done; costs next to nothing where nobody listens."""
    for listener in _listeners:
        listener()


@contextmanager
def heard_by(listener: Callable[[], None]) -> Iterator[None]:
    """Within it, ``listener`` is told of every beat of this process."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def is_live(stream: TextIO) -> bool:
    """Whether somebody watches: a terminal that can draw over its last line, and not in CI."""
    if os.environ.get("CI") or os.environ.get("TERM") == "dumb":
        return False
    try:
        return stream.isatty()
    except (AttributeError, ValueError):  # closed
        return False


def has_colour(stream: TextIO) -> bool:
    """Whether to write in colour: no-color.org first, then force-color.org, then who watches."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or is_live(stream)


def styled(text: str, style: Style, stream: TextIO | None = None) -> str:
    """``text`` in a style, where the stream (by itself stdout) shows colour; else as it is."""
    coloured = has_colour(sys.stdout if stream is None else stream)
    return f"\x1b[{_CODES[style]}m{text}\x1b[0m" if coloured else text


def wrapped(text: str, stream: TextIO) -> str:
    """``text`` with its long sentences broken between words, where a terminal would break them.

    Lines with two spaces in a row are of tables, and stay as they are.
    """
    if not is_live(stream):
        return text
    width = shutil.get_terminal_size().columns
    return "\n".join(
        line if "  " in line or len(line) <= width else textwrap.fill(line, width)
        for line in text.split("\n")
    )


class Shown:
    """A stream that writes above the line that is drawn, and ``error:`` in red."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write whole lines, or what is flushed."""
        for word, found in _WORDS.items():
            text = found.sub(styled(f"{word}:", word, self.stream), text)
        # (Who has stopped reading, or has no room for it, loses a message and no result.)
        with suppress(OSError), _Display.current.above() if _Display.current else nullcontext():
            try:
                self.stream.write(text)
            except UnicodeEncodeError as error:  # such as a minus sign, where the encoding is ASCII
                known = text.encode(error.encoding, "replace").decode(error.encoding)
                self.stream.write(known)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class Activity:
    """What is done now, and how far it is. ``activity`` makes it.

    Args:
        what: in words, such as "pruning".
        total: how much there is to do; 0 if nobody knows.
        unit: what is counted, in the plural; "" shows no numbers, "B" bytes.
    """

    def __init__(self, what: str, total: float = 0, unit: str = "") -> None:
        self.what, self.total, self.unit = what, total, unit
        self.done = self._given = 0.0
        self._began = self._updated = time.monotonic()
        self._has_begun = False

    def begin(self) -> None:
        """The work has begun: what went before was preparation, and says nothing of the rest."""
        if not self._has_begun:
            self._has_begun = True
            self._began = self._updated = time.monotonic()

    def now(self, what: str) -> None:
        """Say what is done from here on."""
        self.what = what
        _redraw(often=True)

    def advance(self, by: float = 1, *, given: bool = False) -> None:
        """So much more is done; what is ``given`` was done before, and says nothing of the pace."""
        self.done += by
        self._given += by if given else 0
        self._updated = time.monotonic()
        _redraw(often=True)

    @property
    def left(self) -> float | None:
        """For how many seconds it goes on at the pace so far; None while nobody can tell.

        It counts down from the last news, and is not known when that time is over without any.
        """
        taken, done = self._updated - self._began, self.done - self._given
        if done <= 0 or self.done >= self.total or taken < _SOONEST_SECONDS:
            return None
        left = taken * (self.total - self.done) / done - (time.monotonic() - self._updated)
        return left if left > 0 else None

    @property
    def count(self) -> str:
        """How far it is, in its unit; "" if that cannot be said in numbers."""
        if not self.total or not self.unit:
            return ""
        if self.unit == "B":
            return f"{bytes_in_words(self.done)} of {bytes_in_words(self.total)}"
        return f"{self.done:.0f} of {self.total:.0f} {self.unit}"

    @property
    def progress(self) -> str:
        """How far it is and how long it goes on, in words."""
        left = self.left
        rest = "" if left is None else f"about {in_words(left)} left"
        return ", ".join(filter(None, (self.count, rest)))


def in_words(seconds: float) -> str:
    """A time as people say it: ``14 s``, ``3 min``, ``2 h 10 min``."""
    if seconds < 99.5:
        return f"{max(1, math.ceil(seconds - 0.5))} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def bytes_in_words(count: float) -> str:
    """A size as people say it: ``999 B``, ``84.0 kB``, ``1.2 MB``, in powers of 1000."""
    power = 0
    # (What would be rounded to 1000 is 1 of the next unit.)
    while power < len(_UNITS) - 1 and round(count / 1000**power, min(power, 1)) >= 1000:
        power += 1
    return f"{count / 1000**power:.{1 if power else 0}f} {_UNITS[power]}"


@contextmanager
def display(heading: str) -> Iterator[None]:
    """Within it, every ``activity`` is shown under a heading; at its good end, how long it took.

    Args:
        heading: such as ``[3/6] prune``.
    """
    began, shown = time.monotonic(), _Display(heading)
    with shown:
        yield
    took = f"done in {in_words(time.monotonic() - began)}"
    if shown.is_live:
        with suppress(OSError, ValueError):
            sys.stderr.write(f"{styled(heading, 'heading', sys.stderr)}  {took}\n")
            sys.stderr.flush()
    else:
        shown.say(took)


@contextmanager
def activity(
    what: str, total: float = 0, unit: str = "", *, brief: bool = False
) -> Iterator[Activity]:
    """Within it, ``what`` is done, as the line says. It may be within another, which waits.

    Outside of a ``display`` it has a line of its own on a terminal, and says nothing elsewhere.
    What is ``brief`` is never worth a plain line.
    """
    doing = Activity(what, total, unit)
    if _Display.current is None and not is_live(sys.stderr):
        yield doing
        return
    with nullcontext(_Display.current) if _Display.current else _Display("") as shown:
        outer, shown.doing = shown.doing, doing
        shown.begins(brief=brief)
        try:
            yield doing
        finally:
            # What was done last stands there until something else begins.
            shown.doing, shown.last = outer, doing.what


def _redraw(*, often: bool = False) -> None:
    if _Display.current is not None:
        _Display.current.redraw(often=often)


class _Display:
    """The one line of a process, drawn by tqdm, or the few plain ones in its place."""

    current: "_Display | None" = None

    def __init__(self, heading: str) -> None:
        self.heading = heading
        self.doing: Activity | None = None
        self.last = "starting"
        self.is_live = is_live(sys.stderr)
        self._said, self._drawn = time.monotonic(), 0.0
        self._line: Any = None
        self._over = threading.Event()

    def __enter__(self) -> Self:
        _Display.current = self
        if self.is_live:
            self._line = _line(self)
            threading.Thread(target=self._tick, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        _Display.current = None
        self._over.set()
        if self._line is not None:
            with suppress(OSError, ValueError):
                self._line.close()

    def _tick(self) -> None:
        """The time that is left goes on between two pieces of news."""
        while not self._over.wait(_TICK_SECONDS):
            self.redraw()

    def begins(self, *, brief: bool) -> None:
        """Something begins."""
        self.redraw()
        if not brief and not self.is_live and self.doing is not None:
            count = f"{self.doing.total:.0f} {self.doing.unit}" if self.doing.count else ""
            self.say(", ".join(filter(None, (self.doing.what, count))))

    def redraw(self, *, often: bool = False) -> None:
        """Draw the line, not each time if that is ``often``; in a pipe say it, once a minute."""
        if self._line is not None:
            if often and time.monotonic() - self._drawn < _TICK_SECONDS / 5:
                return
            self._drawn = time.monotonic()
            with suppress(OSError, ValueError):
                self._line.refresh()
        elif time.monotonic() - self._said > _PLAIN_SECONDS and self.doing is not None:
            self.say(", ".join(filter(None, (self.doing.what, self.doing.progress))))

    def say(self, text: str) -> None:
        """Write a plain line."""
        self._said = time.monotonic()
        with suppress(OSError, ValueError, AttributeError):  # nobody reads it any more, or ever did
            sys.stdout.write(f"{styled(f'{self.heading}:', 'heading')} {text}\n")
            sys.stdout.flush()

    def above(self) -> Any:
        """Within it, what is written comes above the line."""
        return nullcontext() if self._line is None else self._line.above()


def _line(shown: _Display) -> Any:
    """The line, drawn by tqdm, which keeps out of the way of what else is written."""
    from tqdm import tqdm
    from tqdm.utils import disp_trim

    raw = getattr(sys.stderr, "stream", sys.stderr)  # what ``Shown`` writes to
    heading = f"{styled(shown.heading, 'heading', raw)}  " if shown.heading else ""

    class Line(tqdm):  # type: ignore[type-arg]
        monitor_interval = 0  # it ticks by itself

        def __str__(self) -> str:
            doing, known = shown.doing or Activity(shown.last), dict(self.format_dict)
            said = doing.progress
            known |= {
                "n": min(doing.done, doing.total),
                "total": doing.total,
                "what": f"{heading}{doing.what}",
                "said": said,
                "bar_format": "  ".join(
                    ["{what}", *["{bar:20}"] * bool(doing.total), *["{said}"] * bool(said)]
                ),
            }
            text = self.format_meter(**known)
            return disp_trim(text, known["ncols"]) if known["ncols"] else text

        def above(self) -> Any:
            return self.external_write_mode(file=raw)

    colour = "cyan" if has_colour(raw) else None
    return Line(total=0, file=raw, leave=False, dynamic_ncols=True, colour=colour)
