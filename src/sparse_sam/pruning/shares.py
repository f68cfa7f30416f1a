"""How many units of which tensors are to be pruned, and whether masks are just so."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sparse_sam.errors import MaskError
from sparse_sam.pruning.arguments import chosen
from sparse_sam.pruning.ranking import pruned_count
from sparse_sam.pruning.registry import SCOPES
from sparse_sam.pruning.scopes import Layer, Share
from sparse_sam.pruning.structures import Structure


class WrongCountError(MaskError):
    """Masks prune more or fewer weights than is asked for, or not as their structure says.

    Attributes:
        missing: how many units more should be pruned; below 0, how many fewer; 0, neither.
    """

    def __init__(self, message: str, missing: int = 0) -> None:
        super().__init__(message)
        self.missing = missing


def layer_of(structure: Structure, shape: torch.Size, scores: Tensor) -> Layer:
    """What a scope knows of a tensor whose units have these scores, −∞ where they are pruned."""
    return Layer(
        shape=tuple(shape),
        units=len(scores),
        gone=int((scores == -torch.inf).sum()),
        most=structure.most(len(scores)),
    )


def asked_shares(
    scope: str, layers: Mapping[str, Layer], sparsity: float, own: Mapping[str, float]
) -> list[Share]:
    """How many units of which tensors a sparsity prunes in all; ``own`` are those of some tensors.

    Raises:
        MaskError: a scope does not give every tensor its share.
    """
    shares = [
        Share((name,), pruned_count(asked, layers[name].units)) for name, asked in own.items()
    ]
    rest = {name: layer for name, layer in layers.items() if name not in own}
    if rest:
        found: Any = chosen(SCOPES, scope)(rest, sparsity)
        if not isinstance(found, list) or {n for one in found for n in one.names} != set(rest):
            raise MaskError(f"scope {scope}: must return a list of Share that covers every tensor")
        shares += found
    return shares


def check_shares(
    structure: Structure,
    scope: str,
    masks: Mapping[str, Tensor],
    sparsity: float,
    own: Mapping[str, float],
) -> None:
    """Check that masks are of exactly this sparsity, and such as the structure makes them.

    Raises:
        WrongCountError: they are not.
    """
    layers = {}
    for name, mask in masks.items():
        scores = torch.zeros(mask.shape, device=mask.device).masked_fill_(~mask, -torch.inf)
        units = structure.unit_scores(scores, _any_of)
        if not torch.equal(structure.mask(units != -torch.inf, mask.shape), mask):
            raise WrongCountError(
                f"the mask of {name} does not prune whole {structure.unit}, or prunes too many "
                "of a group"
            )
        layers[name] = layer_of(structure, mask.shape, units)
    try:
        shares = asked_shares(scope, layers, sparsity, own)
    except MaskError as error:  # by a scope that finds more pruned already
        raise WrongCountError(str(error), -1) from None
    for share in shares:
        gone = sum(layers[name].gone for name in share.names)
        if gone != share.count:
            asked = own.get(share.names[0], sparsity)
            total = sum(layers[name].units for name in share.names)
            raise WrongCountError(
                f"{gone} of {total} {structure.unit} of {', '.join(share.names)} are pruned, but "
                f"{scope} sparsity {asked} prunes {share.count}",
                share.count - gone,
            )


def _any_of(blocks: Tensor) -> Tensor:
    return blocks.amax(dim=1)
