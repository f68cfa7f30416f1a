"""Frameworks: SAM in the loops of Lightning, accelerate and transformers' Trainer.

Offers ``SAMModule``, ``SAMPasses`` and ``SAMTrainer``. A framework is imported only by who uses it.
May use: files, sam.
"""

from sparse_sam.files import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
