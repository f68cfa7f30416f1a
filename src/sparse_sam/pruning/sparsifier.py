"""Pruning in any training loop: ``prepare``, ``step``, ``verify``, ``finalize``."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from sparse_sam.pruning.arguments import check_network, check_steps
from sparse_sam.pruning.criteria import Evidence
from sparse_sam.pruning.demand import Demand
from sparse_sam.pruning.detaching import detach, put_masks_in_copy
from sparse_sam.pruning.forgetting import check_shapes, forget_everything, optimizers_of
from sparse_sam.pruning.held import HeldMasks
from sparse_sam.pruning.masks import Masks, attach, masks_of, plain_state
from sparse_sam.pruning.pruner import Pruner
from sparse_sam.pruning.schedules import PruningSchedule


class Sparsifier:
    """Prunes a network during training, and holds the pruned weights at 0.

    ``prepare`` attaches masks and prunes as much as the schedule asks for before the first step.
    ``step``, after each step of the optimizer, holds the zeros, and prunes more when the schedule
    says so. ``verify`` checks counts and zeros. ``finalize`` returns a plain network with zeros.

    Parameters keep their identity, so you may make the optimizer before or after ``prepare``. (The
    order of the parameters differs: do the same in a run that resumes.)

    Args:
        model: the network itself, not a wrapper such as ``DistributedDataParallel``.
        sparsity: the share of units to prune in the end, in [0, 1); None keeps existing zeros.
        criterion: how weights are scored; as for ``Pruner``, like ``scope``, ``structure``,
            ``batchnorm``, ``biases`` and ``ignore``.
        scope: the weights that are ranked together.
        structure: the units that are pruned as a whole.
        schedule: how much to prune when; None prunes everything in ``prepare``.
        batchnorm: whether BatchNorm scales may be pruned too.
        biases: whether biases may be pruned too.
        ignore: name patterns of parameters to keep dense.
        overrides: other sparsities for some tensors, by name pattern.
        evidence: what the criterion may use in addition to the weights.

    Attributes:
        done: how many times ``step`` was called.
        steps: the number of steps of the training; None if it does not matter.

    Raises:
        TypeError: the network is wrapped, a sparsity is not a number, or the schedule no object.
        ConfigError: there is no such criterion, scope or structure.
        MaskError: a sparsity is out of range, or does not fit the structure or the schedule.
    """

    def __init__(
        self,
        model: nn.Module,
        sparsity: float | None,
        *,
        criterion: str = "magnitude",
        scope: str = "layerwise",
        structure: str = "unstructured",
        schedule: PruningSchedule | None = None,
        batchnorm: bool = False,
        biases: bool = False,
        ignore: Iterable[str] = (),
        overrides: Mapping[str, float] | None = None,
        evidence: Evidence | None = None,
    ) -> None:
        check_network(model)
        self.model, self.done = model, 0
        self.steps: int | None = None
        dense = (ignore,) if isinstance(ignore, str) else tuple(ignore)
        pruner = Pruner(criterion, scope, structure, batchnorm, biases, dense)
        self._demand = Demand(pruner, sparsity, dict(overrides or {}), schedule, evidence)
        self._optimizers: list[Optimizer] = []
        self._rewind_to: dict[str, Tensor] | None = None
        self._state: dict[str, Any] | None = None  # loaded before ``prepare``
        self._stage = "new"

    def prepare(
        self,
        optimizer: Optimizer | Iterable[Optimizer] | None = None,
        steps: int | None = None,
        *,
        rewind_to: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Attach masks, and prune as much as the schedule asks for before the first step.

        A network that already has masks keeps them, and is pruned further if more is asked for.
        After ``load_state_dict``, the masks of that state are attached instead.

        Args:
            optimizer: the optimizer of the network, or several; None if you pass it to ``step``.
            steps: the number of training steps; needed by a schedule that prunes during training.
            rewind_to: weights and buffers, under plain names, to which the kept weights are reset
                now and whenever the schedule rewinds; None means their current values.

        Raises:
            RuntimeError: it is already prepared; or an optimizer is given without ``steps``, and
                the schedule prunes during training.
            TypeError: ``optimizer`` is not an optimizer, or ``steps`` not a whole number.
            ValueError: ``steps`` is below 1.
            MaskError: as for ``Pruner.masks``; or the network has more zeros than are asked for; or
                the schedule rewinds to the initialisation, and ``rewind_to`` is missing; or
                ``rewind_to`` does not fit. Nothing is changed then.
            StaleOptimizerError: an optimizer holds no parameter of the network, or foreign state.
        """
        self._check("prepare", "new")
        check_steps(steps)
        optimizers = optimizers_of(self.model, optimizer)
        check_shapes(self.model, optimizers)
        if optimizers:
            self._demand.check_steps_known(steps)
        self.steps = steps
        if self._state is not None:
            self._demand.check_saved(self._state, steps)
            if masks_of(self.model) is None:
                attach(self.model, Masks(self._state["masks"]))
            self._take(self._state, optimizers)
            return
        self._demand.prune_first(self.model, steps, rewind_to)
        if self._demand.rewinds_to != "none":
            self._rewind_to = plain_state(self.model)
        self._begin(optimizers)

    def step(self, optimizer: Optimizer | Iterable[Optimizer] | None = None) -> bool:
        """Hold the zeros, and prune more if the schedule asks for it before the next step.

        Call it once after each step of the optimizer. Evaluate the network before this call to see
        it as it was trained. Unless it prunes more, the host does not wait for the device. Steps
        beyond ``steps`` keep the final sparsity.

        Args:
            optimizer: the optimizer of the network, if you did not pass it to ``prepare``.

        Returns:
            Whether weights were rewound. If so, restart the learning rate's schedule too (Renda et
            al. 2020, arXiv:2003.02389, section 2).

        Raises:
            RuntimeError: it is not prepared, or finalized, or has no optimizer or no ``steps``.
            MaskError: a tensor would lose all its weights, or other code changed the masks.
        """
        self._check("step", "prepared")
        if optimizer is not None:
            self._optimizers = optimizers_of(self.model, optimizer)
        if not self._optimizers:
            raise RuntimeError("the Sparsifier has no optimizer: pass one to prepare or to step")
        self._demand.check_steps_known(self.steps)
        self.hold()
        shrinks = self._demand.rises_before(self.done + 1, self.steps)
        if shrinks:
            self._held.check_unchanged()
            self._demand.prune(self.model, self.done + 1, self.steps, self._rewind_to)
            self._begin(self._optimizers)
        self.done += 1
        return shrinks and self._rewind_to is not None

    def hold(self, copy: nn.Module | None = None) -> None:
        """Set pruned weights, and what optimizers remember of them, to 0, as ``step`` does.

        With a ``copy`` of the network, such as an average of its weights, give the current zeros
        and masks to the copy instead. (``AveragedModel(…, use_buffers=True)`` averages masks too.)

        Raises:
            RuntimeError: it is not prepared.
            MaskError: the copy is of another network.
        """
        if copy is not None and copy is not self.model:
            self._check("hold", "prepared", "finalized")
            put_masks_in_copy(copy, self.model, self._held.masks)
            return
        self._check("hold", "prepared")
        self._held.hold(self._optimizers)

    def verify(self, *, finished: bool = False) -> None:
        """Check that exactly as many weights as asked for by now are pruned, and that they are 0.

        What is asked for depends on the number of calls of ``step``. The host waits for the device.

        Args:
            finished: also require the sparsity of the schedule's end.

        Raises:
            RuntimeError: it is not prepared.
            MaskError: a count is not exact, a pruned weight is not 0, other code changed a mask, or
                the schedule is not finished. The message says where, and what to do.
        """
        self._check("verify", "prepared", "finalized")
        if self._stage == "prepared":
            self._held.check_unchanged()
        self._held.check_zeros()
        self._demand.check_counts(self._held.masks, self.done, self.steps)
        if finished:
            self._demand.check_finished(self.done, self.steps, self.sparsity)

    def finalize(self, copy: nn.Module | None = None, *, unfinished: bool = False) -> nn.Module:
        """Make the network plain: plain names, zeros in place, no masks.

        Parameters stay the same objects, outputs the same bits. Nothing holds the zeros afterwards.
        Wrap the network again if it was in a ``DistributedDataParallel``.

        Args:
            copy: a copy of the network, such as an average, to make plain instead; the network
                itself can be trained further. (Passing the network itself is the same as None.)
            unfinished: accept the network as it is before the end of the schedule.

        Returns:
            The network, or the copy.

        Raises:
            RuntimeError: it is not prepared, or already finalized.
            MaskError: as for ``verify``, or the schedule is not finished.
        """
        if copy is not None and copy is not self.model:
            self.hold(copy)
            return detach(copy)
        self._check("finalize", "prepared")
        self.verify(finished=not unfinished)
        detach(self.model)
        self._stage = "finalized"
        return self.model

    @property
    def sparsity(self) -> float:
        """The share of the prunable weights that is pruned now."""
        self._check("sparsity", "prepared", "finalized")
        return self._held.masks.sparsity

    @property
    def rewinds(self) -> list[int]:
        """The steps, from 0, before which the network is rewound."""
        return self._demand.rewinds(self.steps)

    def report(self) -> dict[str, Any]:
        """Return what is pruned now, in total and in each tensor, as plain values for JSON.

        Log it with ``mlflow.log_dict(sparsifier.report(), "sparsity.json")``.
        """
        self._check("report", "prepared", "finalized")
        return {"step": self.done, "steps": self.steps, **self._held.counts()}

    def metrics(self) -> dict[str, float]:
        """Return the same as numbers by name, for ``mlflow.log_metrics`` or ``self.log_dict``."""
        self._check("metrics", "prepared", "finalized")
        return self._held.metrics()

    def state_dict(self) -> dict[str, Any]:
        """Return the state; with those of model and optimizer, training resumes bit for bit.

        It holds plain values and tensors: ``torch.load(…, weights_only=True)`` reads it.
        """
        self._check("state_dict", "prepared")
        return {
            "done": self.done,
            "steps": self.steps,
            "settings": self._demand.settings(),
            "masks": {name: mask.clone() for name, mask in self._held.masks.items()},
            "rewind_to": self._rewind_to,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where ``state_dict`` was taken, with the masks of that moment.

        Call it before or after ``prepare``, and before or after you load the model's state.

        Raises:
            RuntimeError: the network is finalized.
            MaskError: the state is of another network, other settings, or another number of steps.
            StaleOptimizerError: an optimizer has loaded the state of other parameters.
        """
        self._check("load_state_dict", "prepared", "new")
        self._demand.check_saved(state, state.get("steps"))
        if self._stage == "new":
            self._state = dict(state)
        else:
            self._take(state, self._optimizers)

    def _take(self, state: Mapping[str, Any], optimizers: list[Optimizer]) -> None:
        self._demand.check_saved(state, self.steps)
        check_shapes(self.model, optimizers)
        HeldMasks(self.model).put(state["masks"])
        self.done, self._rewind_to = state["done"], state["rewind_to"]
        self._begin(optimizers, resumed=True)

    def _begin(self, optimizers: list[Optimizer], *, resumed: bool = False) -> None:
        self._stage, self._held, self._optimizers = "prepared", HeldMasks(self.model), optimizers
        if self._rewind_to is not None and not resumed:
            for one in optimizers:
                forget_everything(one)
        self._held.forget(optimizers)

    def _check(self, verb: str, *allowed: str) -> None:
        if self._stage not in allowed:
            why = {
                "new": "call prepare first; it attaches the masks",
                "prepared": "the network is already prepared",
                "finalized": "the network is already finalized, and its zeros are no longer held",
            }
            raise RuntimeError(f"Sparsifier.{verb}: {why[self._stage]}")
