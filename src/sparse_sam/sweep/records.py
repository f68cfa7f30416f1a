"""What is read back from a store, checked: it may be a colleague's, or a disk's that many write to.

Names in it end in paths and in what MLflow is asked, so that they are held to what a sweep writes.
"""

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, create_model

from sparse_sam.errors import DataError
from sparse_sam.files import first_fault, read_json
from sparse_sam.sweep.compute import Result
from sparse_sam.training import Cost, KeptCost

_Key = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
_Name = Annotated[str, StringConstraints(pattern="^[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}$")]
_Text = Annotated[str, StringConstraints(max_length=5000, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]
_Scalar = bool | int | float | _Text | None


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def _fields_of(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: (hints[field.name], ...) for field in fields(kind)}


_Found = create_model("_Found", __base__=_Strict, **_fields_of(Result))


class _Record(_Strict):
    work: dict[str, Any]  # what made it, for who looks; never read back
    result: _Found  # type: ignore[valid-type]
    cost: KeptCost


class _PlannedCell(_Strict):
    key: _Key
    purpose: Literal["choose", "report"]
    arm: _Name
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    params: dict[_Text, _Scalar]


class _Plan(_Strict):
    name: _Name
    identity: _Key
    dense: list[_Key]
    cells: list[_PlannedCell]


_Kind = TypeVar("_Kind", bound=_Strict)


def parse_record(about: Any) -> tuple[Result, Cost]:
    """What a store says of a cell: what it found, and what it took. Raises ValidationError."""
    _Record.model_validate(about)
    return Result(**about["result"]), Cost(**about["cost"])


def read_plan(path: Path) -> dict[str, Any]:
    """A sweep's name, identity and cells. Raises DataError, naming file and key."""
    cure = "Delete it; the sweep writes it again when you run it."
    read = _read(path, _Plan, cure)
    if read["identity"] != path.stem:
        raise DataError(f"{path} is damaged (identity: it belongs to another sweep). {cure}")
    return read


def _read(path: Path, kind: type[_Kind], cure: str) -> dict[str, Any]:
    read = read_json(path, cure)
    try:
        kind.model_validate(read)
    except ValidationError as error:
        raise DataError(f"{path} is damaged ({first_fault(error)}). {cure}") from None
    return dict(read)
