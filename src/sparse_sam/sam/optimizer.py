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
from sparse_sam.sam.gradients import LeftGradients, forget_gradients, take_gradients, unsynchronised
from sparse_sam.sam.mask_projection import MaskProjection
from sparse_sam.sam.perturbation import Ascent, Perturbation
from sparse_sam.sam.uncompiled import Uncompiled


class SAM(Uncompiled, Optimizer):
    """SAM around a base optimizer; with ``adaptive=True`` ASAM.

    Use ``step(closure)``, where the closure computes the loss, calls ``backward`` and returns it;
    or ``first_step()`` after the first backward pass and ``second_step()`` after the second.

    Weights are restored bit for bit, in place, also when a closure raises. ``param_groups`` and
    ``state`` are the base optimizer's own: schedulers act on it, and ``state_dict`` resumes it.

    Args:
        params: parameters, or groups of them, as for any optimizer. A group may have a ``rho``
            and an ``adaptive`` of its own; ‖∇L(w)‖ is over all groups nevertheless.
        base_optimizer: a class such as ``torch.optim.SGD``, or an instance, which then already
            holds its parameters and ``params`` must be the same ones.
        rho: the radius ρ, at least 0; with 0 a step is one step of the base optimizer.
        adaptive: measure the distance relative to the weights' sizes (see ``ASAM``).
        eta: what ASAM adds to the sizes, at least 0.
        model: the network. With it, BatchNorm statistics are frozen in the second pass, masks of
            ``sparse_sam.pruning.masks`` and ``torch.nn.utils.prune`` are found, and under
            DistributedDataParallel the first backward pass is not synchronised: each worker has
            the ε of its own examples (the m-sharpness of section 4.1).
        masks: for parameters that are pruned by other means, a tensor each, True where the weight
            is kept; by parameter, or by the model's name of it. Gradients are 0 elsewhere.
        dense_gradient: an ablation. ε lies along the gradient that ignores the masks, and revives
            pruned weights; the step itself stays on the kept weights.
        track_kept_share: measure ``kept_share`` at every ascent, for two norms more.
        sync_perturbation: one ε for all workers, from the examples of all of them.
        max_grad_norm: clip the final gradient to this norm over all parameters together.
        nonfinite: when the gradient of either pass is infinite or NaN, ``propagate`` does not
            look; ``skip`` leaves weights and base optimizer as they were, and counts; ``raise``
            raises. The last two make the host wait for the device once a step.
        base_kwargs: passed to ``base_optimizer`` when it is a class.

    Attributes:
        base_optimizer: takes the step.
        ascent_norm: the norm of the last ascent's direction, the gradient at w (with a scaler the
            scaled one; for ASAM T times it), as a tensor of no dimension; None without.
        kept_share: ‖∇L(w) on kept weights‖ / ‖∇L(w)‖ at the last ascent, if it is tracked; a
            tensor of no dimension in [0, 1].

    Raises:
        ValueError: a setting is out of range, or the base optimizer does not fit.
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
        self._excursion = Perturbation()
        self._left = LeftGradients()
        self._own_group_defaults = {"rho": rho, "adaptive": adaptive}
        self.base_optimizer = make_base(params, base_optimizer, base_kwargs)
        for group in self.base_optimizer.param_groups:
            complete_group(group, self._own_group_defaults)
        defaults = {**self.base_optimizer.defaults, **self._own_group_defaults}
        super().__init__(self.base_optimizer.param_groups, defaults)
        self._share_with_base()
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
        """A whole step, and the loss at w.

        Args:
            closure: computes the loss of the batch (or of its micro-batches in turn), calls
                ``backward`` and returns it. It is called for every gradient that the step needs,
                with gradients set to None.
            scaler: when given, the closure backpropagates ``scaler.scale(loss)``, and this
                stands for ``scaler.step(optimizer)``: an infinity in either pass skips the step,
                and ``scaler.update()`` will know of it.

        Raises:
            ValueError: there is no closure; SAM needs the gradient twice.
            RuntimeError: gradients of earlier micro-batches lie in ``.grad``, and would be lost.
            DivergenceError: a gradient is not finite and ``nonfinite`` is ``raise``.
        """
        with self._whole_step(closure) as gradient:
            with self.first_pass(), torch.enable_grad():
                loss = gradient()
            if self.ascends:
                self.first_step()
                forget_gradients(self.param_groups)
                with self.second_pass(), torch.enable_grad():
                    gradient()
            self.second_step(scaler=scaler)
        return loss

    @property
    def ascends(self) -> bool:
        """Whether the step that comes next, or is under way, perturbs the weights."""
        return any(self._radius(group) > 0 for group in self.param_groups)

    @contextmanager
    def first_pass(self) -> Iterator[None]:
        """For the forward and backward pass at w; ``step`` does it itself."""
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
        """Move to w + ε*, from the gradients at w. Parameters without a gradient stay.

        Raises:
            RuntimeError: the weights are perturbed already; or the dense gradient is wanted and the
                backward pass was not in a ``first_pass`` block.
        """
        self.ascent_norm, self._first_gradient = None, {}
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
        """For the forward and backward pass at w + ε*; ``step`` does it itself."""
        with ExitStack() as stack:
            if self.model is not None:
                stack.enter_context(frozen_batchnorm_statistics(self.model))
            if self.dense_gradient:
                stack.enter_context(self._kept.opened())
            yield

    @torch.no_grad()
    def second_step(self, zero_grad: bool = False, *, scaler: GradScaler | None = None) -> None:
        """Return to w and step there with the gradients at w + ε*; ``scaler`` as in ``step``.

        Raises:
            DivergenceError: a gradient is not finite and ``nonfinite`` is ``raise``.
        """
        self.restore()
        self._kept.project_(found=self.dense_gradient)
        ascended = self.ascends
        self._complete_gradient(self._first_gradient if ascended else {})
        self._first_gradient = {}
        self._descent.take(self.base_optimizer, self.ascent_norm if ascended else None, scaler)
        self._end_step()
        self._left.remember(self.param_groups)
        if zero_grad:
            self.zero_grad()

    @torch.no_grad()
    def restore(self) -> None:
        """Return to w without a step; nothing happens when the weights are there."""
        self._excursion.end()
        self._masks_were_open = False

    def unperturbed(self) -> AbstractContextManager[None]:
        """A block in which the weights are w, for evaluation and checkpoints.

        Between steps they are w anyway, with every variant, and nothing happens.
        """
        return self._excursion.paused()

    @property
    def skipped(self) -> int:
        """How many steps ``nonfinite="skip"`` has left out; a GradScaler's are not counted."""
        return self._descent.skipped

    def state_dict(self) -> dict[str, Any]:
        """The base optimizer's state and, under ``sam``, what a variant keeps between steps."""
        own = self._own_state()
        return {**self.base_optimizer.state_dict(), **({"sam": own} if own else {})}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on exactly where ``state_dict`` was taken.

        A base optimizer's own state will do; ``rho`` and ``adaptive`` then stay, and a variant
        starts anew.
        """
        before = self.param_groups
        self.base_optimizer.load_state_dict(state_dict)
        self._share_with_base()
        for group, old in zip(self.param_groups, before, strict=True):
            complete_group(group, {name: old[name] for name in self._own_group_defaults})
        self._load_own_state(state_dict.get("sam", {}))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters to both optimizers."""
        if any(group is param_group for group in self.base_optimizer.param_groups):
            super().add_param_group(param_group)  # while SAM itself is made
        else:
            complete = complete_group({**param_group}, self._own_group_defaults)
            self.base_optimizer.add_param_group(complete)
        self._left.remember_older(self.param_groups[-1:])

    def __getstate__(self) -> dict[str, Any]:
        """All of it, so that a copy of model and optimizer trains on; but for scratch memory."""
        return {**self.__dict__, "_left": LeftGradients(), "_excursion": Perturbation()}

    # What variants do otherwise:

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

    def _own_state(self) -> dict[str, Any]:
        return {}

    def _load_own_state(self, state: dict[str, Any]) -> None:
        """Take what ``_own_state`` gave, or nothing."""

    @contextmanager
    def _whole_step(self, closure: Callable[[], Any] | None) -> Iterator[Callable[[], Any]]:
        """Begin without gradients, and when a closure fails end at w and without them."""
        if closure is None:
            raise ValueError("SAM.step needs a closure; or use first_step and second_step")
        self._left.check_nothing_came(self.param_groups)
        forget_gradients(self.param_groups)
        try:
            yield closure
        except BaseException:
            self.restore()
            forget_gradients(self.param_groups)
            raise

    def _share_with_base(self) -> None:
        self.param_groups = self.base_optimizer.param_groups
        self.state = self.base_optimizer.state
