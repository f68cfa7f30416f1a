"""Sharpness-aware minimization: the optimizer, and its variants behind the same interface.

========== ===========  ========================================  ===================
variant    class        paper                                     gradients a step
========== ===========  ========================================  ===================
sam        SAM          Foret et al. 2021, arXiv:2010.01412       2
asam       ASAM         Kwon et al. 2021, arXiv:2102.11600        2
periodic   PeriodicSAM  Liu et al. 2022, arXiv:2203.02714         1 + 1/k
looksam    LookSAM      Liu et al. 2022, arXiv:2203.02714         1 + 1/k
momentum   MomentumSAM  Becker et al. 2024, arXiv:2401.12033      1
gsam       GSAM         Zhuang et al. 2022, arXiv:2203.08065      2
========== ===========  ========================================  ===================
"""

from sparse_sam.sam.adaptive import ASAM
from sparse_sam.sam.gsam import GSAM
from sparse_sam.sam.momentum import MomentumSAM
from sparse_sam.sam.optimizer import SAM
from sparse_sam.sam.periodic import LookSAM, PeriodicSAM
from sparse_sam.sam.variants import VARIANTS, build, variant_settings

__all__ = [
    "ASAM",
    "GSAM",
    "SAM",
    "VARIANTS",
    "LookSAM",
    "MomentumSAM",
    "PeriodicSAM",
    "build",
    "variant_settings",
]
