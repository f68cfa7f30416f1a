"""What ``export`` says of an export, and its way into MLflow's model registry."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparse_sam.dataset import load_test_data
from sparse_sam.errors import ExportError
from sparse_sam.export import pixels_of
from sparse_sam.files import read_json
from sparse_sam.gate import Row, markdown
from sparse_sam.pipelines import repository_root
from stages import layout

EXAMPLES = 2


def describe(folder: Path, manifest: Mapping[str, Any]) -> str:
    """What was made, how large it is, and how it was checked."""
    origin, test = manifest["origin"], manifest["test"]
    title = (
        f"{folder}/: {origin['model']}, {origin['arm']}, seed {origin['seed']}, "
        f"{manifest['sparsity']:.2%} sparse, {test['accuracy']:.2%} right of {test['images']} "
        "test images"
    )
    lines = [
        title,
        "",
        f"{'file':<20} {'bytes':>10} {'compressed':>11}   same predictions, logits within",
    ]
    lines += [
        f"{name:<20} {file['raw']:>10,} {file['compressed']:>11,}   "
        f"{_same(file['ties'])}, {file['largest_difference']:.1e}"
        for name, file in manifest["files"].items()
    ]
    for layer, count in manifest["channels_removed"].items():
        lines.append(f"layer {layer}: {count} channels removed, in the narrow file and in ONNX")
    for layer, reason in manifest["channels_kept"].items():
        lines.append(f"layer {layer or '(all)'}: {reason}")
    return "\n".join(lines)


def _same(ties: int) -> str:
    return f"but for {ties} ties" if ties else "yes"


def check_belongs(manifest: Mapping[str, Any]) -> None:
    """Raise ExportError if the metrics that the gate judged are of other networks."""
    origin, test = manifest["origin"], manifest["test"]
    cure = "Run `make repro`, so that the gate judges what is registered."
    metrics = read_json(layout.metrics("evaluate"), cure)
    seeds = read_json(layout.SUMMARY, cure)["seeds"]
    try:
        accuracy = metrics[origin["arm"]]["test_accuracy"]["values"][seeds.index(origin["seed"])]
    except (KeyError, ValueError, IndexError):
        raise ExportError(
            f"{layout.metrics('evaluate')} does not know {origin['arm']}, seed {origin['seed']}. "
            f"{cure}"
        ) from None
    # One image more or less is rounding: batches, threads and devices sum in other orders.
    if abs(accuracy - test["accuracy"]) > 1.5 / test["images"]:
        raise ExportError(
            f"{origin['arm']}, seed {origin['seed']}, gets {test['accuracy']:.2%} of the test "
            f"images right, and {layout.metrics('evaluate')} says {accuracy:.2%}. {cure}"
        )


def register_export(
    folder: Path, manifest: Mapping[str, Any], rows: Sequence[Row], revision: str
) -> int:
    """Register, say what became of ``champion``: 0 if it moved there, 1 if the gate forbade it."""
    from sparse_sam.registry import CHAMPION, register
    from sparse_sam.tracking import Tracker

    check_belongs(manifest)
    example = pixels_of(load_test_data(layout.DATASET))[:EXAMPLES]
    tracker = Tracker(repository_root())
    made = register(tracker, folder, example, rows)
    known = "" if made.is_new else ", which was there already"
    print(f"\nMLflow at {tracker.shown}: {made.name} version {made.version}{known}")
    if any(row.fails for row in rows):
        print(f"\n{markdown([row for row in rows if row.fails], revision[:10])}")
        print(f"The gate fails: {CHAMPION} stays {_named(made.champion)}.")
        return 1
    before = _named(made.champion_before)
    print(f"The gate passes: {CHAMPION} is {_named(made.champion)}, was {before}.")
    # A URI with a secret in it is left to the environment, where it is from.
    where = f"MLFLOW_TRACKING_URI={tracker.uri} " if tracker.shown == tracker.uri else ""
    print(
        f"Serve it: {where}mlflow models serve "
        f"-m models:/{made.name}@{CHAMPION} --env-manager local --host 127.0.0.1 --port 5001"
    )
    return 0


def _named(version: str | None) -> str:
    return "nobody" if version is None else f"version {version}"
