"""``export.json``: what an export is, its files by name, and how each was verified."""

import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)

from sparse_sam.errors import ExportError
from sparse_sam.export.channels import Narrowed
from sparse_sam.export.compression import Size
from sparse_sam.export.model_card import CARD
from sparse_sam.files import first_fault, read_json, write_text
from sparse_sam.training import Checkpoint, parse_origin

DENSE, SPARSE, NARROW = "dense.safetensors", "sparse.safetensors", "narrow.safetensors"
ONNX, MANIFEST = "model.onnx", "export.json"
FILES = (DENSE, SPARSE, NARROW, ONNX)
"""In this order; ``NARROW`` may be missing."""

_VERSION = 4
_CURE = "Run `make export`."

_Share = Annotated[float, Field(ge=0, le=1)]
_Count = Annotated[int, Field(ge=0, lt=2**63)]
_Hash = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
_Text = Annotated[str, StringConstraints(max_length=1000, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]


@dataclass(frozen=True)
class Verified:
    """How a file did on the test set, against the network that it stands for."""

    accuracy: float
    largest_difference: float
    """Of a logit."""
    ties: int
    """Images whose prediction is another, because the network itself has two logits there that are
    closer than the tolerance."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class _File(_Strict):
    raw: _Count
    compressed: _Count
    sha256: _Hash
    accuracy: _Share
    largest_difference: Annotated[float, Field(ge=0)]
    ties: _Count


class _Test(_Strict):
    images: Annotated[int, Field(ge=1, lt=2**63)]
    accuracy: _Share
    source: _Text


class _Card(_Strict):
    sha256: _Hash


def _is_origin(value: dict[str, Any]) -> dict[str, Any]:
    parse_origin(value)
    return value


def _are_files(value: dict[str, _File]) -> dict[str, _File]:
    if not {DENSE, SPARSE, ONNX} <= value.keys() <= set(FILES):
        raise ValueError(f"must be {DENSE}, {SPARSE}, {ONNX} and perhaps {NARROW}")
    return value


class _Manifest(_Strict):
    version: Annotated[int, Field(ge=_VERSION, le=_VERSION)]
    origin: Annotated[dict[str, Any], AfterValidator(_is_origin)]
    checkpoint: dict[_Text, _Text]
    sparsity: _Share
    channels_removed: dict[_Text, _Count]
    channels_kept: dict[_Text, _Text]
    test: _Test
    files: Annotated[dict[str, _File], AfterValidator(_are_files)]
    card: _Card


def make_manifest(
    checkpoint: Checkpoint,
    images: int,
    source: str,
    narrowed: Narrowed,
    folder: Path,
    verified: Mapping[str, Verified],
    identity: Mapping[str, str],
) -> dict[str, Any]:
    """What ``export.json`` says, but for the model card, which is made from it.

    Args:
        checkpoint: the network.
        images: how many it was verified on.
        source: the name of their data source.
        narrowed: what became of its channels.
        folder: the files, written and verified.
        verified: by file name.
        identity: what else is known of the checkpoint.
    """
    origin, masks = checkpoint.origin, checkpoint.masks
    files = {}
    for name in verified:
        content = (folder / name).read_bytes()
        size = Size(len(content), len(zlib.compress(content)))
        digest = hashlib.sha256(content).hexdigest()
        files[name] = {**asdict(size), "sha256": digest, **asdict(verified[name])}
    return {
        "version": _VERSION,
        "origin": json.loads(json.dumps(origin.content())),
        "checkpoint": dict(identity),
        "sparsity": masks.sparsity if masks else 0.0,
        "channels_removed": narrowed.removed,
        "channels_kept": narrowed.kept,
        "test": {
            "images": images,
            "accuracy": verified[SPARSE].accuracy,
            "source": source,
        },
        "files": files,
    }


def write_card(folder: Path, manifest: dict[str, Any], card: str) -> None:
    """Write the model card of an export, and enter it into the manifest."""
    write_text(folder / CARD, card)
    manifest["card"] = {"sha256": hashlib.sha256((folder / CARD).read_bytes()).hexdigest()}


def load_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an export whose files are as they were written.

    Raises:
        ExportError: it is missing or holds what cannot be, or a file is missing or has changed.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ExportError(f"{path} is missing. {_CURE}")
    manifest = read_json(path, _CURE)
    try:
        _Manifest.model_validate(manifest)
    except ValidationError as error:
        raise ExportError(f"{path} is damaged ({first_fault(error)}). {_CURE}") from None
    for name, said in {**manifest["files"], CARD: manifest["card"]}.items():
        try:
            content = (folder / name).read_bytes()
        except FileNotFoundError:
            raise ExportError(f"{folder / name} is missing. {_CURE}") from None
        if hashlib.sha256(content).hexdigest() != said["sha256"]:
            raise ExportError(f"{folder / name} has changed since it was verified. {_CURE}")
    return dict(manifest)


def describe(folder: Path, manifest: Mapping[str, Any]) -> str:
    """What was made, how large it is, and how it was checked."""
    origin, test = manifest["origin"], manifest["test"]
    title = (
        f"{folder}/: {parse_origin(origin).model}, {origin['arm']}, seed {origin['seed']}, "
        f"{manifest['sparsity']:.2%} sparse, {test['accuracy']:.2%} accurate on {test['images']} "
        "test images"
    )
    lines = [
        title,
        "",
        f"{'file':<20} {'bytes':>10} {'compressed':>11}   same predictions, logits within",
    ]
    lines += [
        f"{name:<20} {file['raw']:>10,} {file['compressed']:>11,}   "
        f"{_same(file['ties'])}, {file['largest_difference']:.1e}"
        for name, file in manifest["files"].items()
    ]
    lines.append(f"{CARD:<20} what it is, was trained on, can do, and was not tested for")
    for layer, count in manifest["channels_removed"].items():
        lines.append(f"layer {layer}: {count} channels removed, in the narrow file and in ONNX")
    for layer, reason in manifest["channels_kept"].items():
        lines.append(f"layer {layer or '(all)'}: {reason}")
    return "\n".join(lines)


def _same(ties: int) -> str:
    return f"except {ties} tie{'s' * (ties > 1)}" if ties else "yes"


def check_belongs(
    manifest: Mapping[str, Any], metrics: Mapping[str, Any], seeds: Sequence[int]
) -> None:
    """Raise ExportError if the metrics that the gate judged are of other networks.

    Args:
        manifest: the export's.
        metrics: ``metrics/evaluate.json``.
        seeds: what the values there belong to.
    """
    origin, test = manifest["origin"], manifest["test"]
    cure = "Run `make repro`, so that the gate judges what is registered."
    who = f"{origin['arm']}, seed {origin['seed']}"
    try:
        accuracy = metrics[origin["arm"]]["test_accuracy"]["values"][seeds.index(origin["seed"])]
    except (KeyError, ValueError, IndexError):
        raise ExportError(f"metrics/evaluate.json has no accuracy for {who}. {cure}") from None
    # One image more or less is rounding: batches, threads and devices sum in other orders.
    if abs(accuracy - test["accuracy"]) > 1.5 / test["images"]:
        raise ExportError(
            f"{who}, classifies {test['accuracy']:.2%} of the test images correctly, but "
            f"metrics/evaluate.json says {accuracy:.2%}. {cure}"
        )
