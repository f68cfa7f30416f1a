"""What needs torch and nothing more, done: run in an environment that has no more.

``python core_alone.py`` prunes, trains with every variant of SAM, resumes, and asks for what is not
there. With ``--hide`` the other packages are there and cannot be imported.
"""

import importlib
import itertools
import sys
import warnings
from collections.abc import Callable
from functools import partial
from importlib.machinery import BuiltinImporter, FrozenImporter, ModuleSpec, PathFinder
from importlib.metadata import requires
from typing import Any

FROM_ELSEWHERE = {
    "sparse_sam.config:load_params": "pipeline",
    "sparse_sam.data:load_raw": "training",
    "sparse_sam.evaluation:compare_paired": "statistics",
    "sparse_sam.evaluation:measure_flatness": "training",
    "sparse_sam.evaluation:render_html": "training",
    "sparse_sam.tracking.show:main": "pipeline",
    "sparse_sam.evaluation.gate:main": "pipeline",
    "sparse_sam.export:save_onnx": "training",
    "sparse_sam.pruning:PruneParams": "training",
    "sparse_sam.sweep.__main__:main": "sweep",
    "sparse_sam.tracking.publish:main": "pipeline",
    "sparse_sam.tracking.unused:main": "pipeline",
    "sparse_sam.training:train": "training",
}
"""Names, and the extra that their errors must name."""


def of_torch(name: str = "torch") -> set[str]:
    """Torch, and the distributions that it brings along by itself."""
    needed = {name}
    for line in requires(name) or ():
        if "extra ==" not in line:
            inner = line.partition(";")[0].strip()
            plain = inner.split("[")[0].split("<")[0].split(">")[0].split("=")[0].split("!")[0]
            if not plain.startswith(("nvidia", "cuda", "triton")):
                needed |= of_torch(plain.strip())
    return needed


def hide_others() -> None:
    """From now on no package is found but Python's, torch's and this library."""
    names = {name.replace("-", "_").lower() for name in of_torch()}
    allowed = {*sys.stdlib_module_names, *names, "torchgen", "functorch", "sparse_sam"}

    class Some(PathFinder):
        @classmethod
        def find_spec(cls, fullname: str, *rest: Any) -> ModuleSpec | None:
            top = fullname.partition(".")[0]
            known = top in allowed or top.startswith("_")
            return PathFinder.find_spec(fullname, *rest) if known else None

    sys.meta_path[:] = [BuiltinImporter, FrozenImporter, Some]


def told(kind: type[Exception], act: Callable[[], object]) -> str:
    """What the error says that it must raise."""
    try:
        act()
    except kind as error:
        return str(error)
    raise AssertionError(f"no {kind.__name__}")


def axes() -> None:
    """Every criterion, scope, structure and schedule, on a small network."""
    import torch
    from torch import nn

    from sparse_sam.data import Split
    from sparse_sam.pruning import (
        CRITERIA,
        SCHEDULES,
        SCOPES,
        Evidence,
        Pruner,
        PruningSchedule,
        check_pruned_weights_are_zero,
        masks_of,
    )

    part = Split(torch.randn(16, 1, 8, 8), torch.arange(16) % 4)
    kinds = ("unstructured", "2:4", "channels")
    for criterion, scope, structure in itertools.product(CRITERIA, SCOPES, kinds):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 4)
        )
        pruner = Pruner(criterion, scope, structure)
        masks = pruner.prune(model, 0.25 if structure == "channels" else 0.5, Evidence(3, part))
        check_pruned_weights_are_zero(model)
        assert masks_of(model).kept == masks.kept
        if structure != "channels":
            assert masks.kept * 2 == masks.total == 608
    settings = {
        "one-shot": {},
        "iterative": {"rounds": 2, "rewind": "none"},
        "gradual": {"initial": 0.0, "end": 1.0, "updates": 4},
    }
    for name in SCHEDULES:
        kind = SCHEDULES.load(name)
        schedule = kind(**settings[name])
        assert schedule.name == name
        assert schedule == kind(name=name, **settings[name])
        assert schedule.sparsity(0.9, 1.0) == 0.9
        said = told(ValueError, partial(kind, **settings[name] | {"name": 3}))
        assert said == "name = 3: must be text", said

    class Late(PruningSchedule):
        after: float

        def sparsity(self, final: float, progress: float) -> float:
            return final if progress >= self.after else 0.0

    assert [Late(after=1).sparsity(0.5, at) for at in (0.0, 1.0)] == [0.0, 0.5]


