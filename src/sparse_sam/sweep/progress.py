"""One line that says how far a sweep is; nothing where there is no terminal."""

import time
from typing import Any

from tqdm import tqdm

_FORMAT = "{desc}: {n_fmt}/{total_fmt} {bar:20} {counts}, {per_minute} a minute, {left} left"


class Progress(tqdm):  # type: ignore[type-arg]
    """Counts cells and dense networks, done, running and failed.

    Args:
        name: the sweep's.
        workers: how many are computed at once: no more than that run, however many are handed out.
        disable: None shows it on a terminal only.
    """

    def __init__(self, name: str, workers: int, disable: bool | None = None) -> None:
        self.handed = self.failed = 0
        self.workers = workers
        super().__init__(
            desc=name, total=0, bar_format=_FORMAT, disable=disable, dynamic_ncols=True
        )

    @property
    def format_dict(self) -> dict[str, Any]:
        """What the line is made of."""
        known = dict(super().format_dict)
        passed = max(time.time() - self.start_t, 1e-9) if hasattr(self, "start_t") else 1e-9
        rate = self.n / passed
        todo = (self.total or 0) - self.n
        running = min(self.handed, self.workers)
        known["counts"] = f"{running} running, {self.failed} failed"
        known["per_minute"] = f"{60 * rate:.1f}"
        known["left"] = tqdm.format_interval(todo / rate) if self.n else "?"
        return known

    def expect(self, more: int) -> None:
        """So many more are to be done."""
        self.total = (self.total or 0) + more
        self.refresh()

    def begin(self) -> None:
        """One was handed out."""
        self.handed += 1
        self.refresh()

    def end(self, *, failed: bool) -> None:
        """One came back."""
        self.handed -= self.handed > 0
        self.failed += failed
        self.update(1)
