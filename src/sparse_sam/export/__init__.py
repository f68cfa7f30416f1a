"""Export: what sparsity buys (bytes, multiply-adds, latency), and networks as verified files.

Offers packing, removal of channels, latency, ONNX, and ``export_network`` with its manifest.
May use: files, data, networks, pruning, training.
"""

from sparse_sam.files import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
