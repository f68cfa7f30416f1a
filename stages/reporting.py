"""What ``evaluate`` measures beside accuracy, and the report that it writes of everything."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sparse_sam.compression import layers, multiply_adds, sizes
from sparse_sam.cost import finetuning_cost
from sparse_sam.dataset import TestData, TrainingData, load_training_data
from sparse_sam.files import write_csv, write_json, write_text
from sparse_sam.flatness.measure import Flatness, Settings, as_metrics, measure
from sparse_sam.latency import measure_latency
from sparse_sam.live import flatten
from sparse_sam.parallel import run_jobs
from sparse_sam.report import Content, html, markdown
from sparse_sam.report.content import read_provenance, read_rows
from stages import layout
from stages.runner import Stage
from stages.training import load_arm

PICTURED = ("sgd", "sam")
"""The arms whose loss surfaces are drawn."""


@dataclass(frozen=True)
class Measurements:
    """What workers are told: how flatness is measured, and of whom everything (``thorough``)."""

    dataset: Path
    network: str
    settings: Settings
    thorough: tuple[tuple[str, int], ...]
    made_by: dict[str, str]

    def __call__(self, job: tuple[str, int], _: object) -> Flatness:
        """Measure one arm's network of one seed."""
        arm, seed = job
        data = _training_data(self.dataset)
        trained = load_arm(arm, seed, data.info, self.made_by[arm], self.network)
        return measure(
            trained.build(),
            data.train,
            self.settings,
            thorough=job in self.thorough,
            surface=arm in PICTURED,
        )


@cache
def _training_data(path: Path) -> TrainingData:
    """The data set, once a process."""
    return load_training_data(path)


def measure_flatness(stage: Stage, made_by: Mapping[str, str]) -> dict[str, Any]:
    """Flatness of every arm: sharpness for every seed, all else for the first."""
    began = time.perf_counter()
    params, settings = stage.params, Settings()
    seeds = params.seeds
    thorough = [(arm, seeds[0]) for arm in made_by]
    jobs = [*thorough, *((arm, seed) for arm in made_by for seed in seeds[1:])]
    found = run_jobs(
        Measurements(layout.DATASET, params.model.name, settings, tuple(thorough), dict(made_by)),
        jobs,
        on_report=lambda *_: None,
        threads=params.threads,
        name_of=lambda job: f"{stage.name}: flatness of {job[0]} seed {job[1]}",
    )
    measured = {arm: [found[arm, seed] for seed in seeds] for arm in made_by}
    metrics = as_metrics(measured, settings, time.perf_counter() - began)
    slices = [[arm, seeds[0], *point] for arm in made_by for point in measured[arm][0].slice]
    surfaces = [[arm, seeds[0], *point] for arm in made_by for point in measured[arm][0].surface]
    write_csv(layout.SLICE, ["arm", "seed", "x", "loss"], slices)
    write_csv(layout.SURFACE, ["arm", "seed", "x", "y", "loss"], surfaces)
    write_json(layout.metrics("flatness"), metrics)
    return metrics


def measure_compression(stage: Stage, data: TestData, made_by: Mapping[str, str]) -> dict[str, Any]:
    """What sparsity bought, on the first seed of the dense network and of SGD's."""
    seed, name = stage.params.seeds[0], stage.params.model.name
    dense, sparse = (load_arm(arm, seed, data.info, made_by[arm], name) for arm in ("dense", "sgd"))
    plain, packed = sizes(sparse)
    total, kept = multiply_adds(sparse)
    rows = measure_latency(
        dense, sparse, data.test.images.cpu(), stage.params.evaluate.latency_seconds
    )
    metrics = {
        "layers": [asdict(layer) for layer in layers(sparse)],
        "bytes": {
            "dense": plain.raw,
            "sparse": packed.raw,
            "dense_compressed": plain.compressed,
            "sparse_compressed": packed.compressed,
        },
        "multiply_adds": {"dense": total, "sparse": kept},
        "latency": {
            "threads": torch.get_num_threads(),
            "rows": [{**asdict(row), "quartiles_ms": list(row.quartiles_ms)} for row in rows],
        },
    }
    write_json(layout.metrics("compression"), metrics)
    return metrics


def measure_cost(summary: Mapping[str, Any], memory: Mapping[str, int | None]) -> dict[str, Any]:
    """What finetuning cost; ``memory`` is what ``step_memory`` found."""
    metrics = finetuning_cost(summary, memory)
    write_json(layout.metrics("cost"), metrics)
    return metrics


def write_report(
    stage: Stage,
    data: TestData,
    summary: Mapping[str, Any],
    predictions: Mapping[str, NDArray[np.int64]],
    measured: Mapping[str, Mapping[str, Any]],
) -> None:
    """Write ``reports/``, from this stage's numbers and the files of those before it."""
    info = data.info
    images = data.test.images.cpu().numpy()[:, 0] * info.std + info.mean
    content = Content(
        summary=summary,
        params=flatten(stage.params.model_dump(mode="json")),
        fingerprint=info.fingerprint,
        histories={arm: read_rows(layout.history(arm)) for arm in ("sgd", "sgd_2x", "sam")},
        provenance=read_provenance({name: layout.run(name) for name in layout.BEFORE_EVALUATE}),
        compression=measured["compression"],
        cost=measured["cost"],
        flatness=measured["flatness"],
        slices=read_rows(layout.SLICE),
        surfaces=read_rows(layout.SURFACE),
        labels=data.test.labels.cpu().numpy(),
        predictions=predictions,
        images=images.astype(np.float32),
    )
    write_text(layout.REPORT, html(content))
    write_text(layout.REPORT.with_suffix(".md"), markdown(content))
