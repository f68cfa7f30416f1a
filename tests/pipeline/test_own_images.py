"""Colour images in class folders, and a network that was trained elsewhere, through all stages."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from sparse_sam.data.raw import RawData
from sparse_sam.evaluation.params import BudgetParams
from tests.pipeline.conftest import LATER, SMALL, Clone

pytestmark = pytest.mark.pipeline

CLASSES = ("one", "two", "zero")
NUMBERS = (1, 2, 0)
QUICK = {**SMALL, "data.fraction": 1.0, "data.source": "image-folder", "train_dense.epochs": 4}


@pytest.fixture(scope="module")
def pictures(digits: RawData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Genuine digits in three classes, each image in a tint of its own."""
    root = tmp_path_factory.mktemp("pictures")
    dice = np.random.default_rng(0)
    labels = np.concatenate([digits.train_labels, digits.test_labels])
    images = np.concatenate([digits.train_images, digits.test_images])[:, 0]
    for name, number in zip(CLASSES, NUMBERS, strict=True):
        for place, index in enumerate(np.flatnonzero(labels == number)[:80]):
            folder = root / ("train" if place < 60 else "test") / name
            folder.mkdir(parents=True, exist_ok=True)
            tint = dice.uniform(0.5, 1.0, 3)
            pixels = (images[index][:, :, None] * tint).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{place:03}.png")
    return root


@pytest.fixture(scope="module")
def coloured(make_clone: Callable[..., Clone], pictures: Path) -> Clone:
    """A clone in which the pipeline has run on the pictures."""
    clone = make_clone("coloured", {**QUICK, "data.folder": str(pictures)})
    clone.run("dvc", "repro", **LATER)
    return clone


def read(clone: Clone, name: str) -> Any:
    return json.loads((clone.path / "metrics" / f"{name}.json").read_text())


def test_every_stage_takes_colour_and_names(coloured: Clone) -> None:
    data = read(coloured, "download")
    assert data["image_shape"] == [3, 28, 28]
    assert data["classes"] == list(CLASSES)
    assert len(data["mean"]) == len(data["std"]) == 3
    summary = read(coloured, "summary")
    assert summary["arms"]["dense"]["accuracy"]["mean"] > 0.8
    assert summary["arms"]["sam"]["accuracy"]["mean"] > 0.8
    report = (coloured.path / "reports" / "report.html").read_text()
    for name in CLASSES:
        assert f">{name}</text>" in report


ANSWER = """
import sys
import numpy as np
import onnxruntime
from PIL import Image

session = onnxruntime.InferenceSession(sys.argv[1])
pixels = np.stack([np.asarray(Image.open(path)).transpose(2, 0, 1) for path in sys.argv[2:]])
print(" ".join(session.run(["class"], {"pixels": pixels})[0]))
"""


def test_what_is_exported_says_the_name_of_the_class(coloured: Clone, pictures: Path) -> None:
    coloured.run("python", "-m", "sparse_sam.tracking.release")
    (file,) = coloured.path.glob("exports/*/*.onnx")
    paths = [str(path) for name in CLASSES for path in sorted((pictures / "test" / name).iterdir())]
    done = subprocess.run(
        [sys.executable, "-c", ANSWER, str(file), *paths],
        capture_output=True,
        text=True,
        check=True,
    )
    said = done.stdout.split()
    expected = [Path(path).parent.name for path in paths]
    right = np.mean([one == other for one, other in zip(said, expected, strict=True)])
    origin = json.loads(file.with_name("export.json").read_text())
    assert right == pytest.approx(origin["test"]["accuracy"])
    assert right > 0.8


def test_one_picture_replaced_runs_again_what_it_must(coloured: Clone, pictures: Path) -> None:
    path = min((pictures / "train" / "two").iterdir())
    before, content = coloured.hashes(), path.read_bytes()
    try:
        path.write_bytes((pictures / "train" / "two" / "001.png").read_bytes())
        coloured.run("dvc", "repro", **LATER)
        after = coloured.hashes()
        assert all(after[name] != before[name] for name in before)
    finally:
        path.write_bytes(content)
    coloured.run("dvc", "repro", **LATER)
    assert coloured.hashes() == before


@pytest.mark.parametrize(
    ("source", "folder", "output"),
    [
        ("image-folder", "data", "data/dataset.safetensors"),
        ("image-folder", ".", "data/dataset.safetensors"),
        ("idx", "models/sgd", "models/sgd"),
        ("npz", "data/dataset.safetensors", "data/dataset.safetensors"),
        ("own_networks:digits", "runs", "runs/download.jsonl"),
    ],
)
def test_a_folder_that_the_pipeline_writes_to_is_refused_at_once(
    coloured: Clone, source: str, folder: str, output: str
) -> None:
    before = (coloured.path / "params.yaml").read_text()
    (coloured.path / "own_networks.py").write_text("def digits(params): ...\n")
    try:
        coloured.set_all({"data.source": source, "data.folder": folder})
        error = coloured.run("dvc", "repro", "download", fails=True, **LATER).stderr
    finally:
        (coloured.path / "params.yaml").write_text(before)
    assert "error: params.yaml: data.folder names " in error
    assert f"{folder.strip('.')}, which holds {output}, and this the stage" in error
    assert "Move the images into a folder of their own, as data/pictures, and set data.f" in error
    assert "Traceback" not in error


