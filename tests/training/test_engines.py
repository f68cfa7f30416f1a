"""Tasks one after the other: in which order, how often, and what comes of those that fail."""

from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch

from sparse_sam.errors import DivergenceError
from sparse_sam.training.engines import (
    ATTEMPTS,
    Begun,
    Done,
    Event,
    Failed,
    Large,
    Sequential,
    Task,
)


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    """What the engine changes for its tasks, it puts back."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    assert torch.get_num_threads() == 3
    torch.set_num_threads(before)


def double(number: int) -> int:
    assert torch.get_num_threads() == 1
    return 2 * number


def task(number: int) -> Task:
    return Task(number, double, (number,), ())


def said(event: Event) -> tuple[str, Any]:
    return type(event).__name__, event.task.key


def test_tasks_are_done_in_turn_on_one_thread() -> None:
    events = list(Sequential().run([task(2), task(1)]))
    assert list(map(said, events)) == [("Begun", 2), ("Done", 2), ("Begun", 1), ("Done", 1)]
    done = [one for one in events if isinstance(one, Done)]
    assert [one.found for one in done] == [4, 2]
    assert all(one.cost.seconds >= 0 and one.cost.ended > 1e9 for one in done)
    assert list(Sequential().run([])) == []


def test_what_follows_a_task_is_done_before_what_waited() -> None:
    def then(event: Event) -> Iterable[Task]:
        assert not isinstance(event, Begun)
        return [task(10), task(11)] if event.task.key == 1 else []

    done = [
        one.task.key for one in Sequential().run([task(1), task(2)], then) if said(one)[0] == "Done"
    ]
    assert done == [1, 10, 11, 2]


def test_what_tasks_share_is_handed_over_as_it_is() -> None:
    value = [1, 2]
    large = Large(value)
    tasks = [Task(number, lambda one: one, (large,), ()) for number in range(2)]
    found = [one.found for one in Sequential().run(tasks) if isinstance(one, Done)]
    assert all(one is value for one in found)


class Unlucky:
    """Work that raises so many times, and then is done."""

    def __init__(self, error: Exception, times: int) -> None:
        self.error, self.left, self.calls = error, times, 0

    def __call__(self) -> str:
        self.calls += 1
        if self.left:
            self.left -= 1
            raise self.error
        return "done"


@pytest.mark.parametrize(
    ("error", "times", "calls", "ends"),
    [
        (OSError("a cable"), ATTEMPTS - 1, ATTEMPTS, "Done"),
        (OSError("a cable"), ATTEMPTS, ATTEMPTS, "Failed"),
        (DivergenceError("every time"), 1, 1, "Failed"),  # which trying again does not mend
    ],
)
def test_one_that_raises_is_tried_again_and_then_told(
    error: Exception, times: int, calls: int, ends: str
) -> None:
    unlucky = Unlucky(error, times)
    events = list(Sequential().run([Task("unlucky", unlucky, (), ()), task(1)]))
    assert unlucky.calls == calls
    assert [said(one)[0] for one in events] == ["Begun", ends, "Begun", "Done"]
    failed = [one for one in events if isinstance(one, Failed)]
    assert all(one.error is error and str(error) in one.why for one in failed)
    assert all("Traceback" in one.why and "in __call__" in one.why for one in failed)


def test_what_stops_a_person_stops_the_engine() -> None:
    unlucky = Unlucky(KeyboardInterrupt(), 1)  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        list(Sequential().run([Task("unlucky", unlucky, (), ()), task(1)]))
    assert unlucky.calls == 1


def test_it_says_what_it_is() -> None:
    engine = Sequential()
    assert engine.workers == 1
    assert engine.environment(1).device == "cpu"
    assert engine.environment(1) == engine.environment(1)
    engine.close()
