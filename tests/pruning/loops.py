"""A plain training loop around a Sparsifier, for every network, optimizer and schedule."""

import io
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Adam, AdamW, Optimizer

from sparse_sam.networks.build import build_model
from sparse_sam.pruning.criteria import Evidence
from sparse_sam.pruning.masks import masks_of, plain_parameters
from sparse_sam.pruning.ranking import pruned_count
from sparse_sam.pruning.sparsifier import Sparsifier
from sparse_sam.sam.optimizer import SAM
from sparse_sam.sam.periodic import LookSAM
from tests.every_network import small
from tests.recipes import prune_params

SHAPE, CLASSES, BATCH = (1, 5, 5), 4, 8


class Residual(nn.Module):
    """Convolutions and BatchNorm with a short cut, as a block of a ResNet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.block = nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
        )
        self.head = nn.Linear(8, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.stem(images).relu()
        out: Tensor = self.head((hidden + self.block(hidden)).relu().mean((2, 3)))
        return out


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(25, 16), nn.Tanh(), nn.Dropout(0.2), nn.Linear(16, CLASSES)
    )


def vit() -> nn.Module:
    return build_model(small("vit"), (1, 8, 8), CLASSES)


def sample(name: str) -> Callable[[], nn.Module]:
    return lambda: build_model(f"tests.sample_networks:{name}", SHAPE, CLASSES)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "mlp": mlp,
    "residual": Residual,
    "vit": vit,
    **{name: sample(name) for name in ("attention", "tied", "lstm", "gru")},
}
WITHOUT_CHANNELS = {"vit", "attention", "tied", "lstm", "gru"}
"""Networks whose layers are read in ways that leave nothing, or little, to whole channels."""


class Adversary(SGD):
    """Moves every weight at random, and remembers things of its own: no gradient is needed."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        for group in self.param_groups:
            for weight in group["params"]:
                weight.add_(torch.randn_like(weight), alpha=0.01)
                self.state[weight]["stale"] = torch.ones_like(weight)
        return loss


