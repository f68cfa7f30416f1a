"""Data: where images come from, how they are split, and in which order a training sees them.

Offers sources, ``TrainingData`` and ``TestData`` (no type holds both), seeds, order, augmentation.
May use: files.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
