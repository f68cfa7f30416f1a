"""Which channels of a network go together: who writes them, who reads them, what lies between.

A network is followed with ``torch.fx``. The outputs of a weighted layer begin a stream; what treats
each channel by itself (``channelwise``) hands it on; a sum of two streams makes one of both, which
both layers write; and a weighted layer that reads it ends there. So a plain sequence is streams of
one writer and one reader, and a residual network has some of many. Whatever is not understood makes
the streams that reach it stay as they are.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx import Graph, Node

from sparse_sam.errors import ExportError
from sparse_sam.export.channelwise import (
    BATCHNORM,
    asks_of_channels,
    asks_of_form,
    carried,
    joins,
)

Weighted = nn.Linear | nn.Conv2d
_WEIGHTED = (nn.Linear, nn.Conv2d)
_LONGEST = 200


@dataclass(eq=False)
class Stream:
    """Channels that go together.

    Attributes:
        width: how many.
        writers: weighted layers whose outputs they are, by name.
        readers: weighted layers whose inputs they are: the call, and what it is given.
        norms: BatchNorm on the way, by name.
        nodes: the calls whose outputs have these channels.
        stays: why none of them may go, in words; empty when they may.
        gives: whether they are the network's outputs.
    """

    width: int
    writers: list[str] = field(default_factory=list)
    readers: list[tuple[Node, Node]] = field(default_factory=list)
    norms: list[str] = field(default_factory=list)
    nodes: set[Node] = field(default_factory=set)
    stays: str = ""
    gives: bool = False


@dataclass(frozen=True)
class Followed:
    """A network, followed from its input to its outputs.

    Attributes:
        graph: every call, in order.
        shapes: of each tensor on the way, for one image.
        values: what else is computed on the way: sizes, numbers.
    """

    graph: Graph
    shapes: dict[Node, torch.Size]
    values: dict[Node, Any]


class _OneInput(nn.Module):
    """A network called with images alone, so that its other arguments have their defaults."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Any:
        return self.network(images)


class _Watcher(fx.Interpreter):
    """Runs a graph, and remembers shapes and numbers."""

    def __init__(self, network: nn.Module, graph: Graph) -> None:
        super().__init__(network, graph=graph)
        self.followed = Followed(graph, {}, {})

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.followed.shapes[n] = result.shape
        elif not isinstance(result, (list, tuple, dict)) or isinstance(result, torch.Size):
            self.followed.values[n] = result
        return result


def layer_name(node: Node) -> str:
    """The name, in the network, of the module that is called."""
    return str(node.target).removeprefix("network").removeprefix(".")


def follow(model: nn.Module, image_shape: tuple[int, int, int]) -> Followed:
    """Follow a network in evaluation mode, on the CPU.

    Raises:
        ExportError: torch.fx cannot, or it does not give one tensor; the message says why.
    """
    whole = _OneInput(model).eval()
    try:
        watcher = _Watcher(whole, fx.Tracer().trace(whole))
        with torch.no_grad():
            given = watcher.run(torch.zeros(1, *image_shape))
    except Exception as error:  # noqa: BLE001 - whatever a network's code does with a proxy
        text = " ".join(str(error).split())[:_LONGEST]
        raise ExportError(f"torch.fx cannot follow it ({type(error).__name__}: {text})") from None
    if not isinstance(given, Tensor):
        raise ExportError("it does not give one tensor")
    return watcher.followed


def find_streams(model: nn.Module, followed: Followed) -> list[Stream]:
    """The streams of a network, in the order of their first writers."""
    finder = _Finder(model, followed)
    for node in followed.graph.nodes:
        finder.take(node)
    return list(dict.fromkeys(finder.where.values()))


