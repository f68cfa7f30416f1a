"""``python -m stages.download``: the stage of that name, of the library that lies beside it.

The stages are ``sparse_sam.stages``. In this repository they are called in this way, so that an
experiment that runs in a copy of it runs the copy's code, and not that of a library installed
elsewhere, as ``python -m sparse_sam.stages.download`` does.
"""

import sys
from pathlib import Path

_LIBRARY = Path(__file__).resolve().parent.parent / "src"
sys.path.insert(0, str(_LIBRARY))
__path__ = [str(_LIBRARY / "sparse_sam" / "stages")]
