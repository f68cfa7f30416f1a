"""Pruning, sharpness-aware finetuning, and their fair comparison.

What most people want is here; every room (``sparse_sam.pruning``, ``sparse_sam.sam``, …) offers
its own things. Names are loaded when first used, so that importing a package costs nothing.
"""

from sparse_sam.files import attach_stub

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
