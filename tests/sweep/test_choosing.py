"""The choice by hand, and the table and the line of progress."""

from collections.abc import Callable
from typing import Any

import pytest

from sparse_sam.sweep.cells import choosing_cells
from sparse_sam.sweep.choosing import choose_all
from sparse_sam.sweep.compute import Result
from sparse_sam.sweep.declaration import Changes, Sweep, parse_sweep
from sparse_sam.sweep.progress import Progress
from sparse_sam.sweep.table import _text
from tests.sweep.conftest import known_as

Found = list[tuple[float | None, float | None]]


@pytest.fixture(scope="module")
def sweep(declared: Callable[..., dict[str, Any]]) -> Sweep:
    content = declared(seeds={"choosing": [7, 8], "reporting": [0]}, axes={})
    content["arms"] = {"sgd": content["arms"]["sgd"], "sgd_2x": content["arms"]["sgd_2x"]}
    return parse_sweep(content)


def chosen(sweep: Sweep, first: Found, second: Found, lost: int = 0) -> tuple[Changes | None, str]:
    cells = list(choosing_cells(sweep, known_as(sweep, "data")))
    assert [cell.seed for cell in cells] == [7, 8, 7, 8]
    results = {
        cell.key: Result(
            diverged=accuracy is None, validation_accuracy=accuracy, validation_loss=loss
        )
        for cell, (accuracy, loss) in zip(cells, first + second, strict=True)
    }
    for cell in cells[:lost]:
        del results[cell.key]
    choice = choose_all(sweep, cells, results)
    (regime,) = sweep.regimes()
    assert choice.chosen[regime, "sgd_2x"] == ()  # it has no choice
    return choice.chosen.get((regime, "sgd")), choice.lacking.get((regime, "sgd"), "")


LOW, HIGH = (("finetune.training.lr", 0.02),), (("finetune.training.lr", 0.1),)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([(0.9, 1.0), (0.7, 1.0)], [(0.8, 1.0), (0.7, 1.0)], LOW),
        ([(0.9, 1.0), (0.7, 1.0)], [(0.8, 1.0), (0.9, 9.0)], HIGH),  # the mean counts
        ([(0.9, 1.0), (0.7, 1.0)], [(0.8, 0.5), (0.8, 0.5)], HIGH),  # equal: the smaller loss
        ([(0.9, 1.0), (0.7, 1.0)], [(0.8, 1.0), (0.8, 1.0)], LOW),  # all equal: the first
        ([(0.99, 0.1), (None, None)], [(0.2, 1.0), (0.2, 1.0)], HIGH),  # one seed diverged
    ],
)
def test_the_best_mean_on_validation_is_chosen(
    sweep: Sweep, first: Found, second: Found, expected: Changes
) -> None:
    assert chosen(sweep, first, second) == (expected, "")


def test_where_nothing_can_be_chosen_it_is_said(sweep: Sweep) -> None:
    nothing: Found = [(None, None), (None, None)]
    assert chosen(sweep, nothing, nothing) == (None, "every candidate diverged")
    good: Found = [(0.9, 1.0), (0.9, 1.0)]
    assert chosen(sweep, good, good, lost=1) == (None, "cells that the choice needs failed")


@pytest.mark.parametrize(
    ("value", "text"), [(0.1 + 0.2, "0.30000000000000004"), (None, ""), (True, "1"), (3, "3")]
)
def test_numbers_have_all_their_digits(value: Any, text: str) -> None:
    assert _text(value) == text


def test_the_line_says_how_far_it_is() -> None:
    with Progress("regimes", workers=2) as progress:
        progress._began -= 60
        progress.doing._began -= 60
        progress.expect(40)
        for _ in range(5):
            progress.begin()
        for number in range(10):
            progress.begin()
            progress.end(failed=number == 3)
        assert progress.doing.what == "regimes: 2 running, 1 failed, 10.0 a minute"
        assert progress.doing.count == "10 of 40 done"
        assert progress.doing.left == pytest.approx(180, abs=1)
