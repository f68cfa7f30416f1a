"""A finetuned network as files that others can use, each checked against the original.

An export is a folder: ``dense.safetensors`` (plain weights, zeros where pruned),
``sparse.safetensors`` (packed: the same bits, and the masks), ``narrow.safetensors`` (smaller
layers, only if whole channels could be removed), ``model.onnx`` (``onnxfile``; narrow if that is),
``model_card.md``, and ``export.json``, which says what they are. It appears whole, after every
file, as it lies on disk, has given the original's predictions on the whole test set; or not at all.
"""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparse_sam.data import Split, TestData
from sparse_sam.errors import CheckpointError, ExportError, SparseSamError
from sparse_sam.export import onnxfile
from sparse_sam.export.channels import narrow
from sparse_sam.export.compression import folded, pack, unpack
from sparse_sam.export.manifest import (
    DENSE,
    FILES,
    MANIFEST,
    NARROW,
    ONNX,
    SPARSE,
    Verified,
    make_manifest,
    write_card,
)
from sparse_sam.export.model_card import Background, model_card
from sparse_sam.export.widths import fit, possible_biases
from sparse_sam.files import atomic_folder, load_tensors, save_tensors, write_json
from sparse_sam.networks import NETWORKS, Network, build_model
from sparse_sam.training import Checkpoint, Origin, build_on_meta, check_types, read_origin

TOLERANCE = 1e-3
"""How far logits may be from the original's, relative to the largest of them."""

_DENSE_KIND, _SPARSE_KIND, _VERSION = "dense network", "packed network", 2
_CURE = "Run `make export`."
_BATCH = 256


def export_network(
    checkpoint: Checkpoint,
    data: TestData,
    folder: Path,
    identity: Mapping[str, str],
    background: Callable[[Mapping[str, Any]], Background] | None = None,
) -> dict[str, Any]:
    """Write an export and give its manifest.

    Args:
        checkpoint: the network.
        data: the test set of its data; every file must give the network's predictions on it.
        folder: replaced as a whole; left as it was if anything fails.
        identity: what else the manifest should say, under ``checkpoint``.
        background: gives what else the model card should say, from the manifest.

    Raises:
        ExportError: ONNX cannot express the network, or a file does not give its predictions.
        CheckpointError: the checkpoint is of another data set, or does not fit its model.
    """
    origin = checkpoint.origin
    if origin.dataset != data.info.fingerprint:
        raise CheckpointError(
            f"the network of {origin.arm}, seed {origin.seed}, was trained on another data set "
            f"({origin.dataset[:12]}) than the current one ({data.info.fingerprint[:12]}), so it "
            "cannot be checked. Run `make repro`."
        )
    plain = folded(checkpoint)
    narrowed = narrow(plain, origin.image_shape)
    with atomic_folder(folder) as temporary:
        save_dense(temporary / DENSE, plain, origin)
        if narrowed.removed:
            save_dense(temporary / NARROW, narrowed.model, origin)
        save_sparse(temporary / SPARSE, checkpoint)
        with_pixels = onnxfile.FromPixels(narrowed.model, origin.mean, origin.std)
        onnxfile.save_onnx(temporary / ONNX, with_pixels, origin.image_shape, origin.classes)
        verified = verify(temporary, checkpoint, data)
        manifest = make_manifest(
            checkpoint, len(data.test), data.info.source, narrowed, temporary, verified, identity
        )
        known = background(manifest) if background else Background(data.info)
        write_card(temporary, manifest, model_card(manifest, known))
        write_json(temporary / MANIFEST, manifest)
    return manifest


def save_dense(path: str | Path, model: nn.Module, origin: Origin) -> None:
    """Write plain weights, which may be narrower than the model of ``origin``."""
    header = {"origin": origin.content()}
    save_tensors(Path(path), model.state_dict(), kind=_DENSE_KIND, version=_VERSION, header=header)


def load_dense(path: str | Path, model: str | Network | None = None) -> tuple[nn.Module, Origin]:
    """The network of a dense or narrow file, for inference.

    Args:
        path: the file.
        model: the network that it must be of; None allows the registered ones, and a network of
            your own, or of torchvision, must be named here: its code is run.

    Raises:
        SparseSamError: the file is damaged, or of another network; the message names it.
    """
    path = Path(path)
    state, header = load_tensors(path, kind=_DENSE_KIND, version=_VERSION, cure=_CURE)
    origin = read_origin(path, header, model=model, cure=_CURE)
    try:
        if origin.model.name in NETWORKS:
            return _fit_registered(origin, state), origin
        with torch.random.fork_rng(devices=[]):
            network = build_model(origin.model, origin.image_shape, origin.num_classes)
        return fit(network, state).eval(), origin
    except SparseSamError as error:
        raise CheckpointError(f"{path}: {error}. {_CURE}") from None


