"""The data sources by name: ``data.source``."""

from typing import Any

from sparse_sam.files import Registry

SOURCES: Registry[Any] = Registry(
    "data.source",
    {
        "mnist-sample": "sparse_sam.data.sources:MNIST_SAMPLE",
        "mnist": "sparse_sam.data.sources:MNIST",
        "fashion-mnist": "sparse_sam.data.sources:FASHION_MNIST",
        "kmnist": "sparse_sam.data.sources:KMNIST",
        "idx": "sparse_sam.data.sources:IDX",
        "cifar10": "sparse_sam.data.cifar:CIFAR_10",
        "cifar100": "sparse_sam.data.cifar:CIFAR_100",
        "image-folder": "sparse_sam.data.image_folder:IMAGE_FOLDER",
        "npz": "sparse_sam.data.npz:NPZ",
    },
    arguments=1,
)
