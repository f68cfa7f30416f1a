"""Every stage on emulated machines: does it end, how long does it take, and are the bits the same?

    python benchmarks/machines.py --docs   # about five minutes; --cores and --seeds for others
    python benchmarks/machines.py --whole  # the experiment as params.yaml has it, on 16 cores

A machine of n cores is one on which ``SPARSE_SAM_CORES`` says so: as many trainings run side by
side, with as many threads each. On fewer real cores they take turns, so the times here say that
everything ends, and not how fast such a machine is. The clone is of the commit that is checked out.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from harness import ROOT, arguments_of, machine, write_between
from pipeline import QUICK, environment, fresh, run

STAGES = ("download", "train_dense", "prune", "finetune_sgd", "finetune_sam", "evaluate")
CORES, SEEDS = (1, 8, 16, 64), (2, 5)
"""What is measured unless ``--cores`` and ``--seeds`` say otherwise."""

LIMIT_SECONDS = 300
PAGE = ROOT / "docs" / "robustness.md"

Case = tuple[int, int, int]
"""Cores, threads of each training, seeds."""


def cases(all_cores: Sequence[int], all_seeds: Sequence[int]) -> Iterator[Case]:
    """One thread each on every machine; and as many as share out, where that is more."""
    for cores, seeds in product(all_cores, all_seeds):
        yield cores, 1, seeds
        if cores // seeds > 1:
            yield cores, cores // seeds, seeds


def timed(case: Case, folder: Path) -> tuple[list[float], dict[str, str]]:
    """Seconds of every stage, and the hashes of the networks. Raises TimeoutExpired."""
    from sparse_sam.files import file_hash

    cores, threads, seeds = case
    changes = {**QUICK, "model.name": "lenet-300-100", "threads": threads}
    changes |= {"seeds": list(range(seeds)), "evaluate.latency_seconds": 0.0}
    clone = fresh(folder, changes)
    seconds = []
    for stage in STAGES:
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", f"stages.{stage}"],
            cwd=clone,
            env={
                **{k: v for k, v in environment(clone).items() if k != "OMP_NUM_THREADS"},
                "SPARSE_SAM_CORES": str(cores),
                "SPARSE_SAM_PUBLISH": "later",
            },
            capture_output=True,
            text=True,
            timeout=LIMIT_SECONDS,
            check=False,
        )
        if done.returncode:
            sys.stderr.write(done.stderr)
            done.check_returncode()
        seconds.append(time.perf_counter() - began)
    networks = sorted((clone / "models").glob("*/*.safetensors"))
    return seconds, {path.relative_to(clone).as_posix(): file_hash(path) for path in networks}


def table(chosen: Iterable[Case]) -> str:
    """A row for every machine, in Markdown. Raises ValueError if a network has other bits."""
    lines = [
        f"| cores | threads each | seeds | {' | '.join(STAGES)} |",
        f"|---|---|---|{'---|' * len(STAGES)}",
    ]
    known: dict[tuple[str, int], str] = {}
    for case in chosen:
        with tempfile.TemporaryDirectory() as folder:
            seconds, hashes = timed(case, Path(folder))
        for name, digest in hashes.items():
            if known.setdefault((name, case[1]), digest) != digest:
                raise ValueError(f"{name} has other bits with {case[0]} cores, {case[2]} seeds")
        cells = [*map(str, case), *(f"{one:.1f}" for one in seconds)]
        lines.append(f"| {' | '.join(cells)} |")
        sys.stderr.write(lines[-1] + "\n")
    where = machine()
    said = (
        "Seconds of every stage, small (LeNet-300-100, 500 digits, an epoch), on machines that are "
        f"emulated on {where['cores']} cores.\nEvery network of a seed has the same bits in all "
        "rows of as many threads."
    )
    below = f"{where['device']}, torch {where['torch']}, Python {where['python']}."
    return "\n".join([said, "", *lines, "", below, ""])


def whole(cores: int = 16) -> str:
    """The experiment as committed, on one emulated machine, beside what is committed."""
    with tempfile.TemporaryDirectory() as folder:
        clone = fresh(Path(folder), {})
        run(clone, "env", f"SPARSE_SAM_CORES={cores}", "dvc", "repro")
        found = json.loads((clone / "metrics" / "evaluate.json").read_text())
    committed: dict[str, Any] = json.loads((ROOT / "metrics" / "evaluate.json").read_text())
    rows = [
        f"{arm}: {found[arm]['test_accuracy']['values']}, committed "
        f"{committed[arm]['test_accuracy']['values']}"
        for arm in committed
    ]
    same = all(found[arm]["test_accuracy"] == committed[arm]["test_accuracy"] for arm in committed)
    return "\n".join([*rows, f"{cores} cores: {'the same' if same else 'OTHER'} accuracies", ""])


def main() -> None:
    """Measure and report."""
    parser = arguments_of(__doc__)
    parser.add_argument("--whole", action="store_true", help="the whole experiment, on 16 cores")
    parser.add_argument("--cores", nargs="+", type=int, default=CORES)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    arguments = parser.parse_args()
    if arguments.whole:
        sys.stdout.write(whole())
        return
    if arguments.quick:
        arguments.cores, arguments.seeds = [16], [2]
    text = table(cases(arguments.cores, arguments.seeds))
    sys.stdout.write(text)
    if arguments.docs:
        write_between(PAGE, "machines", text)


if __name__ == "__main__":
    main()
