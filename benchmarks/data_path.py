"""What an epoch's data costs without the network: tensors in memory against ``DataLoader``.

    python benchmarks/data_path.py            # about a minute

Ours is what ``training.train`` does: a permutation and one gather a batch. Beside it in the same
run: ``DataLoader`` over the same tensors, and over images with a transform for each (a PIL image
to a tensor, normalised), as torchvision's MNIST class and its users do, without and with workers.
"""

from collections.abc import Sequence
from typing import Any

from digits import reference
from harness import Value, arguments_of, in_turn, machine, ratios, report, value
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from sparse_sam.data import Split, batch_order, read_data
from sparse_sam.files import import_torchvision
from sparse_sam.training import split_order

BATCH = 64


class Images(Dataset[tuple[Tensor, int]]):
    """Bytes, made a PIL image and transformed when asked for, as torchvision's MNIST does."""

    def __init__(self, part: Split, mean: Sequence[float], std: Sequence[float]) -> None:
        import_torchvision()
        from torchvision import transforms

        self.pixels, self.labels = part.images[:, 0].numpy(), part.labels.tolist()
        self.transform: Any = transforms.Compose(
            [transforms.ToTensor(), transforms.Normalize(mean, std)]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image

        image: Tensor = self.transform(Image.fromarray(self.pixels[index]))
        return image, self.labels[index]


def ours(part: Split) -> int:
    """One epoch of batches as the training loop takes them; how many images there were."""
    order = batch_order(len(part), 0, "benchmark", 1)
    return sum(
        len(part.taken(batch)) + 0 * len(part.labels[batch]) for batch in split_order(order, BATCH)
    )


def loaded(loader: "DataLoader[Any]") -> int:
    """One epoch of a loader's batches."""
    return sum(len(images) for images, _ in loader)


def measure(*, quick: bool) -> list[Value]:
    """Milliseconds an epoch, and how many times ours each takes."""
    data, _ = read_data(reference(fraction=0.2 if quick else 1.0).data)
    part, info = data.train, data.info
    images = Images(part, info.mean, info.std)
    options: dict[str, Any] = {"batch_size": BATCH, "shuffle": True}
    loaders = {
        "DataLoader, tensors": DataLoader(
            TensorDataset(part.taken(slice(None)), part.labels), **options
        ),
        "DataLoader, an image at a time": DataLoader(images, **options),
    }
    if not quick:
        loaders["DataLoader, an image at a time, 2 workers"] = DataLoader(
            images, num_workers=2, persistent_workers=True, **options
        )
    cases = {"ours": lambda: ours(part)}
    cases |= {name: (lambda one=one: loaded(one)) for name, one in loaders.items()}
    seconds = in_turn(cases, rounds=3 if quick else 15)
    values = [
        value(f"{name}, {len(part)} images", "ms", [1e3 * one for one in times])
        for name, times in seconds.items()
    ]
    return values + [
        value(f"{name} / ours", "×", ratios(seconds[name], seconds["ours"]), "neither")
        for name in loaders
    ]


def main() -> None:
    """Measure and report."""
    arguments = arguments_of(__doc__).parse_args()
    where = machine()
    report("data_path", measure(quick=arguments.quick), where, arguments)


if __name__ == "__main__":
    main()
