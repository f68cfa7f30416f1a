"""What sparsity buys: weights, bytes on disk, multiply-adds. Bytes are written and counted."""

import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from sparse_sam.errors import CheckpointError
from sparse_sam.files import tensors_to_bytes
from sparse_sam.pruning import Masks, plain_state, prunable_parameters
from sparse_sam.training import Checkpoint, layer_by_layer, seconds_of

MOST_A_KEPT_WEIGHT, ALWAYS_ALLOWED = 10_000, 2**24
"""How many weights a packed tensor may have for each that is kept, and in any case: so that a small
file does not take all memory."""

_PIECE = 2**20
"""How many bytes are compressed to know how long all of them take."""

_MULTIPLYING = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Layer:
    """A prunable tensor: how many weights it has, and how many are kept."""

    name: str
    weights: int
    kept: int


@dataclass(frozen=True)
class Size:
    """Bytes of a network's state on disk, as they are and through zlib."""

    raw: int
    compressed: int


def layer_sizes(checkpoint: Checkpoint) -> list[Layer]:
    """Every pruned tensor of a sparse network, in its order."""
    masks: Mapping[str, Tensor] = checkpoint.masks or {}
    return [Layer(name, mask.numel(), int(mask.sum())) for name, mask in masks.items()]


def pack(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The state with every pruned tensor as its kept values and where they are.

    Where is a mask of one bit a weight, or the kept positions as int32, whichever is smaller;
    other tensors stay as they are. ``unpack`` brings back the same bits.
    """
    packed = {}
    masks: Mapping[str, Tensor] = checkpoint.masks or {}
    for name, tensor in checkpoint.state.items():
        mask = masks.get(name)
        if mask is None:
            packed[f"dense/{name}"] = tensor
            continue
        packed[f"values/{name}"] = tensor[mask]
        packed[f"shape/{name}"] = torch.tensor(tensor.shape, dtype=torch.int64)
        positions = mask.flatten().nonzero().flatten().to(torch.int32)
        bits = torch.from_numpy(np.packbits(mask.flatten().numpy()))
        smaller = positions.nbytes < bits.nbytes
        packed[f"{'index' if smaller else 'bits'}/{name}"] = positions if smaller else bits
    return packed


def unpack(packed: dict[str, Tensor]) -> tuple[dict[str, Tensor], Masks | None]:
    """The state and the masks that were packed.

    Raises:
        CheckpointError: they do not fit, or a tensor is larger than its kept weights may make it
            (``MOST_A_KEPT_WEIGHT``, ``ALWAYS_ALLOWED``).
    """
    state: dict[str, Tensor] = {}
    masks: dict[str, Tensor] = {}
    kept = sum(tensor.numel() for key, tensor in packed.items() if key.startswith("values/"))
    # (In floating point: a product of whole numbers may come round.)
    shapes = [tensor for key, tensor in packed.items() if key.startswith("shape/")]
    count = sum(float(shape.double().abs().prod()) for shape in shapes)
    if count > max(ALWAYS_ALLOWED, MOST_A_KEPT_WEIGHT * kept):
        raise CheckpointError(f"it has {count:.3g} weights for only {kept:,} that are kept")
    for key, tensor in packed.items():
        kind, _, name = key.partition("/")
        if kind == "dense":
            state[name] = tensor
        elif kind == "values":
            state[name], masks[name] = _unpack_one(name, tensor, packed)
    return state, Masks(masks) if masks else None


def _unpack_one(name: str, values: Tensor, packed: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    try:
        shape = torch.Size(packed[f"shape/{name}"].tolist())
        count = math.prod(shape)
        if any(side < 0 for side in shape):
            raise ValueError(f"its shape is {tuple(shape)}")
        if count > max(ALWAYS_ALLOWED, MOST_A_KEPT_WEIGHT * len(values)):
            raise ValueError(f"{count:,} weights for {len(values):,} that are kept")
        flat = torch.zeros(shape.numel(), dtype=torch.bool)
        if f"index/{name}" in packed:
            flat[packed[f"index/{name}"].long()] = True
        else:
            bits = np.unpackbits(packed[f"bits/{name}"].numpy(), count=len(flat))
            flat = torch.from_numpy(bits).bool()
        if len(values) != int(flat.sum()):
            raise ValueError(f"{len(values)} values for {int(flat.sum())} places")
        weight = torch.zeros(len(flat), dtype=values.dtype)
        weight[flat] = values
        return weight.view(shape), flat.view(shape)
    except (KeyError, IndexError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"the packed weights of {name} are damaged ({reason})") from None


def file_sizes(checkpoint: Checkpoint) -> tuple[Size, Size]:
    """The state's size as a safetensors file, dense and packed."""
    dense = tensors_to_bytes(checkpoint.state)
    packed = tensors_to_bytes(pack(checkpoint))
    both = (Size(len(content), len(zlib.compress(content))) for content in (dense, packed))
    return next(both), next(both)


def file_sizes_seconds(checkpoint: Checkpoint) -> float:
    """How long ``file_sizes`` takes at most, by a piece of the state that is compressed."""
    largest = max(checkpoint.state.values(), key=lambda tensor: tensor.nbytes)
    piece = tensors_to_bytes({"piece": largest.flatten()[: _PIECE // largest.element_size()]})
    total = sum(tensor.nbytes for tensor in checkpoint.state.values())
    return 2 * total / len(piece) * seconds_of(lambda: zlib.compress(piece))


class MultiplyAdds(NamedTuple):
    """Multiplications with additions for one image.

    Attributes:
        total: of all weights.
        kept: of the kept ones.
        left_out: prunable weights that are used otherwise than in a layer that is counted.
    """

    total: int
    kept: int
    left_out: tuple[str, ...]


def multiply_adds(checkpoint: Checkpoint) -> tuple[int, int]:
    """Multiplications with additions for one image: of all weights, and of the kept ones.

    Counted are linear and convolution layers, and the projections of ``nn.MultiheadAttention``:
    every weight once for each position where it is used. That is half of what torch's
    ``FlopCounterMode`` counts for them, which imports the compiler, a second and more. The second
    number is what a kernel could save at best that skipped every zero; so the products of
    activations with each other, in attention, are in neither.
    """
    counted = count_multiply_adds(checkpoint)
    return counted.total, counted.kept


def count_multiply_adds(checkpoint: Checkpoint) -> MultiplyAdds:
    """The same, and the weights of which it does not tell."""
    model = folded(checkpoint)
    masks = {model.get_parameter(name): mask for name, mask in (checkpoint.masks or {}).items()}
    counted: set[Tensor] = set()
    total = kept = 0

    def count(weight: Tensor, positions: int, rows: slice = slice(None)) -> None:
        nonlocal total, kept
        mask, size = masks.get(cast("nn.Parameter", weight)), weight[rows].numel()
        total += size * positions
        kept += (size if mask is None else int(mask[rows].count_nonzero())) * positions
        counted.add(weight)

    def layer(module: nn.Module, _: Any, output: Tensor) -> None:
        weight = cast("Tensor", module.weight)
        count(weight, output.numel() // weight.shape[0])

    def attention(module: nn.Module, given: tuple[Tensor, ...], named: Any, _: Any) -> None:
        for weight, rows, positions in _in_attention(cast("Any", module), given, named):
            count(weight, positions, rows)

    for module in model.modules():
        if isinstance(module, _MULTIPLYING):
            module.register_forward_hook(layer)
        elif isinstance(module, nn.MultiheadAttention):
            module.register_forward_hook(attention, with_kwargs=True)
    with torch.no_grad(), layer_by_layer():
        model(torch.zeros(1, *checkpoint.origin.image_shape))
    tables = {
        module.weight
        for module in model.modules()
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag))  # looked up, not multiplied
    }
    left_out = [
        name
        for name, weight in prunable_parameters(model).items()
        if weight not in counted and weight not in tables
    ]
    return MultiplyAdds(total, kept, tuple(left_out))


def _in_attention(
    module: nn.MultiheadAttention, given: tuple[Tensor, ...], named: Mapping[str, Tensor]
) -> Iterator[tuple[Tensor, slice, int]]:
    """The weights that attention multiplies with: which of their rows, at how many positions."""
    inputs = {**dict(zip(("query", "key", "value"), given, strict=False)), **named}
    places = [inputs[name].numel() // inputs[name].shape[-1] for name in ("query", "key", "value")]
    packed, width = cast("Tensor | None", module.in_proj_weight), module.embed_dim
    if packed is None:
        weights = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
        for weight, positions in zip(weights, places, strict=True):
            yield weight, slice(None), positions
    else:
        for part, positions in enumerate(places):
            yield packed, slice(part * width, (part + 1) * width), positions
    yield module.out_proj.weight, slice(None), places[0]


def folded(checkpoint: Checkpoint) -> nn.Module:
    """The network for inference: evaluation mode, masks folded into plain weights."""
    model = Checkpoint(checkpoint.origin, plain_state(checkpoint.build()), None).build()
    return model.eval()
