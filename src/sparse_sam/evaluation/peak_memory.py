"""Peak memory of a finetuning step, measured where nothing else has been: in a new process.

    python -m sparse_sam.evaluation.peak_memory < job.json

The process imports torch and the library once and forks for every optimizer, so that each of them
starts from the same memory. Large blocks are mapped one by one there, so that the peak is of what
is in use, without the holes that glibc's heap has in between.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch.optim import Optimizer

from sparse_sam.networks import Network
from sparse_sam.training import (
    SAM_ARM,
    SGD_2X_ARM,
    SGD_ARM,
    Checkpoint,
    FinetuneParams,
    load_checkpoint,
    make_base,
    make_sam,
    save_checkpoint,
    training_loss,
)

STEPS = 2  # the second has momentum
TIMEOUT_SECONDS = 120
_OPTIMIZERS = {SGD_ARM: SGD_ARM, SGD_2X_ARM: SGD_ARM, SAM_ARM: SAM_ARM}
_STATUS, _FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@contextmanager
def step_memory(
    pruned: Checkpoint, params: FinetuneParams
) -> Iterator[Callable[[], dict[str, int | None]]]:
    """Measure peak memory in a process beside; what this gives waits for it and returns the result.

    The result is the peak resident memory of two finetuning steps above the idle process, in
    bytes, by arm. The idle process has torch and this library imported. What is counted on top is
    the network with masks, gradients, activations, the optimizer's state, a batch of noise, and
    what torch's kernels take at their first use; the last is the same for all arms. It is None
    where it cannot be measured: only Linux tells a process its peak, and only on a CPU is the peak
    the step's.

    Args:
        pruned: the network that is finetuned.
        params: the recipe, of which batch size and optimizer matter.
    """
    if not os.access(_FORGET, os.W_OK):
        yield lambda: dict.fromkeys(_OPTIMIZERS)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pruned.safetensors"
        save_checkpoint(path, pruned)
        origin = pruned.origin
        job = Path(folder) / "job.json"
        content = {
            "path": str(path),
            "expected": {
                "arm": origin.arm,
                "seed": origin.seed,
                "dataset": origin.dataset,
            },
            "network": [origin.model.name, origin.model.arguments],
            "params": params.model_dump(mode="json"),
            "optimizers": sorted(set(_OPTIMIZERS.values())),
            "threads": torch.get_num_threads(),
        }
        job.write_text(json.dumps(content), encoding="utf-8")
        process = _start(job)
        try:
            yield lambda: {arm: _answer(process).get(name) for arm, name in _OPTIMIZERS.items()}
        finally:
            if process:
                with process:  # waits for its end
                    process.kill()


def _start(job: Path) -> subprocess.Popen[str] | None:
    modules = os.pathsep.join(path for path in sys.path if path)
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "PYTHONPATH": modules}
    command = [sys.executable, "-m", "sparse_sam.evaluation.peak_memory"]
    try:
        with job.open(encoding="utf-8") as given:
            return subprocess.Popen(
                command,
                stdin=given,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                text=True,
            )
    except OSError:
        return None


def _answer(process: subprocess.Popen[str] | None) -> dict[str, int]:
    if process is None:
        return {}
    try:
        said, _ = process.communicate(timeout=TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        return {}
    return json.loads(said) if process.returncode == 0 else {}


def main() -> None:
    """Read a job, measure each of its optimizers in a fork, write the bytes as JSON."""
    job = json.load(sys.stdin)
    params = FinetuneParams.model_validate(job["params"])
    name, arguments = job["network"]
    expected = {**job["expected"], "model": Network.of(name, **arguments)}
    peaks = {}
    for optimizer in job["optimizers"]:
        receive, send = os.pipe()
        child = os.fork()
        if not child:
            torch.set_num_threads(job["threads"])
            pruned = load_checkpoint(Path(job["path"]), stage="prune", **expected)
            os.write(send, str(_peak(pruned, params, optimizer)).encode())
            os._exit(0)
        os.close(send)
        with os.fdopen(receive) as answer:
            peaks[optimizer] = int(answer.read())
        os.waitpid(child, 0)
    json.dump(peaks, sys.stdout)


def _peak(pruned: Checkpoint, params: FinetuneParams, optimizer: str) -> int:
    recipe, shape = params.training, pruned.origin.image_shape
    before = _resident("VmRSS")
    _FORGET.write_text("5")  # the peak so far
    model = pruned.build()
    sam = optimizer == SAM_ARM
    step: Optimizer = make_sam(model, recipe, params.sam) if sam else make_base(model, recipe)
    images = torch.randn(recipe.batch_size, *shape)
    labels = torch.randint(0, pruned.origin.num_classes, (recipe.batch_size,))

    def gradient() -> Tensor:
        step.zero_grad()
        loss = training_loss(model, images, labels, recipe)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    for _ in range(STEPS):
        step.step(gradient)  # type: ignore[arg-type]
    return _resident("VmHWM") - before


def _resident(key: str) -> int:
    """A value of /proc/self/status, in bytes."""
    lines = _STATUS.read_text(encoding="utf-8").splitlines()
    line = next(line for line in lines if line.startswith(f"{key}:"))
    return 1024 * int(line.split()[1])


if __name__ == "__main__":
    main()
