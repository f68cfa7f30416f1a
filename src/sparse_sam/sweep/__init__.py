"""Sweeps: one question at many sparsities, networks, arms, ρ and seeds, here or on a cluster.

=============== =====================================================================
sections        ``sweep.yaml`` as it is written
declaration     … and as checked values: axes, arms, candidates, seeds
work, code      what makes a result, and the key that is its hash
cells           every combination that is computed, and its name
compute         the arithmetic of one cell, pure
choosing        the choice of ρ, lr, … on validation
engines         where cells are computed: here, in sequence …
on_ray          … or by Ray, on this machine or a cluster; alone knows Ray
store           results on disk, as they come
sweeping        all of that together; ``python -m sparse_sam.sweep`` is its command
table, progress what is shown
sending         the process that tells MLflow
=============== =====================================================================

Data flows down this list; ``docs/sweeps.md`` says how it is used.
"""
