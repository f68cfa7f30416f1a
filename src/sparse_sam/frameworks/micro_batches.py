"""The micro-batches of one step of the optimizer, which the second pass goes through again."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from sparse_sam.sam import SAM, LeftGradients


class MicroBatches:
    """What the passes at w were computed from, each with the random state that it began with.

    The second pass begins with the same state, so that dropout takes the same units. After it the
    generators go on as if there had been none: a loader or an augmentation draws what it would
    draw for another optimizer. (Python's and NumPy's generators are left alone.)

    What the loop drops is dropped here too, so that both passes are of the same micro-batches: a
    pass at w that fails or leaves nothing in ``.grad``, and those before gradients were zeroed.
    """

    def __init__(self) -> None:
        self._kept: list[tuple[tuple[Any, ...], tuple[Tensor, Tensor | None]]] = []
        self._left = LeftGradients()

    def __len__(self) -> int:
        return len(self._kept)

    @contextmanager
    def passing(self, sam: SAM, *arguments: Any) -> Iterator[None]:
        """A block for a micro-batch's pass at w, which is remembered unless it came to nothing."""
        if not sam.ascends:
            yield
            return
        if self._kept and self._left.were_zeroed(sam.param_groups):
            self.forget()
        self._left.remember(sam.param_groups)
        self.keep(*arguments)
        try:
            yield
        except BaseException:
            self._kept.pop()
            raise
        self.drop_if_empty(sam)
        self._left.remember(sam.param_groups)

    def before_pass(self, sam: SAM, *arguments: Any) -> None:
        """As ``passing``, where a loop calls before a pass only: the last one is looked at now."""
        if self._kept:
            self.drop_if_empty(sam)
        self._left.remember(sam.param_groups)
        self.keep(*arguments)

    def drop_if_empty(self, sam: SAM) -> None:
        """Forget the last micro-batch if its pass wrote no gradient, and all if there is none."""
        if all(p.grad is None for group in sam.param_groups for p in group["params"]):
            self.forget()
        elif self._kept and not self._left.came(sam.param_groups):
            self._kept.pop()

    def keep(self, *arguments: Any) -> None:
        """Remember a micro-batch, before its pass at w."""
        in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        on_gpu = torch.cuda.get_rng_state() if in_use else None
        self._kept.append((arguments, (torch.get_rng_state(), on_gpu)))

    def forget(self) -> None:
        """Begin anew."""
        self._kept = []

    def again(
        self,
        backward: Callable[..., Any],
        unsynchronised: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        """Call ``backward`` with what was kept of each micro-batch, in their order; forget them.

        All but the last are in an ``unsynchronised`` block, as a loop that accumulates has them:
        processes exchange the sum.
        """
        kept, self._kept = self._kept, []
        for number, (arguments, state) in enumerate(kept, 1):
            with nullcontext() if number == len(kept) else unsynchronised(), _random_state(*state):
                backward(*arguments)


@contextmanager
def _random_state(on_cpu: Tensor, on_gpu: Tensor | None) -> Iterator[None]:
    devices = [] if on_gpu is None else [torch.cuda.current_device()]
    with torch.random.fork_rng(devices=devices):
        torch.set_rng_state(on_cpu)
        if on_gpu is not None:
            torch.cuda.set_rng_state(on_gpu)
        yield
