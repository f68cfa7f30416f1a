"""SAM: sharpness-aware minimization, an optimizer around any other, and its variants.

Offers ``SAM``, its variants and ``build_sam``, and ``vector_norm``.
May use: files, networks, pruning.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
