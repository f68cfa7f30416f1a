"""What may stand in a journal: its events, their fields, and what a path in one may lead to.

The journals of finished stages are outputs of DVC, which may come from anybody's remote. So what is
read is checked here, and nothing that a journal says leads out of the workspace.
"""

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
)

from sparse_sam.errors import DataError
from sparse_sam.tracking.stages import STAGES

PIPELINE = "@pipeline"
"""As a ``child``: the event belongs to the pipeline's run, which is the stage's parent."""

Status = Literal["FINISHED", "FAILED", "KILLED"]

_CURE = (
    "`dvc checkout` restores a journal of runs/, and so does its stage when it is run again; one "
    "under .sparse-sam/ can be deleted."
)
_COMMIT = "mlflow.source.git.commit"
_LONGEST_PATH, _LONGEST_NAME = 1000, 255
_NO_CONTROLS = r"^[^\x00-\x1f\x7f-\x9f]*$"
_NO_CONTROLS_BUT_LINES = r"^[^\x00-\x09\x0b-\x1f\x7f-\x9f]*$"


def _relative(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path != "/".join(parts) or parts[0] == "/" or ".." in parts:
        raise ValueError("must be a path below the workspace, without '..'")
    if any(len(part.encode()) > _LONGEST_NAME for part in parts):
        raise ValueError("is too long")
    return path


def _ours(tag: str) -> str:
    """MLflow's own tags, and those by which runs are found again, are nobody's to set."""
    if tag.startswith(("sparse_sam.", "mlflow.")) and tag != _COMMIT:
        raise ValueError("is no tag that a stage sets")
    return tag


_Text = Annotated[str, StringConstraints(max_length=5000, pattern=_NO_CONTROLS)]
_Name = Annotated[str, StringConstraints(min_length=1, max_length=250, pattern=_NO_CONTROLS)]
_Tags = dict[Annotated[_Name, AfterValidator(_ours)], _Text]
# They stand between quotation marks in what MLflow is asked.
_Child = Annotated[str, StringConstraints(pattern="^[A-Za-z0-9_][A-Za-z0-9_ .,=+-]{0,99}$")]
_OfChild = _Child | Literal["@pipeline"] | None
_Run = Annotated[str, StringConstraints(pattern="^[0-9a-f]{32}(@[A-Za-z0-9.-]{1,99})?$")]
_Path = Annotated[
    str,
    StringConstraints(max_length=_LONGEST_PATH, pattern=_NO_CONTROLS),
    AfterValidator(_relative),
]
_DEEPEST = 20


def _plain(value: Any, depth: int = 0) -> Any:
    """Parameters are what YAML holds; text that no store can write would hold up all others."""
    if depth > _DEEPEST:
        raise ValueError("is nested too deeply")
    match value:
        case None | bool() | int() | float():
            return value
        case str():
            value.encode()  # UnicodeEncodeError is a ValueError
            return value
        case list():
            return [_plain(inner, depth + 1) for inner in value]
        case dict():
            return {_plain(key, depth + 1): _plain(one, depth + 1) for key, one in value.items()}
    raise ValueError("is no plain value")


_Params = dict[_Name, Annotated[Any, AfterValidator(_plain)]]
_Md5 = Annotated[str, StringConstraints(pattern="^[0-9a-f]{32}$")]
_Launched = Literal["experiment", "mlflow_run_id", "mlflow_experiment_id", "mlflow_experiment_name"]


def _known_stage(name: str) -> str:
    if name not in STAGES:
        raise ValueError(f"must be one of {', '.join(STAGES)}")
    return name


class _Event(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    # Up to the year 9999, and as far as every store can count.
    time: Annotated[int, Field(ge=0, lt=253_402_300_800_000)]


class _Start(_Event):
    event: Literal["start"]
    run: _Run
    stage: Annotated[str, AfterValidator(_known_stage)]
    params: _Params
    tags: _Tags
    launcher: dict[_Launched, _Text]
    source_run: _Run | None = None
    pipeline_tags: _Tags | None = None
    cached: bool = False


class _Dataset(_Event):
    event: Literal["dataset"]
    name: _Name
    fingerprint: _Name
    context: Literal["training", "evaluation"]


class _ChildBegins(_Event):
    event: Literal["child"]
    child: _Child
    params: _Params


class _ChildEnds(_Event):
    event: Literal["child_end"]
    child: _Child


class _Metrics(_Event):
    event: Literal["metrics"]
    child: _OfChild
    step: Annotated[int, Field(ge=0, lt=2**53)]
    values: dict[_Name, float]


class _TagsEvent(_Event):
    event: Literal["tags"]
    child: _OfChild = None
    values: _Tags


class _Note(_Event):
    event: Literal["note"]
    child: _OfChild
    text: Annotated[str, StringConstraints(max_length=5000, pattern=_NO_CONTROLS_BUT_LINES)]


class _Artifact(_Event):
    event: Literal["artifact"]
    child: _OfChild
    path: _Path
    md5: _Md5


class _End(_Event):
    event: Literal["end"]
    status: Status


_AnyEvent: TypeAdapter[Any] = TypeAdapter(
    Annotated[
        _Start
        | _Dataset
        | _ChildBegins
        | _ChildEnds
        | _Metrics
        | _TagsEvent
        | _Note
        | _Artifact
        | _End,
        Field(discriminator="event"),
    ]
)


def parse_events(path: Path, text: str, skip: int) -> list[dict[str, Any]]:
    """The events of a journal's whole lines after the first ``skip``.

    Their order is checked too, if it is read from its beginning.

    Raises:
        DataError: a line is no event, or cannot stand there; it names the journal and the line.
    """
    lines = text.split("\n")[:-1]
    events = [_parse(path, number, line) for number, line in enumerate(lines) if number >= skip]
    if not skip:
        _check_order(path, events)
    return events


def artifact_file(journal: Path, workspace: Path, event: dict[str, Any]) -> Path:
    """The file that an artifact's event names in a workspace; it need not be there.

    A link may lead to another file of the workspace, or to DVC's cache, whose files are named after
    their content.

    Raises:
        DataError: it leads elsewhere.
    """
    file: Path = workspace / event["path"]
    digest = event["md5"]
    target = file.resolve()
    cached = target.parts[-4:] == ("files", "md5", digest[:2], digest[2:])
    if not cached and not target.is_relative_to(workspace.resolve()):
        raise DataError(
            f"{journal}: path = {event['path']!a}: leads out of the workspace, to {target}. {_CURE}"
        )
    return file


def _parse(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        event = json.loads(line)
        _AnyEvent.validate_python(event)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ascii(".".join(map(str, fault["loc"])) or "event")[1:-1]
        given = ascii(fault["input"])
        what = f"{where[:60]} = {given[:60]}: {ascii(fault['msg'])[1:-1][:200]}"
        raise _fault(path, number, what) from None
    except (ValueError, RecursionError) as error:
        raise _fault(path, number, f"not an event as JSON ({error})") from None
    return dict(event)


def _check_order(path: Path, events: Sequence[dict[str, Any]]) -> None:
    """A start and no other; what is told of a child, after it began; nothing after the end."""
    begun: set[str | None] = {None, PIPELINE}
    for number, event in enumerate(events):
        if (event["event"] == "start") != (number == 0):
            raise _fault(path, number, "a journal has one start, its first line")
        own = path.name.partition(".")[0]
        if number == 0 and own in STAGES and event["stage"] != own:
            raise _fault(path, number, f"start.stage = {event['stage']!r}: must be {own!r} here")
        if event["event"] == "child":
            begun.add(event["child"])
        if event.get("child") not in begun:
            raise _fault(path, number, f"child = {event['child']!r}: has not begun")
        if event["event"] == "end" and number + 1 < len(events):
            raise _fault(path, number + 1, "nothing comes after the end")


def _fault(path: Path, number: int, what: str) -> DataError:
    return DataError(f"{path}, line {number + 1}: {what}. {_CURE}")
