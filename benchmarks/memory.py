"""A data set of four times the memory that a process may have, through ``download`` and training.

    python benchmarks/memory.py               # about five minutes, and 7 GiB of disk

Every process of a stage runs under a limit of the kernel's, RLIMIT_DATA: it counts private memory
that can be written to, from when it is asked for, used or not, libraries' included, and asking for
more fails. Pages of mapped files are not counted, and rightly: they are the page cache, which the
system drops as soon as anybody needs the room, and reads again. (``ulimit -m`` and ``ulimit -v``
will not do: the one does nothing in Linux, and the other counts the mapped file itself.)

The peak is of the private memory that is in use (RssAnon), of the stage's largest process, looked
at every few milliseconds. Beside it stands that of a quarter of the data, which is trained on four
times, so that there are as many steps: the C library's heap keeps what was freed, with holes as
large as an evaluation's batches, and has a few of them only after some hundred steps.

Each stage must end well; and a process that reads the whole file into memory under the same limit
must not.
"""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
from digits import reference
from harness import Value, arguments_of, machine, report, value
from PIL import Image
from pipeline import environment, fresh, set_all

from sparse_sam.data import load_raw

MIB = 2**20
SIDE = 128
PICTURE = 3 * SIDE * SIDE
"""Bytes of a picture."""

OWN = {
    "own_network.py": """
from torch import nn


def pooled(image_shape, num_classes):
    return nn.Sequential(nn.AvgPool2d(16), nn.Flatten(), nn.Linear(3 * 64, num_classes))
""",
    "own_data.py": """
from torchvision.datasets import ImageFolder


def folder(params):
    return ImageFolder(params.folder)
""",
}
ALWAYS = {
    "seeds": [0],
    "model.name": "own_network:pooled",
    "evaluate.latency_seconds": 0.0,
}
SOURCES = {"image-folder": "pictures", "npz": "all.npz", "own_data:folder": "pictures"}


def write_pictures(root: Path, count: int) -> None:
    """Genuine digits, enlarged, as JPEG in a folder a class, and the same pixels as an .npz."""
    raw = load_raw(reference().data)
    images, labels = raw.train_images[:, 0], raw.train_labels
    pixels = np.lib.format.open_memmap(root / "x_train.npy", "w+", np.uint8, (count, SIDE, SIDE, 3))
    chosen = np.arange(count) % len(labels)
    for place, index in enumerate(chosen):
        folder = root / "pictures" / str(labels[index])
        folder.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(images[index]).resize((SIDE, SIDE)).convert("RGB")
        picture.save(folder / f"{place:06}.jpg")
        pixels[place] = np.asarray(picture)
    np.savez(root / "all.npz", x_train=pixels, y_train=labels[chosen])
    (root / "x_train.npy").unlink()


def private(process: psutil.Process) -> int:
    """Bytes that only this process has, and that are in memory."""
    with suppress(OSError, psutil.Error):
        for line in Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("RssAnon:"):
                return 1024 * int(line.split()[1])
    return 0


def peak_of(clone: Path, allowed: int, module: str) -> float:
    """MiB of the largest process of a stage in the clone, under the limit.

    Raises:
        CalledProcessError: it did not end well; what it said was shown.
    """
    command = [sys.executable, "-m", module]
    shutil.rmtree(clone / ".sparse-sam", ignore_errors=True)  # where what was trained is kept
    said = clone / "said.txt"
    with said.open("w", encoding="utf-8") as output:
        process = psutil.Popen(
            command,
            cwd=clone,
            env=environment(clone) | {"SPARSE_SAM_PUBLISH": "later", "OMP_NUM_THREADS": "1"},
            stdout=output,
            stderr=output,
        )
    # Its children have it from it.
    resource.prlimit(process.pid, resource.RLIMIT_DATA, (allowed, allowed))
    peak = 0
    while process.poll() is None:
        with suppress(psutil.Error):
            peak = max([peak, private(process), *map(private, process.children(recursive=True))])
        time.sleep(0.004)
    if process.returncode:
        sys.stderr.write(said.read_text(encoding="utf-8"))
        raise subprocess.CalledProcessError(process.returncode, command)
    return peak / MIB


def check_limit(clone: Path, allowed: int) -> None:
    """Raise RuntimeError if the whole data set can be read into memory under the limit."""
    code = "from pathlib import Path; Path('data/dataset.safetensors').read_bytes()"
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen([sys.executable, "-c", code], cwd=clone, stderr=output)
        resource.prlimit(process.pid, resource.RLIMIT_DATA, (allowed, allowed))
        process.wait()
        output.seek(0)
        if "MemoryError" not in output.read():
            raise RuntimeError("a process can read the whole data set under the limit")


def peaks(folder: Path, clone: Path, allowed: int, count: int, epochs: int) -> dict[str, float]:
    """MiB of every stage and source, for so many pictures."""
    write_pictures(folder, count)
    found: dict[str, float] = {}
    for source, of in SOURCES.items():
        where = {"data.source": source, "data.folder": str(folder / of)}
        set_all(clone, where | {"train_dense.epochs": epochs})
        found[f"download, {source}"] = peak_of(clone, allowed, "stages.download")
        if source == "image-folder":
            found["train_dense"] = peak_of(clone, allowed, "stages.train_dense")
    return found


def measure(*, quick: bool) -> list[Value]:
    """Peaks for four times the limit, for a quarter of that, and how they compare."""
    allowed = 512 * MIB
    whole = 4 * allowed // PICTURE + 1
    counts = {"a quarter of it": whole // 4, "four times the limit": whole}
    if quick:
        counts = {name: count // 16 for name, count in counts.items()}
    values = [value("allowed, a process", "MiB", [allowed / MIB], "neither")]
    found = {}
    with tempfile.TemporaryDirectory() as name:
        clone = fresh(Path(name), ALWAYS)
        for file, code in OWN.items():
            (clone / file).write_text(code, encoding="utf-8")
        for (size, count), epochs in zip(counts.items(), (4, 1), strict=True):
            folder = Path(name) / size.replace(" ", "-")
            folder.mkdir()
            found[size] = peaks(folder, clone, allowed, count, epochs)
            what = f"data set, {size}"
            values.append(value(what, "MiB", [count * PICTURE / MIB], "neither"))
        if not quick:
            check_limit(clone, allowed)
    small, large = found.values()
    for stage in large:
        for size, by_stage in found.items():
            values.append(value(f"{stage}: peak, {size}", "MiB", [by_stage[stage]]))
        growing = large[stage] / small[stage]
        values.append(value(f"{stage}: four times the limit / a quarter of it", "×", [growing]))
    return values


def main() -> None:
    """Measure and report."""
    arguments = arguments_of(__doc__).parse_args()
    if not os.access("/proc/self/status", os.R_OK):
        sys.exit("error: this needs Linux, which says how much of a process is private memory")
    where = machine()
    report("memory", measure(quick=arguments.quick), where, arguments)


if __name__ == "__main__":
    main()
