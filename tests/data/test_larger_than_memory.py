"""A data set of four times the memory that a process is given: made, read, trained on, tested.

The limit is the kernel's, RLIMIT_DATA: it counts private memory that can be written to, as soon as
it is asked for. Pages of mapped files are not counted, and need not be: the system drops them when
it needs the room, and reads them again.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sparse_sam.data.raw import RawData

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems count otherwise")

ALLOWED = 40 * 2**20
SIDE, COUNT = 64, 13_700
ROOT = Path(__file__).resolve().parents[2]

LIMIT = """
import json, resource, sys
from pathlib import Path

def limit(more):
    said, = (line for line in open("/proc/self/status") if line.startswith("VmData"))
    now = 1024 * int(said.split()[1])
    resource.setrlimit(resource.RLIMIT_DATA, (now + more, now + more))
"""

MAKE = f"""
import numpy, sklearn.model_selection, PIL.Image, PIL.JpegImagePlugin, tqdm
from sparse_sam.data import SOURCES, DataParams, build_dataset, load_raw, save_dataset
{LIMIT}
path, allowed, values = Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
sys.path.insert(0, str(path.parent.parent))
params = DataParams(**values)
SOURCES.load(params.source)
numpy.ones((3, 256)) @ numpy.arange(256.0)  # for which OpenBLAS asks for 32 MiB, once
limit(allowed)
save_dataset(path, build_dataset(load_raw(params, path.parent), params))
"""

USE = f"""
import torch
from torch import nn
from sparse_sam.data import load_test_data, load_training_data
from sparse_sam.evaluation.flatness.measure import some_images
from sparse_sam.training import TrainingParams, evaluate, make_base, train
from tests.recipes import training_values
{LIMIT}
path, allowed = Path(sys.argv[1]), int(sys.argv[2])
recipe = TrainingParams(**training_values(epochs=1, flip=True))
limit(allowed)
data, test = load_training_data(path), load_test_data(path)
torch.manual_seed(0)
network = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(3 * 64, 2))
train(network, make_base(network, recipe), data, recipe, seed=0, purpose="dense")
evaluate(network, test.test)
some_images(data.train, 64)
test.test.images.cpu().numpy()
try:
    data.train.images.clone()
except RuntimeError as error:
    print(error)
"""

OWN = """
from torchvision.datasets import ImageFolder

def folder(params):
    return ImageFolder(params.folder)
"""


@pytest.fixture(scope="module")
def large(digits: RawData) -> Iterator[Path]:
    """Pictures of genuine digits in two classes, and the same as one file; removed afterwards."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "own_large_for_tests.py").write_text(OWN)
        labels = digits.train_labels % 2
        pixels = np.empty((COUNT, SIDE, SIDE, 3), np.uint8)
        for place in range(COUNT):
            index = place % len(labels)
            folder = root / "pictures" / ("even", "odd")[labels[index]]
            folder.mkdir(parents=True, exist_ok=True)
            grey = Image.fromarray(digits.train_images[index, 0]).resize((SIDE, SIDE))
            picture = grey.convert("RGB")
            pixels[place] = np.asarray(picture)
            picture.save(folder / f"{place:05}.jpg")
        names = np.arange(COUNT) % len(labels)
        np.savez(root / "all.npz", x_train=pixels, y_train=labels[names])
        assert pixels.nbytes > 4 * ALLOWED
        yield root


def run(code: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env={
            "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}",
            "OMP_NUM_THREADS": "1",
            "MALLOC_MMAP_THRESHOLD_": "65536",  # what is freed is given back, without holes
        },
        capture_output=True,
        text=True,
        check=False,
    )


def make(large: Path, source: str, of: str) -> Path:
    """Download's work under the limit: the data set's file, and nothing beside it."""
    values = {
        "source": source,
        "folder": str(large / of),
        "fraction": 1.0,
        "validation_fraction": 0.125,
        "test_fraction": 0.2,
        "split_seed": 0,
        "mirror": None,
        "channels": None,
        "image_size": None,
    }
    path = large / "made" / "dataset.safetensors"
    made = run(MAKE, str(path), str(ALLOWED), json.dumps(values))
    assert made.returncode == 0, made.stderr
    assert [one.name for one in path.parent.iterdir()] == [path.name]
    return path


@pytest.mark.parametrize("source", ["image-folder", "own_large_for_tests:folder"])
def test_pictures_are_never_all_in_memory(large: Path, source: str) -> None:
    make(large, source, "pictures")


def test_arrays_are_never_all_in_memory_nor_is_what_is_trained_on(large: Path) -> None:
    path = make(large, "npz", "all.npz")
    used = run(USE, str(path), str(ALLOWED))
    assert used.returncode == 0, used.stderr
    assert "can't allocate memory" in used.stdout  # for who copies all images: the limit is one
