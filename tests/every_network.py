"""Every network by name, small enough for tests, and images in colour made as tensors."""

from typing import Any

import torch
from torch import Tensor

from sparse_sam.data.dataset import DataInfo
from sparse_sam.data.tensors import Scale, Split, TestData, TrainingData
from sparse_sam.networks.network import Network
from sparse_sam.networks.registry import NETWORKS

NAMES = ("ant", "bee", "cat")
CLASSES = len(NAMES)
SMALL: dict[str, dict[str, Any]] = {
    "resnet-20": {"width": 4},
    "resnet-56": {"width": 2},
    "vgg-16-bn": {"width": 4},
    "vit": {"width": 16, "depth": 2, "heads": 2},
}
"""Arguments that make a network small; the others are."""
ANY_SIZE = ("resnet-20", "resnet-56", "vgg-16-bn")
"""Networks whose weights do not depend on how large images are."""
MEAN, STD = 0.4, 0.25
"""Of all channels alike."""


def small(name: str) -> Network:
    """The small form of a registered network."""
    return Network.of(name, **SMALL.get(name, {}))


EVERY = [*map(small, NETWORKS), Network.of("torchvision:resnet18")]


def make_split(count: int, shape: tuple[int, int, int], seed: int) -> Split:
    """Noise, with a band of one colour: its place is the class. Pixels are whole bytes."""
    labels = torch.arange(count) % CLASSES
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 120, (count, *shape), generator=generator)
    band = shape[1] // CLASSES
    for image, label in zip(pixels, labels.tolist(), strict=True):
        image[label % shape[0], label * band : (label + 1) * band] += 130
    scale = Scale.of([MEAN] * shape[0], [STD] * shape[0])
    return Split(pixels.to(torch.uint8), labels, scale)


def standardised(pixels: Tensor) -> Tensor:
    """Bytes as networks take them."""
    return (pixels.float() / 255 - MEAN) / STD


def make_info(shape: tuple[int, int, int], counts: dict[str, list[int]]) -> DataInfo:
    """What is known of the images."""
    means, stds = (MEAN,) * shape[0], (STD,) * shape[0]
    return DataInfo("made-for-tests", "0" * 64, shape, NAMES, means, stds, counts, {})


def training_data(shape: tuple[int, int, int], count: int = 24) -> TrainingData:
    """Images to train on; none are held out."""
    counts = {"train": [count // CLASSES] * CLASSES}
    return TrainingData(make_split(count, shape, 0), None, make_info(shape, counts))


def unseen_data(shape: tuple[int, int, int], count: int = 30) -> TestData:
    """Images to test on."""
    counts = {"test": [count // CLASSES] * CLASSES}
    return TestData(make_split(count, shape, 1), make_info(shape, counts))
