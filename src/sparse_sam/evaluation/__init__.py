"""Evaluation: what was measured, what it says, how flat, at what cost; the report and the gate.

Offers the statistics and verdict, measures of flatness and memory, tables, the page, the gate.
May use: files, data, networks, pruning, training.
"""

from sparse_sam.files import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
