"""How long inference takes on this machine, dense and with the zeros left out."""

import copy
import random
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from sparse_sam.export.compression import file_sizes, folded, layer_sizes, multiply_adds
from sparse_sam.training import Checkpoint

BATCHES = (1, 256)


@dataclass(frozen=True)
class Latency:
    """One form of a network at one batch size. Times of a forward pass, in milliseconds."""

    form: str
    batch: int
    median_ms: float
    quartiles_ms: tuple[float, float]
    relative_to_dense: float
    runs: int


class SparseLinear(nn.Module):
    """A linear layer whose weight is stored as CSR."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that CSR is young
            self.weight = linear.weight.detach().to_sparse_csr()
        bias = cast("Tensor | None", linear.bias)
        self.bias = None if bias is None else bias.detach()

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (…, in) to (…, out)."""
        rows = inputs.reshape(-1, inputs.shape[-1])
        product = (self.weight @ rows.T).T
        out = product if self.bias is None else product + self.bias
        return out.reshape(*inputs.shape[:-1], -1)


@torch.no_grad()
def with_sparse_linears(model: nn.Module, inputs: Tensor) -> nn.Module:
    """A copy with its linear layers as CSR. Convolutions have no sparse kernel in torch.

    Layers stay dense whose weight others read, as attention and the fused transformer layer do.

    Args:
        model: plain weights, in evaluation mode.
        inputs: an example, to see whether the network still runs.
    """
    model = copy.deepcopy(model)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear):
            path, _, last = name.rpartition(".")
            owner = model.get_submodule(path)
            setattr(owner, last, SparseLinear(module))
            try:
                model(inputs)
            except (AttributeError, NotImplementedError, RuntimeError, TypeError):
                setattr(owner, last, module)
    return model


def measure_latency(
    dense: Checkpoint, sparse: Checkpoint, images: Tensor, seconds: float
) -> list[Latency]:
    """Time the forms in turn, in random order, for about so many seconds in all.

    Args:
        dense: the network before pruning.
        sparse: the same network, pruned.
        images: at least as many as the largest batch, or they are repeated; (N, C, H, W).
        seconds: the budget.

    Raises:
        ArithmeticError: a form gives other outputs than the network that it stands for.
    """
    plain = folded(sparse)
    forms = {
        "dense": folded(dense),
        "sparse, zeros stored": plain,
        "sparse, linear layers as CSR": with_sparse_linears(plain, images[:1]),
    }
    rows = []
    with torch.no_grad():
        for batch in BATCHES:
            inputs = images[torch.arange(batch) % len(images)]
            _check(forms, plain, inputs)
            times = time_in_turn(forms, inputs, seconds / len(BATCHES))
            reference = statistics.median(times["dense"])
            for form, values in times.items():
                lower, middle, upper = (1e3 * value for value in statistics.quantiles(values, n=4))
                rows.append(
                    Latency(
                        form=form,
                        batch=batch,
                        median_ms=middle,
                        quartiles_ms=(lower, upper),
                        relative_to_dense=middle / 1e3 / reference,
                        runs=len(values),
                    )
                )
    return rows


def _check(forms: dict[str, nn.Module], plain: nn.Module, inputs: Tensor) -> None:
    expected = plain(inputs)
    for form, model in forms.items():
        if form != "dense" and not torch.allclose(model(inputs), expected, rtol=1e-3, atol=1e-4):
            raise ArithmeticError(f"{form} does not compute what the sparse network computes")


def time_in_turn(
    forms: Mapping[str, Callable[[Tensor], object]], inputs: Tensor, seconds: float
) -> dict[str, list[float]]:
    """Seconds of every call, by form: one of each in random order, again and again, for so long."""
    times: dict[str, list[float]] = {form: [] for form in forms}
    shuffle, order = random.Random(0), list(forms)  # noqa: S311
    for model in forms.values():
        model(inputs)  # memory and thread pools
    ends = time.perf_counter() + seconds
    while time.perf_counter() < ends or len(times[order[0]]) < 3:
        shuffle.shuffle(order)
        for form in order:
            began = time.perf_counter()
            forms[form](inputs)
            times[form].append(time.perf_counter() - began)
    return times


def compression_metrics(
    dense: Checkpoint, sparse: Checkpoint, images: Tensor, seconds: float
) -> dict[str, Any]:
    """``metrics/compression.json``: what sparsity bought one network.

    Args:
        dense: the network before pruning.
        sparse: the same network, pruned.
        images: to time inference with, (N, C, H, W).
        seconds: for how long it is timed.
    """
    plain, packed = file_sizes(sparse)
    total, kept = multiply_adds(sparse)
    rows = measure_latency(dense, sparse, images, seconds)
    return {
        "layers": [asdict(layer) for layer in layer_sizes(sparse)],
        "bytes": {
            "dense": plain.raw,
            "sparse": packed.raw,
            "dense_compressed": plain.compressed,
            "sparse_compressed": packed.compressed,
        },
        "multiply_adds": {"dense": total, "sparse": kept},
        "latency": {
            "threads": torch.get_num_threads(),
            "rows": [{**asdict(row), "quartiles_ms": list(row.quartiles_ms)} for row in rows],
        },
    }
