"""Weights that somebody else wrote: a state dict as safetensors, or as torch.save writes it.

Nothing is ever unpickled but tensors and plain containers (``weights_only``).
"""

import pickle
import re
import stat
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sparse_sam.errors import CheckpointError

_WRAPPED = ("state_dict", "model_state_dict", "model")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
"""What torch's message holds for a terminal."""
_LARGEST_HEADER = 100 * 2**20


def load_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict, on the CPU, under the names that they have there.

    A file that holds it under ``state_dict``, ``model_state_dict`` or ``model``, beside an
    optimizer's state and such, is understood.

    Raises:
        CheckpointError: the file is missing, damaged, would have to be unpickled, or holds no state
            dict.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise CheckpointError(f"{path} is not a regular file")
        with path.open("rb") as file:
            begins = file.read(8)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
    # A safetensors file begins with the length of its header, and goes on with "{".
    is_safe = len(begins) == 8 and int.from_bytes(begins, "little") <= _LARGEST_HEADER
    try:
        found: Any = load_file(path) if is_safe else _torch_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a valid safetensors file: {error}") from None
    except (MemoryError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    for name in _WRAPPED:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
    if not isinstance(found, Mapping) or not found:
        raise CheckpointError(
            f"{path} holds {type(found).__name__}, not a state dict: save model.state_dict()"
        )
    return {str(name): _checked(path, name, tensor) for name, tensor in found.items()}


def _checked(path: Path, name: Any, tensor: Any) -> Tensor:
    if not (isinstance(name, str) and isinstance(tensor, Tensor)):
        raise CheckpointError(
            f"{path} is not a state dict: {str(name)[:60]!a} is {type(tensor).__name__}, not a "
            "tensor. Save model.state_dict()"
        )
    if tensor.layout != torch.strided or tensor.is_meta:
        kind = "has no content (meta)" if tensor.is_meta else f"is stored as {tensor.layout}"
        raise CheckpointError(f"{path}: {name[:80]} {kind}: save plain dense tensors")
    return tensor


def _torch_file(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            reason = _COLOUR.sub("", str(error)).strip().partition(".")[0][:200]
            raise CheckpointError(
                f"{path} would run its own code when it is read ({reason}). Save only "
                "model.state_dict(), preferably as safetensors"
            ) from None
        except (RuntimeError, EOFError, ValueError, KeyError, AttributeError, TypeError) as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise CheckpointError(
                f"{path} is damaged, or not a file that torch wrote: {reason}"
            ) from None
