"""The process that tells MLflow what stages write: one for all stages that start close together.

MLflow's import takes seconds of a core, and six stages that each paid them would wait for most of
it. So a stage leaves a request in the sender's folder, and starts a sender if none is at work. The
sender sends what it is asked for while the stages run, and ends when nobody has asked for a while.
"""

import hashlib
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from sparse_sam.errors import RefusedError
from sparse_sam.files import write_text
from sparse_sam.redaction import redacted
from sparse_sam.tracking.journal import is_running
from sparse_sam.tracking.pipelines import (
    is_journal,
    is_sent,
    journals,
    mark_sent,
    refusal,
    set_aside,
    state_folder,
)

if TYPE_CHECKING:
    from sparse_sam.tracking.mlflow_runs import Replay
    from sparse_sam.tracking.mlflow_store import Tracker

LINGER_SECONDS = 10.0
"""How long a sender waits for the next stage. DVC takes about a second between two of them."""

_POLL_SECONDS = 0.03
_LOCK_SECONDS = 5.0
_STARTING_SECONDS = 5.0
"""Within which a sender that was started is at work."""
_PAUSE_SECONDS = 2.0
"""A sender that has done nothing for longer hangs: MLflow does not answer it."""
_PASSING_SECONDS = 20.0
# Senders outlive the stages that start them; nothing here waits for their end.
_STARTED: list[subprocess.Popen[bytes]] = []
_LIBRARY = str(Path(__file__).parents[2])


class Request:
    """A stage's wish that MLflow be told its journal, from now on."""

    def __init__(self, journal: Path, root: Path) -> None:
        self.journal, self.root = journal, root
        self.folder = _folder(root)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._tries = 0
        self._started_at = 0.0
        self._started: subprocess.Popen[bytes] | None = None
        self._file = self.folder / f"{uuid.uuid4().hex}.request"
        write_text(self._file, str(journal))
        # In this order: a sender that is about to end looks for requests after letting its lock go.
        if not self._is_served():
            self._start()

    def wait(self, patience: float, stopped: Callable[[], bool] = lambda: False) -> str | None:
        """Wait until MLflow knows the whole journal, and say why not if it does not.

        A sender that was killed, or failed a while ago, is replaced once: what was wrong may have
        passed. After that, or when ``patience`` seconds are over, the request is withdrawn. It
        stays, for the sender to go on with, when the wait is ``stopped``.
        """
        fault = self._fault(time.monotonic() + patience, stopped)
        if fault and not stopped():
            self._file.unlink(missing_ok=True)
        return fault

    def leave(self) -> bool:
        """Whether it can be left to a sender that gets through, or has only just been started."""
        if is_sent(self.journal):
            return True
        if refusal(self.journal):
            return False
        new = self._started and time.monotonic() - self._started_at < _STARTING_SECONDS
        return self._is_served() and bool(new or _age(_heartbeat(self.folder)) < _PAUSE_SECONDS)

    def _fault(self, deadline: float, stopped: Callable[[], bool]) -> str | None:
        while not is_sent(self.journal):
            if reason := refusal(self.journal):
                return reason
            if stopped():
                return "it was told to wait no longer"
            if not self._is_served() and not is_sent(self.journal):
                if self._tries > 1 or self._failed_just_now():
                    return self._last_words()
                self._start()
            if time.monotonic() > deadline:
                return "MLflow did not answer in time"
            time.sleep(_POLL_SECONDS)
        return None

    def _is_served(self) -> bool:
        starting = self._started is not None and self._started.poll() is None
        return starting or _is_locked(self.folder)

    def _failed_just_now(self) -> bool:
        failed = self._started is not None and (self._started.poll() or 0) > 0
        return failed and time.monotonic() - self._started_at < _PASSING_SECONDS

    def _start(self) -> None:
        self._tries += 1
        self._started_at = time.monotonic()
        with (self.folder / "log").open("wb") as log:
            self._started = subprocess.Popen(
                [sys.executable, "-m", "sparse_sam.tracking.publish", "--serve", str(self.folder)],
                cwd=self.root,
                env={**os.environ, "PYTHONPATH": _LIBRARY},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Not the stage's Ctrl-C: it ends when the journals say how the stages ended.
                start_new_session=True,
            )
        _STARTED.append(self._started)

    def _last_words(self) -> str:
        said = (self.folder / "log").read_text(encoding="utf-8", errors="replace").strip()
        if not said:
            return "its sender stopped"
        return redacted(said.splitlines()[-1].removeprefix("error: "))


def serve(root: Path, folder: Path, linger: float = LINGER_SECONDS) -> None:
    """Send what is asked for in ``folder``; return when nothing has been for ``linger`` seconds.

    Returns at once when another process serves the folder. Raises TrackingError.
    """
    while True:
        try:
            # (Longer than anybody takes who only looks whether it is held.)
            with FileLock(folder / "lock").acquire(timeout=_LOCK_SECONDS):
                _serve(root, folder, linger)
        except Timeout:
            return
        if not _requests(folder):
            return


