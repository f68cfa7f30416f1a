"""A finetuned network as files that others can use, each checked against the original.

An export is a folder: ``dense.safetensors`` (plain weights, zeros where pruned),
``sparse.safetensors`` (packed: the same bits, and the masks), ``narrow.safetensors`` (smaller
layers, only if whole channels could be removed), ``model.onnx`` (``onnxfile``; narrow if that is)
and ``export.json``, which says what they are. It appears whole, after every file, as it lies on
disk, has given the original's predictions on the whole test set; or not at all.
"""

import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparse_sam import onnxfile, tensorfile
from sparse_sam.channels import Narrowed, fit, narrow
from sparse_sam.checkpoint import Checkpoint, Origin
from sparse_sam.compression import Size, folded, pack, unpack
from sparse_sam.dataset import TestData
from sparse_sam.errors import CheckpointError, ExportError, SparseSamError
from sparse_sam.files import atomic_folder, read_json, write_json
from sparse_sam.models import build_model

DENSE, SPARSE, NARROW = "dense.safetensors", "sparse.safetensors", "narrow.safetensors"
ONNX, MANIFEST = "model.onnx", "export.json"
FILES = (DENSE, SPARSE, NARROW, ONNX)
"""In this order; ``NARROW`` may be missing."""

TOLERANCE = 1e-3
"""How far logits may be from the original's, relative to the largest of them."""

_DENSE_KIND, _SPARSE_KIND, _VERSION = "dense network", "packed network", 1
_CURE = "Run `make export`."
_BATCH = 256


@dataclass(frozen=True)
class Verified:
    """How a file did on the test set, against the network that it stands for."""

    accuracy: float
    largest_difference: float
    """Of a logit."""


def export(
    checkpoint: Checkpoint, data: TestData, folder: Path, identity: Mapping[str, Any]
) -> dict[str, Any]:
    """Write an export and give its manifest.

    Args:
        checkpoint: the network.
        data: the test set of its data; every file must give the network's predictions on it.
        folder: replaced as a whole; left as it was if anything fails.
        identity: what else the manifest should say, under ``checkpoint``.

    Raises:
        ExportError: ONNX cannot express the network, or a file does not give its predictions.
        CheckpointError: the checkpoint is of another data set, or does not fit its model.
    """
    origin = checkpoint.origin
    if origin.dataset != data.info.fingerprint:
        raise CheckpointError(
            f"the network of {origin.arm}, seed {origin.seed}, was trained on another data set "
            f"({origin.dataset[:12]}) than the one it would be checked on "
            f"({data.info.fingerprint[:12]}). Run `make repro`."
        )
    plain = folded(checkpoint)
    narrowed = narrow(plain, origin.image_shape)
    with atomic_folder(folder) as temporary:
        save_dense(temporary / DENSE, plain, origin)
        if narrowed.removed:
            save_dense(temporary / NARROW, narrowed.model, origin)
        save_sparse(temporary / SPARSE, checkpoint)
        with_pixels = onnxfile.FromPixels(narrowed.model, origin.mean, origin.std)
        onnxfile.save(temporary / ONNX, with_pixels, origin.image_shape)
        verified = verify(temporary, checkpoint, data)
        manifest = _manifest(checkpoint, data, narrowed, temporary, verified, identity)
        write_json(temporary / MANIFEST, manifest)
    return manifest


def save_dense(path: Path, model: nn.Module, origin: Origin) -> None:
    """Write plain weights, which may be narrower than the model of ``origin``."""
    header = {"origin": vars(origin)}
    tensorfile.save(path, model.state_dict(), kind=_DENSE_KIND, version=_VERSION, header=header)


def load_dense(path: Path) -> tuple[nn.Module, Origin]:
    """The network of a dense or narrow file, for inference. Raises SparseSamError."""
    state, header = tensorfile.load(path, kind=_DENSE_KIND, version=_VERSION, cure=_CURE)
    origin = _origin(path, header)
    try:
        with torch.random.fork_rng(devices=[]):
            model = build_model(origin.model, origin.image_shape, origin.num_classes)
        return fit(model, state).eval(), origin
    except SparseSamError as error:
        raise CheckpointError(f"{path}: {error} {_CURE}") from None


def save_sparse(path: Path, checkpoint: Checkpoint) -> None:
    """Write a network packed: kept values, and where they are."""
    header = {"origin": vars(checkpoint.origin)}
    tensorfile.save(path, pack(checkpoint), kind=_SPARSE_KIND, version=_VERSION, header=header)


def load_sparse(path: Path) -> Checkpoint:
    """The checkpoint that was packed, bit for bit. Raises SparseSamError, naming the file."""
    packed, header = tensorfile.load(path, kind=_SPARSE_KIND, version=_VERSION, cure=_CURE)
    try:
        return Checkpoint(_origin(path, header), *unpack(packed))
    except SparseSamError as error:
        raise CheckpointError(f"{path}: {error}. {_CURE}") from None


