"""What is said to be missing, what goes on as a mistake, and what is too long."""

import errno
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from sparse_sam.errors import ConfigError, DivergenceError, OverBudgetError
from sparse_sam.files.unmeasured import NotMeasured, gaps, why_not
from sparse_sam.pruning.masks import Masked
from sparse_sam.training.measuring import check_budget, measured, seconds_of


class Raising(nn.Module):
    """A network of somebody's that says no."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def forward(self, _: Tensor) -> Tensor:
        raise self.error


class Wrong(torch.autograd.Function):
    """A derivative of somebody's that says no."""

    @staticmethod
    def forward(_: Any, inputs: Tensor) -> Tensor:
        return inputs.clone()

    @staticmethod
    def backward(*_: Any) -> Tensor:
        raise IndexError("no such weight")


def raising(error: Exception) -> Any:
    def take() -> None:
        raise error

    return take


def test_a_measure_is_given_as_it_is() -> None:
    assert measured(lambda: 0.5) == 0.5
    assert measured(lambda: None, "sgd, seed 0") is None


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("no\n  kernel."), "RuntimeError: no kernel"),
        (NotImplementedError(), "NotImplementedError"),
        (ZeroDivisionError("by 0"), "ZeroDivisionError: by 0"),
        (MemoryError(), "MemoryError"),
        (OSError(errno.ENOSPC, "No space"), "OSError: [Errno 28] No space"),
        (DivergenceError("the loss is nan."), "the loss is nan"),
    ],
)
def test_what_a_network_or_a_machine_refuses_is_said(error: Exception, said: str) -> None:
    assert measured(raising(error)) == NotMeasured(said)
    assert measured(raising(error), "sam, seed 1") == NotMeasured(f"sam, seed 1: {said}")


@pytest.mark.parametrize(
    "kind", [KeyError, AttributeError, TypeError, ValueError, IndexError, AssertionError, NameError]
)
def test_other_errors_are_mistakes_but_a_network_may_say_no_with_any(kind: type[Exception]) -> None:
    with pytest.raises(kind, match="x"):
        measured(raising(kind("x")))
    network = nn.Sequential(nn.Identity(), Raising(kind("x")))
    found = measured(lambda: network(torch.zeros(1)))
    assert isinstance(found, NotMeasured)
    assert found.why.startswith(f"{kind.__name__}: ")


def test_a_derivative_may_say_no() -> None:
    inputs = torch.ones(2, requires_grad=True)
    assert measured(Wrong.apply(inputs).sum().backward) == NotMeasured("IndexError: no such weight")


def test_a_line_of_this_library_below_a_network_is_ours() -> None:
    """A mask is called by the network, and is no network."""
    with pytest.raises(AttributeError):
        measured(lambda: nn.Sequential(Masked(torch.ones(2)))(object()))


def test_a_setting_that_is_wrong_is_no_gap() -> None:
    with pytest.raises(ConfigError):
        measured(raising(ConfigError("SPARSE_SAM_CORES = 'x'")))
    with pytest.raises(KeyboardInterrupt):
        measured(raising(KeyboardInterrupt()))  # type: ignore[arg-type]


def test_a_reason_is_one_short_line_without_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "abcdefgh12345")
    found = measured(raising(RuntimeError("a\nb abcdefgh12345 " + "c" * 1000)))
    assert isinstance(found, NotMeasured)
    assert found.why.startswith("RuntimeError: a b *** ccc")
    assert len(found.why) == 300


def test_what_fits_is_timed_once() -> None:
    asked: list[float] = []

    def estimate() -> float:
        asked.append(1.0)
        return 1.0

    check_budget(estimate, 1.0, "key")
    assert len(asked) == 1


def test_what_does_not_fit_is_timed_again_for_the_first_time_is_dear() -> None:
    slow_at_first = iter([2.9, 0.5])
    check_budget(lambda: next(slow_at_first), 1.0, "key")
    always = iter([2.9, 2.2, 2.5, 0.5])
    with pytest.raises(OverBudgetError) as raised:
        check_budget(lambda: next(always), 1.0, "evaluate.x", "for all arms")
    assert str(raised.value) == (
        "would take about 3 s for all arms, and the budget is 1 s (evaluate.x)"
    )
    assert list(always) == [0.5]


def test_what_is_hopeless_is_not_timed_again_and_0_is_never() -> None:
    hopeless = iter([3.1, 0.0])
    with pytest.raises(OverBudgetError, match="about 4 s, and the budget is 1 s"):
        check_budget(lambda: next(hopeless), 1.0, "key")
    assert list(hopeless) == [0.0]
    with pytest.raises(OverBudgetError, match=r"^its budget is 0 s \(key\)$"):
        check_budget(lambda: pytest.fail("timed"), 0.0, "key")


def test_a_budget_is_not_one_arms() -> None:
    error = OverBudgetError("would take long")
    assert measured(raising(error), "dense, seed 0") == NotMeasured("would take long")


def test_seconds_are_those_of_the_call() -> None:
    calls: list[int] = []
    assert 0 <= seconds_of(lambda: calls.append(1)) < 1
    assert calls == [1]


values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3).filter(lambda key: key != "rows"), inner, max_size=3)
    ),
)


@given(value=values, why=st.text(min_size=1))
def test_a_gap_is_found_wherever_it_stands(value: Any, why: str) -> None:
    gap = NotMeasured(why).as_json()
    assert why_not(gap) == why
    assert gaps(value) == {}
    assert gaps({"other": value, "the_trace": gap}) == {why: "the trace"}
    assert gaps({"latency": {"rows": [value, {"batch": 1, **gap}, gap]}, "x": [{"y": gap}]}) == {
        why: "latency, y"
    }
