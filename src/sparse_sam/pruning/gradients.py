"""The gradient of each example's loss by itself, for some weights of a network."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy
from torch.nn.modules.batchnorm import _BatchNorm

from sparse_sam.data import Split, derive_seed
from sparse_sam.errors import DivergenceError, MaskError
from sparse_sam.pruning.borrowing import Kept, as_input, asked, drawing, in_full
from sparse_sam.pruning.masks import Masked, attached_masks
from sparse_sam.terminal import beat

_BYTES_AT_ONCE, _EXAMPLES_AT_ONCE = 2**28, 64


@dataclass(frozen=True, eq=False)
class Weights:
    """Some parameters of a network, as one vector: one after the other, each flattened.

    Attributes:
        model: the network, which ``borrowed`` leaves as it was.
        parameters: by the name that they go by in pruning.
        seed: what the network draws from if it draws in evaluation mode.
    """

    model: nn.Module
    parameters: Mapping[str, Tensor]
    seed: int = 0

    def flat(self, tensors: Mapping[str, Tensor] | None = None) -> Tensor:
        """Tensors of the parameters' shapes, or the parameters, as a vector of their own."""
        tensors = self.parameters if tensors is None else tensors
        device = next(iter(self.parameters.values())).device
        parts = [tensors[name].detach().flatten().to(device) for name in self.parameters]
        return torch.cat(parts)

    def shaped(self, flat: Tensor) -> dict[str, Tensor]:
        """A vector as tensors again, each in the parameter's dtype, or bool."""
        sizes = [one.numel() for one in self.parameters.values()]
        return {
            name: part.view(one.shape)
            for (name, one), part in zip(
                self.parameters.items(), torch.split(flat, sizes), strict=True
            )
        }

    @torch.no_grad()
    def put(self, flat: Tensor) -> None:
        """Write a vector into the network, in place."""
        for name, value in self.shaped(flat).items():
            self.parameters[name].copy_(value)

    @contextmanager
    def borrowed(self) -> Iterator[None]:
        """A block that may ``put``: afterwards the network is as it was, bit for bit."""
        before = {name: one.detach().clone() for name, one in self.parameters.items()}
        trained = {name: one.requires_grad for name, one in self.parameters.items()}
        try:
            with asked(self.model):
                for one in self.parameters.values():
                    one.requires_grad_(True)
                yield
        finally:
            with torch.no_grad():
                for name, one in self.parameters.items():
                    one.copy_(before[name])
                    one.requires_grad_(trained[name])
            self._refresh()

    def gradients(self, split: Split, examples: Tensor, columns: Tensor) -> Tensor:
        """A row for each example, the gradient of its cross-entropy, (examples, columns).

        The whole batch at once where the network allows it (``torch.func.vmap``), or example by
        example.

        Args:
            split: the training part.
            examples: their places in it, int64.
            columns: which of the vector's weights, int64, rising.

        Raises:
            DivergenceError: a gradient is infinite or NaN.
            MaskError: the network does not take one image alone.
        """
        seed = derive_seed(self.seed, "prune", "gradients", int(examples[0]))
        with drawing(self.model, seed):
            return self._gradients(split, examples, columns, Kept(self.model))

    def _gradients(self, split: Split, examples: Tensor, columns: Tensor, kept: Kept) -> Tensor:
        used = self._used(columns)
        size = sum(one.numel() for one in used.values())
        at_once = max(1, min(_EXAMPLES_AT_ONCE, _BYTES_AT_ONCE // (4 * size)))
        starts = self._starts()
        places = {
            name: _within(columns, starts[name], one.numel()).to(one.device)
            for name, one in used.items()
        }
        found = torch.empty(len(examples), len(columns), device=columns.device)
        row, side_by_side = 0, self._is_functional
        for part in torch.split(examples, at_once):
            taken = part.to(split.labels.device)
            images = as_input(self.model, split.taken(taken))
            labels, column = split.labels[taken].to(images.device), 0
            rows: Sequence[Tensor] | None = None
            if side_by_side:
                try:
                    rows = self._side_by_side(used, images, labels)
                except (RuntimeError, NotImplementedError, TypeError, ValueError):
                    side_by_side = False  # what is wrong with the network itself is raised below
                    images = as_input(self.model, split.taken(taken))
                kept.put_back()
            if rows is None:
                rows = self._one_by_one(used, images, labels, kept)
            for name, block in zip(used, rows, strict=True):
                own = block.detach().flatten(1)[:, places[name]]
                found[row : row + len(part), column : column + own.shape[1]] = own
                column += own.shape[1]
            row += len(part)
            beat()
        # (A sum that is finite says the same, and needs no memory.)
        if not found.sum().isfinite() and not found.isfinite().all():
            raise DivergenceError(
                "the network cannot be pruned by its gradients: they became infinite or NaN. "
                "Lower lr or rho in params.yaml."
            )
        return found

    def _side_by_side(
        self, used: Mapping[str, Tensor], images: Tensor, labels: Tensor
    ) -> list[Tensor]:
        names = {id(one): name for name, one in self.model.named_parameters()}
        given = {names[id(one)]: one.detach() for one in used.values()}

        def loss(parameters: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
            logits = functional_call(self.model, parameters, (image[None],))
            return cross_entropy(in_full(logits), label[None])

        with warnings.catch_warnings():
            # Of what it computes example by example.
            warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
            found = vmap(grad(loss), in_dims=(None, 0, 0))(given, images, labels)
        return [found[names[id(one)]] for one in used.values()]

    def _one_by_one(
        self, used: Mapping[str, Tensor], images: Tensor, labels: Tensor, kept: Kept
    ) -> list[Tensor]:
        rows = []
        with torch.enable_grad():
            for image, label in zip(torch.split(images, 1), torch.split(labels, 1), strict=True):
                loss = cross_entropy(in_full(self._logits(image)), label)
                # Of a weight that the network does not use the gradient is 0.
                own = torch.autograd.grad(
                    loss, list(used.values()), allow_unused=True, materialize_grads=True
                )
                rows.append(own)
                kept.put_back()  # every image is shown to the network as it was
                beat()
        return [torch.stack(one) for one in zip(*rows, strict=True)]

    def _logits(self, image: Tensor) -> Tensor:
        try:
            logits: Tensor = self.model(image)
        except ValueError as error:
            names = [
                name
                for name, one in self.model.named_modules()
                if isinstance(one, _BatchNorm) and one.running_mean is None
            ]
            if not names:
                raise
            raise MaskError(
                "second-order criteria need the gradient of one image at a time, and this "
                "network cannot compute it: BatchNorm without running statistics "
                f"({', '.join(names)}) needs a batch ({error}). Set track_running_stats=True "
                "there, or use criterion saliency or magnitude."
            ) from error
        return logits

    @property
    def _is_functional(self) -> bool:
        """Whether weights may be swapped for a call.

        Not where a hook writes a product into the layer (``torch.nn.utils.prune``), a recurrent
        layer keeps the weights that it was last read with, or a weight has several names, of which
        a swap may miss some.
        """
        hooked = any(not isinstance(one.holder, Masked) for one in attached_masks(self.model))
        recurrent = any(isinstance(one, nn.RNNBase) for one in self.model.modules())
        names = self.model.named_parameters(remove_duplicate=False)
        shared = sum(1 for _ in names) > sum(1 for _ in self.model.parameters())
        return not hooked and not recurrent and not shared

    def _refresh(self) -> None:
        """Products of ``torch.nn.utils.prune`` are those of the weights that are there again."""
        for one in attached_masks(self.model, every_name=True):
            if not isinstance(one.holder, Masked):
                own = one.attribute.removesuffix("_mask")
                setattr(one.holder, own, one.original * one.mask)

    def _starts(self) -> dict[str, int]:
        starts, total = {}, 0
        for name, one in self.parameters.items():
            starts[name] = total
            total += one.numel()
        return starts

    def _used(self, columns: Tensor) -> dict[str, Tensor]:
        """The parameters that have one of the columns."""
        starts = self._starts()
        return {
            name: one
            for name, one in self.parameters.items()
            if len(_within(columns, starts[name], one.numel()))
        }


def _within(columns: Tensor, start: int, size: int) -> Tensor:
    """Those of a tensor, as places in it."""
    ends = torch.tensor([start, start + size], device=columns.device)
    first, last = torch.searchsorted(columns.contiguous(), ends).tolist()
    return columns[first:last] - start
