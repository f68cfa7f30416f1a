"""Files and formats: written whole or not at all, sealed against damage, checked when read.

Offers atomic files and folders, JSON and CSV, sealed tensor files, typed sections of YAML, and
``Registry``: what a name in a file of parameters stands for; torchvision, where it can be imported.
May use: errors, redaction.
"""

from sparse_sam.files.front_door import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
