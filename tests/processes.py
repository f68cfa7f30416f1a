"""Workers of several processes, as torch's launcher starts them."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

SRC = Path(__file__).parent.parent / "src"


def spawned(worker: Path, count: int, folder: Path) -> list[Any]:
    """What each process of a worker wrote into ``folder``, as ``rank<number>.pt``."""
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *("--nproc-per-node", str(count), str(worker), str(folder)),
    ]
    done = subprocess.run(
        command,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(SRC), *sys.path]),
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(count)]
