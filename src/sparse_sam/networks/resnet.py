"""Residual networks for small images (He et al. 2016, arXiv:1512.03385, section 4.2)."""

from collections import OrderedDict
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from sparse_sam.networks.registry import ImageShape
from sparse_sam.networks.sizes import Width

Shortcut = Literal["A", "B"]
"""Where a block changes the shape: ``A`` has no weights, and is what the paper's tables for small
images are of; ``B`` is a 1×1 convolution with BatchNorm."""

_STAGES = 3


class PaddedIdentity(nn.Module):
    """Option A: every ``stride``-th position, and further channels of zeros.

    (N, C, H, W) → (N, C + added, ⌈H/stride⌉, ⌈W/stride⌉).
    """

    def __init__(self, stride: int, added: int) -> None:
        super().__init__()
        self.stride, self.added = stride, added

    def forward(self, maps: Tensor) -> Tensor:
        """Take positions, add channels."""
        return pad(maps[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.added))


class BasicBlock(nn.Module):
    """Two 3×3 convolutions with BatchNorm, and a shortcut around both (figure 2)."""

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = (
                PaddedIdentity(stride, outputs - inputs)
                if shortcut == "A"
                else nn.Sequential(
                    nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False),
                    nn.BatchNorm2d(outputs),
                )
            )

    def forward(self, maps: Tensor) -> Tensor:
        """(N, inputs, H, W) → (N, outputs, ⌈H/stride⌉, ⌈W/stride⌉)."""
        inner = torch.relu(self.norm1(self.conv1(maps)))
        return torch.relu(self.norm2(self.conv2(inner)) + self.shortcut(maps))


class ResNet(nn.Module):
    """6n + 2 layers: a convolution, three stages of n blocks, global average pooling, a head.

    The stages have 1, 2 and 4 times ``width`` channels, the second and third on half the positions
    of the one before. Images may be of any size. Weights begin as in He et al. 2015
    (arXiv:1502.01852, equation 10): normal, of variance 2/fan-in.

    Args:
        image_shape: (channels, height, width) of one input.
        num_classes: how many logits.
        depth: 6n + 2.
        width: channels of the first stage; 16 in the paper.
        shortcut: what joins blocks of different shapes.
    """

    def __init__(
        self, image_shape: ImageShape, num_classes: int, depth: int, width: int, shortcut: Shortcut
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(image_shape[0], width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        blocks: OrderedDict[str, nn.Module] = OrderedDict()
        inputs = width
        for stage in range(_STAGES):
            outputs = width * 2**stage
            for place in range((depth - 2) // (2 * _STAGES)):
                stride = 2 if stage and not place else 1
                blocks[f"{stage + 1}-{place + 1}"] = BasicBlock(inputs, outputs, stride, shortcut)
                inputs = outputs
        self.blocks = nn.Sequential(blocks)
        self.head = nn.Linear(inputs, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        """(N, channels, height, width) → (N, num_classes)."""
        maps = self.blocks(torch.relu(self.norm(self.stem(images))))
        logits: Tensor = self.head(maps.mean((2, 3)))
        return logits


def resnet_20(
    image_shape: ImageShape, num_classes: int, *, width: Width = 16, shortcut: Shortcut = "A"
) -> nn.Module:
    """ResNet-20: n = 3, 0.27 million parameters (table 6 of the paper)."""
    return ResNet(image_shape, num_classes, 20, width, shortcut)


def resnet_56(
    image_shape: ImageShape, num_classes: int, *, width: Width = 16, shortcut: Shortcut = "A"
) -> nn.Module:
    """ResNet-56: n = 9, 0.85 million parameters (table 6 of the paper)."""
    return ResNet(image_shape, num_classes, 56, width, shortcut)
