"""What each axis of pruning can be, by name: criteria, scopes, structures, schedules."""

import re
from typing import TYPE_CHECKING, Any

from sparse_sam.files import Registry

if TYPE_CHECKING:
    from sparse_sam.pruning.criteria import Criterion
    from sparse_sam.pruning.schedules import PruningSchedule
    from sparse_sam.pruning.scopes import Scope
    from sparse_sam.pruning.structures import Structure

CRITERIA: "Registry[type[Criterion]]" = Registry(
    "prune.criterion",
    {
        "magnitude": "sparse_sam.pruning.criteria:Magnitude",
        "obs": "sparse_sam.pruning.obs:OBS",
        "obs-selection": "sparse_sam.pruning.obs:OBSSelection",
        "random": "sparse_sam.pruning.criteria:Random",
        "saliency": "sparse_sam.pruning.criteria:Saliency",
    },
    arguments=0,
    has=("scores", "pooled"),
)

SCOPES: "Registry[Scope]" = Registry(
    "prune.scope",
    {
        "layerwise": "sparse_sam.pruning.scopes:layerwise",
        "global": "sparse_sam.pruning.scopes:all_together",
        "erk": "sparse_sam.pruning.scopes:erk",
    },
    arguments=2,
)

SCHEDULES: "Registry[type[PruningSchedule]]" = Registry(
    "prune.schedule.name",
    {
        "one-shot": "sparse_sam.pruning.schedules:OneShot",
        "iterative": "sparse_sam.pruning.schedules:Iterative",
        "gradual": "sparse_sam.pruning.schedules:Gradual",
    },
    base="sparse_sam.pruning.schedules:PruningSchedule",
)


class _Structures(Registry[Any]):
    """As every registry; ``N:M`` stands for all names such as 2:4, with 0 < N < M."""

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or kept_of_group(name) is not None

    def place(self, name: str) -> str:
        return super().place("N:M" if kept_of_group(name) else name)

    def check(self, name: Any) -> Any:
        if kept_of_group(name):
            return name
        if name == "N:M":
            raise ValueError("replace N and M by numbers with N < M, in quotes, such as '2:4'")
        return super().check(name)

    def load(self, name: str) -> Any:
        if group := kept_of_group(name):
            from sparse_sam.pruning.structures import Groups

            return Groups(*group)
        return super().load(name)()


STRUCTURES: "Registry[Structure]" = _Structures(
    "prune.structure",
    {
        "unstructured": "sparse_sam.pruning.structures:Unstructured",
        "channels": "sparse_sam.pruning.structures:Channels",
        "N:M": "sparse_sam.pruning.structures:Groups",
    },
    arguments=0,
    has=("targets", "unit_scores", "most", "mask"),
)


def kept_of_group(structure: Any) -> tuple[int, int] | None:
    """(N, M) of a structure that is called N:M; None of another."""
    text = structure if isinstance(structure, str) else ""
    found = re.fullmatch(r"([1-9]\d{0,3}):([1-9]\d{0,3})", text, re.ASCII)
    n, m = (int(found[1]), int(found[2])) if found else (0, 0)
    return (n, m) if n < m else None