class NaNs(Adam):
    """0 / 0 for every weight whose gradient was always 0."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, lr=0.003, eps=0.0, amsgrad=True)


def sgd(model: nn.Module) -> Optimizer:
    return SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)


def adamw(model: nn.Module) -> Optimizer:
    return AdamW(model.parameters(), lr=0.003, weight_decay=0.1)


OPTIMIZERS: dict[str, Callable[[nn.Module], Optimizer]] = {
    "sgd": sgd,
    "adamw": adamw,
    "sam around sgd": lambda m: SAM(m.parameters(), sgd(m), model=m),
    "sam around adamw": lambda m: SAM(m.parameters(), adamw(m), model=m),
    "looksam": lambda m: LookSAM(m.parameters(), sgd(m), model=m, k=3),
    "adversary": lambda m: Adversary(m.parameters(), lr=0.05, momentum=0.9),
}
GRADUAL = {"name": "gradual", "initial": 0.0, "end": 0.8, "updates": 4}
ITERATIVE = {"name": "iterative", "rounds": 3, "rewind": "none"}
SCHEDULES: dict[str, dict[str, Any]] = {
    "one-shot": {"name": "one-shot"},
    "gradual": GRADUAL,
    "iterative": ITERATIVE,
    "rewound": {**ITERATIVE, "rewind": "dense"},
    "tickets": {**ITERATIVE, "rewind": "initial"},
}


def schedule_of(name: str) -> Any:
    return prune_params(schedule=SCHEDULES[name]).schedule


def images_of(network: str) -> tuple[int, int, int]:
    return (1, 8, 8) if network == "vit" else SHAPE


@dataclass
class Run:
    """A model, what trains it, and what prunes it meanwhile."""

    network: str
    optimizer_name: str
    steps: int
    options: dict[str, Any]
    seed: int = 0
    made_late: bool = False
    model: nn.Module = field(init=False)
    optimizer: Optimizer = field(init=False)
    sparsifier: Sparsifier = field(init=False)
    initial: dict[str, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        torch.manual_seed(self.seed)
        self.model = NETWORKS[self.network]()
        self.initial = deepcopy(self.model.state_dict())
        with torch.no_grad():  # a network that is some way from its initialisation
            for parameter in self.model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
        evidence = Evidence(image_shape=images_of(self.network))
        self.sparsifier = Sparsifier(self.model, evidence=evidence, **self.options)

    def prepare(self) -> "Run":
        schedule = self.options.get("schedule")
        rewind_to = self.initial if schedule and schedule.rewinds_to == "initial" else None
        if self.made_late:
            self.sparsifier.prepare(steps=self.steps, rewind_to=rewind_to)
        self.optimizer = OPTIMIZERS[self.optimizer_name](self.model)
        if not self.made_late:
            self.sparsifier.prepare(self.optimizer, self.steps, rewind_to=rewind_to)
        return self

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(100 + step)
        images = torch.randn(BATCH, *images_of(self.network), generator=generator)
        return images, torch.randint(0, CLASSES, (BATCH,), generator=generator)

    def step(self) -> bool:
        """One step of the loop, as anybody would write it."""
        done = self.sparsifier.done
        images, labels = self.batch(done)

        def closure() -> Tensor:
            self.optimizer.zero_grad()
            torch.manual_seed(done)
            loss = cross_entropy(self.model(images), labels)
            loss.backward()
            return loss

        self.model.train()
        self.optimizer.step(closure)
        return self.sparsifier.step(self.optimizer if self.made_late else None)

    def go_on(self) -> Iterator[int]:
        """Step until the end; before each step, and at the end, how many are done."""
        while self.sparsifier.done < self.steps:
            yield self.sparsifier.done
            self.step()
        yield self.sparsifier.done

    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "sparsifier": self.sparsifier.state_dict(),
        }

    def saved(self) -> bytes:
        file = io.BytesIO()
        torch.save(self.state(), file)
        return file.getvalue()


def loaded(saved: bytes) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(io.BytesIO(saved), weights_only=True)
    return state


def same(one: Any, other: Any) -> bool:
    """Whether two states are the same bits."""
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def check(run: Run) -> None:
    """Zeros are 0, in weights and memory, and as many as are asked for: counted by hand."""
    masks, parameters = masks_of(run.model), plain_parameters(run.model)
    assert masks is not None
    final, schedule = run.options["sparsity"], run.options.get("schedule")
    last, done = run.steps - 1, run.sparsifier.done
    progress = min(done / last, 1.0) if last else 1.0
    asked = schedule.sparsity(final, progress) if schedule else final
    structure = run.options.get("structure", "unstructured")
    gone, sizes = {}, {}
    for name, mask in masks.items():
        weight = parameters[name]
        assert torch.equal(weight[~mask], torch.zeros_like(weight[~mask]))
        for key, value in run.optimizer.state.get(weight, {}).items():
            if key != "step" and isinstance(value, Tensor):
                assert not value[~mask].any()
        rows = mask.flatten(1)
        if structure == "channels":
            assert torch.equal(rows.all(1), rows.any(1))
            gone[name], sizes[name] = int((~rows.any(1)).sum()), len(rows)
        else:
            gone[name], sizes[name] = int((~mask).sum()), mask.numel()
        if structure == "2:4":
            assert (rows.reshape(-1, 4).sum(1) >= 2).all()
    if run.options.get("scope", "layerwise") == "layerwise":
        assert gone == {name: pruned_count(asked, size) for name, size in sizes.items()}
    assert abs(sum(gone.values()) - asked * sum(sizes.values())) <= len(sizes) / 2
    if run.options.get("scope", "layerwise") != "layerwise":
        assert sum(gone.values()) == pruned_count(asked, sum(sizes.values()))
    run.sparsifier.verify()
