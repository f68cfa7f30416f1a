"""Networks that are hard to measure, for images of any size. Factories, as params.yaml names them.

The pipeline's tests copy this file into their clones.
"""

import os
import signal
import sys
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

WIDTH = 8
ImageShape = tuple[int, int, int]


class Patches(nn.Module):
    """An image as a sequence: a token for each of some rows of it, and one for the class."""

    def __init__(self, image_shape: ImageShape, rows: int) -> None:
        super().__init__()
        channels, height, width = image_shape
        self.project = nn.Conv2d(channels, WIDTH, (rows, width), stride=(rows, width))
        self.class_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        length = 1 + height // rows
        self.positions = nn.Parameter(nn.init.normal_(torch.empty(1, length, WIDTH), std=0.02))

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.project(images).flatten(2).transpose(1, 2)
        first = self.class_token.expand(len(images), -1, -1)
        return torch.cat([first, tokens], dim=1) + self.positions


class VisionTransformer(nn.Module):
    """As torch's own parts make one: fused layers in evaluation, nested tensors where it can."""

    def __init__(self, image_shape: ImageShape, num_classes: int, rows: int) -> None:
        super().__init__()
        self.patches = Patches(image_shape, rows)
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 2 * WIDTH, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(WIDTH, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images)
        padded = torch.zeros(tokens.shape[:2], dtype=torch.bool)
        padded[:, -1] = True  # somebody may not look at the last row
        out: Tensor = self.head(self.encoder(tokens, src_key_padding_mask=padded)[:, 0])
        return out


class CrossAttention(nn.Module):
    """``nn.MultiheadAttention`` with inputs of three widths, and weights of its own for each."""

    def __init__(self, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__()
        self.patches = Patches(image_shape, 1)
        self.keys = nn.Linear(WIDTH, 6)
        self.attention = nn.MultiheadAttention(WIDTH, 2, kdim=6, vdim=WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images)
        seen, _ = self.attention(tokens[:, :1], key=self.keys(tokens), value=tokens)
        out: Tensor = self.head(seen[:, 0])
        return out


def vit(image_shape: ImageShape, num_classes: int) -> nn.Module:
    """A vision transformer whose tokens are rows."""
    return VisionTransformer(image_shape, num_classes, 1)


def vit_of_stripes(image_shape: ImageShape, num_classes: int) -> nn.Module:
    """One of four rows a token."""
    return VisionTransformer(image_shape, num_classes, 4)


class Once(torch.autograd.Function):
    """Twice its input, by someone who never thought of second derivatives."""

    @staticmethod
    def forward(_: Any, inputs: Tensor) -> Tensor:
        return 2 * inputs

    @staticmethod
    @once_differentiable
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return 2 * gradient


class Moody(nn.Module):
    """A small network with the moods of the environment variable MOOD: each fails some measure.

    None of them shows where a network is trained or tested: that takes place with no mood, or
    without gradients and in batches of 250.
    """

    def __init__(self, image_shape: ImageShape, num_classes: int, mood: str = "") -> None:
        super().__init__()
        self.mood = mood
        channels, height, width = image_shape
        self.first = nn.Linear(channels * height * width, 12)
        self.head = nn.Linear(12, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        mood, graded = self.mood or os.environ.get("MOOD", ""), torch.is_grad_enabled()
        if mood == "batch" and len(images) > 250:
            raise ValueError("who has 256 images?")
        if mood == "key" and graded:
            raise KeyError("gradient")
        if mood == "killed" and graded:
            os.kill(os.getpid(), signal.SIGKILL)
        if mood == "slow" and graded:
            time.sleep(0.1)
        if mood == "chatty":
            sys.stdout.write("images!" * 10_000)
        out: Tensor = self.head(self.first(images.flatten(1)).tanh())
        out = Once.apply(out) if mood == "once" else 2 * out
        return out * float("nan") if mood == "nan" and graded else out


def mortal(image_shape: ImageShape, num_classes: int) -> nn.Module:
    """One that ends its process where a gradient is computed, whatever the environment."""
    return Moody(image_shape, num_classes, "killed")


moody, cross_attention = Moody, CrossAttention
