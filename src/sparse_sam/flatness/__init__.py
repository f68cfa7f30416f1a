"""How flat the loss is around a network, on the weights that it keeps.

=============== =====================================================================
sharpness       max over ‖ε‖ ≤ ρ of L(w + ε) − L(w), by one ascent step and by several
hessian         largest eigenvalues and trace of the Hessian
landscape       the loss along filter-normalised directions
measure         all of them for one network, within a budget
=============== =====================================================================
"""

from sparse_sam.flatness.hessian import hessian_trace, top_eigenvalues
from sparse_sam.flatness.landscape import filter_normalised_direction, loss_slice, loss_surface
from sparse_sam.flatness.measure import Flatness, Settings, measure
from sparse_sam.flatness.sharpness import Sharpness, sharpness

__all__ = [
    "Flatness",
    "Settings",
    "Sharpness",
    "filter_normalised_direction",
    "hessian_trace",
    "loss_slice",
    "loss_surface",
    "measure",
    "sharpness",
    "top_eigenvalues",
]
