"""Sharded parameters, in two and three processes: each step is that of one process."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from fsdp_worker import MOMENTUM, PLACED, RUNS, STEPS, flat, mixed, network, shrunk, train
from sam_cases import batches
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from sparse_sam.sam import SAM, VARIANTS
from tests.processes import spawned

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return spawned(HERE / "fsdp_worker.py", 2, tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return spawned(HERE / "fsdp_worker.py", 3, tmp_path_factory.mktemp("three"))


def check_same(one: list[Tensor], other: list[Tensor]) -> None:
    assert len(one) == len(other)
    for mine, theirs in zip(one, other, strict=True):
        assert float((mine - theirs).norm() / theirs.norm()) < 1e-6


@pytest.mark.parametrize("name", list(RUNS))
def test_two_processes_train_as_one(ranks: list[Any], name: str) -> None:
    alone = train(RUNS[name], lambda model: model)
    for rank in ranks:
        check_same(rank[name]["after"], alone["after"])
        check_same(rank[name]["at"], alone["at"])
        if name == "kept share":
            torch.testing.assert_close(rank[name]["shares"], alone["shares"])
    assert len(alone["after"]) == STEPS
    for mine, its in zip(ranks[0][name]["after"], ranks[1][name]["after"], strict=True):
        assert mine.equal(its)


@pytest.mark.parametrize("name", ["sam", "gsam, torch's masks", "looksam, masked"])
def test_three_processes_train_as_one(three: list[Any], name: str) -> None:
    alone = train(RUNS[name], lambda model: model)
    for rank in three:
        check_same(rank[name]["after"], alone["after"])


@pytest.mark.parametrize(
    ("name", "run", "tolerance"),
    [
        ("checkpointing", "looksam, masked", 1e-6),
        ("compiled", "sam, masked", 1e-6),
        ("bfloat16", "gsam, masked", 0.01),
    ],
)
def test_checkpointing_compiling_and_mixed_precision(
    ranks: list[Any], name: str, run: str, tolerance: float
) -> None:
    alone = train(RUNS[run], lambda model: model)
    for rank in ranks:
        found = rank[f"not plain, {name}"]["after"][-1]
        distance = float((found - alone["after"][-1]).norm() / alone["after"][-1].norm())
        assert distance < tolerance
        assert (distance > 1e-6) == (name == "bfloat16")


def test_the_example_of_the_documentation_runs_in_two_processes(ranks: list[Any]) -> None:
    assert [rank["example"] for rank in ranks] == [{"moved": True, "saved": True}] * 2


@pytest.mark.parametrize("name", ["replicas", "one replica"])
def test_replicas_count_once(ranks: list[Any], name: str) -> None:
    alone = train(RUNS["gsam"], lambda model: model)
    for rank in ranks:
        check_same(rank[name]["after"], alone["after"])
        torch.testing.assert_close(rank[name]["norm"], alone["norm"], rtol=1e-5, atol=0)


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_copies_take_the_memory_of_the_local_shards(
    ranks: list[Any], three: list[Any], variant: str
) -> None:
    for group in (ranks, three):
        found = [rank["memory"][variant] for rank in group]
        for one in found:
            assert one["copies"] == one["here"]
            # All memory that was taken: with a tensor of no dimension or two, the norm.
            if "taken" in one:
                assert one["here"] <= one["taken"] <= one["here"] + 64
        assert sum(one["here"] for one in found) == found[0]["everywhere"]
        assert len({one["here"] for one in found}) > 1, "the shards are uneven"


@pytest.mark.parametrize("name", [*VARIANTS, "looksam, AdamW"])
def test_training_resumes_from_a_checkpoint_to_the_same_bits(ranks: list[Any], name: str) -> None:
    for rank in ranks:
        found = rank[f"{name}, resumed"]
        assert found == dict.fromkeys(found, True)
        assert len(found) == 2 if name.startswith("looksam") else len(found) == 1


def test_what_is_not_finite_in_one_shard_is_not_finite_everywhere(
    ranks: list[Any], three: list[Any]
) -> None:
    for rank in ranks + three:
        assert rank["overflow"] == {
            "raised": 1,
            "skip: as before": True,
            "raise: as before": True,
            "skip: skipped": 1,
            "raise: skipped": 0,
        }


def test_a_scaler_skips_everywhere_and_changes_nothing_else(ranks: list[Any]) -> None:
    model = network()
    optimizer = SAM(model.parameters(), SGD, 0.5, model=model, max_grad_norm=0.2, **MOMENTUM)
    for step, (inputs, labels) in enumerate(batches(STEPS)):
        if step in (1, 3):
            continue

        def closure(inputs: Tensor = inputs, labels: Tensor = labels) -> Tensor:
            loss = cross_entropy(model(inputs), labels)
            loss.backward()
            return loss

        optimizer.step(closure)
        for rank in ranks:
            check_same([rank["with_scaler"]["after"][step]], [flat(model)])
    for rank in ranks:
        assert rank["with_scaler"]["scales"] == [1024.0, 512.0, 512.0, 256.0, 256.0]


def test_a_process_that_fails_gets_back_by_itself(ranks: list[Any]) -> None:
    for rank in ranks:
        assert rank["failure"] == {"restored": True, "away": True, "finite": True}


@pytest.mark.parametrize(
    "when", ["after the ascent", "in between", "after that", "back", "momentum", "masks"]
)
def test_no_layer_computes_with_weights_of_before(ranks: list[Any], when: str) -> None:
    for rank in ranks:
        torch.testing.assert_close(*rank["stale"][when])
    states = [rank_state[0] for rank_state in ranks[0]["stale"].values()]
    assert not torch.allclose(states[0], states[1])


def test_micro_batches(ranks: list[Any]) -> None:
    model = network()
    optimizer = SAM(model.parameters(), SGD, 0.5, model=model, **MOMENTUM)
    for step, (inputs, labels) in enumerate(batches(3)):

        def closure(inputs: Tensor = inputs, labels: Tensor = labels) -> Tensor:
            loss = cross_entropy(model(inputs), labels)
            loss.backward()
            return loss

        optimizer.step(closure)
        for rank in ranks:
            check_same([rank["accumulated"]["after"][step]], [flat(model)])
    assert [rank["accumulated"]["refused"] for rank in ranks] == [1, 1]


@pytest.mark.parametrize("shape", [(1, 2), (2, 1)])
def test_whatever_the_placement_each_element_counts_once(
    ranks: list[Any], shape: tuple[int, int]
) -> None:
    generator = torch.Generator().manual_seed(5)
    drawn = [[torch.randn(5, 3, generator=generator).double() for _ in range(3)] for _ in PLACED]
    w, g, h = (torch.cat([one[at].flatten() for one in drawn]) for at in range(3))
    step = h - 0.4 * (g - (g @ h) / (h @ h) * h)
    step = step * min(1.0, float(1.0 / (step.norm() + 1e-6)))
    for rank in ranks:
        found = rank[f"placed {shape}"]
        torch.testing.assert_close(found["norm"], g.norm())
        torch.testing.assert_close(found["away"], w + 0.5 * g / g.norm())
        torch.testing.assert_close(found["after"], w - 0.1 * step)


def test_groups_of_their_own_and_parameters_that_are_not_sharded(ranks: list[Any]) -> None:
    alone = mixed("alone")
    for rank in ranks:
        check_same(rank["mixed"], alone)


def test_masks_may_shrink(ranks: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fsdp_worker.sharded", lambda model: model)
    alone = shrunk()
    for rank in ranks:
        check_same([rank["shrunk"]], [alone])


def test_the_state_under_plain_names_is_taken_and_put_back(ranks: list[Any]) -> None:
    for rank in ranks:
        assert rank["plain"] == dict.fromkeys(rank["plain"], True)


def test_what_cannot_be_is_refused_in_every_process(ranks: list[Any]) -> None:
    assert ranks[0]["refusals"] == ranks[1]["refusals"]
    said = ranks[0]["refusals"]
    assert said["model"].startswith("ValueError: parameters are sharded: pass model=")
    assert "Attach masks before fully_shard" in said["attach"]
    assert said["placements"].startswith("RuntimeError: a parameter of shape (4, 3) is placed as")
    assert "redistribute" in said["partial, first"]
    assert "redistribute" in said["partial, last"]


def test_nothing_of_it_is_imported_by_who_does_not_need_it() -> None:
    code = (
        "import sys, torch; from torch import nn; from sparse_sam.sam import SAM, SGD\n"
        "model = nn.Linear(2, 2); optimizer = SAM(model.parameters(), SGD, lr=0.1)\n"
        "model(torch.ones(2)).sum().backward(); optimizer.first_step(); optimizer.second_step()\n"
        "assert 'torch.distributed.tensor' not in sys.modules\n"
    )
    before = {**os.environ, "PYTHONPATH": str(HERE.parents[1] / "src")}
    subprocess.run([sys.executable, "-c", code], env=before, check=True)