def test_pictures_beside_the_data_set_are_read(coloured: Clone, pictures: Path) -> None:
    before = (coloured.path / "params.yaml").read_text()
    fingerprint = read(coloured, "download")["fingerprint"]
    shutil.copytree(pictures, coloured.path / "data" / "pictures")
    try:
        coloured.set_all({"data.folder": "data/pictures"})
        for _ in range(2):
            coloured.run("dvc", "repro", "download", **LATER)
        assert read(coloured, "download")["fingerprint"] == fingerprint
    finally:
        shutil.rmtree(coloured.path / "data" / "pictures")
        (coloured.path / "params.yaml").write_text(before)
        coloured.run("dvc", "repro", "download", **LATER)


SVHN = """
from pathlib import Path
import numpy as np
from PIL import Image

class SVHN:
    def __init__(self, root, split, download=False):
        self.path = Path(root, f"{split}.npy")
        if download and not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            drawn = np.random.default_rng(len(split)).integers(0, 256, (200, 32, 32, 3), np.uint8)
            np.save(self.path, drawn)
        self.images = np.load(self.path)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, place):
        return Image.fromarray(self.images[place]), place % 10
"""
"""What torchvision's class does, without a network."""


def test_the_source_of_the_documents_that_downloads_runs_the_first_time(
    coloured: Clone, tmp_path: Path
) -> None:
    page = (coloured.path / "docs" / "data.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n# lab/with_download.py\n(.*?)```", page, flags=re.DOTALL)
    assert "from torchvision.datasets import SVHN" in code
    before = (coloured.path / "params.yaml").read_text()
    (coloured.path / "lab").mkdir()
    (coloured.path / "lab" / "stand_in.py").write_text(SVHN)
    (coloured.path / "lab" / "with_download.py").write_text(
        code.replace("torchvision.datasets", "lab.stand_in")
    )
    try:
        chosen = {"data.source": "lab.with_download:digits", "data.folder": None}
        coloured.set_all(chosen)
        coloured.run("dvc", "repro", "download", **LATER, HOME=str(tmp_path))
        assert (tmp_path / ".cache" / "svhn" / "train.npy").exists()
        assert read(coloured, "download")["images"]["test"] == 200
    finally:
        (coloured.path / "params.yaml").write_text(before)
        coloured.run("dvc", "repro", "download", **LATER)


ELSEWHERE = """
import sys
import torch
from safetensors.torch import load_file

state = load_file(sys.argv[1])
weights = {name.removeprefix("state/"): t for name, t in state.items() if name[:6] == "state/"}
torch.save({f"module.{name}": t for name, t in weights.items()}, sys.argv[2])
"""


def test_a_network_that_is_given_is_taken_over_and_compared(
    coloured: Clone, make_clone: Callable[..., Clone], pictures: Path, tmp_path: Path
) -> None:
    for seed in (0, 1):
        given = coloured.path / "models" / "dense" / f"seed-{seed}.safetensors"
        command = [sys.executable, "-c", ELSEWHERE, str(given), str(tmp_path / f"net-{seed}.pt")]
        subprocess.run(command, check=True)
    clone = make_clone(
        "given",
        {
            **QUICK,
            "data.folder": str(pictures),
            "model.checkpoint": str(tmp_path / "net-{seed}.pt"),
        },
    )
    done = clone.run("dvc", "repro", **LATER)
    validation = read(coloured, "train_dense")["dense"]["validation_accuracy"]["values"]
    for seed, accuracy in enumerate(validation):
        said = f"seed {seed} is taken over from {tmp_path}/net-{seed}.pt: validation accuracy"
        assert f"{said} {accuracy:.2%}" in done.stdout
    # From the same weights on, everything is the same to the byte.
    assert clone.hashes() == coloured.hashes()
    assert read(clone, "train_dense")["dense"]["gradient_evaluations"] == 0
    theirs, ours = read(coloured, "summary")["arms"], read(clone, "summary")["arms"]
    assert ours["dense"]["accuracy"] == theirs["dense"]["accuracy"]
    # Another file under the same name is another network.
    (tmp_path / "net-1.pt").write_bytes((tmp_path / "net-0.pt").read_bytes())
    clone.run("dvc", "repro", **LATER)
    after, before = clone.hashes(), coloured.hashes()
    changed = {name for name in before if after[name] != before[name]}
    assert changed == {name for name in before if "seed-1" in name}


