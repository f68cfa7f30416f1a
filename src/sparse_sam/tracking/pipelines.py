"""Which stage runs belong together, when every stage is a process of its own.

DVC starts a process a stage and tells it nothing about the others, and a stage whose outputs are
cached is not started at all. So each clone keeps a folder ``.sparse-sam/pipelines/``, one folder a
pipeline run in it, one journal a stage run in that. A stage joins the newest pipeline run of the
same parameters and launcher if its place there is still free and the stages before it are the
ones that made its inputs; otherwise it opens a new one. Stages before it that did not run are
entered from their journals (``runs/<stage>.jsonl``, outputs of DVC) and marked as cached.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from sparse_sam.errors import SparseSamError
from sparse_sam.files import file_hash, write_text
from sparse_sam.redaction import redacted, redacted_values
from sparse_sam.tracking.events import artifact_file
from sparse_sam.tracking.journal import keep_artifact, read_events
from sparse_sam.tracking.stages import STAGES

_STAMP = "%Y%m%dT%H%M%S.%f"
_PIPELINE = re.compile(r"\d{8}T\d{6}\.\d{6}-[0-9a-f]{10}")
_JOURNAL = re.compile(rf"({'|'.join(STAGES)})\.\d{{1,6}}\.jsonl")
_LONGEST_PATH = 4096


def repository_root() -> Path:
    """The clone that a person works in, also from within ``dvc exp run --temp`` and ``--queue``.

    Those run in a copy under ``.dvc/tmp`` that is deleted afterwards; DVC_ROOT names the clone.
    """
    named = os.environ.get("DVC_ROOT")
    if named:
        return Path(named)
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / ".dvc").is_dir()), here)


def state_folder(root: Path) -> Path:
    """The clone's own, untracked folder for journals and locks."""
    folder = root / ".sparse-sam"
    folder.mkdir(exist_ok=True)
    return folder


def launcher() -> dict[str, str]:
    """What started this pipeline, beyond a person: an experiment of DVC, a run of MLflow."""
    names = {
        "DVC_EXP_NAME": "experiment",
        "MLFLOW_RUN_ID": "mlflow_run_id",
        "MLFLOW_EXPERIMENT_ID": "mlflow_experiment_id",
        "MLFLOW_EXPERIMENT_NAME": "mlflow_experiment_name",
    }
    return {key: os.environ[name] for name, key in names.items() if os.environ.get(name)}


@contextmanager
def place(
    root: Path,
    stage: str,
    params: Mapping[str, Any],
    workspace: Path,
    made_by: Mapping[str, str],
    tags: Mapping[str, str],
) -> Iterator[Path]:
    """The path for the journal of a stage that starts now; the stages before it are entered.

    The journal is to be opened in the block: after it, another stage may be given the path.

    Args:
        root: the clone.
        stage: the stage's name.
        params: all parameters.
        workspace: the folder that the stage runs in: the clone, or an experiment's copy of it.
        made_by: what ``launcher()`` says.
        tags: what the stage says of where it comes from; so does then the whole pipeline run,
            whatever the stages say that were run for another one.
    """
    state = state_folder(root)
    with FileLock(state / "lock"):
        key = _key(params, made_by)
        newest = max((state / "pipelines").glob(f"*-{key}"), default=None)
        free = newest is not None and _is_free(newest, stage, workspace)
        pipeline = newest if newest and free else _new_pipeline(state, key)
        _enter_cached(pipeline, STAGES[stage].before, workspace, made_by, tags)
        yield _journal_path(pipeline, stage)


def workspace_content(workspace: Path) -> str | None:
    """A name for the results in ``workspace``: which stage runs made them; None if not all six."""
    return _content({one.name: _finished_run(workspace / one.journal) for one in STAGES.values()})


def pipeline_content(pipeline: Path) -> str | None:
    """The same name for a pipeline run; None while a stage is missing."""
    return _content(_entered(pipeline))


def enter_all(
    root: Path,
    params: Mapping[str, Any],
    workspace: Path,
    made_by: Mapping[str, str],
    tags: Mapping[str, str],
) -> Path:
    """A new pipeline run made of the workspace's results alone, all marked as cached.

    Arguments are those of ``place``.
    """
    state = state_folder(root)
    with FileLock(state / "lock"):
        pipeline = _new_pipeline(state, _key(params, made_by))
        _enter_cached(pipeline, tuple(STAGES), workspace, made_by, tags)
        return pipeline


def journals(pipeline: Path) -> list[Path]:
    """A pipeline run's journals, in the order of the stages."""
    order = list(STAGES)
    own = (path for path in pipeline.glob("*.jsonl") if _JOURNAL.fullmatch(path.name))
    return sorted(own, key=lambda path: (order.index(path.name.split(".")[0]), path.name))


