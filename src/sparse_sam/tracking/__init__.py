"""Tracking: every stage's run as a journal, and MLflow told of it. Alone knows MLflow.

Offers the table of stages, journals, what belongs together, the sender, the model registry.
May use: files, data, networks, training, evaluation, export, config.
"""

from sparse_sam.files import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