def _serve(root: Path, folder: Path, linger: float) -> None:
    from sparse_sam.tracking.mlflow_runs import Replay
    from sparse_sam.tracking.mlflow_store import Tracker

    tracker: Tracker | None = None
    at_work: dict[Path, Replay] = {}
    idle_since = time.monotonic()
    while at_work or time.monotonic() - idle_since < linger:
        requests = _requests(folder)
        asked_for = {journal for _, journal in requests}
        for request, journal in requests:
            if not journal.is_file() or is_sent(journal) or refusal(journal):
                request.unlink(missing_ok=True)
            elif request not in at_work:
                tracker = tracker or Tracker(root)
                _send_those_before(tracker, journal, asked_for)
                at_work[request] = Replay(tracker, journal)
        for request, replay in list(at_work.items()):
            # Asked before the rest is sent, so that the last words of a stage are among it.
            if _advance(replay, alive=is_running(replay.journal)):
                request.unlink(missing_ok=True)
                del at_work[request]
            idle_since = time.monotonic()
        _heartbeat(folder).touch()
        time.sleep(_POLL_SECONDS)


def _advance(replay: "Replay", *, alive: bool) -> bool:
    """Send what is new of a journal; whether nothing more is to be sent of it.

    A run that MLflow refuses is set aside. Raises TrackingError if MLflow is not reached.
    """
    try:
        replay.send()
        if not alive and not replay.ended:
            replay.abandon()
    except RefusedError as error:
        if replay.journal.exists():
            set_aside(replay.journal, str(error))
        replay.give_up()
        return True
    if alive and not replay.ended:
        return False
    mark_sent(replay.journal)
    return True


def send_whole(tracker: "Tracker", journal: Path, elsewhere: str | None = None) -> bool:
    """Send a journal that nobody writes any more, and close its runs if its stage could not.

    Args:
        tracker: where it goes.
        journal: what is sent.
        elsewhere: the experiment that takes it, in place of the one that the journal names.

    Returns:
        False if MLflow refuses the run; it is then set aside.

    Raises:
        TrackingError: MLflow is not reached.
    """
    from sparse_sam.tracking.mlflow_runs import Replay

    replay = Replay(tracker, journal, elsewhere)
    _advance(replay, alive=False)
    for path in replay.missing:
        sys.stderr.write(f"warning: {path} is no longer there and was not sent to MLflow\n")
    return is_sent(journal)


def is_pending(journal: Path) -> bool:
    """Whether nobody writes the journal any more and MLflow was not asked to take all of it."""
    return is_left(journal) and refusal(journal) is None


def is_left(journal: Path) -> bool:
    """Whether nobody writes the journal any more and MLflow does not have all of it."""
    return not is_sent(journal) and not is_running(journal)


def settle(root: Path, patience: float) -> None:
    """Wait for the senders at work until they have sent what they were asked for, or as long."""
    deadline = time.monotonic() + patience
    for folder in sorted((state_folder(root) / "senders").glob("*/")):
        while _is_at_work(folder) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)


def _is_at_work(folder: Path) -> bool:
    """Whether requests wait that a sender holds, or one that begins will."""
    requests = _requests(folder)
    new = any(_age(request) < _STARTING_SECONDS for request, _ in requests)
    return bool(requests) and (new or _is_locked(folder))


def _heartbeat(folder: Path) -> Path:
    """A file that a sender touches as long as nothing holds it up."""
    return folder / "heartbeat"


def _age(file: Path) -> float:
    """Seconds since it was written; infinite if it is not there."""
    try:
        return time.time() - file.stat().st_mtime
    except FileNotFoundError:
        return float("inf")


def _send_those_before(tracker: "Tracker", journal: Path, asked_for: set[Path]) -> None:
    """The stages of the same pipeline run that were entered from the cache, and nobody asked for.

    What is asked for is sent in the order of the journals, which is that of the stages.
    """
    for other in journals(journal.parent):
        if other not in asked_for and is_pending(other):
            send_whole(tracker, other)


def _requests(folder: Path) -> list[tuple[Path, Path]]:
    """The files of the requests, and the journals that they name.

    A request for anything but a journal of this clone's pipelines is removed.
    """
    found = []
    for request in folder.glob("*.request"):
        with suppress(FileNotFoundError):  # withdrawn in this moment
            asked = request.read_text(encoding="utf-8", errors="replace")
            if is_journal(folder.parent.parent, asked):
                found.append((request, Path(asked)))
            else:
                sys.stderr.write(f"warning: {request} names no journal of this clone: removed\n")
                request.unlink(missing_ok=True)
    return sorted(found, key=lambda pair: pair[1])


def _folder(root: Path) -> Path:
    """Stages share a sender if it would do the same for them: same code, same MLflow."""
    names = {"MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"}  # in the journals
    own = {k: v for k, v in os.environ.items() if k.startswith("MLFLOW_") and k not in names}
    key = json.dumps([_LIBRARY, sys.executable, own], sort_keys=True)
    return state_folder(root) / "senders" / hashlib.sha256(key.encode()).hexdigest()[:10]


def _is_locked(folder: Path) -> bool:
    try:
        with FileLock(folder / "lock").acquire(timeout=0):
            return False
    except Timeout:
        return True