def is_journal(state: Path, named: str) -> bool:
    """Whether a text names a journal of a clone's pipeline runs, in its state folder.

    Links are followed, also those above the clone; the journal need not be there.
    """
    if not named.isprintable() or len(named) > _LONGEST_PATH:
        return False
    try:
        path, pipelines = Path(named).resolve(), (state / "pipelines").resolve()
    except (OSError, RuntimeError):  # links in a circle
        return False
    is_ours = _PIPELINE.fullmatch(path.parent.name) and _JOURNAL.fullmatch(path.name)
    return bool(is_ours) and path.parent.parent == pipelines


def is_sent(journal: Path) -> bool:
    """Whether MLflow has been told the whole journal."""
    return _sent_mark(journal).exists()


def mark_sent(journal: Path) -> None:
    """Remember it. When a pipeline run is sent whole, what it kept for MLflow is let go."""
    _sent_mark(journal).touch()
    _refusal_file(journal).unlink(missing_ok=True)
    folder = journal.parent
    if all(map(is_sent, journals(folder))):
        shutil.rmtree(folder / "artifacts", ignore_errors=True)


def refusal(journal: Path) -> str | None:
    """Why MLflow does not take the run; None if nobody knows of a reason."""
    try:
        return _refusal_file(journal).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None


def set_aside(journal: Path, reason: str) -> None:
    """Remember that MLflow does not take the run, so that no other waits for it."""
    write_text(_refusal_file(journal), redacted(reason) + "\n")


def started_at(pipeline: Path) -> int:
    """When a pipeline run began, in milliseconds since 1970: its folder is named after it."""
    stamp = pipeline.name.partition("-")[0]
    moment = datetime.strptime(stamp, _STAMP).replace(tzinfo=UTC)
    return int(moment.timestamp() * 1000)


def _sent_mark(journal: Path) -> Path:
    return journal.with_suffix(".sent")


def _refusal_file(journal: Path) -> Path:
    return journal.with_suffix(".refused")


def _content(runs: Mapping[str, str | None]) -> str | None:
    made_by = [runs.get(stage) for stage in STAGES]
    if None in made_by:
        return None
    return hashlib.sha256(json.dumps(made_by).encode()).hexdigest()[:32]


def _key(params: Mapping[str, Any], made_by: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps([dict(made_by), params], sort_keys=True).encode()).hexdigest()[
        :10
    ]


def _new_pipeline(state: Path, key: str) -> Path:
    folder = state / "pipelines" / f"{datetime.now(UTC).strftime(_STAMP)}-{key}"
    folder.mkdir(parents=True)
    return folder


def _journal_path(pipeline: Path, stage: str) -> Path:
    of_stage = [path for path in journals(pipeline) if path.name.startswith(f"{stage}.")]
    taken = [int(path.name.split(".")[1]) for path in of_stage]
    return pipeline / f"{stage}.{max(taken, default=-1) + 1}.jsonl"


def _finished_run(path: Path) -> str | None:
    """The identity of the execution that a journal tells of, if there is one that ended well.

    Raises DataError if it is damaged.
    """
    try:
        events = read_events(path)
    except FileNotFoundError:
        return None
    if not events or events[-1]["event"] != "end" or events[-1]["status"] != "FINISHED":
        return None
    return str(events[0].get("source_run") or events[0]["run"])


def _entered(pipeline: Path) -> dict[str, str]:
    """The finished stages of a pipeline run, and the executions that they stand for."""
    found = {}
    for path in journals(pipeline):
        # A damaged one here is no other stage's fault, and said when it is sent.
        with suppress(SparseSamError, OSError):
            if run := _finished_run(path):
                found[path.name.split(".")[0]] = run
    return found


def _is_free(pipeline: Path, stage: str, workspace: Path) -> bool:
    entered = _entered(pipeline)
    if any(other == stage or stage in STAGES[other].before for other in entered):
        return False
    return all(
        entered[before] == _finished_run(workspace / STAGES[before].journal)
        for before in STAGES[stage].before
        if before in entered
    )


def _enter_cached(
    pipeline: Path,
    stages: Sequence[str],
    workspace: Path,
    made_by: Mapping[str, str],
    tags: Mapping[str, str],
) -> None:
    entered = _entered(pipeline)
    for stage in stages:
        source = workspace / STAGES[stage].journal
        run = _finished_run(source)
        if stage in entered or run is None:
            continue
        start, *events = read_events(source)
        start |= {"run": f"{run}@{pipeline.name}", "source_run": run, "cached": True}
        start |= {"launcher": dict(made_by), "pipeline_tags": redacted_values(tags)}
        for event in (event for event in events if event["event"] == "artifact"):
            file = artifact_file(source, workspace, event)
            if file.is_file() and file_hash(file) == event["md5"]:
                keep_artifact(pipeline, file, event["md5"])
        lines = "".join(json.dumps(event) + "\n" for event in [start, *events])
        write_text(_journal_path(pipeline, stage), lines)