def packed_bytes(checkpoint: Checkpoint) -> int:
    """Bytes of a packed file after its header, by the formula of docs/export.md."""
    masks: Mapping[str, Tensor] = checkpoint.masks or {}
    total = 0
    for name, tensor in checkpoint.state.items():
        if name in masks:
            weights, kept = masks[name].numel(), int(masks[name].sum())
            where = min(-(-weights // 8), 4 * kept)
            total += tensor.element_size() * kept + where + 8 * tensor.dim()
        else:
            total += tensor.nbytes
    return total


def header_bytes(path: Path) -> int:
    """Bytes of a safetensors file before its tensors: a length of 8 bytes and so much JSON."""
    with path.open("rb") as file:
        return 8 + int.from_bytes(file.read(8), "little")


def verify(folder: Path, checkpoint: Checkpoint, data: TestData) -> dict[str, Verified]:
    """Compare every file of an export, read from disk, with the network on the whole test set.

    Raises ExportError at the first that gives another prediction, or holds another bit where
    bits are kept.
    """
    images = data.test.images.cpu()
    expected = _logits(checkpoint.build().eval(), images)
    sparse = load_sparse(folder / SPARSE)
    if not _same(sparse, checkpoint):
        raise ExportError(f"{folder / SPARSE} does not bring back the bits that were packed")
    labels, logits = onnxfile.predict(folder / ONNX, pixels_of(data))
    if not torch.equal(labels, logits.argmax(1)):
        raise ExportError(f"{folder / ONNX} gives labels that are not its largest logits")
    found = {SPARSE: _logits(sparse.build().eval(), images), ONNX: logits}
    for name in (DENSE, NARROW):
        if (folder / name).exists():
            found[name] = _logits(load_dense(folder / name)[0], images)
    if not torch.equal(found[DENSE], expected):
        raise ExportError(f"{folder / DENSE} does not give the network's outputs, bit for bit")
    right = data.test.labels.cpu()
    return {name: _compare(name, found[name], expected, right) for name in FILES if name in found}


def load_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an export whose files are as they were written. Raises ExportError."""
    path = folder / MANIFEST
    if not path.is_file():
        raise ExportError(f"{path} is missing. {_CURE}")
    manifest = read_json(path, _CURE)
    try:
        if not {DENSE, SPARSE, ONNX} <= manifest["files"].keys() <= set(FILES):
            raise KeyError("files")
        for name in manifest["files"]:
            content = (folder / name).read_bytes()
            if hashlib.sha256(content).hexdigest() != manifest["files"][name]["sha256"]:
                raise ExportError(f"{folder / name} has changed since it was verified. {_CURE}")
    except FileNotFoundError as error:
        raise ExportError(f"{error.filename} is missing. {_CURE}") from None
    except (AttributeError, KeyError, TypeError) as error:
        raise ExportError(f"{path} is damaged ({error}). {_CURE}") from None
    return dict(manifest)


def pixels_of(data: TestData) -> Any:
    """The test images as the bytes that the data set holds, (N, C, H, W)."""
    images = data.test.images.cpu().double() * data.info.std + data.info.mean
    return (images * 255).round().to(torch.uint8).numpy()


def _logits(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(batch) for batch in torch.split(images, _BATCH)])


def _same(one: Checkpoint, other: Checkpoint) -> bool:
    return (
        one.origin == other.origin
        and _equal(one.state, other.state)
        and _equal(one.masks or {}, other.masks or {})
    )


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == tensor.dtype and torch.equal(one[name], tensor)
        for name, tensor in other.items()
    )


def _compare(name: str, logits: Tensor, expected: Tensor, labels: Tensor) -> Verified:
    others = int((logits.argmax(1) != expected.argmax(1)).sum())
    difference = float((logits - expected).abs().max())
    if others or not difference <= TOLERANCE * float(expected.abs().max()):
        raise ExportError(
            f"{name} does not do what the network does: {others} of {len(labels)} predictions "
            f"differ, logits by up to {difference:.3g}. Nothing was exported."
        )
    return Verified(float((logits.argmax(1) == labels).double().mean()), difference)


def _manifest(
    checkpoint: Checkpoint,
    data: TestData,
    narrowed: Narrowed,
    folder: Path,
    verified: Mapping[str, Verified],
    identity: Mapping[str, Any],
) -> dict[str, Any]:
    origin, masks = checkpoint.origin, checkpoint.masks
    files = {}
    for name in verified:
        content = (folder / name).read_bytes()
        size = Size(len(content), len(zlib.compress(content)))
        digest = hashlib.sha256(content).hexdigest()
        files[name] = {**asdict(size), "sha256": digest, **asdict(verified[name])}
    return {
        "version": _VERSION,
        "origin": {**vars(origin), "image_shape": list(origin.image_shape)},
        "checkpoint": dict(identity),
        "sparsity": masks.sparsity if masks else 0.0,
        "channels_removed": narrowed.removed,
        "channels_kept": narrowed.kept,
        "test": {"images": len(data.test), "accuracy": verified[SPARSE].accuracy},
        "files": files,
    }


def _origin(path: Path, header: Mapping[str, Any]) -> Origin:
    try:
        fields = header["origin"]
        return Origin(**{**fields, "image_shape": tuple(fields["image_shape"])})
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged ({error}). {_CURE}") from None
