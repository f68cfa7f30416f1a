"""The whole protocol through DVC and MLflow, against processes without them.

    python benchmarks/pipeline.py             # about fifteen minutes: one seed
    python benchmarks/pipeline.py --seeds 5   # about fifteen minutes: what params.yaml has

In turn, every process start included:

- ``dvc repro`` in a fresh clone: nothing cached, a new MLflow store, every stage and the report;
- the same up to the finetuned networks, which is as far as a plain script goes (``prune`` and the
  stages before it too);
- ``peers/bare.py``: this library's arithmetic in one process, with and without flatness;
- ``peers/plain_script.py``: the protocol with ``DataLoader``, ``torch.nn.utils.prune`` and
  ``pytorch_optimizer.SAM``.

Of several seeds only ``dvc repro`` and the bare process with flatness are measured.

The clone is of the commit that is checked out; what is not committed is not measured.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from harness import ROOT, Value, arguments_of, in_turn, machine, ratios, report, value
from ruamel.yaml import YAML

PEERS = Path(__file__).resolve().parent / "peers"
FOREIGN = ("MLFLOW_", "DVC_", "SPARSE_SAM_", "GIT_", "PYTHONPATH")
"""Variables that must not reach the runs from whoever measures."""

QUICK = {"data.fraction": 0.1, "train_dense.epochs": 1, "finetune.training.epochs": 1}
ALWAYS = {"evaluate.latency_seconds": 0.0}


def environment(clone: Path) -> dict[str, str]:
    """What a process in the clone sees."""
    kept = {name: one for name, one in os.environ.items() if not name.startswith(FOREIGN)}
    return kept | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONPATH": str(clone / "src"),
    }


def fresh(folder: Path, changes: Mapping[str, object], revision: str = "HEAD") -> Path:
    """A clone of a revision with these parameters, and with no results."""
    clone = folder / "clone"
    shutil.rmtree(clone, ignore_errors=True)
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    subprocess.run(["git", "checkout", "-q", "--detach", revision], cwd=clone, check=True)
    for name in ("dvc.lock", "inputs", "metrics", "plots"):
        path = clone / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    set_all(clone, changes)
    return clone


def set_all(clone: Path, changes: Mapping[str, object]) -> None:
    """Change parameters by their dotted names."""
    yaml = YAML(typ="safe", pure=True)
    params = yaml.load(clone / "params.yaml")
    for key, new in changes.items():
        section = params
        *parents, last = key.split(".")
        for parent in parents:
            section = section[parent]
        section[last] = new
    yaml.dump(params, clone / "params.yaml")


def run(clone: Path, *command: str) -> None:
    """Run a command in the clone. Raises CalledProcessError, having shown what it said."""
    done = subprocess.run(
        command, cwd=clone, env=environment(clone), capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.stderr.write(done.stdout + done.stderr)
        done.check_returncode()


def cases_of(folder: Path, seeds: int, *, quick: bool) -> dict[str, Callable[[], None]]:
    """What runs in turn. A clone is made anew for every run of DVC, and is no part of its time."""
    # One seed alone has all cores, as the plain script has.
    threads = 1 if seeds > 1 else torch.get_num_threads()
    changes = {
        "seeds": list(range(seeds)),
        "threads": threads,
        **ALWAYS,
        **(QUICK if quick else {}),
    }
    steady = fresh(folder, changes).rename(folder / "steady")
    plain = [sys.executable, str(PEERS / "plain_script.py")]
    if quick:
        plain += ["--epochs", "1", "--finetune-epochs", "1", "--share", "0.1"]
    bare = [sys.executable, str(PEERS / "bare.py"), "--params", str(steady / "params.yaml")]
    targets = ["finetune_sgd", "finetune_sam"]
    clones = [fresh(folder, changes).rename(folder / name) for name in ("whole", "part")]

    def repro(clone: Path, *stages: str) -> None:
        run(clone, "dvc", "repro", *stages)

    cases = {
        "dvc repro": lambda: repro(clones[0]),
        "bare process": lambda: run(steady, *bare, "--evaluation"),
    }
    if seeds > 1:
        return cases
    return cases | {
        "dvc repro, up to the finetuned networks": lambda: repro(clones[1], *targets),
        "bare process, without flatness": lambda: run(steady, *bare),
        "plain script": lambda: run(steady, *plain),
    }


def measure(*, seeds: int, quick: bool, rounds: int) -> list[Value]:
    """Seconds of each, and the ratios that matter."""
    seconds: dict[str, list[float]] = {}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            found = in_turn(cases_of(Path(folder), seeds, quick=quick), rounds=1, warm_up=0)
        for name, times in found.items():
            seconds.setdefault(name, []).extend(times)
    pairs = [
        ("dvc repro", "bare process"),
        ("dvc repro", "plain script"),
        ("dvc repro, up to the finetuned networks", "plain script"),
        ("bare process, without flatness", "plain script"),
    ]
    return [value(name, "s", times) for name, times in seconds.items()] + [
        value(f"{one} / {other}", "×", ratios(seconds[one], seconds[other]))
        for one, other in pairs
        if one in seconds and other in seconds
    ]


def main() -> None:
    """Measure and report."""
    parser = arguments_of(__doc__)
    parser.add_argument("--seeds", type=int, default=1, help="how many")
    parser.add_argument("--rounds", type=int, help="how often everything runs")
    arguments = parser.parse_args()
    where = machine()
    rounds = arguments.rounds or (1 if arguments.quick else 5)
    values = measure(seeds=arguments.seeds, quick=arguments.quick, rounds=rounds)
    report("pipeline" if arguments.seeds == 1 else "pipeline_seeds", values, where, arguments)


if __name__ == "__main__":
    main()