def variants() -> None:
    """Every variant of SAM: pruned weights stay 0, and a resumed training has the same bits."""
    import torch
    from torch import nn

    from sparse_sam import attach, magnitude_masks
    from sparse_sam.pruning import check_pruned_weights_are_zero, plain_state
    from sparse_sam.sam import SGD, VARIANTS, build_sam

    inputs, wanted = torch.randn(32, 6), torch.randint(3, (32,))

    def started(variant: str) -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
        attach(model, magnitude_masks(model, 0.5))
        own = {"settings": {"after": 2}} if variant == "late" else {}
        options = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3}
        return model, build_sam(variant, model, SGD, 0.1, **own, **options)

    def steps(model: nn.Module, optimizer: torch.optim.Optimizer, count: int) -> None:
        def closure() -> torch.Tensor:
            loss = nn.functional.cross_entropy(model(inputs), wanted)
            loss.backward()
            return loss

        for _ in range(count):
            optimizer.zero_grad()
            optimizer.step(closure)

    for variant in VARIANTS:
        model, optimizer = started(variant)
        steps(model, optimizer, 6)
        check_pruned_weights_are_zero(model)
        half, first = started(variant)
        steps(half, first, 3)
        again, second = started(variant)
        again.load_state_dict(half.state_dict())
        second.load_state_dict(first.state_dict())
        steps(again, second, 3)
        pairs = zip(plain_state(model).values(), plain_state(again).values(), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs), variant


def loop() -> None:
    """Pruning on the way of a training with AdamW: zeros hold, the end is exact and plain."""
    import torch
    from torch import nn

    from sparse_sam.pruning import SCHEDULES, Sparsifier

    inputs, wanted = torch.randn(32, 6), torch.randint(3, (32,))
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    gradual = SCHEDULES.load("gradual")(initial=0.0, end=0.5, updates=4)
    sparsifier = Sparsifier(model, 0.75, schedule=gradual)
    sparsifier.prepare(optimizer, 12)
    for _ in range(12):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), wanted).backward()
        optimizer.step()
        sparsifier.step()
    sparsifier.verify()
    sparsifier.finalize()
    assert list(model.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert [int((model[i].weight == 0).sum()) for i in (0, 2)] == [36, 18]


def networks() -> None:
    """Every network by name, and how flat the loss is around one."""
    import torch
    from torch import nn

    from sparse_sam.data import Split
    from sparse_sam.errors import ConfigError
    from sparse_sam.evaluation import hessian_trace, loss_slice, sharpness
    from sparse_sam.networks import NETWORKS, Network, build_model

    assert {"resnet-20", "vit"} <= set(NETWORKS)
    for name in NETWORKS:
        model = build_model(name, (3, 32, 32), 5).eval()
        assert model(torch.randn(2, 3, 32, 32)).shape == (2, 5)
    wide = partial(build_model, Network.of("resnet-20", width=True), (3, 32, 32), 5)
    said = told(ConfigError, wide)
    assert "width = True: must be a whole number, at least 1" in said, said
    small = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    part = Split(torch.randn(12, 1, 4, 4), torch.arange(12) % 3)
    assert sharpness(small, part, 0.05).value > 0
    assert hessian_trace(small, part) > 0
    assert len(loss_slice(small, part, [-0.1, 0.0, 0.1])) == 3


def loaded(place: str) -> object:
    """What a place stands for."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def missing() -> None:
    """What needs more says which extra of this library brings it."""
    for place, extra in FROM_ELSEWHERE.items():
        said = told(ModuleNotFoundError, partial(loaded, place))
        assert said.endswith(f"pip install 'sparse-sam[{extra}]'"), (place, said)


if __name__ == "__main__":
    warnings.filterwarnings("ignore", "Failed to initialize NumPy")  # torch says that it has none
    if "--hide" in sys.argv:
        hide_others()
    for part in (axes, variants, loop, networks, missing):
        part()
    loaded = {"numpy", "pydantic", "scipy", "safetensors"} & set(sys.modules)
    assert not loaded, loaded
    import sparse_sam

    sys.stdout.write(f"{sparse_sam.__file__}\n")
