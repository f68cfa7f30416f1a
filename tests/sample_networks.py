"""Networks that read their weights in every way that torch knows, for images of 5 × 5.

Factories as params.yaml names them: ``tests.sample_networks:transformer``.
"""

import torch
from torch import Tensor, nn

from sparse_sam.networks.build import ImageShape

WIDTH = 8
TOKENS = 5


class Rows(nn.Module):
    """An image as the sequence of its rows: (N, 1, 5, 5) → (N, 5, WIDTH)."""

    def __init__(self, image_shape: ImageShape) -> None:
        super().__init__()
        self.project = nn.Linear(image_shape[2], WIDTH)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.project(images.flatten(1, 2))
        return out


def tokens(images: Tensor) -> Tensor:
    """Pixels as one of so many grey levels: (N, 1, 5, 5) → (N, 25)."""
    return (images.flatten(1) * 2).round().clamp(-2, 2).long() + 2


class Attention(nn.Module):
    """``nn.MultiheadAttention``, which reads ``out_proj.weight`` without calling ``out_proj``."""

    def __init__(self, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__()
        self.rows = Rows(image_shape)
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.head = nn.Linear(WIDTH, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        rows = self.rows(images)
        out: Tensor = self.head((rows + self.attention(rows, rows, rows)[0]).mean(1))
        return out


class Transformer(nn.Module):
    """Two encoder layers on rows with a learnt position each."""

    def __init__(self, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__()
        self.rows = Rows(image_shape)
        self.positions = nn.Parameter(nn.init.normal_(torch.empty(image_shape[1], WIDTH)))
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 16, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.head(self.encoder(self.rows(images) + self.positions).mean(1))
        return out


class Tied(nn.Module):
    """One weight as an embedding and as a head (as language models have it), and a layer twice."""

    def __init__(self, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(TOKENS, WIDTH)
        self.first = nn.Linear(WIDTH, WIDTH)
        self.second = self.first
        self.head = nn.Linear(WIDTH, TOKENS)
        self.head.weight = self.embedding.weight
        self.classes = nn.Linear(TOKENS * image_shape[1] * image_shape[2], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        words = self.embedding(tokens(images))
        again = self.head(self.second(self.first(words).tanh()))
        out: Tensor = self.classes(again.tanh().flatten(1))
        return out


class Embedding(nn.Module):
    """Tokens, and a linear layer on all of them."""

    def __init__(self, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(TOKENS, WIDTH)
        self.head = nn.Linear(WIDTH * image_shape[1] * image_shape[2], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.head(self.embedding(tokens(images)).flatten(1))
        return out


class GroupNormed(nn.Module):
    """Rows as channels of a line: GroupNorm on (N, C, L)."""

    def __init__(self, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__()
        self.convolve = nn.Conv1d(image_shape[1], WIDTH, 3)
        self.normalise = nn.GroupNorm(2, WIDTH)
        self.head = nn.Linear(WIDTH * (image_shape[2] - 2), num_classes)

    def forward(self, images: Tensor) -> Tensor:
        lines = self.normalise(self.convolve(images.flatten(1, 2))).tanh()
        out: Tensor = self.head(lines.flatten(1))
        return out


class Recurrent(nn.Module):
    """``nn.LSTM`` or ``nn.GRU``, which keep a list of their weights of their own."""

    def __init__(self, image_shape: ImageShape, num_classes: int, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.read = kind(image_shape[2], WIDTH, num_layers=2, batch_first=True)
        self.head = nn.Linear(WIDTH, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.head(self.read(images.flatten(1, 2))[0][:, -1])
        return out


attention, transformer, tied = Attention, Transformer, Tied
embedding, group_norm = Embedding, GroupNormed


def lstm(image_shape: ImageShape, num_classes: int) -> nn.Module:
    """Two layers of LSTM over the rows."""
    return Recurrent(image_shape, num_classes, nn.LSTM)


def gru(image_shape: ImageShape, num_classes: int) -> nn.Module:
    """Two layers of GRU over the rows."""
    return Recurrent(image_shape, num_classes, nn.GRU)


NAMES = ("attention", "transformer", "tied", "embedding", "group_norm", "lstm", "gru")


def lazy(image_shape: ImageShape, num_classes: int) -> nn.Module:
    """Layers that draw their weights when they see their first input."""
    del image_shape
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(6), nn.ReLU(), nn.LazyLinear(num_classes))


def writes_to_its_input(image_shape: ImageShape, num_classes: int) -> nn.Module:
    """A first layer that works in place."""
    pixels = image_shape[0] * image_shape[1] * image_shape[2]
    return nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(pixels, num_classes))


class WithInfiniteBuffer(nn.Module):
    """A linear network that keeps the −inf of an attention mask."""

    def __init__(self, pixels: int, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(pixels, num_classes)
        self.register_buffer("unseen", torch.tensor([0.0, -torch.inf]))

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.linear(images.flatten(1))
        return out


def with_infinite_buffer(image_shape: ImageShape, num_classes: int) -> nn.Module:
    return WithInfiniteBuffer(image_shape[0] * image_shape[1] * image_shape[2], num_classes)


def too_many_logits(image_shape: ImageShape, num_classes: int) -> nn.Module:
    pixels = image_shape[0] * image_shape[1] * image_shape[2]
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, num_classes + 997))


class Pair(nn.Module):
    """Gives logits and something else."""

    def __init__(self, pixels: int, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(pixels, num_classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.linear(images.flatten(1)), images


def pair(image_shape: ImageShape, num_classes: int) -> nn.Module:
    return Pair(image_shape[0] * image_shape[1] * image_shape[2], num_classes)


def lazy_that_refuses(image_shape: ImageShape, num_classes: int) -> nn.Module:
    del image_shape
    return nn.Sequential(nn.LazyConv2d(4, 9), nn.Flatten(), nn.LazyLinear(num_classes))
