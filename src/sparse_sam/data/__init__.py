"""Data: where images come from, how they are split, and in which order a training sees them.

Offers sources, ``TrainingData`` and ``TestData`` (no type holds both), seeds, order, augmentation.
May use: files.
"""

from sparse_sam.files import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
