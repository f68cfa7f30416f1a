"""What makes a training, and nothing else: its key, by which its result is known everywhere.

A key is the SHA-256 of parameters, of the content of what is read, of the seed, of the code that is
run (``files.code_of``), and of the environment. Parameters that an arm does not use are left out,
so that SGD is not trained once for every ρ. Where and how fast a training is done is no part of it.
"""

import hashlib
import json
import os
import platform
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sparse_sam.files import Contents, chosen_places, code_of, files_behind, files_state, state_of
from sparse_sam.networks import NETWORKS
from sparse_sam.pruning import PruneParams
from sparse_sam.sam import VARIANTS
from sparse_sam.training.arms import SAM_ARM, arm_optimizer
from sparse_sam.training.params import DenseParams, FinetuneParams
from sparse_sam.training.registry import LEARNING_RATES, OPTIMIZERS

if TYPE_CHECKING:
    import torch

_CHOOSE_KERNELS = ("MKL_", "DNNL_", "ONEDNN_", "ATEN_")
_TRAINING = ("sparse_sam.training.experiment",)
# What says how pixels are scaled: a fingerprint is of the bytes.
_DATA = ("sparse_sam.data.stratify", "sparse_sam.data.tensors")


@dataclass(frozen=True)
class Environment:
    """What changes the bits of a training beside what it is: the same on every node of a cluster.

    Attributes:
        version: of torch, and its build.
        machine: kind of processor, as "x86_64".
        device: "cpu" or "cuda".
        kernels: which kernels a processor takes: torch's, as "AVX2", its own make, which oneDNN and
            MKL look at, and the variables that these obey; of a GPU, its name.
        threads: of a training; 0 on a GPU, where they change nothing.
    """

    version: str
    machine: str
    device: str
    kernels: str
    threads: int

    @classmethod
    def here(cls, device: "torch.device", threads: int) -> "Environment":
        """That of this process."""
        import torch  # here, for who only asks for a code need not wait for it

        is_cpu = device.type == "cpu"
        if is_cpu:
            capability = torch.backends.cpu.get_cpu_capability()
            kernels = " ".join([capability, *_processor(), *_obeyed()])
        else:
            kernels = torch.cuda.get_device_name(device)
        return cls(
            str(torch.__version__),
            platform.machine(),
            device.type,
            kernels,
            threads if is_cpu else 0,
        )


@cache
def _processor() -> tuple[str, ...]:
    """The make of this machine's processor, where Linux says it."""
    wanted = ("vendor_id", "cpu family", "model", "model name", "flags", "Features", "CPU part")
    found: dict[str, str] = {}
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n"):
            name, _, said = line.partition(":")
            found.setdefault(name.strip(), said.strip())
    known = [found[name] for name in wanted if name in found]
    return (hashlib.sha256(" ".join(known).encode()).hexdigest()[:12],) if known else ()


def _obeyed() -> list[str]:
    """The variables by which kernels are chosen."""
    names = sorted(name for name in os.environ if name.startswith(_CHOOSE_KERNELS))
    return [f"{name}={os.environ[name]}" for name in names]


class Made(Protocol):
    """Anything that has a key."""

    @property
    def files(self) -> tuple[str, ...]:
        """The files that it reads beside its data."""
        ...

    def content(self) -> dict[str, Any]:
        """Parameters, seed, and hashes of what is read, as plain values."""
        ...

    def code(self) -> tuple[str, ...]:
        """Where its code begins: modules, or places of what was chosen."""
        ...


@dataclass(frozen=True)
class Dense:
    """A dense network.

    Attributes:
        data: fingerprint of the data set.
        model: name of the network, or ``package.module:factory``.
        recipe: how it is trained.
        seed: of initialisation and batch order.
        files: files that a network of one's own reads (``model.files``).
    """

    data: str
    model: str
    recipe: DenseParams
    seed: int
    files: tuple[str, ...] = ()

    def content(self) -> dict[str, Any]:
        """What makes it, as plain values."""
        recipe = self.recipe.model_dump(mode="json")
        if self.recipe.optimizer == "sgd":
            del recipe["sam"]
        content = {"data": self.data, "model": self.model, "recipe": recipe, "seed": self.seed}
        return content | ({"files": hashes_of(self.files)} if self.files else {})

    def code(self) -> tuple[str, ...]:
        """Where its code begins."""
        recipe, places = self.recipe, [LEARNING_RATES.place(self.recipe.schedule)]
        if recipe.optimizer == "sam":
            places.append(VARIANTS.place(recipe.sam.variant))
        optimizer = OPTIMIZERS.place(recipe.optimizer)
        return (*_TRAINING, *_DATA, NETWORKS.place(self.model), optimizer, *places)


