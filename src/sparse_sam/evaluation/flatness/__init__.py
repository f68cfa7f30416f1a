"""How flat the loss is around a network, on the weights that it keeps.

=============== =====================================================================
sharpness       max over ‖ε‖ ≤ ρ of L(w + ε) − L(w), by one ascent step and by several
hessian         largest eigenvalues and trace of the Hessian
landscape       the loss along filter-normalised directions
measure         all of them for one network, within a budget
=============== =====================================================================
"""
