"""Epochs of a ResNet-20 as people write them: one PyTorch script, nothing of this project in it.

    yes | head -3 | python benchmarks/peers/plain_epoch.py      # three epochs

``DataLoader`` over PIL images, as torchvision's CIFAR-10 gives them, with its transforms for each:
a padded crop, a flip, a tensor, normalised. An epoch for every line that comes; its mean loss is
the answer.
"""

import argparse
import sys
from itertools import pairwise

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import cross_entropy, relu
from torch.utils.data import DataLoader, Dataset

try:  # a torchvision that was built for another torch lacks two operators
    import torchvision  # noqa: F401
except RuntimeError:
    for name in [one for one in sys.modules if one.startswith("torchvision")]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "FRAGMENT")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
from torchvision import transforms

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


class Block(nn.Module):
    """Two convolutions beside a shortcut, which pads channels with zeros (option A)."""

    def __init__(self, before, channels):
        super().__init__()
        self.stride = 1 if before == channels else 2
        self.first = nn.Conv2d(before, channels, 3, self.stride, 1, bias=False)
        self.second = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(2))

    def forward(self, x):
        """The block's output."""
        y = self.norms[1](self.second(relu(self.norms[0](self.first(x)))))
        if self.stride == 2:
            x = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, y.shape[1] - x.shape[1]))
        return relu(x + y)


def resnet20():
    """The network (He et al. 2016, arXiv:1512.03385, section 4.2), of 0.27 M weights."""
    widths = [16] * 4 + [32] * 3 + [64] * 3
    blocks = [Block(before, channels) for before, channels in pairwise(widths)]
    begin = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(*begin, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


class Images(Dataset):
    """Noise, as torchvision's CIFAR-10 gives images."""

    def __init__(self, count):
        random = np.random.default_rng(0)
        self.images = random.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        self.labels = random.integers(0, 10, count).tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def main():
    """Train an epoch for every line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=1280)
    parser.add_argument("--workers", type=int, default=0)
    given = parser.parse_args()
    torch.manual_seed(0)
    loader = DataLoader(
        Images(given.images),
        batch_size=128,
        shuffle=True,
        num_workers=given.workers,
        persistent_workers=given.workers > 0,
    )
    for _ in sys.stdin:
        model, total = resnet20(), 0.0
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
        for x, y in loader:
            optimizer.zero_grad()
            loss = cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(y)
        sys.stdout.write(f"{total / given.images}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
