"""Sends the results of a sweep to MLflow, in batches, from a process of its own.

It sends what the store holds, so an outage only causes a delay: run ``python -m
sparse_sam.sweep.sending STORE`` later to send what is missing.
"""

import argparse
import os
import select
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from sparse_sam.errors import SparseSamError
from sparse_sam.redaction import guard_output, redacted
from sparse_sam.sweep.store import Store
from sparse_sam.tracking import launcher, open_store, repository_root

if TYPE_CHECKING:
    from sparse_sam.tracking import SweepRuns, Tracker

FOLLOWING = "SPARSE_SAM_FOLLOWING"
"""Set for the process that follows a sweep, beside which it runs."""

_POLL_SECONDS = 2.0
_PATIENCE_SECONDS = 120.0


class Sending:
    """The process that follows a store while a sweep runs. A context; waits at its end.

    Args:
        store: what is followed.
        root: the clone, whose MLflow store it is unless MLFLOW_TRACKING_URI says otherwise.
        idle: sends nothing. So does ``SPARSE_SAM_PUBLISH=later``.
    """

    def __init__(self, store: Store, root: Path, *, idle: bool) -> None:
        self._store, self._root = store, root
        self._idle = idle or os.environ.get("SPARSE_SAM_PUBLISH") == "later"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        if not self._idle:
            library = str(Path(__file__).parents[2])
            path = os.pathsep.join(filter(None, (library, os.environ.get("PYTHONPATH"))))
            with (self._store.folder / "sending.log").open("wb") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "sparse_sam.sweep.sending", str(self._store.folder)],
                    cwd=self._root,
                    env={**os.environ, "PYTHONPATH": path, FOLLOWING: "1"},
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is None:
            return
        try:
            self._process.communicate(timeout=_PATIENCE_SECONDS)  # closes its input: the end
            fault = self._process.returncode != 0
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            fault = True
        if fault:
            said = (self._store.folder / "sending.log").read_text(errors="replace").strip()
            last = said.splitlines()[-1].removeprefix("error: ") if said else "it took too long"
            reason = redacted(last)
            sys.stderr.write(
                f"warning: MLflow does not have all of this sweep yet ({reason}). The results are "
                "safe in files. To send what is missing, run `python -m "
                f"sparse_sam.sweep.sending {self._store.folder}`.\n"
            )


class Sender:
    """What was sent of a store so far, and the sending of the rest.

    Args:
        store: where results are.
        tracker: where they go.
    """

    def __init__(self, store: Store, tracker: "Tracker") -> None:
        self.store, self.tracker = store, tracker
        self.sent = 0
        self._runs: dict[str, SweepRuns] = {}

    def send(self, *, last: bool = True) -> None:
        """Send every cell that is done and was not sent. Raises TrackingError.

        Args:
            last: whether nothing more is to come: then sweeps that are complete are closed.
        """
        from sparse_sam.tracking import SweepRuns

        finished = self.store.finished()
        for content in self.store.plans():
            name, identity = content["name"], content["identity"]
            if identity not in self._runs:
                self._runs[identity] = SweepRuns(self.tracker, identity, name, launcher())
            runs = self._runs[identity]
            done = [cell for cell in content["cells"] if cell["key"] in finished]
            for cell in done:
                if not runs.has(cell) and (record := self.store.record(cell["key"])):
                    result, cost = record
                    measures = {k: float(v) for k, v in asdict(result).items() if v is not None}
                    runs.send(cell, measures, seconds=cost.seconds, ended=cost.ended)
                    self.sent += 1
            if last and len(done) == len(content["cells"]):
                runs.close(self.store.table(name))


def main() -> int:
    """Send once, or for as long as the process that started this one lives."""
    parser = argparse.ArgumentParser(prog="python -m sparse_sam.sweep.sending", description=__doc__)
    parser.add_argument("store", type=Path, help="the folder of the sweep")
    asked = parser.parse_args()
    if not (asked.store / "sweeps").is_dir():
        sys.stderr.write(f"error: {asked.store} is not the folder of a sweep\n")
        return 2
    try:
        from sparse_sam.tracking import Tracker

        root = repository_root()
        is_apart = (asked.store / "entries").is_dir()
        results = None if is_apart else open_store(root)
        sender = Sender(Store(asked.store, results), Tracker(root))
        # The input of one that follows a sweep ends when that does, however it does.
        while FOLLOWING in os.environ and not _input_ended():
            sender.send(last=False)
        sender.send()
    except SparseSamError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(f"Sent {sender.sent} cells to MLflow at {sender.tracker.shown}.\n")
    return 0


def _input_ended() -> bool:
    """Wait a little for the end of the input, and say whether it came."""
    return bool(select.select([sys.stdin], [], [], _POLL_SECONDS)[0])


if __name__ == "__main__":
    guard_output()
    sys.exit(main())
