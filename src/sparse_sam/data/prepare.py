"""A data set without the pipeline: what a study or a benchmark trains and tests on."""

import tempfile
from pathlib import Path

from sparse_sam.data.dataset import save_dataset
from sparse_sam.data.loading import load_raw
from sparse_sam.data.params import DataParams
from sparse_sam.data.stratify import build_dataset
from sparse_sam.data.tensors import TestData, TrainingData, load_test_data, load_training_data


def read_data(params: DataParams) -> tuple[TrainingData, TestData]:
    """Read, split, write and read again, as the stages do; nothing stays on disk.

    Raises:
        DataError: what ``load_raw`` and ``build_dataset`` raise.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dataset.safetensors"
        save_dataset(path, build_dataset(load_raw(params, path.parent), params))
        return load_training_data(path), load_test_data(path)
