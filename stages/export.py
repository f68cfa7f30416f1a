"""Export a finetuned network: dense, packed and ONNX files, each checked on the whole test set.

Without ``--arm`` and ``--seed`` it is the one with the best validation accuracy. With
``--register`` the export goes into MLflow's model registry, and ``champion`` moves to it if the
regression gate passes. No stage of the pipeline: nothing is trained, and no metric changes.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages import layout

if TYPE_CHECKING:
    from sparse_sam.config import Params

MADE_BY = {"sgd": "finetune_sgd", "sgd_2x": "finetune_sgd", "sam": "finetune_sam"}
"""The arms that can be exported, and the stages that make them."""


def chosen(params: "Params", arm: str | None, seed: int | None) -> tuple[str, int]:
    """Arm and seed: those that are named, else the best on validation images."""
    from sparse_sam.choice import choose
    from sparse_sam.files import read_json

    metrics: dict[str, Any] = {}
    if arm is None or seed is None:
        for stage in dict.fromkeys(MADE_BY.values()):
            cure = f"Run `dvc repro {stage}`, or name a network: make export ARM=… SEED=…"
            found = read_json(layout.metrics(stage), cure)
            metrics |= {one: found[one] for one in MADE_BY if one in found}
    return choose(metrics, params.seeds, arm, seed)


def make(arm: str | None, seed: int | None) -> tuple[Path, dict[str, Any]]:
    """Export, and give the folder and its manifest."""
    from sparse_sam.config import load_params
    from sparse_sam.dataset import load_test_data
    from sparse_sam.export import export
    from sparse_sam.files import file_hash
    from stages.training import load_arm

    params = load_params(layout.PARAMS)
    arm, seed = chosen(params, arm, seed)
    data = load_test_data(layout.DATASET)
    checkpoint = load_arm(arm, seed, data.info, MADE_BY[arm], params.model.name)
    path = layout.checkpoint(arm, seed)
    identity = {"path": path.as_posix(), "sha256": file_hash(path, "sha256")}
    folder = layout.export(arm, seed)
    return folder, export(checkpoint, data, folder, identity)


def main(arguments: list[str] | None = None) -> int:
    """Export, and register if asked; 1 when the gate kept ``champion`` where it was."""
    parser = argparse.ArgumentParser(prog="python -m stages.export", description=__doc__)
    parser.add_argument("--arm", choices=MADE_BY, help="default: the best on validation images")
    parser.add_argument("--seed", type=int, help="default: the best of the arm on them")
    parser.add_argument("--register", action="store_true", help="into MLflow's model registry")
    parser.add_argument("--base", metavar="REV", help="what the gate compares with")
    options = parser.parse_args(arguments)
    from sparse_sam.errors import SparseSamError
    from sparse_sam.gate import check
    from stages.shipping import describe, register_export

    try:
        gate = check(options.base) if options.register else None
        folder, manifest = make(options.arm, options.seed)
        print(describe(folder, manifest))
        if gate is None:
            print("\nRegister it in MLflow: make register; serve it: docs/export.md")
            return 0
        return register_export(folder, manifest, *gate)
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
