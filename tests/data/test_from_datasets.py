"""A function of one's own may give data sets of torch's, torchvision's, Hugging Face's, arrays."""

import re
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from sparse_sam.data.dataset import DataInfo
from sparse_sam.data.from_datasets import from_datasets
from sparse_sam.data.loading import load_raw
from sparse_sam.data.params import DataParams
from sparse_sam.data.stratify import build_dataset
from sparse_sam.data.torchvision_files import import_torchvision
from sparse_sam.errors import DataError

MakeParams = Callable[..., DataParams]
PIXELS = np.random.default_rng(0).integers(0, 256, (12, 5, 4, 3), np.uint8)
LABELS = np.arange(12) // 4
NAMES = ["ant", "bee", "cat"]
OWN = "pathlib:Path"
"""Any place that is not registered: a source of one's own."""
PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
FUNCTIONS = dict(re.findall(r"```python\n# (lab/\w+\.py)\n(.*?)```", PAGE, flags=re.DOTALL))
NO_DATASETS = "needs Hugging Face's datasets: pip install --constraint constraints.txt datasets"


class Rows(Dataset[Any]):
    """Rows as somebody's data set has them."""

    def __init__(self, row: Callable[[int], Any], count: int = 12, **more: Any) -> None:
        self.row, self.count = row, count
        vars(self).update(more)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place: int) -> Any:
        return self.row(place)


class Names:
    """As ``datasets.ClassLabel`` is."""

    def __init__(self) -> None:
        self.names = NAMES


def channels_first(place: int) -> Tensor:
    return torch.from_numpy(PIXELS[place].transpose(2, 0, 1).copy())


