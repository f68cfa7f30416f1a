"""What Python gives to pruning, checked where it is given: values of the wrong kind are said."""

from numbers import Real
from typing import Any, TypeVar

from torch import nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from sparse_sam.errors import ConfigError, MaskError
from sparse_sam.files import Registry
from sparse_sam.pruning.registry import SCHEDULES

Entry = TypeVar("Entry")


def chosen(registry: Registry[Entry], name: str) -> Entry:
    """The code that an argument names, such as ``criterion``.

    Raises:
        ConfigError: there is none; the message has the argument, and the key of ``params.yaml``.
    """
    try:
        return registry.load(name)
    except ConfigError as error:
        _, _, why = str(error).partition(f"{name!r}: ")
        argument = registry.key.rpartition(".")[2]
        raise ConfigError(f"{argument} = {name!r} ({registry.key} in params.yaml): {why}") from None


def check_network(model: object) -> None:
    """Raise TypeError unless it is a network, and not what wraps one."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, not {_kind(model)}")
    inner, wrapped = getattr(model, "_orig_mod", None), "module"
    if inner is None and isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
        inner = model.module
    elif inner is not None:
        wrapped = "_orig_mod"
    if inner is not None:
        by = "torch.compile" if wrapped == "_orig_mod" else type(model).__name__
        raise TypeError(
            f"model is wrapped by {by}, which renames its parameters: pass the network itself "
            f"(model.{wrapped}), and keep training the wrapped one"
        )


def check_initialised(model: nn.Module) -> None:
    """Raise MaskError, which names the tensor, if a lazy layer has no shape yet."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    for name, tensor in tensors:
        if isinstance(tensor, UninitializedParameter | UninitializedBuffer):
            raise MaskError(
                f"{name} has no shape yet, because its layer is lazy: run one batch of inputs "
                "through the network before you prune it or make its optimizer"
            )


def check_sparsity(name: str, value: object) -> None:
    """Raise TypeError unless it is a number, and MaskError unless it is in [0, 1)."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} = {value!r}: must be a number, not {_kind(value)}")
    if not 0 <= float(value) < 1:
        raise MaskError(f"{name} = {value}: must be at least 0 and less than 1")


def check_schedule(schedule: Any) -> None:
    """Raise TypeError unless it is a schedule, or None."""
    if schedule is None or (
        not isinstance(schedule, type)
        and hasattr(schedule, "sparsity")
        and hasattr(schedule, "rewinds_to")
    ):
        return
    example = "Gradual(initial=0.0, end=0.7, updates=10)"
    if isinstance(schedule, str) and schedule in SCHEDULES:
        why = "this is the name used in params.yaml; "
    else:
        why = "this is a class, not an object; " if isinstance(schedule, type) else ""
    raise TypeError(
        f"schedule = {schedule!r}: {why}pass an object such as {example} (Gradual, Iterative and "
        "OneShot are in sparse_sam.pruning), or None to prune all at once"
    )


def check_steps(steps: object) -> None:
    """Raise TypeError unless it is a whole number or None, and ValueError if it is below 1."""
    if steps is None:
        return
    if isinstance(steps, bool) or not isinstance(steps, int):
        raise TypeError(f"steps = {steps!r}: must be a whole number, not {_kind(steps)}")
    if steps < 1:
        raise ValueError(f"steps = {steps}: must be at least 1")


def _kind(value: object) -> str:
    return value.__name__ if isinstance(value, type) else type(value).__name__
