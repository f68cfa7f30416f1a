"""One of two processes under torchrun: trains with each framework, and in a plain loop.

``torchrun --nproc-per-node 2 two_processes.py FOLDER``. Every rank has every other batch.
"""

import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # before the group: docs/sam.md
from cases import CLIP, STEPS, batches, network, plain, state
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

with suppress(ImportError):
    from sparse_sam.files import import_torchvision

    import_torchvision()

RUNS = [(accumulate, together) for accumulate in (1, 2) for together in (False, True)]


def in_lightning(data: Any, accumulate: int, **options: Any) -> dict[str, Tensor]:
    from test_lightning import Net, fit

    module = Net(**options)
    processes = {"devices": 2, "strategy": "ddp", "use_distributed_sampler": False}
    given = {"accumulate_grad_batches": accumulate, "gradient_clip_val": CLIP}
    fit(module, data[dist.get_rank() :: 2], **processes, **given)
    return state(module)


def in_accelerate(data: Any, accumulate: int, **options: Any) -> dict[str, Tensor]:
    from test_accelerate import accelerator_of, train

    model = network()
    train(data[dist.get_rank() :: 2], accelerator_of(accumulate), model, CLIP, **options)
    return state(model)


def in_transformers(data: Any, accumulate: int, **options: Any) -> dict[str, Tensor]:
    from test_transformers import Finetuning, Net, arguments, examples, with_our_schedule

    model = Net()
    with tempfile.TemporaryDirectory() as folder:
        given = arguments(Path(folder), accumulate, max_grad_norm=CLIP, ddp_backend="gloo")
        own = with_our_schedule(model, **options)
        # Every process sees all examples, and takes every other batch of them.
        Finetuning(model, given, train_dataset=examples(data), **own).train()
    return state(model)


FRAMEWORKS = {
    "lightning": in_lightning,
    "accelerate": in_accelerate,
    "transformers": in_transformers,
}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    results: dict[Any, Any] = {}
    for accumulate, together in RUNS:
        data = batches(2 * STEPS * accumulate)
        options = {"sync_perturbation": together}
        results["plain", accumulate, together] = plain(
            data[dist.get_rank() :: 2],
            accumulate=accumulate,
            clip=CLIP,
            model=DistributedDataParallel(network()),
            **options,
        )
        results["alone", accumulate] = plain(data, accumulate=2 * accumulate, clip=CLIP)
        for name, train in FRAMEWORKS.items():
            results[name, accumulate, together] = train(data, accumulate, **options)
    torch.save(results, folder / f"rank{dist.get_rank()}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
