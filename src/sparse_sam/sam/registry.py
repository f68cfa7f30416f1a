"""The variants of SAM by name: ``finetune.sam.variant``.

========== ===========  ========================================  ===================
variant    class        paper                                     gradients a step
========== ===========  ========================================  ===================
sam        SAM          Foret et al. 2021, arXiv:2010.01412       2
asam       ASAM         Kwon et al. 2021, arXiv:2102.11600        2
periodic   PeriodicSAM  Liu et al. 2022, arXiv:2203.02714         1 + 1/k
looksam    LookSAM      Liu et al. 2022, arXiv:2203.02714         1 + 1/k
late       LateSAM      Zhou et al. 2024, arXiv:2410.10373        1, then 2
momentum   MomentumSAM  Becker et al. 2024, arXiv:2401.12033      1
gsam       GSAM         Zhuang et al. 2022, arXiv:2203.08065      2
========== ===========  ========================================  ===================
"""

from typing import TYPE_CHECKING

from sparse_sam.files import Registry

if TYPE_CHECKING:
    from sparse_sam.sam.optimizer import SAM

VARIANTS: "Registry[type[SAM]]" = Registry(
    "sam.variant",
    {
        "sam": "sparse_sam.sam.optimizer:SAM",
        "asam": "sparse_sam.sam.asam:ASAM",
        "periodic": "sparse_sam.sam.periodic:PeriodicSAM",
        "looksam": "sparse_sam.sam.periodic:LookSAM",
        "late": "sparse_sam.sam.late:LateSAM",
        "momentum": "sparse_sam.sam.momentum:MomentumSAM",
        "gsam": "sparse_sam.sam.gsam:GSAM",
    },
    base="sparse_sam.sam.optimizer:SAM",
)