def test_an_initialisation_that_is_not_known_is_not_gone_back_to(
    make_clone: Callable[..., Clone],
) -> None:
    schedule = {"name": "iterative", "rounds": 2, "rewind": "initial"}
    clone = make_clone("ticket", {**SMALL, "model.checkpoint": "a.pt", "prune.schedule": schedule})
    done = clone.run("python", "-m", "sparse_sam.config", fails=True)
    assert "model.checkpoint = 'a.pt': prune.schedule.rewind = 'initial'" in done.stderr
    clone.set_all({"prune.schedule": {"name": "one-shot"}})
    done = clone.run("python", "-m", "stages.inputs", fails=True)
    assert "error: model.checkpoint = 'a.pt': a.pt is not a file. Put the checkpoint" in done.stderr
    assert "Traceback" not in done.stderr


SCRIPT = """
import sys
from pathlib import Path
import numpy as np
import torch
from PIL import Image
from torch import nn
from sparse_sam.networks import Network, build_model


def read(part):
    classes = sorted(Path(sys.argv[1], part).iterdir())
    files = [(path, label) for label, one in enumerate(classes) for path in sorted(one.iterdir())]
    pixels = np.stack([np.asarray(Image.open(path)) for path, _ in files]) / 255
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    return images, torch.tensor([label for _, label in files])


images, labels = read("train")
mean, std = images.mean((0, 2, 3), keepdim=True), images.std((0, 2, 3), keepdim=True)
images = ((images - mean) / std).float()
torch.manual_seed(0)
model = nn.DataParallel(build_model(Network.of("resnet-20", width=8), (3, 28, 28), 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
for epoch in range(15):
    for batch in torch.randperm(len(images)).split(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
        optimizer.step()
model.eval()
images, labels = read("test")
with torch.no_grad():
    answers = model(((images - mean) / std).float()).argmax(1)
torch.save({"state_dict": model.state_dict()}, sys.argv[2])
print((answers == labels).double().mean().item())
"""


def test_a_residual_network_of_a_plain_script_goes_all_the_way(
    make_clone: Callable[..., Clone], pictures: Path, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(pictures), str(tmp_path / "net.pt")],
        capture_output=True,
        text=True,
        check=True,
    )
    clone = make_clone(
        "residual",
        {
            **QUICK,
            "data.folder": str(pictures),
            "data.validation_fraction": 0.0,
            "model.name": "resnet-20",
            "model.arguments": {"width": 8},
            **dict.fromkeys(
                (f"evaluate.budget_seconds.{name}" for name in BudgetParams.model_fields), 0.0
            ),
            "model.checkpoint": str(tmp_path / "net.pt"),
            "prune.sparsity": 0.8,
            "prune.ignore": ["stem.*"],
            "prune.overrides": {"head.*": 0.5},
        },
    )
    clone.run("dvc", "repro", timeout=600, **LATER)
    summary = read(clone, "summary")
    assert summary["arms"]["dense"]["accuracy"]["values"] == [float(done.stdout)] * 2
    assert float(done.stdout) > 0.8
    assert summary["dense_networks"] == "one given"
    assert "All seeds began with one given" in summary["comparisons"]["sam_vs_sgd"]["verdict"]
    layers = read(clone, "prune")["pruned"]["layers"]
    assert "stem.weight" not in layers
    assert layers["head.weight"]["weights_kept"] == [48, 48]
    for name, counts in layers.items():
        wanted = 0.5 if name == "head.weight" else 0.2
        kept = counts["weights_kept"][0] / counts["weights_total"]
        assert kept == pytest.approx(wanted, abs=1 / counts["weights_total"])

    # The same script's network, pruned there: nothing but its zeros tells of it.
    state = torch.load(tmp_path / "net.pt", weights_only=True)["state_dict"]
    for name, tensor in state.items():
        if tensor.dim() > 1 and "head" not in name:
            tensor[tensor.abs() < tensor.abs().median()] = 0.0
    torch.save(state, tmp_path / "net.pt")
    done = clone.run("dvc", "repro", "train_dense", **LATER)
    assert "of the weights that can be pruned are 0 already. To keep" in done.stdout
    clone.set_all({"prune.sparsity": None, "prune.ignore": [], "prune.overrides": {}})
    clone.run("dvc", "repro", timeout=600, **LATER)
    for seed, arm in product((0, 1), ("pruned", "sgd", "sgd_2x", "sam")):
        weights = load_file(clone.path / "models" / arm / f"seed-{seed}.safetensors")
        for name, tensor in state.items():
            if tensor.dim() > 1:
                plain = name.removeprefix("module.")
                assert torch.equal(weights[f"mask/{plain}"].bool(), tensor != 0)
                assert not weights[f"state/{plain}"][tensor == 0].any()
    arms = read(clone, "summary")["arms"]
    assert arms["pruned"]["accuracy"] == arms["dense"]["accuracy"]
    assert arms["sam"]["sparsity"] == arms["pruned"]["sparsity"] == pytest.approx(0.5, abs=0.02)
    assert "The given network already has" in (clone.path / "reports" / "report.md").read_text()
