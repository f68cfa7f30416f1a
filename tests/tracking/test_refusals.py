"""A run that MLflow refuses is set aside with its reason, and no other waits for it."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from sparse_sam.config import REFERENCE
from sparse_sam.errors import RefusedError, TrackingError
from sparse_sam.tracking import sender
from sparse_sam.tracking.journal import Journal
from sparse_sam.tracking.mlflow_runs import Replay
from sparse_sam.tracking.mlflow_store import Tracker
from sparse_sam.tracking.pipelines import is_sent, place, refusal
from sparse_sam.tracking.publish import publish
from sparse_sam.tracking.sender import Request, is_pending, send_whole
from sparse_sam.tracking.stages import STAGES

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60.0
FOREIGN = ("MLFLOW_", "DVC_", "SPARSE_SAM_")


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Path) -> Iterator[Path]:
    for name in [name for name in os.environ if name.startswith(FOREIGN)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (tmp_path / ".dvc").mkdir()
    shutil.copy(empty_store, tmp_path)
    shutil.copy(REFERENCE, tmp_path)
    yield tmp_path
    for process in sender._STARTED:
        process.kill()
        process.wait()
    sender._STARTED.clear()


def begin(clone: Path, stage: str, experiment: str = "mine", **params: object) -> Journal:
    made_by = {"mlflow_experiment_name": experiment}
    with place(clone, stage, {}, clone, made_by, {}) as path:
        return Journal(path, stage=stage, params=params, tags={}, launcher=made_by)


def run(clone: Path, stage: str, experiment: str = "mine", **params: object) -> Path:
    journal = begin(clone, stage, experiment, **params)
    journal.metrics({"test_accuracy": 0.5})
    journal.end("FINISHED")
    (clone / "runs").mkdir(exist_ok=True)
    shutil.copy(journal.path, clone / "runs" / f"{stage}.jsonl")
    return journal.path


def delete(clone: Path, experiment: str) -> str:
    tracker = Tracker(clone)
    number = tracker.experiment({"mlflow_experiment_name": experiment})
    tracker.client.delete_experiment(number)
    return number


def runs_of(clone: Path, experiment: str) -> dict[str, str]:
    client = Tracker(clone).client
    found = client.get_experiment_by_name(experiment)
    runs = client.search_runs([found.experiment_id]) if found else []
    return {run.info.run_name: run.info.status for run in runs}


def command(clone: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "sparse_sam.tracking.publish", *arguments],
        cwd=clone,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_deleted_experiment_keeps_no_later_run_from_being_sent(clone: Path) -> None:
    delete(clone, "mine")
    refused = [run(clone, "download"), run(clone, "train_dense")]
    later = run(clone, "download", "other")
    published = publish(clone, clone)
    assert "sent 1 runs" in published.said
    assert list(published.refused) == [str(path.relative_to(clone)) for path in refused]
    for path in refused:
        assert "the experiment 'mine' was deleted" in (refusal(path) or "")
        assert not is_sent(path)
        assert not is_pending(path)
    assert is_sent(later)
    assert runs_of(clone, "other")["download"] == "FINISHED"


def test_a_stage_is_told_at_once_that_its_run_is_refused_and_the_next_is_sent(clone: Path) -> None:
    delete(clone, "mine")
    first = begin(clone, "download")
    began = time.monotonic()
    one = Request(first.path, clone)
    first.end("FINISHED")
    reason = one.wait(5 * PATIENCE)
    assert "the experiment 'mine' was deleted" in (reason or "")
    assert time.monotonic() - began < PATIENCE  # of which most is the import of MLflow
    assert not one.leave()
    second = begin(clone, "download", "other")
    two = Request(second.path, clone)
    assert two._started is None, "the sender that was refused is at work"
    second.end("FINISHED")
    assert two.wait(PATIENCE) is None
    assert runs_of(clone, "other")["download"] == "FINISHED"
    assert not list(one.folder.glob("*.request"))


def test_a_stage_that_mlflow_refuses_ends_well_and_says_what_to_do(
    clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = delete(clone, "mine")
    code = (
        "from pathlib import Path\n"
        "from sparse_sam.tracking import STAGES\n"
        "from sparse_sam.stages import runner\n"
        "def work(stage):\n"
        "    for path in map(Path, STAGES[stage.name].outputs):\n"
        "        path.parent.mkdir()\n"
        "        path.touch()\n"
        "runner.main('download', '', work)"
    )
    for name, value in (("NAME", "mine"), ("ID", number)):
        for folder in ("data", "metrics"):
            shutil.rmtree(clone / folder, ignore_errors=True)
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=clone,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT / "src"),
                f"MLFLOW_EXPERIMENT_{name}": value,
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr.startswith("warning: MLflow refuses this run (MLflow at sqlite:///")
        assert "make publish EXPERIMENT=name" in done.stderr
        assert done.stderr.count("\n") == 1


def test_other_stages_of_a_pipeline_are_sent_though_one_is_refused(clone: Path) -> None:
    paths = {
        stage: run(clone, stage, **({"not a name?": 1} if stage == "train_dense" else {}))
        for stage in ("download", "train_dense", "prune")
    }
    published = publish(clone, clone)
    assert "sent 2 runs" in published.said
    assert list(published.refused) == [str(paths["train_dense"].relative_to(clone))]
    found = runs_of(clone, "mine")
    assert (found["download"], found["prune"]) == ("FINISHED", "FINISHED")
    assert found["train_dense"] == "FAILED", "what was begun of it is not left open"
    assert {status for name, status in found.items() if name.startswith("pipeline")} == {"FINISHED"}


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-30] + "\n",
        lambda text: text.replace('"start"', '"begin"'),
        lambda text: text.replace('"child": null', '"child": "nobody"'),
        lambda text: text.replace('"params"', '"parms"'),
        lambda text: "[1, 2]\n" + text,
    ],
    ids=["cut", "no start", "nobody's child", "no params", "no event"],
)
def test_a_damaged_journal_keeps_no_later_run_from_being_sent(
    clone: Path, damage: Callable[[str], str]
) -> None:
    broken = run(clone, "download")
    text = broken.read_text()
    broken.write_text(damage(text))
    assert broken.read_text() != text
    beside = run(clone, "train_dense")
    later = run(clone, "download", "other")
    tracker = Tracker(clone)
    assert not send_whole(tracker, broken)
    assert broken.name in (refusal(broken) or "")
    published = publish(clone, clone)
    assert list(published.refused) == [str(broken.relative_to(clone))]
    assert is_sent(beside)
    assert is_sent(later)
    broken.write_text(text)
    assert publish(clone, clone).refused == {}
    assert refusal(broken) is None


def test_a_journal_that_was_deleted_meanwhile_leaves_nothing_to_list(clone: Path) -> None:
    path = run(clone, "download")
    tracker = Tracker(clone)
    shutil.rmtree(path.parent)
    assert not send_whole(tracker, path)
    assert not path.parent.exists()


def test_the_command_lists_what_was_refused_and_sends_it_where_it_is_told(clone: Path) -> None:
    number = delete(clone, "mine")
    path = run(clone, "download")
    name = str(path.relative_to(clone))
    for _ in range(2):
        done = command(clone)
        assert done.returncode == 3
        assert f"  {name}: MLflow at sqlite:///" in done.stderr
        assert f"mlflow experiments restore -x {number}" in done.stderr
        assert "make publish EXPERIMENT=name" in done.stderr
    done = command(clone, "--experiment", "mine")
    assert done.returncode == 3, "it is still deleted"
    done = command(clone, "--experiment", "new")
    assert (done.returncode, done.stderr) == (0, "")
    assert "sent 1 runs" in done.stdout
    assert runs_of(clone, "new")["download"] == "FINISHED"
    done = command(clone)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("elsewhere", [None, "mine"])
def test_an_experiment_that_was_restored_takes_what_was_set_aside(
    clone: Path, elsewhere: str | None
) -> None:
    number = delete(clone, "mine")
    run(clone, "download")
    assert publish(clone, clone).refused
    Tracker(clone).client.restore_experiment(number)
    published = publish(clone, clone, elsewhere)
    assert published.refused == {}
    assert runs_of(clone, "mine")["download"] == "FINISHED"


def test_a_workspaces_results_are_not_entered_again_and_again_where_they_are_refused(
    clone: Path,
) -> None:
    delete(clone, "sparse-sam")
    for stage in STAGES:
        run(clone, stage, "sparse-sam")

    def pipelines() -> int:
        return len(list((clone / ".sparse-sam" / "pipelines").iterdir()))

    assert pipelines() == 1
    for _ in range(2):
        assert len(publish(clone, clone).refused) == 6
        assert pipelines() == 1
    assert "sent 6 runs" in publish(clone, clone, "new").said
    assert pipelines() == 1
    assert list(publish(clone, clone).refused) == ["the results of this workspace"]
    assert publish(clone, clone, "new").refused == {}
    assert pipelines() == 1


@pytest.mark.parametrize(
    ("answer", "refuses"),
    [
        ("401 Unauthorized", False),
        ("404 Not Found", False),
        ("429 Too Many Requests", False),
        ("500 Internal Server Error", False),
        ("503 Service Unavailable", False),
        ("403 Forbidden", False),
    ],
)
def test_only_what_is_about_the_run_is_a_refusal(
    clone: Path, monkeypatch: pytest.MonkeyPatch, answer: str, refuses: bool
) -> None:
    path = run(clone, "download")
    with answering(answer) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with pytest.raises(TrackingError) as caught:
            Replay(Tracker(clone), path).send()
    assert isinstance(caught.value, RefusedError) == refuses


def test_a_locked_database_refuses_nothing(clone: Path) -> None:
    import sqlite3

    path = run(clone, "download")
    tracker = Tracker(clone)
    tracker.client.search_experiments()
    holder = sqlite3.connect(clone / "mlflow.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(TrackingError) as caught:
            send_whole(tracker, path)
    finally:
        holder.execute("ROLLBACK")
        holder.close()
    assert not isinstance(caught.value, RefusedError)
    assert refusal(path) is None
    assert send_whole(tracker, path)


def test_a_real_server_refuses_a_deleted_experiment_and_takes_the_next_run(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(tmp_path / "server") as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        client = MlflowClient(uri)
        number = client.create_experiment("mine")
        client.delete_experiment(number)
        for made_by in ({"mlflow_experiment_name": "mine"}, {"mlflow_experiment_id": "4711"}):
            with place(clone, "download", {}, clone, made_by, {}) as path:
                journal = Journal(path, stage="download", params={}, tags={}, launcher=made_by)
            journal.end("FINISHED")
        bad = run(clone, "download", "other", **{"not a name?": 1})
        later = run(clone, "train_dense", "other")
        published = publish(clone, clone)
        assert len(published.refused) == 3
        assert "not a name?" in (refusal(bad) or "")
        assert is_sent(later)
        assert len(publish(clone, clone, "new").refused) == 1
        assert is_sent(later)


class answering:  # noqa: N801 - a context, as a function would be
    """A server that answers everything alike, without JSON, as proxies do."""

    def __init__(self, answer: str) -> None:
        self.answer = answer

    def __enter__(self) -> str:
        import threading
        from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

        code, words = self.answer.split(" ", 1)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(int(code), words)
                self.send_header("Content-Length", str(len(words)))
                self.end_headers()
                self.wfile.write(words.encode())

            do_POST = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()
        return f"http://127.0.0.1:{self.server.server_port}"

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


class serving:  # noqa: N801
    """MLflow's own server on loopback."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> str:
        self.folder.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"),
                *("--workers", "1", "--port", str(port)),
                *("--backend-store-uri", f"sqlite:///{self.folder / 'store.db'}"),
            ],
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 120
        uri = f"http://127.0.0.1:{port}"
        while True:
            try:
                urllib.request.urlopen(f"{uri}/health", timeout=2).close()  # noqa: S310
            except (urllib.error.URLError, OSError):
                assert time.monotonic() < deadline
                time.sleep(0.2)
            else:
                return uri

    def __exit__(self, *_: object) -> None:
        import signal

        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
