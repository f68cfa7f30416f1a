"""A journal from anywhere says what a stage could say, and leads nowhere; or it is refused."""

import codecs
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparse_sam.errors import DataError, RefusedError
from sparse_sam.files.atomic import file_hash
from sparse_sam.tracking import sender
from sparse_sam.tracking.journal import PIPELINE, Journal, keep_artifact, read_events
from sparse_sam.tracking.mlflow_runs import Replay
from sparse_sam.tracking.mlflow_store import Tracker
from sparse_sam.tracking.pipelines import enter_all, place, workspace_content
from sparse_sam.tracking.provenance import read_provenance
from sparse_sam.tracking.stages import STAGES

Change = Callable[[list[dict[str, Any]]], Any]


def write_journal(folder: Path, stage: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished stage's journal, with every kind of event, as an output in ``runs/``."""
    monkeypatch.chdir(folder)
    path = folder / "runs" / f"{stage}.jsonl"
    path.parent.mkdir(exist_ok=True)
    weights = Path("models") / f"{stage}.safetensors"
    weights.parent.mkdir(exist_ok=True)
    weights.write_text(f"weights of {stage}")
    tags = {"mlflow.source.git.commit": "abc", "git.dirty": "false", "env.python": "3.11"}
    journal = Journal(path, stage=stage, params={"a.b": [1, None]}, tags=tags, launcher={})
    journal.dataset(name="mnist-sample", fingerprint="f" * 64, context="training")
    journal.child("sgd_2x seed 3", {"arm": "sgd_2x"})
    journal.metrics({"loss": float("nan"), "steps": 3}, step=1, child="sgd_2x seed 3")
    journal.metrics({"loss": 0.5}, child=PIPELINE, seconds=1.5)
    journal.artifact(weights, child="sgd_2x seed 3")
    journal.child_end("sgd_2x seed 3")
    journal.tags({"dvc.out.models/dense": "0123.dir"})
    journal.artifact(weights)
    journal.end("FINISHED")
    shutil.rmtree(path.parent / "artifacts")
    path.with_suffix(".lock").unlink(missing_ok=True)
    return path


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone whose six stages are finished, and beside it a file that is nobody's business."""
    (tmp_path / "secret").write_text("secret")
    folder = tmp_path / "clone"
    folder.mkdir()
    for stage in STAGES:
        write_journal(folder, stage, monkeypatch)
    return folder


def change(workspace: Path, act: Change, stage: str = "prune") -> Path:
    """Change the events of a journal."""
    path = workspace / "runs" / f"{stage}.jsonl"
    events = [json.loads(line) for line in path.read_text().splitlines()]
    events = act(events) or events
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    return path


def line_of(path: Path, kind: str) -> int:
    lines = path.read_text().splitlines()
    return next(i for i, line in enumerate(lines, 1) if json.loads(line)["event"] == kind)


def kept(workspace: Path) -> list[str]:
    """What lies under .sparse-sam beside journals: what MLflow would be sent."""
    files = workspace.glob(".sparse-sam/pipelines/*/artifacts/**/*")
    return sorted(file.read_text() for file in files if file.is_file())


def placed(root: Path, stage: str) -> Path:
    with place(root, stage, {}, root, {}, {}) as path:
        return path


def assert_refused(workspace: Path, path: Path, line: int | None, said: str) -> None:
    readers: list[tuple[Path, Callable[[], Any]]] = [
        (path, lambda: workspace_content(workspace)),
        (path, lambda: placed(workspace, "evaluate")),
        (path, lambda: enter_all(workspace, {}, workspace, {}, {})),
        (path.relative_to(workspace), lambda: read_provenance([STAGES["prune"]])),
    ]
    for named, read in readers if line else readers[1:3]:
        with pytest.raises(DataError) as raised:
            read()
        assert str(raised.value).startswith(f"{named}, line {line}: " if line else f"{named}: ")
        assert said in str(raised.value)
        assert "`dvc checkout` restores" in str(raised.value)
    assert "secret" not in kept(workspace)


def test_what_a_stage_writes_is_read(workspace: Path) -> None:
    assert workspace_content(workspace)
    enter_all(workspace, {}, workspace, {}, {})
    assert kept(workspace) == sorted(f"weights of {stage}" for stage in STAGES)


def test_a_stage_that_the_pipeline_lacks_is_answered_with_those_that_it_has(
    workspace: Path,
) -> None:
    journal = change(workspace, put("start", stage="deploy"))
    assert_refused(workspace, journal, 1, "start.stage = 'deploy'")
    assert_refused(workspace, journal, 1, f"must be one of {', '.join(STAGES)}")


OUTSIDE = ["{secret}", "../secret", "models/../../secret", "/etc/hostname", "", ".", "a//b", "./a"]


@pytest.mark.parametrize("path", [*OUTSIDE, "x" * 300, "a\u0000b", "a\nb", 3, None, ["a"]])
def test_a_path_that_leads_out_is_refused(workspace: Path, path: Any) -> None:
    secret = workspace.parent / "secret"
    given = path.format(secret=secret) if isinstance(path, str) else path

    def act(events: list[dict[str, Any]]) -> None:
        for event in events:
            if event["event"] == "artifact":
                event |= {"path": given, "md5": file_hash(secret)}

    journal = change(workspace, act)
    assert_refused(workspace, journal, line_of(journal, "artifact"), "artifact.path = ")


def test_a_path_that_leads_out_through_a_link_is_refused(workspace: Path) -> None:
    secret = workspace.parent / "secret"
    (workspace / "models" / "link").symlink_to(secret)
    (workspace / "above").symlink_to(workspace.parent)
    for path in ("models/link", "above/secret"):

        def act(events: list[dict[str, Any]], path: str = path) -> None:
            for event in events:
                if event["event"] == "artifact":
                    event |= {"path": path, "md5": file_hash(secret)}

        journal = change(workspace, act)
        assert_refused(workspace, journal, None, "leads out of the workspace")


def test_links_into_dvcs_cache_are_followed(workspace: Path) -> None:
    """With ``cache.type symlink`` every output is one, also into a cache that clones share."""
    weights = workspace / "models" / "prune.safetensors"
    digest = file_hash(weights)
    cached = workspace.parent / "cache" / "files" / "md5" / digest[:2] / digest[2:]
    cached.parent.mkdir(parents=True)
    weights.rename(cached)
    weights.symlink_to(cached)
    enter_all(workspace, {}, workspace, {}, {})
    assert "weights of prune" in kept(workspace)


@pytest.mark.parametrize("md5", ["../../secret", "A" * 32, "a" * 31, "a" * 32 + "\n", 3, None])
def test_a_hash_that_is_none_is_refused(workspace: Path, md5: Any) -> None:
    def act(events: list[dict[str, Any]]) -> None:
        for event in events:
            if event["event"] == "artifact":
                event["md5"] = md5

    journal = change(workspace, act)
    assert_refused(workspace, journal, line_of(journal, "artifact"), "artifact.md5 = ")


def test_nothing_from_outside_is_uploaded(
    workspace: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also from a journal that lies where pipelines are: md5 and path name the file together."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_store, workspace)
    pipeline = enter_all(workspace, {}, workspace, {}, {})
    journal = pipeline / "prune.0.jsonl"
    (pipeline.parent / "outside").mkdir()
    (pipeline.parent / "outside" / "secret").write_text("secret")
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    for event in lines:
        if event["event"] == "artifact":
            event |= {"path": "secret", "md5": "../../outside"}
    journal.write_text("".join(json.dumps(event) + "\n" for event in lines))
    with pytest.raises(RefusedError, match=r"artifact\.md5 = '\.\./\.\./outside'"):
        Replay(Tracker(workspace), journal).send()
    assert not [file for file in (workspace / "mlartifacts").rglob("*") if file.is_file()]


def put(kind: str, **values: Any) -> Change:
    def act(events: list[dict[str, Any]]) -> None:
        next(event for event in events if event["event"] == kind).update(values)

    return act


@pytest.mark.parametrize(
    ("act", "line", "said"),
    [
        (put("start", stage="os.system"), 1, "start.stage = 'os.system'"),
        (put("start", run="x' OR '1' = '1"), 1, "start.run = "),
        (put("start", source_run="../x"), 1, "start.source_run = "),
        (put("start", tags={"sparse_sam.run": "x"}), 1, "is no tag that a stage sets"),
        (put("start", tags={"mlflow.parentRunId": "x"}), 1, "is no tag that a stage sets"),
        (put("start", launcher={"MLFLOW_TRACKING_URI": "x"}), 1, "start.launcher."),
        (put("start", colour="red"), 1, "start.colour = 'red'"),
        (put("start", time=10**30), 1, "start.time = "),
        (put("dataset", context="testing"), 2, "dataset.context = 'testing'"),
        (put("child", child="x' OR '1' = '1"), 3, "child.child = "),
        (put("child", child=PIPELINE), 3, "child.child = "),
        (put("metrics", child="sam seed 9"), 4, "child = 'sam seed 9': has not begun"),
        (put("metrics", values={"loss": "0"}), 4, "metrics.values.loss = '0'"),
        (put("metrics", step=True), 4, "metrics.step = True"),
        (put("tags", values={"sparse_sam.content": "x"}), 8, "is no tag that a stage sets"),
        (put("end", status="DELETED"), 10, "end.status = 'DELETED'"),
        (put("end", event="exec"), 10, "'exec'"),
        (lambda events: events[1:], 1, "one start, its first line"),
        (lambda events: [*events[:-1], events[0], events[-1]], 10, "one start, its first line"),
        (lambda events: [*events, events[1]], 11, "nothing comes after the end"),
        (lambda _: [["start"]], 1, "event = "),
        (lambda _: [7], 1, "event = 7"),
    ],
)
def test_what_no_stage_writes_is_named(workspace: Path, act: Any, line: int, said: str) -> None:
    assert_refused(workspace, change(workspace, act), line, said)


@pytest.mark.parametrize("text", ["{", "[" * 100_000, '{"event": 1' + "0" * 5000 + "}"])
def test_a_line_that_is_no_json_is_named(workspace: Path, text: str) -> None:
    path = workspace / "runs" / "prune.jsonl"
    path.write_text(path.read_text().replace("\n", f"\n{text}\n", 1))
    assert_refused(workspace, path, 2, "not an event as JSON")


def test_bytes_that_are_no_text_are_refused(workspace: Path) -> None:
    path = workspace / "runs" / "prune.jsonl"
    path.write_bytes(b"\xff\xfe\n")
    with pytest.raises(DataError, match=re.escape(str(path))):
        workspace_content(workspace)


def test_an_empty_journal_is_of_a_stage_that_has_not_finished(workspace: Path) -> None:
    path = workspace / "runs" / "prune.jsonl"
    path.write_text("")
    assert workspace_content(workspace) is None
    assert read_provenance([STAGES["prune"]]) == []


SPECIAL = st.sampled_from(
    [
        *("subprocess:Popen", "os:system", "../../secret", "/etc/hostname", "x' OR '1' = '1"),
        *(PIPELINE, "start", "artifact", "end", "models/prune.safetensors", "0" * 32, "a\0b"),
        10**30,
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | SPECIAL,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@given(data=st.data())
def test_whatever_a_journal_says_it_is_read_or_refused(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Changed in any field of any event; nothing is imported, and nothing from outside is kept."""
    base = tmp_path_factory.getbasetemp() / "any-journal"
    clone = base / "clone"
    if not clone.is_dir():
        clone.mkdir(parents=True)
        (base / "secret").write_text("secret")
        with pytest.MonkeyPatch.context() as patch:
            write_journal(clone, "prune", patch)
        (clone / "sound").write_text((clone / "runs" / "prune.jsonl").read_text())
    events = [json.loads(line) for line in (clone / "sound").read_text().splitlines()]
    for _ in range(data.draw(st.integers(1, 3))):
        event = data.draw(st.sampled_from(events))
        event[data.draw(st.sampled_from([*event, "event", "path", "extra"]))] = data.draw(JSON)
    if data.draw(st.booleans()):
        events = data.draw(st.permutations(events))
    path = clone / "runs" / "prune.jsonl"
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    codecs.lookup("ascii")  # Python's own
    modules = set(sys.modules)
    try:
        read = read_events(path)
        enter_all(clone, {}, clone, {}, {})
        assert json.dumps(read) == json.dumps(events)
    except DataError as error:
        said = str(error)
        assert said.startswith(str(path))
        assert said.isprintable()
    assert set(sys.modules) == modules
    assert set(kept(clone)) <= {"weights of prune"}
    shutil.rmtree(clone / ".sparse-sam", ignore_errors=True)


# What a sender is asked for


def request(folder: Path, content: str | bytes) -> Path:
    path = folder / "0.request"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_a_sender_is_asked_for_journals_of_its_own_clone_only(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = workspace / ".sparse-sam" / "senders" / "0123456789"
    folder.mkdir(parents=True)
    journal = placed(workspace, "prune")
    asked = request(folder, str(journal))
    assert sender._requests(folder) == [(asked, journal)]
    elsewhere = workspace.parent / "elsewhere" / journal.parent.name
    elsewhere.mkdir(parents=True)
    shutil.copy(workspace / "runs" / "prune.jsonl", elsewhere / "prune.0.jsonl")
    link = workspace / ".sparse-sam" / "pipelines" / f"{journal.parent.name[:-1]}0"
    link.symlink_to(elsewhere)
    for content in (
        str(elsewhere / "prune.0.jsonl"),
        str(workspace / "runs" / "prune.jsonl"),
        str(workspace.parent / "secret"),
        str(journal.parent / ".." / ".." / ".." / "runs" / "prune.jsonl"),
        str(journal.with_name("secret.0.jsonl")),
        str(journal.with_suffix(".lock")),
        str(link / "prune.0.jsonl"),
        "",
        "a\nb",
        "x" * 10_000,
        b"\xff\0",
    ):
        asked = request(folder, content)
        assert sender._requests(folder) == []
        assert not asked.exists()
        assert "names no journal of this clone" in capsys.readouterr().err


def test_a_clone_behind_a_link_has_its_journals(workspace: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(workspace)
    folder = workspace / ".sparse-sam" / "senders" / "0123456789"
    folder.mkdir(parents=True)
    journal = placed(link, "prune")
    asked = request(folder, str(journal))
    assert sender._requests(folder) == [(asked, journal)]


def test_what_is_kept_lies_beside_its_journal(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    keep_artifact(tmp_path / "pipeline", file, file_hash(file))
    assert [one.name for one in (tmp_path / "pipeline" / "artifacts").iterdir()] == [
        file_hash(file)
    ]
