"""One folder of pictures in four ways: the same data set, and the same networks to the byte.

The two functions are those of docs/data.md, as they stand there.
"""

import json
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sparse_sam.data.raw import RawData
from sparse_sam.files.atomic import file_hash
from tests.pipeline.conftest import LATER, ROOT, SMALL, Clone

pytestmark = [pytest.mark.pipeline, pytest.mark.slow]

PAGE = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
FUNCTIONS = dict(re.findall(r"```python\n# (lab/\w+\.py)\n(.*?)```", PAGE, flags=re.DOTALL))
CLASSES = {"one": 1, "two": 2, "zero": 0}
TRAINED = {"train_dense": ["dense"], "finetune_sgd": ["sgd", "sgd_2x"], "finetune_sam": ["sam"]}
NO_DATASETS = "needs Hugging Face's datasets: pip install --constraint constraints.txt datasets"


@pytest.fixture(scope="module")
def pictures(digits: RawData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Genuine digits in three classes, each in a tint of its own; and ``all.npz`` beside them."""
    root = tmp_path_factory.mktemp("four") / "pictures"
    dice = np.random.default_rng(0)
    arrays: dict[str, list[Any]] = {}
    for label, (name, number) in enumerate(CLASSES.items()):
        for place, index in enumerate(np.flatnonzero(digits.train_labels == number)[:50]):
            part = "train" if place < 40 else "test"
            tint = dice.uniform(0.5, 1.0, 3)
            pixels = (digits.train_images[index, 0, :, :, None] * tint).astype(np.uint8)
            folder = root / part / name
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f"{place:03}.png")
            arrays.setdefault(f"x_{part}", []).append(pixels)
            arrays.setdefault(f"y_{part}", []).append(label)
    stacked = {name: np.stack(rows) for name, rows in arrays.items()}
    np.savez(root.parent / "all.npz", **stacked, classes=list(CLASSES))
    return root


@pytest.fixture(scope="module")
def trained(
    make_clone: Callable[..., Clone], pictures: Path
) -> Callable[[str], tuple[str, dict[str, str]]]:
    """The fingerprint, and SHA-256 of every network, of a project of a source's own."""
    done: dict[str, tuple[str, dict[str, str]]] = {}

    def train(source: str) -> tuple[str, dict[str, str]]:
        if source not in done:
            done[source] = _train(make_clone, source, pictures)
        return done[source]

    return train


def _train(
    make_clone: Callable[..., Clone], source: str, pictures: Path
) -> tuple[str, dict[str, str]]:
    folder = pictures.parent / "all.npz" if source == "npz" else pictures
    chosen = {"data.source": source, "data.folder": str(folder), "data.fraction": 1.0}
    clone = make_clone(re.sub(r"\W", "-", source), {**SMALL, **chosen})
    for name, code in FUNCTIONS.items():
        (clone.path / name).parent.mkdir(exist_ok=True)
        (clone.path / name).write_text(code)
    clone.run(
        *("dvc", "repro", "finetune_sgd", "finetune_sam"),
        **LATER,
        SPARSE_SAM_STORE=str(clone.path.parent / "store"),
        HF_HUB_OFFLINE="1",
        HF_HOME=str(clone.path.parent / "hugging-face"),
    )
    for stage, arms in TRAINED.items():  # and nothing was taken from a store
        assert trained_by(clone, stage) == {(arm, seed) for arm in arms for seed in (0, 1)}
    paths = sorted(clone.path.glob("models/*/*.safetensors"))
    hashes = {path.relative_to(clone.path).as_posix(): file_hash(path, "sha256") for path in paths}
    about = json.loads((clone.path / "metrics" / "download.json").read_text())
    return about["fingerprint"], hashes


def trained_by(clone: Clone, stage: str) -> set[tuple[str, int]]:
    """What a stage's journal says was trained, and not taken."""
    lines = (clone.path / "runs" / f"{stage}.jsonl").read_text().splitlines()
    params = [event["params"] for event in map(json.loads, lines) if event["event"] == "child"]
    return {(one["arm"], one["seed"]) for one in params if not one.get("taken_from")}


@pytest.mark.parametrize(
    "source",
    [
        "npz",
        "lab.with_torchvision:flowers",
        pytest.param(
            "lab.with_hugging_face:flowers",
            marks=pytest.mark.skipif(find_spec("datasets") is None, reason=NO_DATASETS),
        ),
    ],
)
def test_networks_are_the_same_to_the_byte(
    source: str, trained: Callable[[str], tuple[str, dict[str, str]]]
) -> None:
    fingerprint, hashes = trained("image-folder")
    assert len(hashes) == 2 * 5  # dense, pruned, sgd, sgd_2x, sam
    assert len(set(hashes.values())) == len(hashes)
    assert trained(source) == (fingerprint, hashes)