class _Finder:
    """Takes the calls of a network in their order, and tells their streams."""

    def __init__(self, model: nn.Module, followed: Followed) -> None:
        self.model, self.followed = model, followed
        self.where: dict[Node, Stream] = {}
        self.dims: dict[Node, int] = {}
        self.of_images: set[Node] = set()  # numbers that another image may have otherwise
        nodes = followed.graph.nodes
        self.calls = Counter(self._module(node) for node in nodes if node.op == "call_module")
        self.uses = Counter(id(one) for module in model.modules() for one in _tensors(module))
        self.uses.update(self._read_by_itself(node) for node in nodes if node.op == "get_attr")

    def take(self, node: Node) -> None:
        """Say of which stream a call's output is, and what it does to those that it is given."""
        given = [one for one in node.all_input_nodes if one in self.where]
        if node.op == "output":
            for one in given:
                self.where[one].gives = True
                self._stays(one, "they are the network's outputs")
        elif node in self.followed.values:
            self._take_value(node, given)
        elif node.op == "call_module" and type(self._module(node)) in _WEIGHTED and given:
            self._take_layer(node, given)
        elif not self._hand_on(node, given):
            what = self._described(node)
            verb = "are joined with others in" if joins(node) else "reach"
            why = f"they {verb} {what}, which this export cannot follow"
            for one in given:
                self._stays(one, why)
            self._begin(node, 1, stays=f"they are joined with what {what} gives")

    def _take_value(self, node: Node, given: list[Node]) -> None:
        """A number or a shape."""
        if (given and not asks_of_form(node)) or self.of_images.intersection(node.all_input_nodes):
            self.of_images.add(node)
        for one in given:
            if asks_of_channels(node, self.dims[one]):
                self._stays(one, "the network's code depends on their number or values")

    def _take_layer(self, node: Node, given: list[Node]) -> None:
        layer, name, source = self._module(node), layer_name(node), given[0]
        shape, dim = self.followed.shapes[source], self.dims[source]
        own = self._unfit(layer, name)
        linear = isinstance(layer, nn.Linear)
        last = len(shape) - 1 if linear else 1
        if len(given) > 1 or (len(shape) < 2 if linear else len(shape) != 4):
            own = f"{name} does not get a single batch"
        if own:
            self._stays(source, f"they reach {name}, and {own}")
        elif dim != last or not (linear or shape[1] == self.where[source].width):
            self._stays(source, f"{name} does not read them one after the other")
        else:
            self.where[source].readers.append((node, source))
        self._begin(node, last, stays=own).writers.append(name)

    def _hand_on(self, node: Node, given: list[Node]) -> bool:
        """Whether each channel is treated by itself; then the output is of the input's stream."""
        shape = self.followed.shapes.get(node)
        if shape is None or not given or self.of_images.intersection(node.all_input_nodes):
            return False
        first = given[0]
        if len(given) > 1:
            if not (len(given) == 2 and joins(node) and self._match(*given)):
                return False
            self._join(*given)
            after = self.dims[first]
        else:
            module = self._module(node) if node.op == "call_module" else None
            if module is not None and self._unfit(module, layer_name(node)):
                return False
            place = carried(node, module, self.followed.shapes[first], self.dims[first])
            if place is None or shape[0] != self.followed.shapes[first][0]:
                return False
            after = place
            if isinstance(module, BATCHNORM):
                self.where[first].norms.append(layer_name(node))
        self.where[node], self.dims[node] = self.where[first], after
        self.where[node].nodes.add(node)
        return True

    def _match(self, one: Node, other: Node) -> bool:
        """Whether the channels of both are the same ones, number by number."""
        shapes = [self.followed.shapes[node] for node in (one, other)]
        dim = self.dims[one]
        return (
            dim == self.dims[other]
            and self.where[one].width == self.where[other].width
            and len(shapes[0]) == len(shapes[1])
            and shapes[0][dim] == shapes[1][dim]
        )

    def _join(self, one: Node, other: Node) -> None:
        kept, gone = self.where[one], self.where[other]
        if kept is gone:
            return
        for node in gone.nodes:
            self.where[node] = kept
        kept.writers += gone.writers
        kept.readers += gone.readers
        kept.norms += gone.norms
        kept.nodes |= gone.nodes
        kept.stays = kept.stays or gone.stays
        kept.gives |= gone.gives

    def _begin(self, node: Node, dim: int, *, stays: str = "") -> Stream:
        shape = self.followed.shapes.get(node, torch.Size())
        width = shape[dim] if dim < len(shape) else 0
        self.where[node], self.dims[node] = Stream(width, nodes={node}, stays=stays), dim
        return self.where[node]

    def _stays(self, node: Node, why: str) -> None:
        self.where[node].stays = self.where[node].stays or why

    def _unfit(self, module: nn.Module, name: str) -> str:
        """Why a layer cannot be made smaller; empty when it can."""
        if module._forward_hooks or module._forward_pre_hooks:  # noqa: SLF001
            return f"{name} has hooks"
        if not list(_tensors(module)):
            return ""
        if self.calls[module] > 1:
            return f"{name} is called {self.calls[module]} times"
        if any(self.uses[id(one)] > 1 for one in _tensors(module)):
            return f"the weights of {name} are used elsewhere, too"
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            return f"{name} is a convolution in {module.groups} groups"
        return ""

    def _module(self, node: Node) -> nn.Module:
        return self.model.get_submodule(layer_name(node))

    def _read_by_itself(self, node: Node) -> int:
        """The tensor that the network's code reads without calling its layer."""
        place, _, name = layer_name(node).rpartition(".")
        owner = self.model.get_submodule(place) if str(node.target).startswith("network") else None
        return id(getattr(owner, name, None))

    def _described(self, node: Node) -> str:
        if node.op == "call_module":
            return f"{layer_name(node)} ({type(self._module(node)).__name__})"
        if node.op == "placeholder":
            return "the network's input"
        return str(getattr(node.target, "__name__", node.target))


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    """A module's own parameters and buffers."""
    yield from module.parameters(recurse=False)
    yield from module.buffers(recurse=False)
