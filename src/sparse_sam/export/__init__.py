"""Export: what sparsity buys (bytes, multiply-adds, latency), and networks as verified files.

Offers packing, removal of channels, latency, ONNX, and ``export_network`` with its manifest.
May use: files, data, networks, pruning, training.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
