"""An epoch of a ResNet-20 with padded crops and flips: ours against a plain PyTorch loop.

    python benchmarks/epoch.py                # about a minute, and four where others work

The plain loop (``peers/plain_epoch.py``) takes its images from ``DataLoader`` with torchvision's
transforms; ours are in memory, and augmented by the batch. Each runs in a process of its own, with
one thread, as trainings have by default, and trains an epoch in its turn. The network is the same.
Ours has its channels side by side in memory, as ``lenet-5`` has; once more it is laid out as torch
does it. Two workers load what the plain loop takes on cores that it does not train on. Besides:
what a batch of 128 costs us.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from harness import Value, arguments_of, in_turn, machine, ratios, report, value
from torch.nn.functional import one_hot

PEERS = Path(__file__).resolve().parent / "peers"
sys.path.insert(0, str(PEERS))
BATCH = 128


def training_of(count: int) -> tuple[Any, Any]:
    """Data and recipe, as the plain loop has them."""
    import plain_epoch

    from sparse_sam.data import DataInfo, Scale, Split, TrainingData
    from sparse_sam.training import TrainingParams

    images = plain_epoch.Images(count)
    pixels = torch.from_numpy(images.images).permute(0, 3, 1, 2).contiguous()
    labels = torch.tensor(images.labels)
    counts = {"train": one_hot(labels, 10).sum(0).tolist()}
    mean, std = tuple(plain_epoch.MEAN), tuple(plain_epoch.STD)
    info = DataInfo("made-up", "", (3, 32, 32), tuple("0123456789"), mean, std, counts, {})
    data = TrainingData(Split(pixels, labels, Scale.of(mean, std)), None, info)
    recipe = TrainingParams(
        epochs=1,
        batch_size=BATCH,
        base_optimizer="sgd",
        lr=0.1,
        momentum=0.9,
        weight_decay=5e-4,
        schedule="constant",
        warmup_epochs=0.0,
        clip_norm=None,
        label_smoothing=0.0,
        shift_pixels=4,
        flip=True,
        cutout_pixels=0,
        precision="float32",
    )
    return data, recipe


def serve(count: int, *, side_by_side: bool) -> None:
    """Train an epoch for every line that comes, as the peer does."""
    import plain_epoch

    from sparse_sam.training import make_base, select_device, train

    select_device("cpu")
    data, recipe = training_of(count)
    torch.manual_seed(0)
    for _ in sys.stdin:
        model = plain_epoch.resnet20()
        if side_by_side:
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = make_base(model, recipe)
        history = train(model, optimizer, data, recipe, seed=0, purpose="benchmark")
        sys.stdout.write(f"{history[-1].train_loss}\n")
        sys.stdout.flush()


@contextmanager
def beside(*command: str) -> Iterator[Callable[[], None]]:
    """A process that trains an epoch whenever it is asked to."""
    process = subprocess.Popen(
        [sys.executable, *command],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def epoch() -> None:
        process.stdin.write("again\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
        if not process.stdout.readline():  # type: ignore[union-attr]
            raise RuntimeError(f"{' '.join(command)} ended with {process.wait()}")

    with process:
        try:
            yield epoch
        finally:
            process.kill()


def milliseconds(work: Callable[[], Any], times: int) -> list[float]:
    """Of every one of so many calls."""
    found = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        found.append(1e3 * (time.perf_counter() - started))
    return found


def batches_of(count: int, times: int) -> list[Value]:
    """What it costs to put a batch together."""
    from sparse_sam.data import Augmentation

    (data, _), values = training_of(count), []
    images, places = data.train.images, torch.randperm(count)[:BATCH]
    for name, pixels, flip, side in (
        ("as it is", 0, False, 0),
        ("cropped and flipped", 4, True, 0),
        ("cropped, flipped and cut out", 4, True, 16),
    ):
        augmented = Augmentation(
            images,
            0.0,
            shift_pixels=pixels,
            flip=flip,
            cutout_pixels=side,
            seed=0,
            purpose=("benchmark", 1),
        )
        spent = milliseconds(lambda of=augmented: of(images[places], places), times)
        values.append(value(f"a batch of {BATCH}, {name}", "ms", spent[3:]))
    return values


def measure(*, quick: bool) -> list[Value]:
    """Seconds an epoch, and the ratios."""
    count, rounds = (128, 2) if quick else (640, 9)
    ours = [__file__, f"--serve={count}"]
    peer = [str(PEERS / "plain_epoch.py"), f"--images={count}"]
    commands = {"ours": ours, "plain loop": peer}
    if not quick:
        commands["plain loop, 2 workers"] = [*peer, "--workers=2"]
        commands["ours, in torch's layout"] = [*ours, "--torchs-layout"]
    with ExitStack() as stack:
        cases = {name: stack.enter_context(beside(*one)) for name, one in commands.items()}
        seconds = in_turn(cases, rounds)
    compared = [("ours", "plain loop"), ("ours", "plain loop, 2 workers")]
    compared.append(("ours, in torch's layout", "plain loop"))
    return [
        *(value(f"{name}: an epoch of {count} images", "s", of) for name, of in seconds.items()),
        *(
            value(f"{one} / {other}", "×", ratios(seconds[one], seconds[other]))
            for one, other in compared
            if {one, other} <= seconds.keys()
        ),
        *batches_of(count, 10 if quick else 200),
    ]


def main() -> None:
    """Measure and report; with ``--serve`` be the process that is measured."""
    parser = arguments_of(__doc__)
    parser.add_argument("--serve", type=int, metavar="IMAGES")
    parser.add_argument("--torchs-layout", action="store_true")
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve, side_by_side=not arguments.torchs_layout)
        return
    torch.set_num_threads(1)
    where = machine()
    report("epoch", measure(quick=arguments.quick), where, arguments)


if __name__ == "__main__":
    main()
