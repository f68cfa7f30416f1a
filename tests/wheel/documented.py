"""Every block of Python in a page of the documents, run by the library that is installed.

    python documented.py PAGE

Where a block begins with ``# lab/name.py`` it is a module of one's own, and written there; a line
of a registry's table is loaded; everything else is executed, each block with the names that pages
take for granted: a model, batches of data, a closure.
"""

import os
import re
import sys
import warnings
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

SHAPE = (1, 28, 28)
ONE_PROCESS = {
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "0",
    "RANK": "0",
    "WORLD_SIZE": "1",
    "LOCAL_RANK": "0",
}
"""As torchrun would start one process."""
FRAGMENTS = ('model="torchvision:resnet18"',)
"""Of these the imports alone are run: they name files that are somebody else's."""


class Small(nn.Sequential):
    """A network with BatchNorm; given labels it gives its loss, as transformers have it."""

    def __init__(self) -> None:
        inner = [nn.Linear(784, 16), nn.BatchNorm1d(16), nn.ReLU()]
        super().__init__(nn.Flatten(), *inner, nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))

    def forward(self, inputs: torch.Tensor, labels: torch.Tensor | None = None) -> Any:
        """Logits, or a dictionary with the loss."""
        logits = super().forward(inputs)
        if labels is None:
            return logits
        return {"loss": cross_entropy(logits, labels), "logits": logits}


def taken_for_granted() -> dict[str, Any]:
    """The names that pages use without saying where they are from."""
    from sparse_sam.data import Split

    torch.manual_seed(0)
    model, labels = Small(), torch.arange(32) % 4
    pixels = torch.randint(0, 256, (32, *SHAPE), dtype=torch.uint8)
    inputs = pixels / 255

    def closure() -> torch.Tensor:
        loss = cross_entropy(model(inputs), labels)
        loss.backward()
        return loss

    names: dict[str, Any] = {
        "model": model,
        "inputs": inputs,
        "labels": labels,
        "closure": closure,
        "loader": DataLoader(TensorDataset(inputs, labels), batch_size=8),
        "dataset": [{"inputs": x, "labels": y} for x, y in zip(inputs, labels, strict=True)],
        "path": Path("state.pt"),
        "folder": Path("sharded"),
        "epochs": 2,
        "split": Split(inputs, labels),
    }
    if (results := Path("metrics/download.json")).is_file():
        import json

        names["fingerprint"] = json.loads(results.read_text())["fingerprint"]
    try:
        names["np"] = __import__("numpy")
    except ModuleNotFoundError:
        return names
    return names | {"images": pixels.numpy()}


def load_line(block: str) -> bool:
    """Load what a line of a registry's table stands for; False if it is no such line."""
    found = re.fullmatch(r'\s*"([\w-]+)": "([\w.]+:\w+)",\s+# in (\w+)\s*', block)
    if not found:
        return False
    from sparse_sam import data, networks, pruning, sam, training

    rooms = [room for room in (networks, data, pruning, sam, training) if found[3] in dir(room)]
    assert getattr(rooms[0], found[3]).load(found[2])
    return True


def run(block: str, where: str) -> None:
    """Run a block."""
    if load_line(block):
        return
    if module := re.match(r"# (lab/\w+\.py)\n", block):
        path = Path(module[1])
        path.parent.mkdir(exist_ok=True)
        path.write_text(block, encoding="utf-8")
    if any(part in block for part in FRAGMENTS):
        block = "\n".join(re.findall(r"^(?:from|import) .*", block, re.MULTILINE))
    alone = ONE_PROCESS if "init_process_group" in block else {}
    os.environ.update(alone)
    names = taken_for_granted()
    if "savez" in block:  # in a file of arrays pictures without colour are (N, height, width)
        names["images"], names["labels"] = names["images"][:, 0], names["labels"] % 2
    exec(compile(block, where, "exec"), names)  # noqa: S102
    if isinstance(model := names["model"], nn.Module):
        masks = [one for name, one in model.named_buffers() if name.endswith("mask")]
        assert all(mask.any() for mask in masks)
    for name in alone:
        del os.environ[name]
    if "accelerate" in sys.modules:  # what one loop has set is not the next one's
        from accelerate.state import AcceleratorState, GradientState

        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()


def main() -> None:
    """Run the page and say how many blocks it has, and where the library is."""
    import sparse_sam

    if find_spec("torchvision"):  # whose build may be for another torch, which is not tried here
        from sparse_sam.files import import_torchvision

        import_torchvision()
    # What is compiled is made neither into C++ nor for a GPU, which would take half a minute.
    torch.compile = partial(torch.compile, backend="aot_eager")
    warnings.filterwarnings("ignore", "Failed to initialize NumPy")
    sys.path.insert(0, "")
    text = Path(sys.argv[1]).read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    for number, block in enumerate(blocks, 1):
        run(block, f"{Path(sys.argv[1]).name}, block {number}")
    sys.stdout.write(f"{len(blocks)} {sparse_sam.__file__}\n")


if __name__ == "__main__":
    main()