FORMS: dict[str, Any] = {
    "pillow": Rows(lambda i: (Image.fromarray(PIXELS[i]), int(LABELS[i])), classes=NAMES),
    "arrays of bytes": Rows(lambda i: (PIXELS[i], LABELS[i]), classes=NAMES),
    "tensors of bytes": Rows(lambda i: (channels_first(i), torch.tensor(LABELS[i])), classes=NAMES),
    "to tensor": Rows(lambda i: (channels_first(i).float() / 255, LABELS[i]), classes=NAMES),
    "rows of names": Rows(
        lambda i: {"img": Image.fromarray(PIXELS[i]), "label": int(LABELS[i])},
        features={"img": None, "label": Names()},
    ),
    "two arrays": {"train": (PIXELS, LABELS), "classes": NAMES},
    "two tensors": {
        "train": (torch.from_numpy(PIXELS.transpose(0, 3, 1, 2).copy()), torch.from_numpy(LABELS)),
        "classes": np.array(NAMES),
    },
    "two tensors, channels last": {
        "train": (torch.from_numpy(PIXELS.copy()), torch.from_numpy(LABELS)),
        "classes": np.array([name.encode() for name in NAMES]),
    },
    "torch": {
        "train": TensorDataset(
            torch.stack([channels_first(i) for i in range(12)]), torch.from_numpy(LABELS)
        ),
        "classes": NAMES,
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_bytes(form: str, data_params: MakeParams) -> None:
    raw = from_datasets(FORMS[form], data_params())
    np.testing.assert_array_equal(raw.train_images, PIXELS.transpose(0, 3, 1, 2))
    assert raw.train_labels.tolist() == LABELS.tolist()
    assert raw.classes == tuple(NAMES)
    assert raw.test_images is None


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_made_as_the_parameters_want(form: str, data_params: MakeParams) -> None:
    raw = from_datasets(FORMS[form], data_params(source=OWN, channels=1, image_size=3))
    expected = from_datasets(FORMS["pillow"], data_params(source=OWN, channels=1, image_size=3))
    assert raw.train_images.shape == (12, 1, 3, 3)
    np.testing.assert_array_equal(raw.train_images, expected.train_images)
    grey = Rows(lambda i: (PIXELS[i][..., 0], LABELS[i]))
    assert from_datasets(grey, data_params(source=OWN, channels=3)).train_images.shape[1] == 3


def test_arrays_of_sizes_that_differ_are_made_alike(data_params: MakeParams) -> None:
    rows = Rows(lambda i: (PIXELS[i][: 5 - i % 2], LABELS[i]))
    with pytest.raises(DataError, match=r"Set data\.image_size to crop"):
        from_datasets(rows, data_params(source=OWN))
    raw = from_datasets(rows, data_params(source=OWN, image_size=4))
    assert raw.train_images.shape == (12, 3, 4, 4)


def test_raw_data_are_refused_if_they_are_not_so(
    data_params: MakeParams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = """
import numpy as np
from sparse_sam.data import RawData

def given(params):
    images = np.arange(4 * 9, dtype=np.uint8).reshape(4, 3, 3)
    return RawData(params.source, images, np.arange(4) % 2)
"""
    (tmp_path / "own_arrays_for_tests.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    source = "own_arrays_for_tests:given"
    assert len(load_raw(data_params(source=source, channels=1, image_size=3)).train_images) == 4
    with pytest.raises(DataError, match=r"^data.channels = 3: .* returned RawData of 1 channels"):
        load_raw(data_params(source=source, channels=3))
    with pytest.raises(
        DataError, match=r"^data.image_size = 4: .* returned RawData of 3 × 3 pixels"
    ):
        load_raw(data_params(source=source, image_size=4))


def test_a_picture_that_is_not_decoded_yet_is_as_deep_as_its_file(
    data_params: MakeParams, tmp_path: Path
) -> None:
    content = b"P6 4 5 65535\n" + (PIXELS[0].astype(">u2") * 257).tobytes()
    (tmp_path / "1.ppm").write_bytes(content)
    with Image.open(tmp_path / "1.ppm") as image, pytest.raises(DataError) as raised:
        from_datasets([(image, 0)], data_params(source=OWN))
    assert (
        str(raised.value)
        == f"{OWN}, train, row 0 has more than 8 bits per channel. Save it with 8."
    )


def test_parts_are_told_apart(data_params: MakeParams) -> None:
    raw = from_datasets(
        {"train": FORMS["pillow"], "test": (PIXELS, LABELS), "validation": (PIXELS, LABELS)},
        data_params(),
    )
    assert set(raw.parts) == {"train", "test", "validation"}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Pictures in folders, the same as ``all.npz`` beside, and the functions of docs/data.md."""
    for name, code in FUNCTIONS.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(code)
    arrays: dict[str, NDArray[Any]] = {"classes": np.array(NAMES)}
    root = tmp_path / "pictures"
    for part, more in (("train", 0), ("test", 1)):
        pixels, labels = PIXELS ^ more, LABELS
        arrays |= {f"x_{part}": pixels, f"y_{part}": labels}
        for index, (image, label) in enumerate(zip(pixels, labels, strict=True)):
            folder = root / part / NAMES[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{index:03}.png")
    np.savez(tmp_path / "all.npz", **arrays)
    return root


@pytest.fixture
def info_of(
    data_params: MakeParams, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str, Path], DataInfo]]:
    """What a data set is that a source makes of a folder or file."""
    monkeypatch.syspath_prepend(pictures.parent)

    def build(source: str, folder: Path) -> DataInfo:
        params = data_params(source=source, folder=str(folder), validation_fraction=0.25)
        return build_dataset(load_raw(params), params).info

    yield build
    # Other tests in this process have a lab of their own.
    for module in [name for name in sys.modules if name.partition(".")[0] == "lab"]:
        del sys.modules[module]


def assert_same(infos: list[DataInfo]) -> None:
    assert len({info.fingerprint for info in infos}) == 1
    assert len({(info.classes, info.mean, info.std) for info in infos}) == 1


def test_a_folder_is_the_same_data_set_as_folder_file_and_function(
    pictures: Path, info_of: Callable[[str, Path], DataInfo]
) -> None:
    import_torchvision()
    assert_same(
        [
            info_of("image-folder", pictures),
            info_of("npz", pictures.parent / "all.npz"),
            info_of("lab.with_torchvision:flowers", pictures),
        ]
    )


@pytest.mark.skipif(find_spec("datasets") is None, reason=NO_DATASETS)
def test_a_folder_is_the_same_data_set_through_hugging_face(
    pictures: Path,
    info_of: Callable[[str, Path], DataInfo],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Read when the package is imported, which no other test does.
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hugging-face"))
    found = info_of("lab.with_hugging_face:flowers", pictures)
    assert_same([info_of("image-folder", pictures), found])


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (7, "is int, which has no length; allowed: RawData; a data set"),
        (None, "returned None; allowed: RawData"),
        ({"train": None}, "returned no train; allowed"),
        ({"train": (PIXELS, LABELS), "classes": 3}, "returned int as classes; allowed: a list"),
        ((PIXELS.transpose(0, 3, 1, 2), LABELS), "row 0 has 4 channels; allowed: 1 or 3. tran"),
        (Rows(lambda i: (torch.from_numpy(PIXELS[i]), 0)), "permute(2, 0, 1) puts channels first"),
        (
            Rows(lambda i: (PIXELS[i], 10**30)),
            "row 0: the label is 1000000000000000000000000000000",
        ),
        (Rows(lambda i: (PIXELS[i], 10**9)), "the label is 1000000000; allowed: 0 to 9,999"),
        (Rows(lambda i: (PIXELS[i], -1)), "row 0: the label is -1; allowed: 0 to 9,999"),
        (Rows(lambda i: (PIXELS[i], 0)), "the data set has 1 classes (0); allowed: 2 to 10,000"),
        ({"test": (PIXELS, LABELS)}, "returned no train; allowed"),
        ({"train": (PIXELS, LABELS), "tset": 1}, "returned the keys tset; allowed"),
        ((PIXELS, LABELS[:5]), "12 images but 5 labels"),
        (Rows(lambda i: PIXELS[i]), "train, row 0 is ndarray; allowed: (image, label)"),
        (Rows(lambda i: {"pixels": PIXELS[i], "label": 0}), "row 0 has the keys pixels, label"),
        (Rows(lambda i: (PIXELS[i], "ant")), "row 0: the label 'ant' is not a whole number"),
        (Rows(lambda i: (PIXELS[i], 0.5)), "the label '0.5' is not a whole number"),
        (Rows(lambda i: (PIXELS[i] / 100, 0)), "row 0 holds fractions that are not n/255"),
        (Rows(lambda i: (channels_first(i) / 255 - 0.5, 0)), "that are not n/255"),
        (Rows(lambda i: (PIXELS[i].astype(np.int64), 0)), "row 0 is int64 (5, 4, 3); allowed"),
        (Rows(lambda i: (PIXELS[i][: 5 - i], 0)), "row 1 is 4 × 4 pixels, but"),
        (Rows(lambda i: (PIXELS[i][..., :2], 0)), "row 0 has 2 channels; allowed: 1 or 3"),
        (Rows(lambda i: (PIXELS[i], 0), count=0), "there are no images"),
    ],
)
def test_what_is_no_data_set_is_refused(found: Any, reason: str, data_params: MakeParams) -> None:
    with pytest.raises(DataError) as raised:
        from_datasets(found, data_params())
    assert reason in str(raised.value)