def save_sparse(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write a network packed: kept values, and where they are."""
    header = {"origin": checkpoint.origin.content()}
    save_tensors(Path(path), pack(checkpoint), kind=_SPARSE_KIND, version=_VERSION, header=header)


def load_sparse(path: str | Path, model: str | Network | None = None) -> Checkpoint:
    """The checkpoint that was packed, bit for bit.

    Args:
        path: the file.
        model: as in ``load_dense``.

    Raises:
        SparseSamError: the file is damaged, or of another network; the message names it.
    """
    path = Path(path)
    packed, header = load_tensors(path, kind=_SPARSE_KIND, version=_VERSION, cure=_CURE)
    origin = read_origin(path, header, model=model, cure=_CURE)
    try:
        return Checkpoint(origin, *unpack(packed))
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

    What is kept bit for bit is tensors. Outputs agree within ``TOLERANCE``, since a sum's order is
    the kernel's choice, and with it predictions, except where the network itself is undecided.

    Raises:
        ExportError: a file holds another bit where bits are kept, or gives other outputs.
    """
    test, model = data.to(torch.device("cpu")).test, checkpoint.origin.model
    expected = _logits(checkpoint.build().eval(), test)
    sparse = load_sparse(folder / SPARSE, model)
    if not _same(sparse, checkpoint):
        raise ExportError(f"{folder / SPARSE} does not restore the exact bits that were packed")
    labels, logits = onnxfile.predict_onnx(folder / ONNX, pixels_of(data))
    if not torch.equal(labels, logits.argmax(1)):
        raise ExportError(f"{folder / ONNX} gives labels that are not those of its largest logits")
    found = {SPARSE: _logits(sparse.build().eval(), test), ONNX: logits}
    for name in (DENSE, NARROW):
        if (folder / name).exists():
            network, _ = load_dense(folder / name, model)
            found[name] = _logits(network, test)
            if name == DENSE:
                _check_bits(folder / DENSE, network.state_dict(), folded(checkpoint).state_dict())
    return {
        name: _compare(name, found[name], expected, test.labels) for name in FILES if name in found
    }


def pixels_of(data: TestData) -> Any:
    """The test images as the bytes that the data set holds, (N, C, H, W)."""
    return data.test.images.cpu().numpy()


def _logits(model: nn.Module, test: Split) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(batch) for batch in test.batches(_BATCH)])


def _fit_registered(origin: Origin, state: Mapping[str, Tensor]) -> nn.Module:
    """A registered network at the widths of ``state``; no memory is taken but the state's.

    Raises:
        CheckpointError: the state is of another network, or of images of another shape.
    """
    form = build_on_meta(origin)
    check_types(form, state)
    whole = {name: own.shape for name, own in form.state_dict().items()}
    other = (whole.keys() ^ state.keys()) - possible_biases(form)
    if other:  # BatchNorm would make up its count of batches
        names = ", ".join(sorted(other))
        raise CheckpointError(f"the weights do not fit the model: only one of the two has {names}")
    network = fit(form, state).eval()
    if whole != {name: tensor.shape for name, tensor in state.items()}:
        _check_widths(network, origin)
    return network


def _check_widths(network: nn.Module, origin: Origin) -> None:
    """Raise CheckpointError if the layers do not follow from images to classes; takes no memory."""
    form = copy.deepcopy(network).to("meta")
    try:
        with torch.no_grad():
            given = form(torch.empty(1, *origin.image_shape, device="meta"))
    except (RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"the weights do not fit images {origin.image_shape}: {reason}"
        ) from None
    if given.shape != (1, origin.num_classes):
        raise CheckpointError(
            f"the weights give {tuple(given.shape)[1:]} logits, not {origin.num_classes}"
        )


def _check_bits(path: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    if found.keys() != expected.keys():
        raise ExportError(f"{path} does not hold the same tensors as the network")
    for name, tensor in expected.items():
        if not _same_bits(found[name], tensor):
            raise ExportError(f"{path}: {name} differs from the network's")


def _same_bits(one: Tensor, other: Tensor) -> bool:
    """Also where == says otherwise: 0 and −0, NaN and itself."""
    bits = [tensor.contiguous().view(-1).view(torch.uint8) for tensor in (one, other)]
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(*bits)


def _same(one: Checkpoint, other: Checkpoint) -> bool:
    return (
        one.origin == other.origin
        and _equal(one.state, other.state)
        and _equal(one.masks or {}, other.masks or {})
    )


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        _same_bits(one[name], tensor) for name, tensor in other.items()
    )


def _compare(name: str, logits: Tensor, expected: Tensor, labels: Tensor) -> Verified:
    """How far a file's outputs are from the network's, both (N, classes). Raises ExportError."""
    limit = TOLERANCE * float(expected.abs().max())
    given = logits.argmax(1)
    margins = expected.max(1).values - expected.gather(1, given.unsqueeze(1)).squeeze(1)
    differs = given != expected.argmax(1)
    wrong = int((differs & (margins >= limit)).sum())
    difference = float((logits - expected).abs().max())
    if wrong or not difference <= limit:  # NaN, too, is not within it
        raise ExportError(
            f"{name} does not match the network: {wrong} of {len(labels)} predictions differ, "
            f"and logits by up to {difference:.3g}. Nothing was exported."
        )
    accuracy = float((given == labels).double().mean())
    return Verified(accuracy, difference, int(differs.sum()))
