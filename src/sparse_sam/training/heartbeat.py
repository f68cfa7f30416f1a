"""Who is told when signs of life stay away.

Work that takes long calls ``terminal.beat`` whenever a step is done. Whoever waits listens, and a
``Watchdog`` names the job that has been silent for long: on a machine that nobody has tried yet,
standing still without a word is the worst of all faults.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager

from sparse_sam.errors import ConfigError, StalledError
from sparse_sam.terminal import heard_by

_VARIABLE = "SPARSE_SAM_STALL_SECONDS"
_STALL_SECONDS = 600.0
_FIRST_WARNING = 0.1
"""At which share of that time a silent job is named for the first time."""
_LONGEST_PAUSE = 1.0
"""A longer time between two looks is one in which this process itself was stopped."""


def stall_seconds() -> float:
    """After how many silent seconds a job counts as stalled: ``SPARSE_SAM_STALL_SECONDS``, or 600.

    Raises:
        ConfigError: the variable is no number above 0.
    """
    text = os.environ.get(_VARIABLE) or str(_STALL_SECONDS)
    try:
        seconds = float(text)
    except ValueError:
        seconds = float("nan")
    if not seconds > 0:
        raise ConfigError(f"{_VARIABLE} = {text!r}: must be a number of seconds, more than 0")
    return seconds


class Watchdog:
    """Which jobs are at work, and for how long each has been silent.

    Only time in which this process ran is counted, so that a pipeline that was suspended does not
    count as stalled when it goes on.

    Args:
        name_of: what a job is called in a warning.
        patience: after how many silent seconds ``look`` raises; warnings come before.
    """

    def __init__(self, name_of: Callable[[Hashable], str], patience: float) -> None:
        self._name_of, self._patience = name_of, patience
        self._silent: dict[Hashable, float] = {}
        self._warn_at: dict[Hashable, float] = {}
        self._looked = time.monotonic()

    def alive(self, job: Hashable) -> None:
        """A job begins, or has finished a step."""
        self._silent[job] = 0.0
        self._warn_at[job] = _FIRST_WARNING * self._patience

    def ended(self, job: Hashable) -> None:
        """A job ended, or waits for its next turn."""
        self._silent.pop(job, None)

    def look(self) -> None:
        """Warn of the jobs that have been silent for long, at growing distances.

        Raises:
            StalledError: one of them has been for as long as ``patience``.
        """
        now = time.monotonic()
        passed, self._looked = min(now - self._looked, _LONGEST_PAUSE), now
        for job in list(self._silent):
            silent = self._silent[job] = self._silent[job] + passed
            if silent >= self._patience:
                raise StalledError(
                    f"{self._name_of(job)} has not finished a step for {silent:.0f} s and was "
                    f"stopped. If its steps really take that long, set {_VARIABLE} higher. A "
                    "stage that is run again continues from its last complete epoch.",
                    job,
                )
            if silent >= self._warn_at[job]:
                self._warn_at[job] = 2 * silent
                sys.stderr.write(
                    f"warning: {self._name_of(job)} has not finished a step for {silent:.0f} s; it "
                    f"will be stopped after {self._patience:.0f} s ({_VARIABLE})\n"
                )


@contextmanager
def watched(name: str) -> Iterator[None]:
    """Warn, from a thread beside it, when the work of this block is silent for long.

    A thread cannot stop another, so it only warns.
    """
    dog = Watchdog(str, stall_seconds())
    dog.alive(name)
    over = threading.Event()

    def watch() -> None:
        try:
            while not over.wait(_LONGEST_PAUSE / 2):
                dog.look()
        except StalledError as error:
            sys.stderr.write(f"warning: {error}\n".replace(" and was stopped", ""))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        with heard_by(lambda: dog.alive(name)):
            yield
    finally:
        over.set()
        thread.join()