@dataclass(frozen=True)
class Finetuning:
    """A pruned network, finetuned as an arm does.

    Attributes:
        start: SHA-256 of the pruned checkpoint's file, which holds data, network and seed.
        model: name of its network.
        prune: how it is pruned further on the way.
        arm: ``sgd``, ``sgd_2x`` or ``sam``.
        recipe: the recipe, and SAM's settings.
        seed: of the batch order.
        files: as ``Dense.files``.
    """

    start: str
    model: str
    prune: PruneParams
    arm: str
    recipe: FinetuneParams
    seed: int
    files: tuple[str, ...] = ()

    def content(self) -> dict[str, Any]:
        """What makes it, as plain values."""
        recipe = self.recipe.model_dump(mode="json")
        if self.arm != SAM_ARM:
            del recipe["sam"]
        content = {
            "start": self.start,
            "model": self.model,
            "prune": self.prune.model_dump(mode="json"),
            "arm": self.arm,
            "recipe": recipe,
            "seed": self.seed,
        }
        return content | ({"files": hashes_of(self.files)} if self.files else {})

    def code(self) -> tuple[str, ...]:
        """Where its code begins."""
        return (*_TRAINING, *_DATA, NETWORKS.place(self.model), *finetuning_code(self))


class _Finetuned(Protocol):
    @property
    def arm(self) -> str: ...
    @property
    def prune(self) -> PruneParams: ...
    @property
    def recipe(self) -> FinetuneParams: ...


def finetuning_code(task: _Finetuned) -> tuple[str, ...]:
    """Where the code of an arm's choices begins: pruning, optimizer, schedule."""
    places = [*chosen_places(task.prune), LEARNING_RATES.place(task.recipe.training.schedule)]
    if task.arm == SAM_ARM:
        places.append(VARIANTS.place(task.recipe.sam.variant))
    return (OPTIMIZERS.place(arm_optimizer(task.arm)), *places)


def hashes_of(files: Sequence[str]) -> dict[str, str]:
    """The content of files that parameters name, by the names that they have there."""
    return {name: Contents().of(Path(name)) for name in files}


def load_code(task: Made) -> None:
    """Import what a task runs; not what made its data, which has run, and takes a second."""
    for module in {place.partition(":")[0] for place in task.code()} - {*_DATA}:
        import_module(module)


@dataclass(frozen=True)
class Behind:
    """Code and files behind a task, as they were when its key was made.

    What is loaded while they stay the same is what the key says. A worker is given this, so that it
    need not find out anew, in a second, which files those are.

    Attributes:
        roots: where the code begins.
        named: the files that parameters name.
        known: the files of the code; None where they must be looked for each time.
        state: a text that changes when one is touched, and be it put back since.
    """

    roots: tuple[str, ...]
    named: tuple[str, ...]
    known: tuple[Path, ...] | None
    state: str

    @classmethod
    def of(cls, task: Made) -> "Behind":
        """That of a task now."""
        roots = tuple(sorted(set(task.code())))
        files, are_ours = files_behind(roots)
        known = files if are_ours else None
        return cls(roots, task.files, known, _state(files, task.files))

    def is_as_it_was(self) -> bool:
        """Whether nothing was touched since."""
        files = files_behind(self.roots)[0] if self.known is None else self.known
        return _state(files, self.named) == self.state


def _state(code: Sequence[Path], named: Sequence[str]) -> str:
    marks = [state_of(code), *(mark for name in named for mark in files_state(Path(name)))]
    return hashlib.sha256("\n".join(marks).encode()).hexdigest()


def identity(task: Made) -> str:
    """SHA-256 of parameters and data: the same from version to version of the code."""
    text = json.dumps(task.content(), sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def code_hash(roots: tuple[str, ...]) -> str:
    """One hash of all code that is run from some modules on."""
    text = json.dumps(code_of(sorted(set(roots))), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def key_of(
    task: Made, environment: Environment, codes: dict[tuple[str, ...], str] | None = None
) -> str:
    """SHA-256 of parameters, data, code and environment: under which its result is kept.

    Args:
        task: what is computed.
        environment: in which.
        codes: hashes of code that are known already; those that are found are added.
    """
    codes, roots = {} if codes is None else codes, task.code()
    if roots not in codes:
        codes[roots] = code_hash(roots)
    made_by = [identity(task), codes[roots], asdict(environment)]
    return hashlib.sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()
