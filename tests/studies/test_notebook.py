"""The study's faults do what it says, the library refuses them, and the report has its numbers."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from sparse_sam.data.tensors import TrainingData
from sparse_sam.errors import StaleOptimizerError
from sparse_sam.pruning.masks import plain_state
from sparse_sam.training.checkpoint import Checkpoint
from sparse_sam.training.experiment import finetune, train_dense
from sparse_sam.training.loop import train
from sparse_sam.training.params import DenseParams, FinetuneParams, TrainingParams
from sparse_sam.training.with_sgd import make_sgd
from studies.notebook import report
from studies.notebook.faults import VARIANTS, Faults, finetune_with, prune
from studies.notebook.run import describe
from tests.recipes import NOT_DISTILLED, sam_params

WEIGHTS = ("1.weight", "4.weight")


@pytest.fixture(scope="module")
def data(make_data: Callable[..., TrainingData]) -> TrainingData:
    return make_data()


@pytest.fixture(scope="module")
def recipe(make_recipe: Callable[..., TrainingParams]) -> TrainingParams:
    return make_recipe(epochs=2)


@pytest.fixture(scope="module")
def params(recipe: TrainingParams) -> FinetuneParams:
    return FinetuneParams(training=recipe, distillation=NOT_DISTILLED, sam=sam_params(0.05))


@pytest.fixture(scope="module")
def dense(data: TrainingData, recipe: TrainingParams, tiny_net: str) -> Checkpoint:
    dense = DenseParams(**recipe.model_dump(), optimizer="sgd", sam=sam_params())
    return train_dense(data, tiny_net, dense, 0, lambda _: None).checkpoint


@pytest.mark.parametrize("arm", ["sgd", "sgd_2x", "sam"])
def test_without_faults_it_is_the_library(
    arm: str, dense: Checkpoint, data: TrainingData, params: FinetuneParams
) -> None:
    pruned = prune(dense, 0.5, Faults())
    ours = finetune_with(Faults(), dense, pruned, data, params, arm)
    library = finetune(pruned, data, params, arm, lambda _: None)
    state = plain_state(ours.model)
    assert all(
        torch.equal(tensor, state[name]) for name, tensor in library.checkpoint.state.items()
    )
    assert ours.validation == [row.validation_accuracy for row in library.history]


@pytest.mark.parametrize("arm", ["sgd", "sgd_2x"])
def test_a_stale_optimizer_moves_batchnorms_statistics_alone(
    arm: str, dense: Checkpoint, data: TrainingData, params: FinetuneParams
) -> None:
    faults = Faults(stale_optimizer=True)
    pruned = prune(dense, 0.5, faults)
    found = finetune_with(faults, dense, pruned, data, params, arm)
    state = plain_state(found.model)
    changed = {
        name for name, tensor in state.items() if not torch.equal(tensor, pruned.state[name])
    }
    assert changed == {"2.running_mean", "2.running_var", "2.num_batches_tracked"}
    assert len(found.validation) == 1 + (2 if arm == "sgd" else 4)


def test_the_library_refuses_the_stale_optimizer(
    dense: Checkpoint, data: TrainingData, recipe: TrainingParams
) -> None:
    pruned = prune(dense, 0.5, Faults()).build()
    with pytest.raises(StaleOptimizerError):
        train(pruned, make_sgd(dense.build(), recipe), data, recipe, seed=0, purpose="finetune")


@pytest.mark.parametrize("arm", ["sgd", "sam"])
def test_without_a_mask_nothing_stays_sparse(
    arm: str, dense: Checkpoint, data: TrainingData, params: FinetuneParams
) -> None:
    faults = Faults(no_mask=True)
    pruned = prune(dense, 0.5, faults)
    assert sum(int((pruned.state[name] == 0).sum()) for name in WEIGHTS) == 168
    state = plain_state(finetune_with(faults, dense, pruned, data, params, arm).model)
    assert sum(int((state[name] == 0).sum()) for name in WEIGHTS) == 0


def test_pruned_batchnorm_silences_channels(dense: Checkpoint) -> None:
    pruned = prune(dense, 0.5, Faults(batchnorm_pruned=True))
    assert int((pruned.state["2.weight"] == 0).sum()) == 6
    assert int((prune(dense, 0.5, Faults()).state["2.weight"] == 0).sum()) == 0


def test_a_network_is_described_as_it_is(
    dense: Checkpoint, data: TrainingData, params: FinetuneParams
) -> None:
    from sparse_sam.data.tensors import TestData

    test = TestData(data.train, data.info)
    for faults, sparsity, moved in (
        (Faults(), 0.5, True),
        (Faults(stale_optimizer=True), 0.5, False),
        (Faults(no_mask=True), 0.0, True),
    ):
        pruned = prune(dense, 0.5, faults)
        found = describe(finetune_with(faults, dense, pruned, data, params, "sgd"), pruned, test)
        assert (found["sparsity"], found["weights_moved"]) == (sparsity, moved)


# What is published


def study(dataset: str) -> Any:
    (found,) = [one for one in report.load() if one["dataset"] == dataset]
    return found


@pytest.fixture(params=[one["dataset"] for one in report.load()])
def published(request: pytest.FixtureRequest) -> Any:
    return study(request.param)


def test_the_committed_report_is_that_of_the_results() -> None:
    text = report.REPORT.read_text(encoding="utf-8")
    assert text == report.report(report.load()), "run: python -m studies.notebook.report"


def test_every_variant_has_every_seed(published: Any) -> None:
    for sparsity in (0.5, 0.9):
        for variant in VARIANTS:
            rows = report.rows_of(published, sparsity, variant)
            assert [row["seed"] for row in rows] == published["seeds"]
            assert len(rows) >= 5


def test_stale_sgd_stays_while_fresh_sgd_recovers(published: Any) -> None:
    def mean(variant: str, arm: str) -> float:
        rows = report.rows_of(published, 0.9, variant)
        return float(np.mean(report.accuracies(rows, arm)))

    assert mean("corrected", "sgd") > mean("corrected", "pruned") + 30
    assert mean("stale optimizer", "sgd") < mean("corrected", "sgd") - 30
    for sparsity in (0.5, 0.9):
        for row in report.rows_of(published, sparsity, "stale optimizer"):
            assert not row["sgd"]["weights_moved"]


def test_unmasked_networks_end_dense(published: Any) -> None:
    for row in report.rows_of(published, 0.5, "no mask"):
        assert row["sgd"]["sparsity"] < 1e-4
        assert row["sam"]["sparsity"] < 1e-4
    for row in report.rows_of(published, 0.5, "corrected"):
        assert row["sam"]["sparsity"] == pytest.approx(0.5, abs=1e-5)


def test_the_reports_gain_is_the_seeds(published: Any) -> None:
    """One cell recomputed from the raw rows, without the report's own functions."""
    rows = [
        row
        for row in published["rows"]
        if row["variant"] == "all together" and row["sparsity"] == 0.5
    ]
    each = [100 * (r["sam"]["test_accuracy"] - r["sgd"]["test_accuracy"]) for r in rows]
    gain = f"{sum(each) / len(each):+.2f}"
    text = report.REPORT.read_text(encoding="utf-8")
    section = text.split(f"## {report.TITLES[published['dataset']]}")[1]
    assert re.search(rf"\| all together \|.*\| {re.escape(gain)} \|", section)


def test_the_readme_quotes_the_study() -> None:
    readme = (report.HERE.parents[1] / "README.md").read_text(encoding="utf-8")
    number = r"([+−][\d.]+\d)"
    found = re.search(
        rf"SAM\s+gains\s+{number}\s+points.*?and {number} .*?left in, {number} and {number}\.",
        readme,
        re.DOTALL,
    )
    assert found
    quoted = [float(one.replace("−", "-")) for one in found.groups()]
    gains = [
        float(report.gains(study(dataset), 0.5, variant).mean())
        for variant in ("all together", "all but stale optimizer")
        for dataset in ("mnist-sample", "mnist-10")
    ]
    assert quoted == [pytest.approx(gain, abs=0.051) for gain in gains]
