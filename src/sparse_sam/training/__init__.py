"""Training: the one loop, its optimizers, seeds side by side, resume points, checkpoints.

Offers ``train_dense``, ``prune``, ``finetune`` of one seed, ``train_arms``, ``Checkpoint``.
May use: files, data, networks, pruning, sam.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
