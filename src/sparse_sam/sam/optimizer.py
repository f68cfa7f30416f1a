"""Sharpness-aware minimization, as an optimizer around any other.

SAM (Foret et al. 2021, arXiv:2010.01412) minimises the largest loss within a distance ρ of the
weights, min over w of max over ‖ε‖₂ ≤ ρ of L(w + ε). To first order the inner maximum is at

    ε* = ρ ∇L(w) / ‖∇L(w)‖₂                                                (equation 2, p = 2)

and a step is: the gradient at w; w ← w + ε*; the gradient there; w as it was; a step of the base
optimizer with the second gradient (its algorithm 1). The norm is over all parameters together.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from sparse_sam.networks import frozen_batchnorm_statistics
from sparse_sam.sam.base_optimizer import complete_group, make_base
from sparse_sam.sam.descent import Descent, Nonfinite
from sparse_sam.sam.gradients import (
    LeftGradients,
    check_some_came,
    forget_gradients,
    take_gradients,
    unsynchronised,
)
from sparse_sam.sam.kept_state import KeepsState
from sparse_sam.sam.mask_projection import MaskProjection
from sparse_sam.sam.perturbation import Ascent, Perturbation
from sparse_sam.sam.replaced_gradient import ReplacedGradient, ReplacesGradient
from sparse_sam.sam.shards import check_model_is_known
from sparse_sam.sam.uncompiled import Uncompiled


class SAM(ReplacesGradient, KeepsState, Uncompiled, Optimizer):
    """SAM around a base optimizer; ASAM with ``adaptive=True``.

    Call ``step(closure)``, with a closure that computes the loss, calls ``backward`` and returns
    the loss; or ``first_step()`` after one backward pass and ``second_step()`` after another.

    Weights are restored in place, bit for bit, even if a closure raises. ``param_groups`` and
    ``state`` are those of the base optimizer: schedulers act on it, and ``state_dict`` resumes it.

    Args:
        params: parameters or groups of parameters, as for any optimizer. A group may set its own
            ``rho`` and ``adaptive``; ‖∇L(w)‖ is always taken over all groups.
        base_optimizer: a class such as ``torch.optim.SGD``, or an instance that already holds the
            same parameters as ``params``.
        rho: the radius ρ, at least 0; with 0, a step is one step of the base optimizer.
        adaptive: measure the distance relative to the size of each weight (see ``ASAM``).
        eta: what ASAM adds to these sizes, at least 0.
        model: the network. If given, BatchNorm statistics are frozen in the second pass, masks of
            ``sparse_sam.pruning.masks`` and ``torch.nn.utils.prune`` are found, and under
            DistributedDataParallel the first backward pass is not synchronised: each worker uses
            the ε of its own examples (the m-sharpness of section 4.1). Under ``fully_shard``, all
            workers share one ε.
        masks: masks of parameters that are pruned by other means, by parameter or by its name in
            the model: one tensor each, True where the weight is kept. Other gradients are set to 0.
        dense_gradient: for ablations: ε follows the gradient that ignores the masks, and so
            revives pruned weights; the step itself moves only the kept weights.
        track_kept_share: measure ``kept_share`` at every ascent, at the cost of two more norms.
        sync_perturbation: use one ε for all workers, from the examples of all of them.
        max_grad_norm: clip the final gradient to this norm, over all parameters together.
        nonfinite: what to do if the gradient of either pass is infinite or NaN: ``propagate``
            does not check; ``skip`` leaves weights and base optimizer unchanged and counts the
            step; ``raise`` raises. The last two make the host wait for the device at each step.
        base_kwargs: passed to ``base_optimizer`` if it is a class.

    Attributes:
        base_optimizer: takes the step.
        ascent_norm: the norm of the last ascent direction, as a 0-dimensional tensor: the gradient
            at w (scaled, if there is a scaler; times T for ASAM). None without an ascent.
        kept_share: ‖∇L(w) on kept weights‖ / ‖∇L(w)‖ at the last ascent, if it is tracked; a
            0-dimensional tensor in [0, 1].

    Raises:
        ValueError: a setting is out of range; the base optimizer does not fit; or parameters are
            sharded and ``model`` is missing.
        MaskError: a mask does not fit its parameter.
    """

    # Whether the gradient at w is part of the update, which the same for all workers has to be.
    needs_first_gradient: ClassVar[bool] = False
    # Whether ε lies along the base optimizer's momentum, which it must then have.
    needs_momentum: ClassVar[bool] = False

    def __init__(
        self,
        params: Iterable[Any],
        base_optimizer: type[Optimizer] | Optimizer,
        rho: float = 0.05,
        adaptive: bool = False,
        *,
        eta: float = 0.0,
        model: nn.Module | None = None,
        masks: Mapping[nn.Parameter, Tensor] | Mapping[str, Tensor] | None = None,
        dense_gradient: bool = False,
        track_kept_share: bool = False,
        sync_perturbation: bool = False,
        max_grad_norm: float | None = None,
        nonfinite: Nonfinite = "propagate",
        **base_kwargs: Any,
    ) -> None:
        if not eta >= 0:
            raise ValueError(f"eta = {eta}: must be at least 0")
        self._descent = Descent(max_grad_norm, nonfinite)
        self._kept = MaskProjection(model, masks)
        self._excursion = Perturbation(model)
        self._left, self._replaced = LeftGradients(), ReplacedGradient()
        self._own_group_defaults = {"rho": rho, "adaptive": adaptive}
        self.base_optimizer = make_base(params, base_optimizer, base_kwargs)
        for group in self.base_optimizer.param_groups:
            complete_group(group, self._own_group_defaults)
        defaults = {**self.base_optimizer.defaults, **self._own_group_defaults}
        super().__init__(self.base_optimizer.param_groups, defaults)
        self._share_with_base()
        check_model_is_known(model, self.param_groups)
        self.eta, self.model = eta, model
        self.dense_gradient, self.track_kept_share = dense_gradient, track_kept_share
        self.sync_perturbation = sync_perturbation
        self.ascent_norm: Tensor | None = None
        self.kept_share: Tensor | None = None
        self._masks_were_open = False
        self._first_gradient: dict[Tensor, Tensor] = {}

    @torch.no_grad()
    def step(
        self, closure: Callable[[], Any] | None = None, *, scaler: GradScaler | None = None
    ) -> Any:
        """Take a whole step and return the loss at w.

        Args:
            closure: computes the loss of the batch (or of its micro-batches in turn), calls
                ``backward`` and returns the loss. It is called once for each gradient that the
                step needs, with gradients set to None. After ``replace_gradient`` it may be
                missing; one that a framework passes is then called once, before the step.
            scaler: if given, the closure must backpropagate ``scaler.scale(loss)``, and this call
                replaces ``scaler.step(optimizer)``: an infinity in either pass skips the step,
                and ``scaler.update()`` takes it into account.

        Raises:
            ValueError: the closure is missing. (It may be missing before the first step, at a
                learning rate of 0: ``torch.distributed.checkpoint`` creates the state this way.)
            RuntimeError: the closure left no gradient, for example without ``loss.backward()``;
                or ``.grad`` holds gradients of earlier micro-batches, which would be lost.
            DivergenceError: a gradient is not finite and ``nonfinite`` is ``raise``.
        """
        if self._replaced.taken(self.param_groups):
            return self._step_with_replaced(closure, scaler)
        if closure is None:
            return self._make_first_state()
        with self._whole_step():
            with self.first_pass(), torch.enable_grad():
                loss = closure()
            if self.ascends:
                self.first_step()
                forget_gradients(self.param_groups)
                with self.second_pass(), torch.enable_grad():
                    closure()
            self.second_step(scaler=scaler)
        return loss

    @property
    def ascends(self) -> bool:
        """Whether the next step, or the one in progress, perturbs the weights."""
        return any(self._radius(group) > 0 for group in self.param_groups)

    @contextmanager
    def first_pass(self) -> Iterator[None]:
        """Wrap the forward and backward pass at w in this; ``step`` does it itself."""
        self._masks_were_open = self.ascends and (self.dense_gradient or self.track_kept_share)
        with ExitStack() as stack:
            if self.ascends and not (self.sync_perturbation or self.needs_first_gradient):
                stack.enter_context(unsynchronised(self.model))
            if self._masks_were_open:
                self._kept.zero_pruned_()
                stack.enter_context(self._kept.opened())
            yield

    @torch.no_grad()
    def first_step(self, zero_grad: bool = False) -> None:
        """Move to w + ε*, by the gradients at w. Parameters without a gradient do not move.

        Raises:
            RuntimeError: no parameter has a gradient; the weights are already perturbed; or the
                dense gradient is needed and the backward pass was not in a ``first_pass`` block.
        """
        self.ascent_norm, self._first_gradient = None, {}
        if self.ascends and not self.needs_momentum:
            check_some_came(self.param_groups, " at w")
        if self.ascends and (ascents := self._ascents()):
            weights = [weight for ascent in ascents for weight in ascent.weights]
            if not self._masks_were_open and (self.dense_gradient or self.track_kept_share):
                self._kept.refuse_closed()
            if self.track_kept_share:
                self.kept_share = self._kept.share(weights)
            if not self.dense_gradient:
                self._kept.project_(found=self._masks_were_open)
            self.ascent_norm = self._excursion.begin(ascents, self.eta)
            if self.needs_first_gradient:
                self._kept.project_(found=self._masks_were_open)
                self._first_gradient = take_gradients(weights)
        if zero_grad:
            self.zero_grad()

    @contextmanager
    def second_pass(self) -> Iterator[None]:
        """Wrap the forward and backward pass at w + ε* in this; ``step`` does it itself."""
        with ExitStack() as stack:
            if self.model is not None:
                stack.enter_context(frozen_batchnorm_statistics(self.model))
            if self.dense_gradient:
                stack.enter_context(self._kept.opened())
            yield

    @torch.no_grad()
    def second_step(self, zero_grad: bool = False, *, scaler: GradScaler | None = None) -> None:
        """Return to w and step with the gradients at w + ε*; ``scaler`` is that of ``step``.

        Raises:
            RuntimeError: no parameter has a gradient.
            DivergenceError: a gradient is not finite and ``nonfinite`` is ``raise``.
        """
        self._finish_gradient()
        self._descend(scaler)
        if zero_grad:
            self.zero_grad()

    @torch.no_grad()
    def restore(self) -> None:
        """Return to w without a step. Do nothing if the weights are not perturbed."""
        self._excursion.end()
        self._masks_were_open = False

    def unperturbed(self) -> AbstractContextManager[None]:
        """Return a context in which the weights are w, for evaluation and checkpoints.

        Between steps they are w anyway, in every variant, and the context does nothing.
        """
        return self._excursion.paused()

    @property
    def skipped(self) -> int:
        """How many steps ``nonfinite="skip"`` has skipped, not counting those of a GradScaler."""
        return self._descent.skipped

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters to both optimizers."""
        if any(group is param_group for group in self.base_optimizer.param_groups):
            super().add_param_group(param_group)  # while SAM itself is made
        else:
            complete = complete_group({**param_group}, self._own_group_defaults)
            self.base_optimizer.add_param_group(complete)
        self._left.remember_older(self.param_groups[-1:])

    # What variants do otherwise, beside what they keep (kept_state.py):

    def _radius(self, group: dict[str, Any]) -> float:
        """The ρ of a group in this step."""
        return float(group["rho"])

    def _ascents(self) -> list[Ascent]:
        """Where to: along the gradients, wherever there are some."""
        groups = self.param_groups
        ascents = [Ascent.along_gradients(group, self._radius(group)) for group in groups]
        return [ascent for ascent in ascents if ascent.weights]

    def _complete_gradient(self, first: dict[Tensor, Tensor]) -> None:
        """Make the update of the gradient at w + ε*, in place; SAM takes it as it is.

        ``first`` holds the gradient at w, if the step ascended and ``needs_first_gradient``.
        """

    def _end_step(self) -> None:
        """Count the step."""

    @contextmanager
    def _whole_step(self) -> Iterator[None]:
        """Begin without gradients, and when a closure fails end at w and without them."""
        self._left.check_nothing_came(self.param_groups)
        forget_gradients(self.param_groups)
        with self._undone_on_error():
            yield

    def _finish_gradient(self) -> None:
        """Return to w, and make the update of the gradient at w + ε*."""
        self.restore()
        check_some_came(self.param_groups, " at w + ε" if self.ascends else " at w")
        self._kept.project_(found=self.dense_gradient)
        self._complete_gradient(self._first_gradient if self.ascends else {})
        self._first_gradient = {}

    def _descend(self, scaler: GradScaler | None) -> None:
        self._descent.take(self.base_optimizer, self.ascent_norm if self.ascends else None, scaler)
        self._end_step()
        self._left.remember(self.param_groups)
