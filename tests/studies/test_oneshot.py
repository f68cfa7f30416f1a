"""The study of one-shot pruning: choosing sees no test image, and words are made of numbers."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparse_sam.data.tensors import TrainingData
from sparse_sam.pruning import OBS
from studies.oneshot import figures, networks, report, run, tables
from studies.oneshot.criteria import SingleStage

PARAMS = networks.load_params()


@pytest.fixture
def small(tiny_net: str) -> Any:
    """The study of a small network in seconds."""
    dense = {**PARAMS["dense"], "epochs": 2, "batch_size": 8}
    training = {**PARAMS["finetune"]["training"], "epochs": 2, "batch_size": 8}
    finetune = {
        "choosing_sparsity": 0.5,
        "training": training,
        "rates": [0.01, 0.1],
        "rhos": [0.05],
    }
    return {
        **PARAMS,
        "network": tiny_net,
        "dense": dense,
        "finetune": finetune,
        "seeds": [0, 1],
        "sparsities": [0.5, 0.8],
        "dampings": [0.01, 0.1],
        "finetuned": ["magnitude", "obs"],
    }


def test_what_is_chosen_is_measured_and_reported(
    small: Any, make_data: Callable[..., TrainingData]
) -> None:
    data = make_data()
    chosen = run.choose(small, data, lambda _: None)
    assert len(chosen["tried"]) == 2 * (2 + 2 + 2)
    assert [one["damping"] for one in chosen["dampings"]] == [0.01, 0.1]
    for criterion in small["finetuned"]:
        for arm in networks.ARMS:
            own = [
                one for one in chosen["tried"] if (one["criterion"], one["arm"]) == (criterion, arm)
            ]
            recipe = networks.best(chosen["tried"], criterion, arm)
            highest = max(one["accuracy"] for one in own)
            assert highest in [one["accuracy"] for one in own if one["lr"] == recipe.lr]
            assert (recipe.rho is not None) == (arm == "sam")
    everything = make_data(validation=0)
    found = run.measure(small, everything, data.train, chosen["tried"], lambda _: None)
    assert len(found["dense"]) == 2
    assert [(row["criterion"], row["sparsity"], row["seed"]) for row in found["rows"]] == [
        (criterion, at, seed)
        for criterion in small["criteria"]
        for at in (0.5, 0.8)
        for seed in (0, 1)
    ]
    for row in found["rows"]:
        assert row["weights"] - row["kept"] == round(row["sparsity"] * row["weights"])
        assert ("sam" in row) == (row["criterion"] in small["finetuned"])
    by_criterion = {
        name: tables.accuracies(found, name, 0.8, "pruned") for name in small["criteria"]
    }
    assert by_criterion["obs"].shape == (2,)


def test_a_network_is_pruned_once(
    small: Any,
    make_data: Callable[..., TrainingData],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("SPARSE_SAM_STORE", str(tmp_path))
    data = make_data()
    dense = networks.dense_network(small, data, 0)
    first = networks.pruned_network(small, dense, data, "obs", 0.5)
    monkeypatch.setattr(networks, "prune", None)
    again = networks.pruned_network(small, dense, data, "obs", 0.5)
    assert all((again.state[name] == one).all() for name, one in first.state.items())
    with pytest.raises(TypeError):
        networks.pruned_network(small, dense, data, "obs", 0.6)


def test_a_single_stage_is_obs_otherwise() -> None:
    settings = {one.name: getattr(OBS(), one.name) for one in fields(OBS) if one.init}
    assert SingleStage(first=OBS().first) == SingleStage(**settings)
    assert SingleStage().first == 0


@pytest.mark.parametrize(("sparsity", "stages"), [(0.5, 1), (0.54, 2), (0.8, 10), (0.98, 32)])
def test_stages_are_counted(sparsity: float, stages: int) -> None:
    assert report._stages(sparsity) == stages


HAS_RESULTS = networks.results("measure").exists()
measured = pytest.mark.skipif(not HAS_RESULTS, reason="nothing of this study is measured yet")


@measured
def test_the_committed_report_is_that_of_the_results() -> None:
    chosen, found = tables.load()
    text = report.REPORT.read_text(encoding="utf-8")
    assert text == report.report(PARAMS, chosen, found), "run: python -m studies.oneshot.report"
    assert figures.accuracy(PARAMS, found).startswith("<?xml")


@measured
def test_the_default_damping_is_the_best_on_validation() -> None:
    chosen, _ = tables.load()
    best = max(chosen["dampings"], key=lambda one: float(np.mean(one["accuracies"])))
    assert OBS().damping == best["damping"]


@measured
def test_the_reported_seeds_did_not_choose() -> None:
    chosen, found = tables.load()
    assert sorted({row["seed"] for row in found["rows"]}) == PARAMS["seeds"]
    assert chosen["seed"] not in PARAMS["seeds"]
    for row in found["rows"]:
        assert row["weights"] - row["kept"] == round(row["sparsity"] * row["weights"])
