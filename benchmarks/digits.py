"""The digits that the benchmarks use: genuine ones, in the reference split, as this project has."""

import tempfile
from pathlib import Path
from typing import Any

import torch

from sparse_sam.config import DataParams, Params, load_params
from sparse_sam.dataset import (
    Split,
    TestData,
    TrainingData,
    load_test_data,
    load_training_data,
    save_dataset,
)
from sparse_sam.sources import load_raw
from sparse_sam.splitting import build_dataset


def reference(root: Path, **changes: Any) -> Params:
    """The parameters of ``params.yaml``, with other data parameters where given."""
    params = load_params(root / "params.yaml")
    return params.model_copy(update={"data": DataParams(**{**params.data.model_dump(), **changes})})


def digits(params: Params) -> tuple[TrainingData, TestData]:
    """Read, split, write and read again, as the stages do."""
    dataset = build_dataset(load_raw(params.data), params.data)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dataset.safetensors"
        save_dataset(path, dataset)
        return load_training_data(path), load_test_data(path)


def made_up(count: int, shape: tuple[int, int, int] = (1, 28, 28)) -> Split:
    """So many images of noise: where only time is measured."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 10, (count,), generator=generator)
    return Split(torch.randn(count, *shape, generator=generator), labels)
