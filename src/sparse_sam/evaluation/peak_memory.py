"""Peak memory of a finetuning step, measured where nothing else has been: in a new process.

    python -m sparse_sam.evaluation.peak_memory < job.json

The process imports torch and the library once and forks for every optimizer, so that each of them
starts from the same memory. Large blocks are mapped one by one there, so that the peak is of what
is in use, without the holes that glibc's heap has in between.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from sparse_sam.errors import OverBudgetError, SparseSamError
from sparse_sam.files import NotMeasured, why_not
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
    measured,
    save_checkpoint,
    training_loss,
)

STEPS = 2  # the second has momentum
KEY = "evaluate.budget_seconds.step_memory"
_OPTIMIZERS = {SGD_ARM: SGD_ARM, SGD_2X_ARM: SGD_ARM, SAM_ARM: SAM_ARM}
_SAID = "stderr"
_STATUS, _FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


_Peaks = dict[str, int | NotMeasured]


MeasureMemory = Callable[[Checkpoint, FinetuneParams, float], Callable[[], _Peaks]]


@contextmanager
def step_memory() -> Iterator[MeasureMemory]:
    """A process that measures peak memory, and is idle until it is told what of.

    What this gives tells it, and gives in turn what waits for it and returns the result: the peak
    resident memory of two finetuning steps above the idle process, in bytes, by arm. The idle
    process has torch and this library imported. What is counted on top is the network with masks,
    gradients, activations, the optimizer's state, a batch of noise, and what torch's kernels take
    at their first use; the last is the same for all arms. Where it cannot be measured of one arm,
    it is not of any: only Linux tells a process its peak, and only on a CPU is the peak the step's.

    It is told: the network that is finetuned; the recipe, of which batch size and optimizer matter;
    and a number of seconds, after which it is stopped when somebody waits for it.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        begun = measured(lambda: _start(folder))
        if isinstance(begun, NotMeasured):
            yield lambda *_: lambda: _by_arm(begun)
            return
        try:
            yield partial(_measure_in, begun, folder)
        finally:
            with begun:  # waits for its end
                if begun.poll() is None:
                    os.killpg(begun.pid, signal.SIGKILL)  # with its forks


def _start(folder: Path) -> "subprocess.Popen[str]":
    if not os.access(_FORGET, os.W_OK):
        raise SparseSamError("this system does not report a process's peak memory (Linux does)")
    modules = os.pathsep.join(path for path in sys.path if path)
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "PYTHONPATH": modules}
    command = [sys.executable, "-m", "sparse_sam.evaluation.peak_memory"]
    with (folder / _SAID).open("w", encoding="utf-8") as said:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            env=environment,
            text=True,
            start_new_session=True,
        )


def _measure_in(
    process: "subprocess.Popen[str]",
    folder: Path,
    pruned: Checkpoint,
    params: FinetuneParams,
    seconds: float,
) -> Callable[[], _Peaks]:
    ends = time.monotonic() + seconds
    told = measured(lambda: _tell(process, folder, pruned, params, seconds))
    if isinstance(told, NotMeasured):
        return lambda: _by_arm(told)
    said = folder / _SAID
    return lambda: _by_arm(measured(lambda: _answer(process, said, ends, seconds)))


def _tell(
    process: "subprocess.Popen[str]",
    folder: Path,
    pruned: Checkpoint,
    params: FinetuneParams,
    seconds: float,
) -> None:
    if not seconds:
        raise OverBudgetError(f"its budget is 0 s ({KEY})")
    path = folder / "pruned.safetensors"
    save_checkpoint(path, pruned)
    origin = pruned.origin
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
    ears, process.stdin = process.stdin, None
    if ears is None:
        raise ValueError("it measures once")
    # One that has ended before says why when it is asked for its answer.
    with suppress(BrokenPipeError), ears:
        ears.write(json.dumps(content))


def _answer(
    process: "subprocess.Popen[str]", stderr: Path, ends: float, seconds: float
) -> dict[str, Any]:
    """What the process says, by optimizer; its faults are faults of ours, and raised."""
    try:
        # (A little time in any case, to read what it said long ago.)
        said, _ = process.communicate(timeout=max(1.0, ends - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise OverBudgetError(f"took longer than its budget of {seconds:g} s ({KEY})") from None
    if process.returncode < 0:
        raise SparseSamError(
            f"the measuring process was killed by signal {-process.returncode}, possibly because "
            "memory ran out"
        )
    if process.returncode:
        sys.stderr.write(stderr.read_text(encoding="utf-8", errors="replace"))
        raise subprocess.CalledProcessError(process.returncode, process.args)
    found: dict[str, Any] = json.loads(said)
    return found


def _by_arm(found: dict[str, Any] | NotMeasured) -> _Peaks:
    if isinstance(found, NotMeasured):
        return dict.fromkeys(_OPTIMIZERS, found)
    for value in found.values():
        if why := why_not(value):
            return dict.fromkeys(_OPTIMIZERS, NotMeasured(why))
    return {arm: found[optimizer] for arm, optimizer in _OPTIMIZERS.items()}


def main() -> None:
    """Read a job, measure each of its optimizers in a fork, write the bytes as JSON."""
    job = json.load(sys.stdin)
    answer = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # for a network that prints
    peaks = {optimizer: _forked(job, optimizer) for optimizer in job["optimizers"]}
    os.write(answer, json.dumps(peaks).encode())


def _forked(job: dict[str, Any], optimizer: str) -> Any:
    """What a fork of this process measures, or why it cannot."""
    receive, send = os.pipe()
    child = os.fork()
    if not child:
        os.close(receive)
        found = measured(lambda: _measure(job, optimizer))
        value = found.as_json() if isinstance(found, NotMeasured) else found
        os.write(send, json.dumps(value).encode())
        os._exit(0)
    os.close(send)
    with os.fdopen(receive) as answer:
        said = answer.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        killed = NotMeasured("a step's process was killed, possibly because memory ran out")
        return killed.as_json()
    return json.loads(said)


def _measure(job: dict[str, Any], optimizer: str) -> int:
    torch.set_num_threads(job["threads"])
    name, arguments = job["network"]
    network = Network.of(name, **arguments)
    pruned = load_checkpoint(Path(job["path"]), stage="prune", model=network, **job["expected"])
    return _peak(pruned, FinetuneParams.model_validate(job["params"]), optimizer)


def _peak(pruned: Checkpoint, params: FinetuneParams, optimizer: str) -> int:
    recipe, shape = params.training, pruned.origin.image_shape
    before = _resident("VmRSS")
    _FORGET.write_text("5")  # the peak so far
    model = pruned.build()
    settings = params.sam
    if settings.variant == "late":  # the peak is that of a step that ascends
        settings = settings.model_copy(update={"after": 0})
    sam = optimizer == SAM_ARM
    step: Optimizer = make_sam(model, recipe, settings) if sam else make_base(model, recipe)
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
