"""One choice on every axis, and the masks that it makes."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparse_sam.errors import DivergenceError, MaskError
from sparse_sam.networks import in_evaluation_mode
from sparse_sam.pruning.criteria import Evidence
from sparse_sam.pruning.masks import Masks, attached_masks, masks_of
from sparse_sam.pruning.params import PruneParams
from sparse_sam.pruning.patterns import listed, match_each
from sparse_sam.pruning.ranking import keep_largest, pruned_count
from sparse_sam.pruning.registry import CRITERIA, SCOPES, STRUCTURES
from sparse_sam.pruning.scopes import Layer, Share
from sparse_sam.pruning.structures import Structure


@dataclass(frozen=True)
class Pruner:
    """Criterion, scope and structure by name, and which parameters may be pruned beside weights.

    Attributes:
        criterion: ``magnitude``, ``random`` or ``saliency``.
        scope: ``layerwise``, ``global`` or ``erk``.
        structure: ``unstructured``, ``channels``, or N:M such as ``2:4``.
        batchnorm: BatchNorm scales may be pruned too; unstructured only.
        biases: biases may be pruned too; unstructured only.
        ignore: patterns of the names of parameters that are left dense (``match_each``).
    """

    criterion: str = "magnitude"
    scope: str = "layerwise"
    structure: str = "unstructured"
    batchnorm: bool = False
    biases: bool = False
    ignore: tuple[str, ...] = ()

    @classmethod
    def of(cls, params: PruneParams) -> "Pruner":
        """The one that the parameters name."""
        return cls(
            params.criterion,
            params.scope,
            params.structure,
            params.batchnorm,
            params.biases,
            params.ignore,
        )

    def masks(
        self,
        model: nn.Module,
        sparsity: float,
        evidence: Evidence | None = None,
        overrides: Mapping[str, float] | None = None,
    ) -> Masks:
        """Masks that prune ``model`` to ``sparsity``. The model itself is not touched.

        Args:
            model: a dense model, or one with masks attached: what is pruned there stays pruned,
                and counts.
            sparsity: the share of units to prune, in [0, 1): of weights, or of output channels.
            evidence: what may be looked at beside the weights.
            overrides: a sparsity of its own, by pattern, for each tensor that the pattern matches;
                the scope divides ``sparsity`` among the others.

        Raises:
            ConfigError: there is no such criterion, scope or structure.
            MaskError: a sparsity is out of range or below the one that the model has, a pattern
                matches nothing, the model has nothing to prune so, a tensor would lose all its
                weights, or with structure ``channels`` it cannot be told whose outputs are the
                classes; the message names it.
            DivergenceError: a score is NaN, so that nothing can be ranked.
        """
        overrides = overrides or {}
        for asked in (sparsity, *overrides.values()):
            if not 0 <= asked < 1:
                raise MaskError(f"sparsity = {asked}: must be at least 0 and less than 1")
        structure, before = STRUCTURES.load(self.structure), masks_of(model)
        evidence = evidence or Evidence()
        weights = self._weights(model, structure, before, evidence)
        criterion = CRITERIA.load(self.criterion)()
        with in_evaluation_mode(model):  # whatever it computes, no statistics move
            scores = criterion.scores(model, weights, evidence)
        units = {}
        for name, weight in weights.items():
            score = scores.pop(name, None)
            if not isinstance(score, Tensor) or score.shape != weight.shape:
                raise MaskError(
                    f"criterion {self.criterion} must give {name} a tensor of its shape "
                    f"{tuple(weight.shape)}, and gives {_brief(score)}"
                )
            score = score.detach()
            if score.isnan().any():
                raise DivergenceError(
                    f"{name} cannot be pruned by {self.criterion}: its weights, or their "
                    "gradients, became infinite or NaN. Lower lr in params.yaml, or rho."
                )
            if (score < 0).any():
                raise MaskError(
                    f"criterion {self.criterion} gives scores below 0 to weights of {name}"
                )
            if before:
                # Not in place: a criterion may give the weights themselves.
                score = score.masked_fill(~before[name], -torch.inf)
            units[name] = structure.unit_scores(score, criterion.pooled)
        own = self._match(units, overrides)
        kept = self._kept(units, sparsity, own, structure, weights)
        masks = {name: structure.mask(kept[name], weight.shape) for name, weight in weights.items()}
        for name, mask in masks.items():
            if not mask.any():
                how = (
                    f"its own sparsity {own[name]}"
                    if name in own
                    else f"{self.scope} sparsity {sparsity}"
                )
                raise MaskError(
                    f"{how} would prune all {len(units[name])} {structure.unit} of {name}; lower "
                    "it, change prune.scope, or name the tensor in prune.ignore or prune.overrides"
                )
        return Masks(masks)

    def check_names(
        self, model: nn.Module, evidence: Evidence, overrides: Mapping[str, float]
    ) -> None:
        """Raise MaskError if a pattern of ``ignore`` or ``overrides`` matches nothing of a model.

        Before a training, that is: no weights are looked at.
        """
        structure = STRUCTURES.load(self.structure)
        self._match(self._weights(model, structure, None, evidence), overrides)

    def _match(self, names: Collection[str], overrides: Mapping[str, float]) -> dict[str, float]:
        """The tensors with a sparsity of their own, and those."""
        of = match_each(names, overrides, "prune.overrides", ignored=self.ignore)
        return {name: overrides[pattern] for name, pattern in of.items()}

    def masks_of_zeros(self, model: nn.Module, evidence: Evidence | None = None) -> Masks:
        """Masks that keep what is not 0, of a network that was pruned elsewhere.

        Tensors that could be pruned and have no zeros are among them, and keep all.

        Raises:
            MaskError: a tensor is all zeros, or none has any.
        """
        structure = STRUCTURES.load(self.structure)
        weights = self._weights(model, structure, None, evidence or Evidence())
        masks = {name: weight.detach() != 0 for name, weight in weights.items()}
        for name, mask in masks.items():
            if not mask.any():
                raise MaskError(
                    f"all {mask.numel()} weights of {name} are 0, so that its mask would keep "
                    "nothing; name it in prune.ignore if it is to be trained"
                )
        if all(mask.all() for mask in masks.values()):
            raise MaskError(
                f"the network has no zeros among the weights that can be pruned: {listed(masks)}; "
                "set prune.sparsity to a number to prune it"
            )
        return Masks(masks)

    def _weights(
        self, model: nn.Module, structure: Structure, before: Masks | None, evidence: Evidence
    ) -> dict[str, Tensor]:
        if before:
            return {one.name: one.original for one in attached_masks(model)}
        targets = structure.targets(model, evidence, batchnorm=self.batchnorm, biases=self.biases)
        ignored = match_each(targets, self.ignore, "prune.ignore")
        names = [name for name in targets if name not in ignored]
        if not names:
            how = "" if self.structure == "unstructured" else f" with structure {self.structure}"
            but = " and that prune.ignore leaves" if ignored else ""
            raise MaskError(f"the model has no weights that can be pruned{how}{but}")
        return {name: model.get_parameter(name) for name in names}

    def _kept(
        self,
        units: Mapping[str, Tensor],
        sparsity: float,
        own: Mapping[str, float],
        structure: Structure,
        weights: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        """The units that are kept, by tensor; ``own`` are the sparsities of some tensors."""
        layers = {
            name: Layer(
                shape=tuple(weights[name].shape),
                units=len(scores),
                gone=int((scores == -torch.inf).sum()),
                most=structure.most(len(scores)),
            )
            for name, scores in units.items()
        }
        kept: dict[str, Tensor] = {}
        shares = [
            Share((name,), pruned_count(asked, layers[name].units)) for name, asked in own.items()
        ]
        rest = {name: layer for name, layer in layers.items() if name not in own}
        if rest:
            found: Any = SCOPES.load(self.scope)(rest, sparsity)
            if not isinstance(found, list) or {n for one in found for n in one.names} != set(rest):
                raise MaskError(
                    f"scope {self.scope} must give a list of Share that names each tensor"
                )
            shares += found
        for share in shares:
            least = sum(layers[name].gone for name in share.names)
            most = sum(layers[name].most for name in share.names)
            if not least <= share.count <= most:
                asked = own.get(share.names[0], sparsity)
                raise MaskError(
                    f"sparsity {asked} prunes {share.count} {structure.unit} of "
                    f"{', '.join(share.names)}: must be at least the {least} that are pruned, for "
                    f"masks only shrink, and at most the {most} that structure {self.structure} "
                    "can prune"
                )
            masks = keep_largest([units[name] for name in share.names], share.count)
            kept.update(zip(share.names, masks, strict=True))
        return kept


def _brief(score: object) -> str:
    return str(tuple(score.shape)) if isinstance(score, Tensor) else type(score).__name__
