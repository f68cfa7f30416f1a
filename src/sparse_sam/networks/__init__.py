"""Networks: the architectures by name, and what is done to their modes and BatchNorm.

Offers ``NETWORKS``, ``Network``, ``build_model``, evaluation mode for a block, BatchNorm's
statistics.
May use: files.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
