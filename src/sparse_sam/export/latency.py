"""How long inference takes on this machine, dense and with the zeros left out."""

import copy
import random
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from sparse_sam.errors import SparseSamError
from sparse_sam.export.compression import (
    count_multiply_adds,
    file_sizes,
    file_sizes_seconds,
    folded,
    layer_sizes,
)
from sparse_sam.files import NotMeasured
from sparse_sam.training import Checkpoint, check_budget, measured, seconds_of

BATCHES = (1, 256)
DENSE, STORED, CSR = "dense", "sparse, zeros stored", "sparse, linear layers as CSR"
KEY = "evaluate.budget_seconds"

_ROUNDS = 3
"""How often every form is timed at least: fewer have no quartiles."""
_PIECE = 16
"""Images of a piece, where the whole is a large batch."""


@dataclass(frozen=True)
class Latency:
    """One form of a network at one batch size. Times of a forward pass, in milliseconds."""

    form: str
    batch: int
    median_ms: float
    quartiles_ms: tuple[float, float]
    relative_to_dense: float
    runs: int

    def as_json(self) -> dict[str, Any]:
        """A row of ``metrics/compression.json``."""
        return {**asdict(self), "quartiles_ms": list(self.quartiles_ms)}


@dataclass(frozen=True)
class Untimed:
    """A form that could not be timed at a batch size, and why."""

    form: str
    batch: int
    gap: NotMeasured

    def as_json(self) -> dict[str, Any]:
        """A row of ``metrics/compression.json``."""
        return {"form": self.form, "batch": self.batch, **self.gap.as_json()}


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

    A layer stays dense where the network cannot do with a sparse one, or gives something else with
    it: where others read its weight, as attention and the fused transformer layer do, or where it
    is of a type for which torch has no sparse product.

    Args:
        model: plain weights, in evaluation mode.
        inputs: an example, to see whether the network still runs.
    """
    model = copy.deepcopy(model)
    expected = model(inputs)
    layers = [name for name, one in model.named_modules() if name and type(one) is nn.Linear]
    before = {name: model.get_submodule(name) for name in layers}

    def all_work(names: list[str]) -> bool:
        """Whether layers can be sparse, all together; otherwise they stay as they were."""
        # A network may say as it likes that it cannot do with them.
        with suppress(Exception):
            for name in names:
                model.set_submodule(name, SparseLinear(cast("nn.Linear", before[name])))
            if _agree(model(inputs), expected):
                return True
        for name in names:
            model.set_submodule(name, before[name])
        return False

    if not all_work(layers):
        for name in layers:
            all_work([name])
    return model


def measure_latency(
    dense: Checkpoint,
    sparse: Checkpoint,
    images: Tensor,
    seconds: float,
    budget: float = float("inf"),
) -> list[Latency | Untimed]:
    """Time the forms in turn, in random order, for about so many seconds in all.

    A batch size at which the network cannot be timed has rows that say why, and so has a form that
    cannot be made, or gives other outputs than the network that it stands for.

    Args:
        dense: the network before pruning.
        sparse: the same network, pruned.
        images: at least as many as the largest batch, or they are repeated; (N, C, H, W).
        seconds: how long they are timed, and at least three rounds.
        budget: a batch size is left out for which three rounds would take longer, in seconds.
    """
    plain = folded(sparse)
    forms: dict[str, nn.Module] = {DENSE: folded(dense), STORED: plain}
    missing: dict[str, NotMeasured] = {}
    rows: list[Latency | Untimed] = []
    with torch.no_grad():
        for batch in BATCHES:
            inputs = images[torch.arange(batch) % len(images)]
            of = f"{batch} image{'s' * (batch > 1)} at a time"
            fits = measured(partial(_check_budget, plain, inputs, budget), of)
            if isinstance(fits, NotMeasured):
                rows += [Untimed(form, batch, fits) for form in (DENSE, STORED, CSR)]
                continue
            if not {CSR} & (forms.keys() | missing.keys()):
                made = measured(partial(_as_csr, plain, images[:1]))
                if isinstance(made, NotMeasured):
                    missing[CSR] = made
                else:
                    forms[CSR] = made
            found = measured(partial(_rows, forms, inputs, seconds / len(BATCHES)), of)
            if isinstance(found, NotMeasured):
                rows += [Untimed(form, batch, found) for form in (DENSE, STORED, CSR)]
            else:
                rows += found
                rows += [Untimed(form, batch, gap) for form, gap in missing.items()]
    return rows


def _as_csr(plain: nn.Module, inputs: Tensor) -> nn.Module:
    model = with_sparse_linears(plain, inputs)
    if not any(isinstance(module, SparseLinear) for module in model.modules()):
        raise SparseSamError("this network has no linear layer that can be stored as CSR")
    return model


def _check_budget(model: nn.Module, inputs: Tensor, budget: float) -> None:
    piece = inputs[:_PIECE]
    calls = 3 * (2 + _ROUNDS)  # of three forms: checked, warm, and timed
    if len(inputs) == BATCHES[0]:  # and to see which layers can be sparse, perhaps one by one
        calls += sum(isinstance(module, nn.Linear) for module in model.modules())
    check_budget(
        lambda: calls * len(inputs) / len(piece) * seconds_of(lambda: model(piece)),
        budget,
        f"{KEY}.latency",
        f"with {len(inputs)} image{'s' * (len(inputs) > 1)} at a time",
    )


def _rows(
    forms: Mapping[str, nn.Module], inputs: Tensor, seconds: float
) -> list[Latency | Untimed]:
    """A row of every form at one batch size. Raises what the networks before raise."""
    batch, expected = len(inputs), forms[STORED](inputs)
    sound, faults = dict(forms), list[Untimed]()
    for form in [form for form in forms if form != DENSE]:
        fault = measured(partial(_check, form, forms[form], inputs, expected))
        if isinstance(fault, NotMeasured):
            faults.append(Untimed(form, batch, fault))
            del sound[form]
    rows: list[Latency | Untimed] = []
    times = time_in_turn(sound, inputs, seconds)
    reference = statistics.median(times[DENSE])
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
    return rows + faults


def _check(form: str, model: nn.Module, inputs: Tensor, expected: Tensor) -> None:
    if not _agree(model(inputs), expected):
        raise ArithmeticError(f"{form} does not compute what the sparse network computes")


def _agree(found: Tensor, expected: Tensor) -> bool:
    """Whether outputs are the same but for the order of sums, by the largest of them."""
    scale = float(expected.abs().max())
    return found.shape == expected.shape and torch.allclose(
        found, expected, rtol=1e-3, atol=max(1e-4, 1e-3 * scale)
    )


def time_in_turn(
    forms: Mapping[str, Callable[[Tensor], object]], inputs: Tensor, seconds: float
) -> dict[str, list[float]]:
    """Seconds of every call, by form: one of each in random order, again and again, for so long."""
    times: dict[str, list[float]] = {form: [] for form in forms}
    shuffle, order = random.Random(0), list(forms)  # noqa: S311
    for model in forms.values():
        model(inputs)  # memory and thread pools
    ends = time.perf_counter() + seconds
    while time.perf_counter() < ends or len(times[order[0]]) < _ROUNDS:
        shuffle.shuffle(order)
        for form in order:
            began = time.perf_counter()
            forms[form](inputs)
            times[form].append(time.perf_counter() - began)
    return times


def compression_metrics(
    dense: Checkpoint,
    sparse: Checkpoint,
    images: Tensor,
    seconds: float,
    *,
    latency_budget: float,
    compression_budget: float,
) -> dict[str, Any]:
    """``metrics/compression.json``: what sparsity bought one network, as far as it can be measured.

    Args:
        dense: the network before pruning.
        sparse: the same network, pruned.
        images: to time inference with, (N, C, H, W).
        seconds: for how long it is timed.
        latency_budget: how long that may take at least, for each batch size, in seconds.
        compression_budget: how long files may be compressed, in seconds.
    """
    latency = partial(_latency, dense, sparse, images, seconds, latency_budget)
    return {
        "layers": [asdict(layer) for layer in layer_sizes(sparse)],
        "bytes": _or_gap(measured(partial(_bytes, sparse, compression_budget))),
        "multiply_adds": _or_gap(measured(partial(_multiply_adds, sparse))),
        "latency": _or_gap(measured(latency)),
    }


def _or_gap(found: dict[str, Any] | NotMeasured) -> dict[str, Any]:
    return found.as_json() if isinstance(found, NotMeasured) else found


def _bytes(sparse: Checkpoint, budget: float) -> dict[str, Any]:
    check_budget(lambda: file_sizes_seconds(sparse), budget, f"{KEY}.compression")
    plain, packed = file_sizes(sparse)
    return {
        "dense": plain.raw,
        "sparse": packed.raw,
        "dense_compressed": plain.compressed,
        "sparse_compressed": packed.compressed,
    }


def _multiply_adds(sparse: Checkpoint) -> dict[str, Any]:
    counted = count_multiply_adds(sparse)
    return {
        "dense": counted.total,
        "sparse": counted.kept,
        "left_out": list(counted.left_out),
    }


def _latency(
    dense: Checkpoint, sparse: Checkpoint, images: Tensor, seconds: float, budget: float
) -> dict[str, Any]:
    rows = measure_latency(dense, sparse, images, seconds, budget)
    return {"threads": torch.get_num_threads(), "rows": [row.as_json() for row in rows]}
