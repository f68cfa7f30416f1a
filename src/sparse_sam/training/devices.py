"""Where the arithmetic happens, and that it gives the same bits every time."""

import ctypes
import os
import sys
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path

import torch

from sparse_sam.data import TrainingData, load_training_data
from sparse_sam.errors import ConfigError
from sparse_sam.training.params import Device, Precision


def select_device(device: Device) -> torch.device:
    """The device for ``device``, with deterministic algorithms where they are not the default.

    On a CPU everything that this project runs is deterministic for a given number of threads.

    Raises:
        ConfigError: ``cuda`` was asked for and torch sees no CUDA device.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "params.yaml: device = 'cuda': torch finds no CUDA device here; allowed: auto, cpu"
        )
    if device == "cpu" or not torch.cuda.is_available():
        # Deterministic mode imports torch's compiler, more than a second, and changes nothing on
        # a CPU.
        _reuse_freed_memory()
        return torch.device("cpu")
    # cuBLAS is deterministic only with a fixed workspace, chosen before its first use.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    return torch.device("cuda")


@cache
def training_data_on(dataset: Path, device: Device) -> TrainingData:
    """Training and validation part of a data set on a device, read once a process."""
    return load_training_data(dataset).to(select_device(device))


def products_in(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Within it, convolutions and matrix products round what they multiply to ``precision``.

    ``bfloat16`` is torch's autocast: weights, what optimizers keep, and losses stay float32, and
    8 of 24 bits of every factor are multiplied. How much faster a step is depends on the
    processor (docs/performance.md). ``float32``
    changes nothing, also not within an autocast of the caller's.
    """
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def _reuse_freed_memory() -> None:
    """Let glibc keep large blocks that are freed, instead of giving them back to the kernel.

    A training step frees and takes the same megabytes over and over. By default each of them is
    mapped anew and faulted in page by page, an eighth of the step's time.
    """
    if not sys.platform.startswith("linux"):
        return
    mmap_threshold, trim_threshold, largest = -3, -1, 2**31 - 1
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(mmap_threshold, 2**30)
        libc.mallopt(trim_threshold, largest)
    except (OSError, AttributeError):
        return  # another C library; only speed is lost
