"""Sweeps: one question at many sparsities, networks, arms, ρ and seeds, here or on a cluster.

Offers declarations, cells, engines (here and on Ray), the store of results, and their table.
May use: everything below it; nothing uses it.
"""

from sparse_sam.files import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
