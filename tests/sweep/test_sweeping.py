"""A whole sweep in sequence: what is computed, chosen, tabulated, kept, and gone on with."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sparse_sam.errors import SparseSamError
from sparse_sam.sweep import compute, table
from sparse_sam.sweep.__main__ import main
from sparse_sam.sweep.declaration import Sweep, parse_sweep
from sparse_sam.sweep.one_cell import reproduce
from sparse_sam.sweep.store import Store
from sparse_sam.sweep.sweeping import Swept, run_sweep
from sparse_sam.training.engines import Event, Sequential
from tests.sweep.conftest import arm as an_arm
from tests.sweep.conftest import read_table


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def swept(small: Sweep, store: Store) -> Swept:
    return run_sweep(small, store, Sequential())


@pytest.fixture(scope="module")
def rows(small: Sweep, swept: Swept) -> list[dict[str, Any]]:
    return [dict(zip(table.columns(small), row, strict=True)) for row in swept.table]


def test_every_cell_is_computed_once(swept: Swept, store: Store) -> None:
    assert len(swept.table) == len(swept.cells) == 16 + 32
    assert swept.computed == len({cell.key for cell in swept.cells}) == 48
    done = Counter(one["key"] for one in store.events() if one["event"] == "done")
    assert set(done.values()) == {1}
    assert done.keys() == store.finished()
    trained = Counter(one["key"] for one in store.events() if one["event"] == "dense done")
    assert (len(trained), set(trained.values())) == (6, {1})
    assert not swept.failures
    assert not swept.lacking


def test_what_chooses_has_seen_no_test_image(rows: list[dict[str, Any]]) -> None:
    tested = ("test_accuracy", "test_loss", "dense_test_accuracy", "pruned_test_accuracy")
    for row in rows:
        assert all((row[name] == "") == (row["purpose"] == "choose") for name in tested)
        assert (int(row["seed"]) == 100) == (row["purpose"] == "choose")


def test_the_best_on_validation_is_reported(rows: list[dict[str, Any]]) -> None:
    for optimizer in ("sgd", "sam"):
        for sparsity in ("0.0", "0.8"):
            place = [
                row
                for row in rows
                if (row["train_dense.optimizer"], row["prune.sparsity"]) == (optimizer, sparsity)
            ]
            for arm, path in (("sgd", "finetune.training.lr"), ("sam", "finetune.sam.rho")):
                tried = [r for r in place if (r["purpose"], r["arm"]) == ("choose", arm)]
                best = max(
                    tried,
                    key=lambda r: (float(r["validation_accuracy"]), -float(r["validation_loss"])),
                )
                assert [row[path] for row in tried if row["chosen"]] == [best[path]]
                reported = [r for r in place if (r["purpose"], r["arm"]) == ("report", arm)]
                assert [row[path] for row in reported] == [best[path]] * 2


def test_costs_are_counted_as_the_library_counts_them(rows: list[dict[str, Any]]) -> None:
    counts = {row["arm"]: int(row["gradient_evaluations"]) for row in rows}
    assert counts == {"sgd": 5, "sgd_2x": 10, "sam": 10, "momentum": 5}
    for row in rows:
        assert float(row["sparsity"]) == pytest.approx(float(row["prune.sparsity"]), abs=1e-3)


def test_the_table_is_sorted_and_names_are_unique(rows: list[dict[str, Any]]) -> None:
    assert [row["purpose"] for row in rows] == ["choose"] * 16 + ["report"] * 32
    assert [row["arm"] for row in rows[16:24]] == [
        arm for arm in ("sgd", "sgd_2x", "sam", "momentum") for _ in range(2)
    ]
    assert len({row["cell"] for row in rows}) == 48


def test_a_second_run_computes_nothing_and_gives_the_same(
    small: Sweep, store: Store, swept: Swept
) -> None:
    begun = len(store.events())
    again = run_sweep(small, store, Sequential())
    assert again.computed == 0
    assert again.table == swept.table
    assert len(store.events()) == begun


def test_another_store_gives_the_same_table(small: Sweep, swept: Swept, tmp_path: Path) -> None:
    assert run_sweep(small, Store(tmp_path), Sequential()).table == swept.table


def test_one_cell_alone_is_the_same_to_the_digit(
    small: Sweep, swept: Swept, rows: list[dict[str, Any]]
) -> None:
    for row in (rows[3], rows[17], rows[-1]):
        alone = json.loads(reproduce(small, row["cell"]))
        for name in table.MEASURES:
            expected = row[name]
            assert table._text(alone[name]) == expected


def test_a_name_that_is_no_cell_is_said(small: Sweep) -> None:
    with pytest.raises(SparseSamError, match="no cell of this sweep begin with 'zz'"):
        reproduce(small, "zz")


def test_two_sweeps_cannot_write_to_one_store(small: Sweep, tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.writing(), pytest.raises(SparseSamError, match="another sweep is writing"):
        run_sweep(small, Store(tmp_path), Sequential())


class Stopping(Sequential):
    """An engine that is stopped after so many events."""

    def __init__(self, after: int) -> None:
        self.after = after

    def run(self, *given: Any) -> Iterator[Event]:
        for event in super().run(*given):
            self.after -= 1
            if self.after < 0:
                raise KeyboardInterrupt
            yield event


@pytest.mark.parametrize("after", [0, 1, 2, 7, 30, 44, 61, 90])
def test_a_sweep_that_is_stopped_goes_on(
    small: Sweep, swept: Swept, tmp_path: Path, after: int
) -> None:
    store = Store(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(small, store, Stopping(after))
    before = store.finished()
    marks = len(store.events())
    whole = run_sweep(small, store, Sequential())
    assert whole.table == swept.table
    assert whole.computed == 48 - len(before)
    begun = {one["key"] for one in store.events()[marks:] if one["event"] == "begun"}
    assert not begun & before


def test_a_cell_that_fails_is_tried_again_and_then_told(
    small: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, tries = compute.report, Counter[int]()

    def fails(work: Any, *given: Any) -> Any:
        bad = (work.arm, work.dense.seed, work.prune.sparsity) == ("sgd_2x", 1, 0.8)
        if bad and work.dense.recipe.optimizer == "sgd":
            tries["always"] += 1
            raise ZeroDivisionError("this cell is broken")
        if work.dense.seed == 0 and not tries["once"]:
            tries["once"] += 1
            raise OSError("once only")
        return real(work, *given)

    monkeypatch.setattr(compute, "report", fails)
    swept = run_sweep(small, Store(tmp_path), Sequential())
    assert tries == {"always": 2, "once": 1}
    assert len(swept.table) == 47
    (why,) = swept.failures.values()
    assert "ZeroDivisionError: this cell is broken" in why
    monkeypatch.undo()
    again = run_sweep(small, Store(tmp_path), Sequential())
    assert (again.computed, len(again.table)) == (1, 48)


def test_a_dense_network_that_fails_takes_its_cells_with_it(
    small: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = compute.dense_network

    def fails(dense: Any, data: Any) -> Any:
        if (dense.seed, dense.recipe.optimizer) == (100, "sam"):
            raise MemoryError
        return real(dense, data)

    monkeypatch.setattr(compute, "dense_network", fails)
    swept = run_sweep(small, Store(tmp_path), Sequential())
    # Without choice in half of the regimes: 8 cells that choose, and the reported ones of the arms
    # that need none.
    assert len(swept.failures) == 1 + 8
    assert len(swept.lacking) == 2 * 2
    assert "cells that the choice needs failed" in set(swept.lacking.values())
    assert len(swept.table) == 8 + 16 + 8


def test_divergence_is_a_finding(declared: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    content = declared()
    content["arms"]["sgd"]["choose"]["finetune.training.lr"] = [1e6, 0.1]
    content["arms"]["sam"]["choose"] = {"finetune.training.lr": [1e5, 1e6]}
    swept = run_sweep(parse_sweep(content), Store(tmp_path), Sequential())
    assert not swept.failures
    assert {
        dict(c)["finetune.training.lr"] for (_, a), c in swept.chosen.items() if a == "sgd"
    } == {0.1}
    assert {arm for _, arm in swept.lacking} == {"sam"}
    assert set(swept.lacking.values()) == {"every candidate diverged"}


def test_what_an_arm_does_not_use_computes_nothing(
    declared: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    content = declared()
    content["axes"] = {"finetune.sam.rho": [0.02, 0.05, 0.1], "train_dense.sam.rho": [0.01, 0.02]}
    content["arms"] = {name: content["arms"][name] for name in ("sgd_2x", "momentum")}
    content["seeds"] = {"choosing": [], "reporting": [0]}
    store = Store(tmp_path)
    swept = run_sweep(parse_sweep(content), store, Sequential())
    assert len(swept.table) == 3 * 2 * 2
    assert swept.computed == 1 + 3  # SGD once, SAM once a radius
    assert sum(one["event"] == "dense done" for one in store.events()) == 1


def test_without_reported_seeds_all_candidates_are_tried_and_nothing_is_tested(
    declared: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    content = declared(seeds={"choosing": [0, 1], "reporting": []})
    swept = run_sweep(parse_sweep(content), Store(tmp_path), Sequential())
    assert len(swept.table) == 4 * (2 + 1 + 2 + 1) * 2
    assert {row[0] for row in swept.table} == {"choose"}


# The command


def write(path: Path, content: dict[str, Any]) -> Path:
    path.write_text(json.dumps(content))  # JSON is YAML
    return path


def command(*arguments: Any) -> int:
    return main([*map(str, arguments), "--engine", "sequential", "--no-mlflow"])


def test_the_command_writes_the_table(
    declared: Callable[..., dict[str, Any]],
    swept: Swept,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = write(tmp_path / "sweep.yaml", declared())
    csv, folder = tmp_path / "table.csv", tmp_path / "store"
    assert command(file, "--store", folder, "--table", csv) == 0
    said = capsys.readouterr()
    assert "small: 48 of 48 cells, 48 computed now" in said.out
    assert said.err == ""  # no terminal, no progress
    found = read_table(csv)
    assert [list(row.values()) for row in found] == [list(map(str, row)) for row in swept.table]
    costs = read_table(folder / "costs.csv")
    assert sorted(row["cell"] for row in costs) == sorted(row["cell"] for row in found)
    before = csv.read_bytes()
    assert command(file, "--store", folder, "--table", csv) == 0
    assert "0 computed now" in capsys.readouterr().out
    assert csv.read_bytes() == before
    assert command(file, "--cell", found[20]["cell"]) == 0
    assert json.loads(capsys.readouterr().out)["test_accuracy"] == float(found[20]["test_accuracy"])


def test_the_command_says_what_is_wrong(
    declared: Callable[..., dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(tmp_path / "none.yaml") == 2
    assert "none.yaml is missing" in capsys.readouterr().err
    bad = declared(axes={"prune.sparsity": [0.5, 1.5]})
    assert command(write(tmp_path / "bad.yaml", bad)) == 2
    assert "prune.sparsity = 1.5: must be a finite number" in capsys.readouterr().err
    gone = declared()
    gone["base"]["data"]["folder"] = str(tmp_path / "nowhere")
    assert command(write(tmp_path / "gone.yaml", gone), "--store", tmp_path / "s") == 1
    assert "nowhere" in capsys.readouterr().err


def test_failures_end_the_command_badly(
    declared: Callable[..., dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fails(*_: Any) -> Any:
        raise ZeroDivisionError("broken")

    monkeypatch.setattr(compute, "report", fails)
    file = write(tmp_path / "sweep.yaml", declared(seeds={"choosing": [1], "reporting": [0]}))
    assert command(file, "--store", tmp_path / "store") == 1
    said = capsys.readouterr()
    assert "16 of 32 cells" in said.out
    assert "error: 16 tasks failed: ZeroDivisionError: broken" in said.err
    assert "Run the same command to retry" in said.err


def test_recipes_are_varied_as_any_parameter(
    declared: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """Distillation has its dense network in every cell, and AdamW is a base like another."""
    content = declared(
        seeds={"choosing": [], "reporting": [0]},
        axes={
            "finetune.distillation.weight": [0.0, 0.5],
            "base": {
                "sgd": {"finetune.training.base_optimizer": "sgd"},
                "adamw": {
                    "finetune.training.base_optimizer": "adamw",
                    "finetune.training.momentum": 0.0,
                    "finetune.training.warmup_epochs": 0.5,
                },
            },
        },
        arms={"sgd": an_arm("sgd", {}), "sam": an_arm("sam", {})},
    )
    sweep = parse_sweep(content)
    found = run_sweep(sweep, Store(tmp_path), Sequential())
    assert not found.failures
    rows = [dict(zip(table.columns(sweep), row, strict=True)) for row in found.table]
    assert len({row["cell"] for row in rows}) == len(rows) == 2 * 2 * 2
    assert len({row["train_loss"] for row in rows}) == len(rows)
    assert len({row["dense_test_accuracy"] for row in rows}) == 1
    distilled = next(row for row in rows if "0.5" in map(str, row.values()))
    again = json.loads(reproduce(sweep, distilled["cell"]))
    assert str(again["train_loss"]) == str(distilled["train_loss"])
