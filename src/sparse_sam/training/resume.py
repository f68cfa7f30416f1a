"""Where a training stands, on disk, so that a stage that is killed goes on from there.

A resume point is a tree of tensors and plain values in one file. It is named after everything that
made it (``made_by.key_of``), so it can never be used for other parameters, data or code; a damaged
one is left aside, and the training starts anew.
"""

import time
from pathlib import Path
from typing import Any

from torch import Tensor

from sparse_sam.files import TensorFileError, load_tensors, save_tensors

_KIND, _VERSION = "resume point", 2
_FORGOTTEN_SECONDS = 7 * 24 * 3600


class ResumePoint:
    """The file of one training.

    Args:
        folder: where resume points are kept.
        key: the key of this training (``made_by.key_of``).
        every_steps: after how many steps of an epoch a training is saved, beside its epochs.
    """

    def __init__(self, folder: Path, key: str, every_steps: int | None = None) -> None:
        self.path, self.every_steps = folder / f"{key}.safetensors", every_steps

    def save(self, tree: Any) -> None:
        """Replace what is there by ``tree``: dicts, lists and tuples of tensors and JSON values."""
        tensors: dict[str, Tensor] = {}
        header = {"tree": _pack(tree, tensors)}
        # Not worth a wait for the disk: what a power cut leaves of it is found damaged.
        save_tensors(self.path, tensors, kind=_KIND, version=_VERSION, header=header, durable=False)

    def load(self) -> Any | None:
        """What was saved last; None if nothing was, or if it is damaged."""
        try:
            tensors, header = load_tensors(self.path, kind=_KIND, version=_VERSION, cure="")
            return _unpack(header["tree"], tensors)
        except (
            *(TensorFileError, KeyError, TypeError, ValueError),
            *(AttributeError, RecursionError),
        ):
            return None

    def remove(self) -> None:
        """Remove it, and what other trainings left behind a week ago or longer."""
        self.path.unlink(missing_ok=True)
        for other in self.path.parent.glob("*"):
            try:
                if time.time() - other.stat().st_mtime > _FORGOTTEN_SECONDS:
                    other.unlink()
            except FileNotFoundError:
                continue  # by another stage that ended in this moment


def _pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """JSON for a tree; its tensors go to ``tensors``. Keys keep their types, tuples stay tuples."""
    match value:
        case Tensor():
            # A copy: what a module shares may be saved only once under a name.
            tensors[name := f"t{len(tensors)}"] = value.detach().cpu().clone()
            return {"tensor": name}
        case dict():
            return {"dict": [[key, _pack(inner, tensors)] for key, inner in value.items()]}
        case list() | tuple():
            kind = "list" if isinstance(value, list) else "tuple"
            return {kind: [_pack(inner, tensors) for inner in value]}
        case None | bool() | int() | float() | str():
            return {"value": value}
    raise TypeError(f"a resume point cannot hold {type(value).__name__}")


def _unpack(packed: dict[str, Any], tensors: dict[str, Tensor]) -> Any:
    ((kind, content),) = packed.items()
    match kind:
        case "tensor":
            return tensors[content]
        case "dict":
            return {key: _unpack(inner, tensors) for key, inner in content}
        case "list":
            return [_unpack(inner, tensors) for inner in content]
        case "tuple":
            return tuple(_unpack(inner, tensors) for inner in content)
        case "value":
            return content
    raise ValueError(f"{kind} is not allowed in a resume point")
