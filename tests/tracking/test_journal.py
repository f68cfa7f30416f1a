"""Journals: files first, every event once, dead writers noticed."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sparse_sam.tracking.journal import Journal, artifact_path, is_running, read_events


def open_journal(path: Path) -> Journal:
    return Journal(path, stage="prune", params={"a": 1}, tags={"t": "x"}, launcher={})


def test_events_are_on_disk_before_anything_else_happens(tmp_path: Path) -> None:
    path = tmp_path / "prune.0.jsonl"
    journal = open_journal(path)
    journal.child("pruned seed 0", {"seed": 0})
    journal.metrics({"accuracy": 0.5, "loss": None}, step=3, child="pruned seed 0")
    events = read_events(path)
    journal.end("FINISHED")
    assert [event["event"] for event in events] == ["start", "child", "metrics"]
    assert events[0]["stage"] == "prune"
    assert events[2] | {"time": 0} == {
        "event": "metrics",
        "time": 0,
        "child": "pruned seed 0",
        "step": 3,
        "values": {"accuracy": 0.5},
    }
    assert read_events(path, skip=3)[0]["status"] == "FINISHED"


def test_tags_of_an_earlier_journal_are_the_stages(tmp_path: Path) -> None:
    path = tmp_path / "prune.0.jsonl"
    journal = open_journal(path)
    journal.tags({"t": "y"})
    journal.end("FINISHED")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    del lines[1]["child"]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert read_events(path)[1].get("child") is None
    assert read_events(path)[1]["values"] == {"t": "y"}


def test_a_line_half_written_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "prune.0.jsonl"
    open_journal(path).end("FINISHED")
    with path.open("a") as file:
        file.write('{"event": "metr')
    assert [event["event"] for event in read_events(path)] == ["start", "end"]


def test_an_artifact_outlives_the_file_and_keeps_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = Path("seed-0.safetensors")
    file.write_bytes(b"weights")
    folder = tmp_path / "pipeline"
    folder.mkdir()
    journal = open_journal(folder / "prune.0.jsonl")
    journal.artifact(file)
    journal.artifact(file)
    journal.end("FINISHED")
    file.unlink()
    event = read_events(folder / "prune.0.jsonl")[1]
    kept = artifact_path(folder, Path(event["path"]), event["md5"])
    assert kept.name == "seed-0.safetensors"
    assert kept.read_bytes() == b"weights"


def test_a_killed_writer_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "prune.0.jsonl"
    code = (
        "import sys, time; from pathlib import Path\n"
        "from sparse_sam.tracking.journal import Journal\n"
        "journal = Journal(Path(sys.argv[1]), stage='prune', params={}, tags={}, launcher={})\n"
        "print('ready', flush=True); time.sleep(60)"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")},
    )
    assert writer.stdout is not None
    with writer.stdout:
        writer.stdout.readline()
        running = is_running(path)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    assert running
    assert not is_running(path)


def test_numbers_that_json_has_no_word_for_survive(tmp_path: Path) -> None:
    path = tmp_path / "prune.0.jsonl"
    journal = open_journal(path)
    journal.metrics({"loss": float("nan")})
    journal.end("FAILED")
    assert json.dumps(read_events(path)[1]["values"]["loss"]) == "NaN"


@pytest.mark.parametrize("status", ["FINISHED", "FAILED", "KILLED"])
def test_the_last_line_is_the_status(tmp_path: Path, status: str) -> None:
    path = tmp_path / "prune.0.jsonl"
    open_journal(path).end(status)  # type: ignore[arg-type]
    assert read_events(path)[-1]["status"] == status
    assert not is_running(path)


def test_a_curve_known_at_the_end_gets_the_times_of_its_points(tmp_path: Path) -> None:
    path = tmp_path / "prune.0.jsonl"
    journal = open_journal(path)
    for epoch in range(3):
        journal.metrics({"accuracy": 0.5}, step=epoch, seconds=1.5 * epoch)
    journal.end("FINISHED")
    start, *points, _ = read_events(path)
    assert [point["time"] - points[0]["time"] for point in points] == [0, 1500, 3000]
    assert abs(points[0]["time"] - start["time"]) < 1000
