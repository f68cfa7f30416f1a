"""The LeNet study: choosing sees no test image, counts are exact, the report is the results'."""

from collections.abc import Callable
from typing import Any

import pytest
from ruamel.yaml import YAML

from sparse_sam.data.tensors import TrainingData
from studies.lenet import report, run

PARAMS = YAML(typ="safe", pure=True).load(run.HERE / "params.yaml")


@pytest.fixture
def small(tiny_net: str) -> Any:
    """The study of a small network in seconds."""
    recipe = {**PARAMS["recipe"], "epochs": 2, "batch_size": 8}
    network = {"compressions": [2, 4], "epochs": 2, "choosing_compression": 4}
    candidates = PARAMS["networks"]["lenet-300-100"]["candidates"][:2]
    networks = {tiny_net: {**network, "precision": "float32", "candidates": candidates}}
    prune = {**PARAMS["prune"], "schedule": {**PARAMS["prune"]["schedule"], "updates": 3}}
    changed = {"recipe": recipe, "networks": networks, "prune": prune}
    return {**PARAMS, **changed, "seeds": [0, 1]}


def test_every_arm_chooses_and_every_network_is_as_sparse_as_asked(
    small: Any, tiny_net: str, make_data: Callable[..., TrainingData]
) -> None:
    data = make_data()
    tried = run.choose(small, tiny_net, data, lambda _: None)
    assert len(tried) == 2 + 2 * len(PARAMS["rhos"])
    chosen = [run.best(tried, arm) for arm in run.ARMS]
    for recipe in chosen:
        own = [one for one in tried if one["arm"] == recipe.arm]
        picked = {**dict(recipe.changes), "rho": recipe.rho}
        least = min(own, key=lambda one: one["validation_error"])
        assert picked == {key: least[key] for key in picked}
    everything = make_data(validation=0)
    rows = run.measure(small, tiny_net, everything, data.train, chosen, lambda _: None)
    assert [(r["arm"], r["compression"], r["seed"]) for r in rows] == [
        (arm, compression, seed) for arm in run.ARMS for compression in (2, 4) for seed in (0, 1)
    ]
    for row in rows:
        assert row["weights"] - row["kept"] == round((1 - 1 / row["compression"]) * row["weights"])
        assert 0 <= row["error"] <= 100


def test_equal_errors_choose_the_first() -> None:
    tried = [
        {"arm": "sam", "lr": lr, "rho": 0.05, "validation_error": error}
        for lr, error in [(0.3, 2.0), (0.1, 1.0), (0.2, 1.0)]
    ]
    assert run.best(tried, "sam") == run.Recipe("sam", (("lr", 0.1),), 0.05)


MEASURED = report.load()


@pytest.mark.skipif(not MEASURED, reason="nothing of this study is measured yet")
def test_the_committed_report_is_that_of_the_results() -> None:
    text = report.REPORT.read_text(encoding="utf-8")
    assert text == report.report(MEASURED), "run: python -m studies.lenet.report"


@pytest.mark.parametrize("study", MEASURED, ids=lambda study: study["network"])
def test_the_reported_seeds_did_not_choose(study: Any) -> None:
    seeds = sorted({row["seed"] for row in study["rows"]})
    assert seeds == PARAMS["seeds"]
    assert PARAMS["choosing_seed"] not in seeds
    for row in study["rows"]:
        asked = 1 - 1 / row["compression"]
        assert row["weights"] - row["kept"] == round(asked * row["weights"])
