"""Exports in MLflow's model registry; beside ``tracking`` the only module that knows MLflow.

A version is an export's ONNX file as an MLflow model, with signature, input example and manifest:
loading it unpickles nothing. The alias ``champion`` follows the regression gate.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_sam.errors import ExportError
from sparse_sam.evaluation import Row, gate_table
from sparse_sam.export import (
    CLASS,
    MANIFEST,
    ONNX,
    ONNX_OUTPUTS,
    accuracy_in_words,
    load_manifest,
    load_onnx,
    onnx_requirements,
)
from sparse_sam.files import file_hash
from sparse_sam.tracking import registry_texts
from sparse_sam.tracking.mlflow_store import (
    ColSpec,
    MlflowException,
    ModelSignature,
    Schema,
    TensorSpec,
    Tracker,
    as_shown,
    as_tracking_error,
    onnx_models,
)

CHAMPION = "champion"


@dataclass(frozen=True)
class Registered:
    """A version in the registry.

    Attributes:
        name: of the registered model.
        version: the version that holds the export.
        is_new: whether it had to be made; the same export is registered once.
        champion: the version that ``champion`` names now; None if none does.
        champion_before: the version that it named before.
    """

    name: str
    version: str
    is_new: bool
    champion: str | None
    champion_before: str | None


def register_export(
    tracker: Tracker,
    folder: Path,
    example: NDArray[np.uint8],
    gate: Sequence[Row],
    name: str,
) -> Registered:
    """Register an export; move ``champion`` to it if no row of the gate fails.

    Args:
        tracker: the MLflow store.
        folder: an export whose files are as they were verified.
        example: a few images, bytes (N, C, H, W): the model's input example.
        gate: what ``check_gate`` found; at least one row.
        name: of the registered model (``registry.name``).

    Raises:
        ExportError: the export is incomplete or has changed, or the gate compared nothing.
        TrackingError: MLflow cannot be reached, or refuses.
    """
    if not gate:
        raise ExportError("the gate compared no metric: champion cannot be decided")
    manifest = load_manifest(folder)
    identity = f"export {file_hash(folder / MANIFEST, 'sha256')}"
    with as_tracking_error(tracker.shown):
        run = _run_of(tracker, manifest, identity)
        client = tracker.client
        found = _version_of(tracker, name, run)
        if found is None:
            _send_model(tracker, run, folder, manifest, example)
            _make_model(tracker, name)
            made = client.create_model_version(
                name,
                f"runs:/{run}/model",
                run,
                description=registry_texts.of_the_version(manifest),
            )
            found, is_new = str(made.version), True
            for key, value in registry_texts.tags(manifest).items():
                client.set_model_version_tag(name, found, key, value)
        else:
            is_new = False
        client.set_terminated(run, "FINISHED")
        before = champion(tracker, name)
        passes = not any(row.fails for row in gate)
        client.set_model_version_tag(
            name, found, "sparse_sam.gate", "passed" if passes else "failed"
        )
        if passes:
            client.set_registered_model_alias(name, CHAMPION, found)
            says = f"version {found}: {accuracy_in_words(manifest)}"
            client.set_registered_model_tag(name, CHAMPION, says)
        return Registered(name, found, is_new, found if passes else before, before)


def describe_registered(
    tracker: Tracker, made: Registered, rows: Sequence[Row], revision: str
) -> str:
    """What became of an export and of ``champion``, for the person who asked.

    Args:
        tracker: the MLflow store.
        made: the version.
        rows: what the gate found.
        revision: the commit that it compared with.
    """
    known = "" if made.is_new else ", which was there already"
    said = f"\nMLflow at {tracker.shown}: {made.name} version {made.version}{known}\n"
    failing = [row for row in rows if row.fails]
    if failing:
        table = gate_table(failing, revision[:10])
        return f"{said}\n{table}\nThe gate fails: {CHAMPION} stays {_named(made.champion)}."
    # A URI with a secret in it is left to the environment, where it is from.
    where = f"MLFLOW_TRACKING_URI={tracker.uri} " if tracker.shown == tracker.uri else ""
    return (
        f"{said}The gate passes: {CHAMPION} is {_named(made.champion)}, was "
        f"{_named(made.champion_before)}.\nServe it: {where}mlflow models serve "
        f"-m models:/{made.name}@{CHAMPION} --env-manager local --host 127.0.0.1 --port 5001"
    )


def _named(version: str | None) -> str:
    return "nobody" if version is None else f"version {version}"


def champion(tracker: Tracker, name: str) -> str | None:
    """The version that ``champion`` names; None if there is none. Raises TrackingError."""
    with as_tracking_error(tracker.shown):
        try:
            return str(tracker.client.get_model_version_by_alias(name, CHAMPION).version)
        except MlflowException as error:
            if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
                return None
            raise


def signature(manifest: dict[str, Any]) -> ModelSignature:
    """What the model takes and gives; the number of images is free."""
    origin = manifest["origin"]
    pixels = TensorSpec(np.dtype(np.uint8), (-1, *origin["image_shape"]))
    label, logits = ONNX_OUTPUTS
    outputs: list[ColSpec | TensorSpec] = [
        TensorSpec(np.dtype(np.int64), (-1,), label),
        TensorSpec(np.dtype(np.float32), (-1, len(origin["classes"])), logits),
        TensorSpec(np.dtype(np.str_), (-1,), CLASS),
    ]
    return ModelSignature(Schema([pixels]), Schema(outputs))


def _run_of(tracker: Tracker, manifest: dict[str, Any], identity: str) -> str:
    origin = manifest["origin"]
    run, _ = tracker.find_or_create(
        tracker.experiment({}),
        identity,
        name=f"export {origin['arm']} seed {origin['seed']}",
        parent=None,
        time=int(1000 * time()),
        tags={"sparse_sam.kind": "export", **registry_texts.tags(manifest)},
    )
    return run


def _version_of(tracker: Tracker, name: str, run: str) -> str | None:
    versions = tracker.client.search_model_versions(f"name = '{name}'")
    return next((str(one.version) for one in versions if one.run_id == run), None)


def _send_model(
    tracker: Tracker,
    run: str,
    folder: Path,
    manifest: dict[str, Any],
    example: NDArray[np.uint8],
) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        model = Path(temporary) / "model"
        onnx_models().save_model(
            load_onnx(folder / ONNX),
            model,
            signature=signature(manifest),
            input_example=example,
            pip_requirements=onnx_requirements(),
            onnx_execution_providers=["CPUExecutionProvider"],
            save_as_external_data=False,
            metadata={"export": manifest},
        )
        tracker.client.log_artifacts(run, str(model), "model")
    tracker.client.log_artifacts(run, str(folder), "export")
    tracker.client.log_metric(run, "test_accuracy", as_shown(manifest["test"]["accuracy"]))
    for name, file in manifest["files"].items():
        tracker.client.log_metric(run, f"bytes.{name}", file["raw"])


def _make_model(tracker: Tracker, name: str) -> None:
    try:
        tracker.client.create_registered_model(name, description=registry_texts.OF_THE_MODEL)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
