"""What a sparse network costs to keep and to run: bytes, latency and throughput of every form.

    python benchmarks/inference.py                        # about two minutes
    python benchmarks/inference.py --seconds 5 --cases classifier-95
    python benchmarks/inference.py --docs docs/export.md  # and put the tables there

The networks are freshly initialised and pruned by magnitude: speed and bytes do not depend on what
they have learned (compressed bytes do a little). All forms of a network run in one process, one
call each in turn, in a new random order every round, so that whatever else the machine does falls
on all of them. Times are medians with quartiles.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import zlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch import Tensor

from sparse_sam.export import (
    BATCHES,
    INPUT,
    FromPixels,
    folded,
    narrow,
    onnx_session,
    save_dense,
    save_onnx,
    save_sparse,
    time_in_turn,
    with_sparse_linears,
)
from sparse_sam.networks import build_model
from sparse_sam.pruning import Masks, attach, magnitude_masks
from sparse_sam.training import Checkpoint, Origin

SHAPE = (1, 28, 28)
BEGIN = "<!-- benchmark: written by `make bench-inference` -->"
END = "<!-- end of benchmark -->"


@dataclass(frozen=True)
class Case:
    """A network and how it is pruned."""

    model: str
    sparsity: float
    channels: bool = False

    def __str__(self) -> str:
        what = "of channels" if self.channels else "of weights"
        return f"{self.model}, {self.sparsity:.0%} {what}"


CASES = {
    "classifier-95": Case("classifier", 0.95),
    "classifier-channels": Case("classifier", 0.5, channels=True),
    "lenet-300-100-95": Case("lenet-300-100", 0.95),
}


def make(case: Case) -> tuple[Checkpoint, Checkpoint]:
    """The network before and after pruning."""
    torch.manual_seed(0)
    model = build_model(case.model, SHAPE, 10)
    origin = Origin(case.model, SHAPE, tuple("0123456789"), (0.13,), (0.31,), "none", "dense", 0)
    dense = Checkpoint.of(model, origin)
    attach(
        model,
        channel_masks(model, case.sparsity)
        if case.channels
        else magnitude_masks(model, case.sparsity),
    )
    return dense, Checkpoint.of(model, replace(origin, arm="pruned"))


def channel_masks(model: torch.nn.Module, sparsity: float) -> Masks:
    """Masks of the output channels with the smallest norms, of every layer but the last."""
    masks = {}
    names = [name for name, one in model.named_parameters() if one.dim() > 1]
    for name in names[:-1]:
        weight = model.get_parameter(name).detach()
        norms = weight.flatten(1).norm(dim=1)
        kept = norms >= norms.quantile(sparsity)
        masks[name] = kept.view(-1, *[1] * (weight.dim() - 1)).expand_as(weight).clone()
    return Masks(masks)


@dataclass(frozen=True)
class Line:
    """A form of a network at one batch size."""

    case: str
    form: str
    batch: int
    median_ms: float
    quartiles_ms: tuple[float, float]
    images_a_second: float
    relative: float
    runs: int


def measure(case: Case, seconds: float, folder: Path) -> tuple[list[Line], dict[str, Any]]:
    """Times of all forms of a network in turn, and the bytes of its files."""
    dense, sparse = make(case)
    plain, narrowed = folded(sparse), narrow(folded(sparse), SHAPE)
    networks = {"dense": folded(dense), "sparse": plain, "narrow": narrowed.model}
    for name, network in networks.items():
        save_dense(folder / f"{name}.safetensors", network, dense.origin)
        save_onnx(folder / f"{name}.onnx", FromPixels(network, 0.13, 0.31), SHAPE)
    save_sparse(folder / "packed.safetensors", sparse)
    threads = torch.get_num_threads()
    runtime = {name: onnx_session(folder / f"{name}.onnx", threads) for name in ("dense", "narrow")}
    lines = []
    for batch in BATCHES:
        pixels = torch.randint(0, 256, (batch, *SHAPE)).to(torch.uint8)
        wrapped = {
            "PyTorch, dense": networks["dense"],
            "PyTorch, sparse with zeros stored": plain,
            "PyTorch, linear layers as CSR": with_sparse_linears(plain, torch.zeros(1, *SHAPE)),
        }
        if narrowed.removed:
            wrapped["PyTorch, channels removed"] = narrowed.model
        forms: dict[str, Any] = {
            form: FromPixels(network, 0.13, 0.31) for form, network in wrapped.items()
        }
        forms["ONNX Runtime, dense"] = caller(runtime["dense"])
        what = "channels removed" if narrowed.removed else "sparse with zeros stored"
        forms[f"ONNX Runtime, {what}"] = caller(runtime["narrow"])
        with torch.no_grad():
            check(forms, pixels)
            times = time_in_turn(forms, pixels, seconds / len(BATCHES))
        reference = statistics.median(times["PyTorch, dense"])
        for form, values in times.items():
            lower, middle, upper = statistics.quantiles(values, n=4)
            quartiles = (1e3 * lower, 1e3 * upper)
            lines.append(
                Line(
                    str(case),
                    form,
                    batch,
                    1e3 * middle,
                    quartiles,
                    batch / middle,
                    middle / reference,
                    len(values),
                )
            )
    sizes = {path.name: size(path) for path in sorted(folder.iterdir())}
    return lines, {"case": str(case), "removed": narrowed.removed, "files": sizes}


def check(forms: dict[str, Any], pixels: Tensor) -> None:
    """What is timed as one network must compute one function."""
    pruned = [form for form in forms if not form.endswith(", dense")]
    expected = forms[pruned[0]](pixels)[1]
    for form in pruned[1:]:
        found = torch.as_tensor(forms[form](pixels)[1])
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def caller(session: Any) -> Any:
    """ONNX Runtime as a function of the same tensor."""

    def call(pixels: Tensor) -> Any:
        return session.run(None, {INPUT: pixels.numpy()})

    return call


def size(path: Path) -> tuple[int, int]:
    """Bytes of a file, as it is and through zlib."""
    content = path.read_bytes()
    return len(content), len(zlib.compress(content))


def markdown(lines: list[Line], sizes: list[dict[str, Any]]) -> str:
    """The numbers as two tables."""
    table = [
        "| network | form | batch | ms (quartiles) | images a second | × PyTorch, dense |",
        "|---|---|---|---|---|---|",
    ]
    for line in lines:
        lower, upper = line.quartiles_ms
        table.append(
            f"| {line.case} | {line.form} | {line.batch} | {line.median_ms:.3g} "
            f"({lower:.3g}–{upper:.3g}) | {line.images_a_second:,.0f} | {line.relative:.2f} |"
        )
    table += ["", "| network | file | bytes | compressed | of dense |", "|---|---|---|---|---|"]
    for one in sizes:
        full = one["files"]["dense.safetensors"][0]
        names = {
            "dense.safetensors": "dense, before pruning",
            "sparse.safetensors": "`dense.safetensors`",
            "packed.safetensors": "`sparse.safetensors`",
            "narrow.safetensors": "`narrow.safetensors`",
            "narrow.onnx": "`model.onnx`",
        }
        for file, name in names.items():
            if file == "narrow.safetensors" and not one["removed"]:
                continue
            raw, compressed = one["files"][file]
            table.append(
                f"| {one['case']} | {name} | {raw:,} | {compressed:,} | {raw / full:.1%} |"
            )
    return "\n".join(table)


def machine() -> str:
    """Where it was measured."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].partition(":")[2].strip() if names else cpu
    return (
        f"{cpu}, {torch.get_num_threads()} threads, torch {torch.__version__}, ONNX Runtime "
        f"{onnxruntime.__version__}, Python {platform.python_version()}"
    )


def main() -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--seconds", type=float, default=30, help="for every network")
    parser.add_argument("--json", type=Path, help="where to write the numbers too")
    parser.add_argument("--docs", type=Path, help="a page with a place for the tables")
    arguments = parser.parse_args()
    before = [round(load, 2) for load in os.getloadavg()]
    lines, sizes = [], []
    for name in arguments.cases:
        with tempfile.TemporaryDirectory() as folder:
            timed, kept = measure(CASES[name], arguments.seconds, Path(folder))
        lines += timed
        sizes.append(kept)
    after = [round(load, 2) for load in os.getloadavg()]
    table = f"{markdown(lines, sizes)}\n\n{machine()}; load before {before}, after {after}.\n"
    sys.stdout.write(table)
    if arguments.docs:
        page = arguments.docs.read_text(encoding="utf-8")
        head, _, rest = page.partition(BEGIN)
        _, _, tail = rest.partition(END)
        text = f"{head}{BEGIN}\n\n{table}\n{END}{tail}"
        arguments.docs.write_text(text, encoding="utf-8")
    if arguments.json:
        content = {
            "machine": machine(),
            "load": [before, after],
            "sizes": sizes,
            "lines": [asdict(line) for line in lines],
        }
        arguments.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
