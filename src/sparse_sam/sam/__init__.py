"""SAM: sharpness-aware minimization, an optimizer around any other, and its variants.

Offers ``SAM``, its variants and ``build_sam``, ``vector_norm``; and ``LeftGradients`` for
adapters of other people's loops.
May use: files, networks, pruning.
"""

from sparse_sam.files import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
