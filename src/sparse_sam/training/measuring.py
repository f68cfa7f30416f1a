"""Measures beside a result: what a network cannot give, or not in time, is said in its place.

Accuracies are the result, and everything else that is measured of a network (flatness, latency,
memory) is beside it: none of it may take the result along when it fails. So each is taken behind
one boundary, ``measured``, and within a budget of time, ``check_budget``.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb
from typing import TypeVar

import torch
from torch import nn
from torch.autograd.function import BackwardCFunction

from sparse_sam.errors import ConfigError, OverBudgetError, SparseSamError
from sparse_sam.files import NotMeasured
from sparse_sam.redaction import redacted

T = TypeVar("T")

_LIBRARY = Path(__file__).parent.parent
_TRIES, _HOPELESS = 3, 3.0
_LONGEST = 300

# What counts as "cannot be measured" is what a network or a machine refuses:
# - RuntimeError is torch's word for all that a network cannot do (no second derivative, shapes that
#   do not fit; NotImplementedError, no such kernel, is one), and SciPy's for a search that does not
#   converge;
# - ArithmeticError is what comes of numbers that are none;
# - MemoryError and OSError are a machine without room, processes or files;
# - SparseSamError is what this library says on purpose: a loss that is NaN, a process that was
#   killed, a budget. But not ConfigError: a setting is somebody's to put right.
# Everything else (KeyError, TypeError, AttributeError, ...) is a mistake of whoever wrote the line
# that raised it. In a network's line it is the network's way to say no, as is an assertion that a
# batch has less than 200 images, and counts. In a line of this library it is a fault of ours, which
# nobody would find as a remark in a report: it goes on its way, with its traceback. The result is
# on disk by then.
_REFUSALS = (SparseSamError, RuntimeError, ArithmeticError, MemoryError, OSError)
_TO_THE_NETWORK = {nn.Module._call_impl.__code__, BackwardCFunction.apply.__code__}  # noqa: SLF001
"""Through which torch goes from our lines to a network's, forward and backward."""


def measured(take: Callable[[], T], of: str = "") -> T | NotMeasured:
    """Take a measure, or say why it cannot be taken.

    Args:
        take: takes it; what it must not change, it restores itself, also under exceptions.
        of: of what it is taken, to be named before the reason: ``"sgd, seed 0"``.

    Raises:
        ConfigError: a setting is wrong.
        Exception: a mistake in this library, and no network's or machine's refusal.
    """
    try:
        return take()
    except ConfigError:
        raise
    except Exception as error:
        if not isinstance(error, _REFUSALS) and not _is_the_networks(error):
            raise
        return not_measured(error, of)


def not_measured(error: Exception, of: str = "") -> NotMeasured:
    """What stands in a measure's place for an error. A budget is everybody's, whatever ``of``."""
    text = " ".join(str(error).split()).rstrip(".")
    if not isinstance(error, SparseSamError):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    if of and not isinstance(error, OverBudgetError):
        text = f"{of}: {text}"
    # (Redacted as a whole: half a secret is not known for one.)
    text = redacted(text)
    return NotMeasured(text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…")


def _is_the_networks(error: Exception) -> bool:
    """Whether an error was raised below a call of a module or a derivative, in no line of ours."""
    codes = [frame.f_code for frame, _ in walk_tb(error.__traceback__)]
    ours = [Path(code.co_filename).is_relative_to(_LIBRARY) for code in codes]
    last = len(ours) - 1 - ours[::-1].index(True) if any(ours) else -1
    return not _TO_THE_NETWORK.isdisjoint(codes[last + 1 :])


def check_budget(estimate: Callable[[], float], seconds: float, key: str, what: str = "") -> None:
    """Go on only with a measure that is going to end in time.

    A measure that is cut short is another measure, on every machine another one. So it is taken
    whole or not at all, and which of both is decided before: a small piece of it is timed.

    Args:
        estimate: times a piece and gives the seconds of the whole. It is asked again, up to three
            times, where the answer is too much: the first piece pays for what torch does once.
        seconds: the budget; with 0 nothing is timed.
        key: where in params.yaml it stands.
        what: of what, with a preposition: ``"for all arms"``.

    Raises:
        OverBudgetError: the whole would take longer; its message says how long, and ``key``.
    """
    if not seconds:
        raise OverBudgetError(f"its budget is 0 s ({key})")
    about = math.inf
    for _ in range(_TRIES):
        about = min(about, estimate())
        if about <= seconds:
            return
        if about > _HOPELESS * seconds:
            break
    words = f"would take about {math.ceil(about)} s {what}".rstrip()
    raise OverBudgetError(f"{words}, and the budget is {seconds:g} s ({key})")


def seconds_of(act: Callable[[], object]) -> float:
    """How long it takes, in seconds."""
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


@contextmanager
def layer_by_layer() -> Iterator[None]:
    """Within it, no layer of ``nn.TransformerEncoder`` or ``nn.MultiheadAttention`` is fused.

    Fused, in evaluation mode, they are computed from their weights, and the layers within them are
    not called; what they hand on may be nested tensors, which have no derivative.
    """
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
