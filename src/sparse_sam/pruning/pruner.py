"""One choice on every axis, and the masks that it makes."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sparse_sam.errors import DivergenceError, MaskError
from sparse_sam.networks import in_evaluation_mode
from sparse_sam.pruning.arguments import check_initialised, check_sparsity, chosen
from sparse_sam.pruning.criteria import Criterion, Evidence
from sparse_sam.pruning.directions import directions, largest_of_each
from sparse_sam.pruning.masks import (
    Masks,
    attach,
    attached_masks,
    masks_of,
    plain_parameters,
    tighten,
)
from sparse_sam.pruning.patterns import listed, match_each
from sparse_sam.pruning.ranking import keep_largest
from sparse_sam.pruning.registry import CRITERIA, STRUCTURES
from sparse_sam.pruning.scopes import Share
from sparse_sam.pruning.shares import asked_shares, check_shares, layer_of
from sparse_sam.pruning.structures import Structure

if TYPE_CHECKING:
    from sparse_sam.pruning.params import PruneParams


@dataclass(frozen=True)
class Pruner:
    """Criterion, scope and structure by name, and which parameters besides weights may be pruned.

    Attributes:
        criterion: ``magnitude``, ``random``, ``saliency``, ``obs`` or ``obs-selection``.
        scope: ``layerwise``, ``global`` or ``erk``.
        structure: ``unstructured``, ``channels``, or N:M such as ``2:4``.
        batchnorm: whether BatchNorm scales may be pruned too; unstructured only.
        biases: whether biases may be pruned too; unstructured only.
        ignore: name patterns of parameters to keep dense (``match_each``).
    """

    criterion: str = "magnitude"
    scope: str = "layerwise"
    structure: str = "unstructured"
    batchnorm: bool = False
    biases: bool = False
    ignore: tuple[str, ...] = ()

    @classmethod
    def of(cls, params: "PruneParams") -> "Pruner":
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
        """Return masks that prune ``model`` to ``sparsity``. The model itself is not changed.

        Args:
            model: a dense model, or one with masks: weights that are pruned there stay pruned, and
                count towards ``sparsity``.
            sparsity: the share of units to prune, in [0, 1): of weights, or of output channels.
            evidence: what the criterion may use in addition to the weights.
            overrides: other sparsities for some tensors, by name pattern; the scope divides
                ``sparsity`` among the remaining tensors.

        Raises:
            ConfigError: there is no such criterion, scope or structure.
            MaskError: a sparsity is out of range or below that of the model; a pattern matches
                nothing; the model has nothing to prune; a tensor would lose all its weights; or
                structure ``channels`` cannot find the layer that gives the classes. The message
                names the tensor or layer.
            DivergenceError: a score is NaN, so weights cannot be ranked.
        """
        return self._masks(chosen(CRITERIA, self.criterion)(), model, sparsity, evidence, overrides)

    def _masks(
        self,
        criterion: Criterion,
        model: nn.Module,
        sparsity: float,
        evidence: Evidence | None,
        overrides: Mapping[str, float] | None,
    ) -> Masks:
        overrides = overrides or {}
        for asked in (sparsity, *overrides.values()):
            check_sparsity("sparsity", asked)
        check_initialised(model)
        structure, before = chosen(STRUCTURES, self.structure), masks_of(model)
        evidence = evidence or Evidence()
        weights = self._weights(model, structure, before, evidence)
        with in_evaluation_mode(model):  # whatever it computes, no statistics move
            scores = criterion.scores(model, weights, evidence)
        units, normed = {}, directions(model, weights)
        for name, weight in weights.items():
            score = scores.pop(name, None)
            if not isinstance(score, Tensor) or score.shape != weight.shape:
                raise MaskError(
                    f"criterion {self.criterion}: must give a tensor of shape "
                    f"{tuple(weight.shape)} for {name}, not {_brief(score)}"
                )
            score = score.detach()
            if score.isnan().any():
                raise DivergenceError(
                    f"{name} cannot be pruned by {self.criterion}: its weights or their "
                    "gradients became infinite or NaN. Lower lr or rho in params.yaml."
                )
            if (score < 0).any():
                raise MaskError(
                    f"criterion {self.criterion}: gives negative scores for {name}; scores must "
                    "be at least 0"
                )
            if before:
                # Not in place: a criterion may give the weights themselves.
                score = score.masked_fill(~before[name], -torch.inf)
            if name in normed:
                score = score.masked_fill(largest_of_each(score, normed[name]), torch.inf)
            units[name] = structure.unit_scores(score, criterion.pooled)
        own = self._match(units, overrides)
        kept = self._kept(units, sparsity, own, structure, weights, normed)
        masks = {name: structure.mask(kept[name], weight.shape) for name, weight in weights.items()}
        for name in (name for name, mask in masks.items() if not mask.any()):
            by_itself = f"its own sparsity {own[name]}" if name in own else ""
            raise MaskError(
                f"{by_itself or f'{self.scope} sparsity {sparsity}'} would prune all "
                f"{len(units[name])} {structure.unit} of {name}; lower it, change prune.scope, "
                "or list the tensor in prune.ignore or prune.overrides"
            )
        return Masks(masks)

    def prune(
        self,
        model: nn.Module,
        sparsity: float,
        evidence: Evidence | None = None,
        overrides: Mapping[str, float] | None = None,
    ) -> Masks:
        """Prune ``model`` in place: masks, and what the criterion makes of the kept weights.

        Arguments, errors and result are those of ``masks``. A pruned model is pruned further; what
        an optimizer remembers of the weights that go is not known here.
        """
        evidence = evidence or Evidence()
        criterion: Any = chosen(CRITERIA, self.criterion)()
        masks = self._masks(criterion, model, sparsity, evidence, overrides)
        pruned_before = bool(attached_masks(model))
        values: Mapping[str, Tensor] = {}
        if compensated := getattr(criterion, "compensated", None):
            names = plain_parameters(model)
            with in_evaluation_mode(model):
                values = compensated(model, {name: names[name] for name in masks}, masks, evidence)
        if pruned_before:
            tighten(model, masks)
        else:
            attach(model, masks)
        parameters = plain_parameters(model)
        with torch.no_grad():
            for name, value in values.items():
                weight = parameters[name]
                weight.copy_(value.masked_fill(~masks[name].to(value.device), 0.0))
        return masks

    def check_names(
        self, model: nn.Module, evidence: Evidence, overrides: Mapping[str, float]
    ) -> None:
        """Raise MaskError if a pattern of ``ignore`` or ``overrides`` matches nothing of a model.

        Before a training, that is: no weights are looked at.
        """
        structure = chosen(STRUCTURES, self.structure)
        self._match(self._weights(model, structure, None, evidence), overrides)

    def check_counts(
        self, masks: Masks, sparsity: float, overrides: Mapping[str, float] | None = None
    ) -> None:
        """Check that masks are of exactly this sparsity, and such as the structure makes them.

        Of tensors that the scope ranks together, it is their sum that is exact.

        Raises:
            WrongCountError: more or fewer weights are pruned, or others than the structure allows;
                the message names the tensor, or those that are ranked together.
        """
        own = self._match(masks, overrides or {})
        check_shares(chosen(STRUCTURES, self.structure), self.scope, masks, sparsity, own)

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
        structure = chosen(STRUCTURES, self.structure)
        weights = self._weights(model, structure, None, evidence or Evidence())
        masks = {name: weight.detach() != 0 for name, weight in weights.items()}
        for name, mask in masks.items():
            if not mask.any():
                raise MaskError(
                    f"all {mask.numel()} weights of {name} are 0, so its mask would keep "
                    "nothing; to train it, list it in prune.ignore"
                )
        if all(mask.all() for mask in masks.values()):
            raise MaskError(
                f"the network has no zeros in the tensors that can be pruned ({listed(masks)}); "
                "to prune it, set prune.sparsity to a number"
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
            but = ", apart from those in prune.ignore" if ignored else ""
            raise MaskError(f"the model has no weights that can be pruned{how}{but}")
        return {name: model.get_parameter(name) for name in names}

    def _kept(
        self,
        units: Mapping[str, Tensor],
        sparsity: float,
        own: Mapping[str, float],
        structure: Structure,
        weights: Mapping[str, Tensor],
        normed: Collection[str],
    ) -> dict[str, Tensor]:
        """The units that are kept, by tensor; ``own`` are the sparsities of some tensors."""
        layers = {
            name: layer_of(structure, weights[name].shape, scores) for name, scores in units.items()
        }
        kept: dict[str, Tensor] = {}
        shares = asked_shares(self.scope, layers, sparsity, own)
        for share in shares:
            least = sum(layers[name].gone for name in share.names)
            most = sum(layers[name].most for name in share.names)
            if not least <= share.count <= most:
                asked = own.get(share.names[0], sparsity)
                raise MaskError(
                    f"sparsity {asked} prunes {share.count} {structure.unit} of "
                    f"{', '.join(share.names)}; allowed: {least} (already pruned, and masks only "
                    f"shrink) to {most} (all that structure {self.structure} can prune)"
                )
            self._check_directions(share, units, [one for one in share.names if one in normed])
            masks = keep_largest([units[name] for name in share.names], share.count)
            kept.update(zip(share.names, masks, strict=True))
        return kept

    def _check_directions(
        self, share: Share, units: Mapping[str, Tensor], normed: Sequence[str]
    ) -> None:
        """Raise MaskError if a share would take the last weight of a direction."""
        held = sum(int((units[name] == torch.inf).sum()) for name in normed)
        total = sum(len(units[name]) for name in share.names)
        if normed and share.count > total - held:
            raise MaskError(
                f"pruning {share.count} of {total} weights by {self.scope} would leave an output "
                f"of {', '.join(normed)} without weights, and weight normalisation would divide "
                f"by 0: prune at most {total - held} (sparsity {(total - held) / total:.4g}), "
                "list the tensor in ignore or overrides, or remove the weight normalisation "
                "first"
            )


def _brief(score: object) -> str:
    return str(tuple(score.shape)) if isinstance(score, Tensor) else type(score).__name__
