"""Tracking: every stage's run as a journal, and MLflow told of it. Alone knows MLflow.

Offers the table of stages, journals, what belongs together, the sender, the model registry.
May use: files, data, networks, training, evaluation, export, config.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
