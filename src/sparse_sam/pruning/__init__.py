"""Pruning: which weights go (criterion × scope × structure, by a schedule), and masks that hold.

Offers ``Masks`` and ``attach``, ``Pruner``, ``magnitude_masks``, and the registry of every axis.
May use: files, data, networks.
"""

from sparse_sam.files import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
