"""What caching costs and saves: this commit's pipeline against another's, in turn.

    python benchmarks/caching.py --against REVISION    # half an hour: three rounds of five seeds

In each round, in a random order, a fresh clone of either commit runs ``dvc repro`` with five seeds,
nothing cached; then either clone gets a comment into ``sam/gsam.py``, which the experiment does not
load, and ``dvc repro`` runs again; then a sixth seed.
"""

import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from harness import Value, arguments_of, in_turn, machine, ratios, report, value
from pipeline import ALWAYS, QUICK, fresh, run, set_all

STEPS = ("five seeds, from nothing", "again, after a comment", "a sixth seed")


def comment(clone: Path) -> None:
    """Say something in a file that nothing loads."""
    with (clone / "src" / "sparse_sam" / "sam" / "gsam.py").open("a") as file:
        file.write("\n# A remark.\n")


def repro(clone: Path) -> None:
    """Without the wait for MLflow, which is the same in both."""
    run(clone, sys.executable, "-m", "dvc", "repro")


def measure(revision: str, *, rounds: int, steps: int, quick: bool) -> list[Value]:
    """Seconds of the first steps, and ratios round by round."""
    changes: dict[str, object] = {"seeds": [0, 1, 2, 3, 4], **ALWAYS, **(QUICK if quick else {})}
    seconds: dict[str, list[float]] = {}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            clones = {
                name: fresh(Path(folder), changes, commit).rename(Path(folder) / name)
                for name, commit in (("this", "HEAD"), ("before", revision))
            }
            for step in STEPS[:steps]:
                cases: dict[str, Callable[[], None]] = {}
                for name, clone in clones.items():
                    if step == STEPS[1]:
                        comment(clone)
                    if step == STEPS[2]:
                        set_all(clone, {"seeds": [0, 1, 2, 3, 4, 5]})
                    cases[f"{step}: {name}"] = partial(repro, clone)
                for name, times in in_turn(cases, rounds=1, warm_up=0).items():
                    seconds.setdefault(name, []).extend(times)
    found = [value(name, "s", times) for name, times in seconds.items()]
    for step in STEPS[:steps]:
        pair = seconds[f"{step}: this"], seconds[f"{step}: before"]
        found.append(value(f"{step}: this / before", "×", ratios(*pair)))
    return found


def main() -> None:
    """Measure and report."""
    parser = arguments_of(__doc__)
    parser.add_argument("--against", required=True, help="the revision to compare with")
    parser.add_argument("--rounds", type=int, help="how often everything runs")
    parser.add_argument(
        "--steps", type=int, default=len(STEPS), help="only the first so many; 1: from nothing"
    )
    arguments = parser.parse_args()
    where = machine()
    rounds = arguments.rounds or (1 if arguments.quick else 3)
    values = measure(arguments.against, rounds=rounds, steps=arguments.steps, quick=arguments.quick)
    report("caching", values, where, arguments)


if __name__ == "__main__":
    main()
