"""Networks: the architectures by name, and what is done to their modes and BatchNorm.

Offers ``NETWORKS``, ``Network``, ``build_model``, evaluation mode for a block, BatchNorm's
statistics.
May use: files.
"""

from sparse_sam.files import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
