"""One line that says how far a sweep is; nothing where there is no terminal."""

import time
from types import TracebackType
from typing import Self

from sparse_sam.terminal import activity


class Progress:
    """Counts cells and dense networks, done, running and failed.

    Args:
        name: the sweep's.
        workers: how many are computed at once: no more than that run, however many are handed out.
    """

    def __init__(self, name: str, workers: int) -> None:
        self.name, self.workers = name, workers
        self.handed = self.failed = 0
        self._showing = activity(name, unit="done")

    def __enter__(self) -> Self:
        self.doing, self._began = self._showing.__enter__(), time.monotonic()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._showing.__exit__(kind, error, trace)

    def expect(self, more: int) -> None:
        """So many more are to be done."""
        self.doing.total += more
        self._say()

    def begin(self) -> None:
        """One was handed out."""
        self.handed += 1
        self._say()

    def end(self, *, failed: bool) -> None:
        """One came back."""
        self.handed -= self.handed > 0
        self.failed += failed
        self.doing.advance()
        self._say()

    def _say(self) -> None:
        passed = max(time.monotonic() - self._began, 1e-9)
        counts = f"{min(self.handed, self.workers)} running, {self.failed} failed"
        self.doing.now(f"{self.name}: {counts}, {60 * self.doing.done / passed:.1f} a minute")
