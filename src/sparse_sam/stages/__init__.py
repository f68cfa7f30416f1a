"""Stages: what DVC runs, a thin script each: read parameters and inputs, call the library, write.

Offers what a stage does around its work, trainings taken or trained, what a stage is made by.
May use: files, data, training, evaluation, export, config, tracking.
"""

from sparse_sam.files import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
