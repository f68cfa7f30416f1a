"""The layers whose outputs are the classes, found by what a network computes.

In which order layers are registered says nothing of the order in which they are used. So an
example goes through the network, and from the logits the autograd graph is followed back: the
first layers with weights on every path are the heads, whatever was done with their outputs
(pooling, sums, softmax).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sparse_sam.errors import MaskError
from sparse_sam.networks import in_evaluation_mode
from sparse_sam.pruning.prunable import NORMALISATION, WITH_OUTPUTS

Node = Any
"""A function of the autograd graph. (torch has no public name for what ``grad_fn`` holds.)"""

Call = tuple[nn.Module, list[Node]]
"""A layer that was called, and what made its outputs; None where gradients were not recorded."""

_OR = "or choose another prune.structure"


def output_layers(model: nn.Module, example: Tensor | None) -> list[nn.Module]:
    """The layers that give the classes; one, or several whose outputs are joined.

    Args:
        model: a dense network, which is left as it is: modes, BatchNorm's statistics, torch's
            generators, and which parameters take gradients.
        example: a batch of inputs. None will do for a flat ``nn.Sequential``, which uses its
            layers in their order.

    Raises:
        MaskError: it cannot be told; the message says why, and what to do.
    """
    kind = type(model).__name__
    if example is None:
        calls = _calls_in_order(model)
        heads = calls[-1:]
    else:
        calls, logits = _calls_on(model, example)
        names = {module: name for name, module in model.named_modules()}
        for layer, nodes in calls:
            if None in nodes:
                raise MaskError(
                    f"the outputs of {names[layer]} cannot be followed to the classes of {kind}, "
                    "because the layer is called where no gradients are recorded "
                    "(torch.no_grad, or a reentrant checkpoint). Call it where gradients are "
                    f"recorded, {_OR}"
                )
        if not isinstance(logits, Tensor) or logits.grad_fn is None:
            raise MaskError(
                f"the outputs of {kind} cannot be followed back to its layers. Return the "
                f"logits, as a tensor that is not detached, {_OR}"
            )
        made = {node for _, nodes in calls for node in nodes}
        reached = _first_reached(logits.grad_fn, made, model)
        heads = [call for call in calls if reached.intersection(call[1])]
        if not heads:
            raise MaskError(
                f"no layer of {kind} makes its outputs, so structure channels cannot know which "
                f"rows are the classes. Make them with a layer that has weights, {_OR}"
            )
    _check_no_other_use(model, calls, heads)
    return [layer for layer, _ in heads]


def _check_no_other_use(model: nn.Module, calls: list[Call], heads: list[Call]) -> None:
    elsewhere = [call[0] for call in calls if not any(call is head for head in heads)]
    for name, module in model.named_modules():
        if module in elsewhere and any(module is layer for layer, _ in heads):
            raise MaskError(
                f"{name} gives the classes and is used elsewhere in the network too, so its rows "
                f"are both classes and channels. Give the classes a layer of their own, {_OR}"
            )


def _calls_in_order(model: nn.Module) -> list[Call]:
    flat = (
        isinstance(model, nn.Sequential)
        and type(model).forward is nn.Sequential.forward
        and not any(list(child.children()) for child in model)
    )
    if not flat and list(model.children()):
        raise MaskError(
            "structure channels keeps the layers that give the classes dense. To find them in "
            f"{type(model).__name__} it needs an example: pass Evidence(image_shape=(channels, "
            "height, width)), or Evidence with training images"
        )
    layers = list(model) if isinstance(model, nn.Sequential) else [model]
    return [(layer, []) for layer in layers if _has_weights(layer)]


def _calls_on(model: nn.Module, example: Tensor) -> tuple[list[Call], Any]:
    """The calls of layers with weights, in their order, and what the model returns."""
    calls: list[Call] = []

    def remember(layer: nn.Module, _: Any, output: Any) -> None:
        calls.append((layer, [tensor.grad_fn for tensor in _tensors(output)]))

    layers = [module for module in model.modules() if _has_weights(module)]
    handles = [layer.register_forward_hook(remember) for layer in layers]
    try:
        with _looked_at(model) as inputs:
            return calls, model(example.to(inputs.device, inputs.dtype))
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _looked_at(model: nn.Module) -> Iterator[Tensor]:
    """Evaluation mode, a graph that holds every parameter, and nothing that stays.

    Gives a tensor of the device and precision that inputs must have.
    """
    wanted = [(one, one.requires_grad) for one in model.parameters() if one.is_floating_point()]
    inputs = wanted[0][0] if wanted else torch.empty(0)
    devices = [inputs.device] if inputs.device.type == "cuda" else []
    with in_evaluation_mode(model), torch.random.fork_rng(devices), torch.enable_grad():
        try:
            for parameter, _ in wanted:
                parameter.requires_grad_(True)
            yield inputs
        finally:
            for parameter, before in wanted:
                parameter.requires_grad_(before)


def _first_reached(start: Node, made: set[Node], model: nn.Module) -> set[Node]:
    """The nodes in ``made`` that paths back from ``start`` meet first."""
    inside = {
        id(one)
        for module in model.modules()
        if isinstance(module, NORMALISATION)
        for one in module.parameters(recurse=False)
    }
    names = {
        id(one): name
        for name, one in model.named_parameters()
        if one.dim() >= 2 and id(one) not in inside
    }
    reached, seen, ahead = set(), {start}, [start]
    while ahead:
        node = ahead.pop()
        if node in made:
            reached.add(node)
            continue
        if name := names.get(id(getattr(node, "variable", None))):  # a leaf of the graph
            raise MaskError(
                f"the classes of {type(model).__name__} are made with {name}, but no layer that "
                "holds it is called, so structure channels cannot know which rows are the "
                f"classes. Call the layer, as in self.head(x), {_OR}"
            )
        further = [one for one, _ in node.next_functions if one is not None and one not in seen]
        seen.update(further)
        ahead += further
    return reached


def _has_weights(module: nn.Module) -> bool:
    if isinstance(module, WITH_OUTPUTS):
        return True
    own = [one for one in module.parameters(recurse=False) if one.dim() >= 2]
    return bool(own) and not list(module.children()) and not isinstance(module, NORMALISATION)


def _tensors(output: Any) -> list[Tensor]:
    """The tensors in what a layer returns: one, or several as of a recurrent layer."""
    if isinstance(output, Tensor):
        return [output]
    parts = output if isinstance(output, (list, tuple)) else ()
    return [tensor for part in parts for tensor in _tensors(part)]
