"""One large training on several processes: a network is pruned, and finetuned with SAM under DDP.

    torchrun --standalone --nproc-per-node 2 examples/torchrun_finetune.py pruned.safetensors

It needs `sparse-sam[training]`.

Each process has its part of every batch, on a GPU of its own where there are enough, and else on
the CPU. The data are scikit-learn's digits, 1,797 genuine images of 8 × 8: put your own data set in
``digits``, and your network in ``main``. docs/extending.md says what this is not.
"""

import argparse
import os
from pathlib import Path

import torch
import torch.distributed as dist

# Before the processes join. DDP would import it later; then its functions' defaults hold the group,
# so that gloo's threads outlive `destroy_process_group` and can abort Python as it ends.
import torch.distributed.nn.functional
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from sparse_sam import pruning
from sparse_sam.networks import build_model
from sparse_sam.sam import SAM


def digits() -> tuple[TensorDataset, TensorDataset]:
    """Images to train on, and others to test on; standardised by those to train on."""
    pixels, labels = load_digits(return_X_y=True)
    images = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8)
    parts = images.split(1440), torch.tensor(labels).split(1440)
    mean, std = parts[0][0].mean(), parts[0][0].std()
    first, second = (TensorDataset((x - mean) / std, y) for x, y in zip(*parts, strict=True))
    return first, second


def begin() -> torch.device:
    """Join the other processes, which torchrun's environment names; this one's device."""
    local = int(os.environ["LOCAL_RANK"])
    if torch.cuda.device_count() < int(os.environ["LOCAL_WORLD_SIZE"]):
        dist.init_process_group("gloo")
        return torch.device("cpu")
    torch.cuda.set_device(local)
    dist.init_process_group("nccl")
    return torch.device("cuda", local)


def finetune(model: nn.Module, data: TensorDataset, options: argparse.Namespace) -> None:
    """Train in place; after every step all processes have the same weights."""
    device = next(model.parameters()).device
    # DDP gives every process the weights and masks of the first one: so masks come before it.
    parallel = DistributedDataParallel(model).train()
    of_sam = {"model": parallel, "sync_perturbation": options.sync_perturbation}
    of_sgd = {"lr": options.lr, "momentum": 0.9, "weight_decay": 5e-4}
    optimizer = SAM(parallel.parameters(), SGD, options.rho, **of_sam, **of_sgd)
    # What is left over of an epoch is dropped, so that all parts of a batch count the same.
    sampler = DistributedSampler(data, seed=options.seed, drop_last=True)
    each = options.batch // dist.get_world_size()
    loader = DataLoader(data, batch_size=each, sampler=sampler, drop_last=True)
    for epoch in range(options.epochs):
        sampler.set_epoch(epoch)  # another order
        for batch in loader:
            images, labels = (part.to(device) for part in batch)

            def closure(images: Tensor = images, labels: Tensor = labels) -> Tensor:
                loss = cross_entropy(parallel(images), labels)
                loss.backward()
                return loss

            optimizer.step(closure)  # calls it at w, and at w + ε


def check_same_everywhere(model: nn.Module) -> None:
    """Raise RuntimeError, in every process, unless all have the first one's tensors bit for bit."""
    own = torch.cat([tensor.double().flatten() for tensor in model.state_dict().values()])
    first = own.clone()
    dist.broadcast(first, src=0)
    differs = (first != own).sum()
    dist.all_reduce(differs)
    if differs:
        raise RuntimeError(f"processes differ from the first one in {int(differs)} numbers")


def main() -> None:
    """Prune, finetune, check, save."""
    parser = argparse.ArgumentParser()
    parser.add_argument("output", type=Path, help="where the weights go, as safetensors")
    parser.add_argument("--dense", type=Path, help="a dense network's weights, as safetensors")
    parser.add_argument("--sync-perturbation", action="store_true", help="one ε for all processes")
    for name, default in {"batch": 64, "epochs": 10, "seed": 0}.items():  # batch: of all processes
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, share in {"lr": 0.1, "rho": 0.05, "sparsity": 0.9}.items():
        parser.add_argument(f"--{name}", type=float, default=share)
    options, device = parser.parse_args(), begin()
    torch.manual_seed(options.seed)
    model = build_model("lenet-300-100", (1, 8, 8), 10)
    if options.dense:
        pruning.load_plain(model, load_file(options.dense))
    masks = pruning.magnitude_masks(model, options.sparsity)
    pruning.attach(model, masks)
    training, test = digits()
    finetune(model.to(device), training, options)
    pruning.check_pruned_weights_are_zero(model)
    check_same_everywhere(model)
    if dist.get_rank() == 0:
        images, labels = (part.to(device) for part in test.tensors)
        right = (model.eval()(images).argmax(1) == labels).double().mean()
        state = pruning.plain_state(model.cpu())
        save_file(state, options.output)
        print(f"{options.output}: {masks.sparsity:.2%} sparse, {right:.2%} of test images right")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
