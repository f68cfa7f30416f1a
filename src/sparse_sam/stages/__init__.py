"""Stages: what DVC runs, a thin script each: read parameters and inputs, call the library, write.

Offers what a stage does around its work, trainings taken or trained, what a stage is made by.
May use: files, data, training, evaluation, export, config, tracking.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
