"""What the tests of exports and of the registry ship: a sparse network and genuine digits."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sparse_sam.data.dataset import Dataset, save_dataset
from sparse_sam.data.tensors import Scale, TestData, load_test_data
from sparse_sam.networks.build import build_model
from sparse_sam.pruning.magnitude import magnitude_masks
from sparse_sam.pruning.masks import Masks, attach
from sparse_sam.training.checkpoint import Checkpoint
from sparse_sam.training.origin import Origin


def prunable(model: nn.Module) -> list[str]:
    return [name for name, one in model.named_parameters() if one.dim() > 1]


def write_data(path: Path, dataset: Dataset) -> TestData:
    save_dataset(path, dataset)
    return load_test_data(path)


def trained(
    name: str, dataset: Dataset, sparsity: float, *, arm: str = "sam", channels: bool = False
) -> Checkpoint:
    """A network that was pruned, of weights or of whole channels, and then saw a few batches."""
    info = dataset.info
    torch.manual_seed(0)
    model = build_model(name, info.image_shape, info.num_classes)
    if channels:
        masks = {}
        for one in prunable(model)[:-1]:  # the network's own outputs stay
            weight = model.get_parameter(one)
            norms = weight.detach().flatten(1).norm(dim=1)
            kept = norms >= norms.quantile(sparsity)
            masks[one] = kept.view(-1, *[1] * (weight.dim() - 1)).expand_as(weight).clone()
        attach(model, Masks(masks))
    else:
        attach(model, magnitude_masks(model, sparsity))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    pixels, labels = dataset.parts["train"]
    scale = Scale.of(info.mean, info.std)
    order = np.random.default_rng(0).permutation(len(labels))
    for batch in order[: 32 * 64].reshape(-1, 64):
        inputs = scale.standardised(torch.from_numpy(pixels[batch]))
        loss = nn.functional.cross_entropy(model(inputs), torch.from_numpy(labels[batch]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    fields: dict[str, Any] = {
        "model": name,
        "image_shape": info.image_shape,
        "classes": info.classes,
        "mean": info.mean,
        "std": info.std,
        "dataset": info.fingerprint,
        "arm": arm,
        "seed": 0,
    }
    return Checkpoint.of(model, Origin(**fields))
