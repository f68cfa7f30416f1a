"""Training: the one loop, its optimizers, seeds side by side, resume points, checkpoints.

Offers ``train_dense``, ``prune``, ``finetune`` of one seed, ``train_arms``, ``Checkpoint``.
May use: files, data, networks, pruning, sam.
"""

from sparse_sam.files import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
