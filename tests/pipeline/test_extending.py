"""docs/extending.md, done as it says: a file and a line each, from outside the library."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.conftest import LATER, ROOT, Clone

pytestmark = pytest.mark.pipeline

PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
FILES = {block.split("\n")[0].removeprefix("# "): block for block in BLOCKS if block[0] == "#"}
LINES = [block for block in BLOCKS if re.fullmatch(r' +".*",  # in \w+\n', block)]
REGISTRIES = {
    "NETWORKS": "networks",
    "SOURCES": "data",
    "CRITERIA": "pruning",
    "VARIANTS": "sam",
}
SHORT = {
    "model.name": "small",
    "model.arguments": {"bias": False},
    "data.source": "stripes",
    "prune.criterion": "largest",
    "finetune.sam": {"variant": "shrinking", "rho": 0.1, "decay": 0.5},
}
BY_PLACE = {
    "model.name": "lab.networks:small",
    "model.arguments": {"bias": False},
    "data.source": "lab.sources:stripes",
    "prune.criterion": "lab.criteria:Largest",
    "finetune.sam": {"variant": "lab.variants:ShrinkingSAM", "rho": 0.1, "decay": 0.5},
}
QUICK = {
    "seeds": [0, 1],
    "train_dense.epochs": 4,
    "finetune.training.epochs": 2,
    "evaluate.latency_seconds": 0.0,
}


def write_lab(clone: Clone) -> None:
    assert len(FILES) == len(LINES) == 4
    for name, content in FILES.items():
        file = clone.path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(content)


def add_line(library: Path, line: str) -> None:
    """Put a line of the page into the registry that it names."""
    entry, registry = re.fullmatch(r' +(".*",)  # in (\w+)\n', line).groups()  # type: ignore[union-attr]
    file = library / REGISTRIES[registry] / "registry.py"
    head, mark, tail = file.read_text().partition(f"\n{registry}: ")
    assert mark, f"{registry} is not in {file}"
    opened, brace, entries = tail.partition("{\n")
    file.write_text(f"{head}{mark}{opened}{brace}        {entry}\n{entries}")


def results(clone: Clone) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((clone.path / "metrics/summary.json").read_text())
    return content


def check(clone: Clone) -> None:
    """The four were really used, and the pipeline's promises hold for them."""
    from safetensors import safe_open

    summary = results(clone)
    assert summary["arms"]["dense"]["accuracy"]["mean"] > 0.9  # the stripes can be learned
    # A network that loses its largest weights is worse off than one that keeps them.
    assert (
        summary["arms"]["pruned"]["accuracy"]["mean"] < summary["arms"]["dense"]["accuracy"]["mean"]
    )
    assert (
        summary["arms"]["sam"]["gradient_evaluations"]
        == 2 * (summary["arms"]["sgd"]["gradient_evaluations"])
    )

    def weights(arm: str) -> tuple[Any, Any]:
        with safe_open(clone.path / f"models/{arm}/seed-0.safetensors", "np") as file:
            assert "state/1.bias" not in file.keys()  # noqa: SIM118
            mask = file.get_tensor("mask/1.weight") if arm != "dense" else None
            return file.get_tensor("state/1.weight"), mask

    dense, _ = weights("dense")
    _, kept = weights("pruned")
    assert kept.shape == (3, 144)
    assert abs(dense[kept]).max() <= abs(dense[~kept]).min()
    for arm in ("sgd", "sgd_2x", "sam"):
        state, mask = weights(arm)
        assert not state[~mask].any()


def test_one_file_and_one_line_each(make_clone: Callable[..., Clone]) -> None:
    clone = make_clone("registered", {**QUICK, **SHORT})
    write_lab(clone)
    clone.run("python", "-m", "sparse_sam.config", fails=True)
    for line in LINES:
        add_line(clone.path / "src" / "sparse_sam", line)
    clone.run("python", "-m", "sparse_sam.config")
    clone.run("dvc", "repro", **LATER)
    check(clone)
    # The variant's own setting reaches the training: without the decay SAM ends elsewhere.
    before = clone.hashes("models/sam/*.safetensors")
    clone.set_all({"finetune.sam": {"variant": "shrinking", "rho": 0.1, "decay": 1.0}})
    clone.run("dvc", "repro", "finetune_sam", **LATER)
    assert all(digest != before[name] for name, digest in clone.hashes("models/sam/*").items())


@pytest.mark.slow
def test_own_code_by_its_place(make_clone: Callable[..., Clone]) -> None:
    clone = make_clone("by-place", {**QUICK, **BY_PLACE})
    write_lab(clone)
    clone.run("dvc", "repro", **LATER)
    check(clone)


def test_a_setting_that_is_wrong_is_said_by_the_variant(make_clone: Callable[..., Clone]) -> None:
    clone = make_clone("wrong", {**QUICK, **BY_PLACE})
    write_lab(clone)
    for settings, said in (
        ({"decay": 2.0}, "finetune.sam.decay = 2.0: must be above 0 and at most 1"),
        ({"decay": "fast"}, "finetune.sam.decay = 'fast': "),
        ({"decay": 1e9}, "finetune.sam.decay = 1000000000.0: must be at most 1000000"),
        ({"decoy": 0.5}, "finetune.sam.decoy = 0.5: variant lab.variants:ShrinkingSAM has no such"),
    ):
        own = {"variant": "lab.variants:ShrinkingSAM", "rho": 0.1, **settings}
        clone.set_all({"finetune.sam": own})
        done = clone.run("python", "-m", "sparse_sam.config", fails=True)
        assert f"params.yaml: {said}" in done.stderr
        assert "Traceback" not in done.stderr
