"""Does today's code still compute what the studies publish? A part of each anew, digit by digit.

    python -m studies.recheck --folder FOLDER    # of the four idx files of MNIST; ten minutes

Whole studies take hours, so what code and parameters they were computed with stands in their
``dvc.lock`` (`make study-status`), and this says whether the code of now still gives the numbers:
of the notebook's faults all rows of one seed, of the LeNets one row, of the regimes one cell of
each network. Exit code 1 if a digit differs; on another kind of processor the last ones do.
"""

import argparse
import csv
import json
import os
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from sparse_sam.data import DataParams, read_data
from sparse_sam.errors import SparseSamError
from sparse_sam.files import read_json
from sparse_sam.training import SGD_2X_ARM, on_threads, select_device

HERE = Path(__file__).parent
Pair = tuple[str, Any, Any]
"""What it is, as published, and as found."""


def notebook(folder: str | None) -> Iterator[Pair]:
    """All rows of the first seed, on the digits that need no download."""
    from studies.notebook import run

    del folder
    params = YAML(typ="safe", pure=True).load(run.HERE / "params.yaml")
    published = read_json(run.results("mnist-sample"))
    training, test = read_data(DataParams(**params["datasets"]["mnist-sample"]))
    seed = published["seeds"][0]
    found = run.run_seed(params, training, test, seed, lambda _: None)
    rows = [row for row in published["rows"] if row["seed"] == seed]
    for one, other in zip(rows, found, strict=True):
        yield f"notebook, {one['variant']}, sparsity {one['sparsity']}, seed {seed}", one, other


def lenet(folder: str | None) -> Iterator[Pair]:
    """LeNet-300-100 at the first compression: SGD with the first seed."""
    from studies.lenet import run

    params = YAML(typ="safe", pure=True).load(run.HERE / "params.yaml")
    if folder:
        params["data"] |= {"source": "idx", "folder": folder}
    network = "lenet-300-100"
    params["seeds"] = params["seeds"][:1]
    params["networks"][network]["compressions"] = params["networks"][network]["compressions"][:1]
    chosen = run.best(read_json(run.results("choose", network))["tried"], SGD_2X_ARM)
    data, test = run.load_data(params["data"], 0)
    (found,) = run.measure(params, network, data, test.test, [chosen], lambda _: None)
    (published,) = [
        row
        for row in read_json(run.results("measure", network))["rows"]
        if all(row[key] == found[key] for key in ("arm", "compression", "seed"))
    ]
    yield (
        f"{network}, {SGD_2X_ARM}, {found['compression']} ×, seed {found['seed']}",
        published,
        found,
    )


def regimes(folder: str | None) -> Iterator[Pair]:
    """A reported cell of each network, drawn anew every time."""
    from sparse_sam.sweep import load_sweep, reproduce

    for network in ("lenet-300-100", "classifier"):
        with (HERE / "regimes" / "results" / f"{network}.csv").open(newline="") as file:
            reported = [row for row in csv.DictReader(file) if row["purpose"] == "report"]
        row = random.choice(reported)  # noqa: S311
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary) / "sweep.yaml"
            declared = YAML(typ="safe", pure=True).load(HERE / "regimes" / f"{network}.yaml")
            if folder and declared["base"]["data"]["source"] == "mnist":
                declared["base"]["data"] |= {"source": "idx", "folder": folder}
            YAML(typ="safe", pure=True).dump(declared, path)
            again = json.loads(reproduce(load_sweep(path), row["cell"]))
        measured = {key: float(row[key]) for key in ("test_accuracy", "test_loss", "sharpness")}
        yield f"{network}, cell {row['cell']}", measured, {key: again[key] for key in measured}


STUDIES: Mapping[str, Callable[[str | None], Iterator[Pair]]] = {
    "notebook": notebook,
    "lenet": lenet,
    "regimes": regimes,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Compute and compare; 0 if every digit is the same."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("studies", nargs="*", metavar="study", help=", ".join(STUDIES))
    parser.add_argument("--folder", help="four idx files to read instead of downloading")
    asked = parser.parse_args(arguments)
    unknown = [name for name in asked.studies if name not in STUDIES]
    if unknown:
        parser.error(f"there is no study {unknown[0]}; allowed: {', '.join(STUDIES)}")
    others = 0
    select_device("cpu")
    try:
        with on_threads(1), tempfile.TemporaryDirectory() as empty:
            os.environ["SPARSE_SAM_STORE"] = empty  # computed, and not taken
            for study in asked.studies or STUDIES:
                for name, published, found in STUDIES[study](asked.folder):
                    same = published == found
                    others += not same
                    said = "the same" if same else f"published {published}, found {found}"
                    sys.stdout.write(f"{name}: {said}\n")
                    sys.stdout.flush()
    except SparseSamError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(f"{others} differ\n" if others else "all the same\n")
    return 1 if others else 0


if __name__ == "__main__":
    sys.exit(main())
