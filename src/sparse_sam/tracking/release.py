"""Export a finetuned network: dense, packed and ONNX files, each checked on the whole test set.

Without ``--arm`` and ``--seed`` it is the one with the best validation accuracy. With
``--register`` the export goes into MLflow's model registry, and ``champion`` moves to it if the
regression gate passes. No stage of the pipeline: nothing is trained, and no metric changes.
"""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

from sparse_sam.tracking.stages import MADE_BY

ARMS = ("sgd", "sgd_2x", "sam")
"""The arms that can be exported."""
EXAMPLES = 2


def make(arm: str | None, seed: int | None) -> tuple[Path, dict[str, Any]]:
    """Export what is named, else the best on validation images; give the folder and manifest."""
    from sparse_sam.config import load_params
    from sparse_sam.data import load_test_data
    from sparse_sam.export import export_network, select_best
    from sparse_sam.files import file_hash, read_json
    from sparse_sam.tracking.card import background
    from sparse_sam.tracking.paths import layout

    params = load_params(layout.params)
    metrics: dict[str, Any] = {}
    for stage in dict.fromkeys(map(MADE_BY.get, ARMS)) if arm is None or seed is None else ():
        cure = f"Run `dvc repro {stage}`, or name a network: make export ARM=… SEED=…"
        found = read_json(layout.metrics(str(stage)), cure)
        metrics |= {one: found[one] for one in ARMS if one in found}
    arm, seed = select_best(metrics, params.seeds, arm, seed)
    data = load_test_data(layout.dataset)
    checkpoint = layout.load_arm(arm, seed, data.info, params.model.network)
    path = layout.checkpoint(arm, seed)
    identity = {"path": path.as_posix(), "sha256": file_hash(path, "sha256")}
    folder = layout.export(arm, seed)
    known = partial(background, data=data.info)
    return folder, export_network(checkpoint, data, folder, identity, known)


def register(folder: Path, manifest: dict[str, Any], rows: Any, revision: str) -> int:
    """Register, and say what became of ``champion``: 0 if it moved, 1 if the gate forbade it."""
    from sparse_sam.config import load_params
    from sparse_sam.data import load_test_data
    from sparse_sam.export import check_belongs, pixels_of
    from sparse_sam.files import read_json
    from sparse_sam.tracking.mlflow_store import Tracker
    from sparse_sam.tracking.model_registry import describe_registered, register_export
    from sparse_sam.tracking.paths import layout
    from sparse_sam.tracking.pipelines import repository_root

    cure = "Run `make repro`, so that the gate judges what is registered."
    evaluated = read_json(layout.metrics("evaluate"), cure)
    check_belongs(manifest, evaluated, read_json(layout.summary, cure)["seeds"])
    example = pixels_of(load_test_data(layout.dataset))[:EXAMPLES]
    tracker = Tracker(repository_root())
    name = load_params(layout.params).registry.name
    made = register_export(tracker, folder, example, rows, name)
    print(describe_registered(tracker, made, rows, revision))
    return int(any(row.fails for row in rows))


def main(arguments: list[str] | None = None) -> int:
    """Export, and register if asked; 1 when the gate kept ``champion`` where it was."""
    parser = argparse.ArgumentParser(
        prog="python -m sparse_sam.tracking.release", description=__doc__
    )
    parser.add_argument("--arm", choices=ARMS, help="default: the best on validation images")
    parser.add_argument("--seed", type=int, help="default: the best of the arm on them")
    parser.add_argument("--register", action="store_true", help="into MLflow's model registry")
    parser.add_argument("--base", metavar="REV", help="what the gate compares with")
    options = parser.parse_args(arguments)
    from sparse_sam.errors import SparseSamError
    from sparse_sam.evaluation import check_gate
    from sparse_sam.export import describe

    try:
        gate = check_gate(options.base) if options.register else None
        folder, manifest = make(options.arm, options.seed)
        print(describe(folder, manifest))
        if gate is None:
            print("\nRegister it in MLflow: make register; serve it: docs/export.md")
            return 0
        return register(folder, manifest, *gate)
    except SparseSamError as error:
        sys.stderr.write(f"error: {error}\n")
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        sys.stderr.write(f"error: {where}{error.strerror or error}. Nothing was exported.\n")
    return 2


if __name__ == "__main__":
    from sparse_sam.redaction import guard_output

    guard_output()
    sys.exit(main())
