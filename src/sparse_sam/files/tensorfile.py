"""Typed tensor files: safetensors with one JSON header of our own. Nothing is ever unpickled.

How a file is sealed against damage is in ``sealing``.
"""

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from safetensors.torch import save_file
from torch import Tensor

from sparse_sam.errors import SparseSamError
from sparse_sam.files.sealing import HEADER, digest, open_seal, seal, written


class TensorFileError(SparseSamError):
    """A tensor file is missing, damaged, or of another kind or version."""


def save_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    *,
    kind: str,
    version: int,
    header: dict[str, Any],
    durable: bool = True,
) -> None:
    """Write tensors and a JSON header to ``path``, atomically and byte-deterministically.

    ``durable`` is that of ``atomic_path``. Raises OSError if the disk does not take it.
    """
    contiguous = _apart(tensors)
    digests = {name: _digest(tensor) for name, tensor in contiguous.items()}
    sealed = seal(digests, kind=kind, version=version, header=header)
    with written(path, durable=durable) as temporary:
        save_file(contiguous, temporary, {HEADER: sealed})


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, each with memory of its own: a file holds a shared one twice."""
    found: dict[str, Tensor] = {}
    memory: set[int] = set()
    for name, tensor in tensors.items():
        one = tensor.detach().cpu().contiguous()
        place = one.untyped_storage().data_ptr()
        found[name] = one.clone() if place in memory else one
        memory.add(place)
    return found


def tensors_to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """A plain safetensors file of the tensors, without a header of ours, in memory."""
    return serialize(_apart(tensors))


def load_tensors(
    path: Path,
    *,
    kind: str,
    version: int,
    cure: str,
    prefixes: Sequence[str] = ("",),
    mapped: bool = False,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors whose names start with one of ``prefixes``, and the header.

    ``mapped`` leaves tensors of bytes in the file, which may be larger than memory: a process that
    writes to one is ended by the system.

    Raises:
        TensorFileError: the file is missing, damaged, or not a ``kind`` of this ``version``; the
            message names the file and ends with ``cure``.
    """
    if not path.is_file():
        raise TensorFileError(f"{path} is missing. {cure}")
    try:
        # (For torch the package maps the whole file so that it could be written to, privately: of
        # a file that is larger than memory Linux refuses that, though nobody ever writes.)
        with safe_open(os.fspath(path), framework="np" if mapped else "pt") as file:
            sealed = (file.metadata() or {}).get(HEADER)
            if sealed is None:
                raise TensorFileError(f"{path} is not a sparse-sam {kind}. {cure}")
            header, digests = open_seal(sealed)
            if header["kind"] != kind:
                raise TensorFileError(f"{path} is a {header['kind']}, not a {kind}. {cure}")
            if header["version"] != version:
                raise TensorFileError(
                    f"{path} has format version {header['version']}; this version of "
                    f"sparse-sam reads {version}. {cure}"
                )
            if digests.keys() != set(file.keys()):
                raise ValueError("its list of tensors has changed")
            names = [name for name in digests if name.startswith(tuple(prefixes))]
            if mapped:
                tensors = _mapped(path, file, names)
            else:
                tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        raise TensorFileError(f"{path} is damaged ({error}). {cure}") from error
    for name, tensor in tensors.items():
        if _digest(tensor) != digests[name]:
            raise TensorFileError(f"{path} is damaged ({name} has changed). {cure}")
    return tensors, header


def _mapped(path: Path, file: Any, names: Sequence[str]) -> dict[str, Tensor]:
    """Tensors of a file that ``safe_open`` has found sound: those of bytes are the file's pages."""
    with path.open("rb") as plain:
        size = int.from_bytes(plain.read(8), "little")
        entries = json.loads(plain.read(size))
    content = np.memmap(path, np.uint8, "r", offset=8 + size)
    found = {}
    for name in names:
        if entries[name]["dtype"] == "U8":
            begin, end = entries[name]["data_offsets"]
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "The given NumPy array is not writable")
                found[name] = torch.from_numpy(content[begin:end]).view(entries[name]["shape"])
        else:
            array = torch.from_numpy(file.get_tensor(name))
            # A copy, for strides: those of an empty array are 0, which bytes cannot be seen in.
            found[name] = array.clone(memory_format=torch.contiguous_format)
    return found


def _digest(tensor: Tensor) -> str:
    # One without a value may have strides of 0 in a file, and cannot be seen as bytes then.
    flat = tensor.reshape(-1) if tensor.numel() else tensor.new_empty(0)
    data = flat.view(torch.uint8).numpy()
    return digest(str(tensor.dtype), tuple(tensor.shape), data)
