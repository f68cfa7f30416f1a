"""Jobs that tests give to workers: what a process that starts fresh can import."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparse_sam.errors import DivergenceError
from sparse_sam.networks.build import build_model
from sparse_sam.pruning.magnitude import magnitude_masks
from sparse_sam.pruning.masks import attach
from sparse_sam.training.checkpoint import Checkpoint
from sparse_sam.training.origin import Origin

Report = Callable[[Any], None]


def square(job: int, report: Report) -> tuple[int, int]:
    for news in range(job):
        report(news)
    return job * job, os.getpid()


def count_to_four(folder: Path, job: int, report: Report) -> int:
    with (folder / str(job)).open("a") as begun:
        begun.write(".")
    for news in range(4):
        time.sleep(0.05)
        report(news)
    return job * job


def careful(_: int, report: Report) -> str:
    try:
        report("one")
        report("two")
    except Exception:  # noqa: BLE001 - the point of the test
        return "stopped by an exception"
    return "whole"


def threads(_: int, __: Report) -> int:
    return torch.get_num_threads()


def parent(_: int, __: Report) -> int:
    return os.getppid()


def diverge(job: int, _: Report) -> None:
    if job == 1:
        raise DivergenceError("the loss in epoch 2 became infinite")
    time.sleep(60)


def die(job: int, _: Report) -> None:
    if job == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def stand_still(job: int, report: Report) -> int:
    report("begun")
    if job == 1:
        time.sleep(600)
    return job


def suspend(job: int, report: Report) -> int:
    report("begun")
    if job == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    return job


def wait_beside_a_file(folder: Path, _: int, __: Report) -> None:
    (folder / str(os.getpid())).touch()
    time.sleep(60)


def trained(job: int, _: Report) -> tuple[int, dict[str, Tensor]]:
    """Some real steps of a convolutional network; with how many threads, and the weights."""
    torch.manual_seed(job)
    model = nn.Sequential(
        nn.Conv2d(1, 32, 4, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 196, 10)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    images, labels = torch.randn(64, 1, 28, 28), torch.randint(10, (64,))
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return torch.get_num_threads(), state


class Unreadable:
    """Can be pickled, and not read back."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _cannot_be_read, ()

    def __call__(self, job: int, _: Report) -> int:
        return job


def _cannot_be_read() -> None:
    raise ModuleNotFoundError("No module named 'a_network_of_mine'")


def hard_checkpoint(
    arm: str, seed: int, name: str, shape: tuple[int, int, int], classes: int
) -> Checkpoint:
    """A network of ``tests.hard_networks`` as an arm may have it: half pruned, unless dense."""
    place = f"tests.hard_networks:{name}"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1000 * seed + sum(map(ord, arm)))
        model = build_model(place, shape, classes)
    if arm != "dense":
        attach(model, magnitude_masks(model, 0.5))
    return Checkpoint.of(model, _origin(place, shape, classes, arm, seed))


def _origin(place: str, shape: tuple[int, int, int], classes: int, arm: str, seed: int) -> Origin:
    names = tuple(map(str, range(classes)))
    scale = (0.0,) * shape[0], (1.0,) * shape[0]
    return Origin(place, shape, names, *scale, "none", arm, seed)
