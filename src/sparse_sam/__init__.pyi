from .networks import frozen_batchnorm_statistics as frozen_batchnorm_statistics
from .pruning import Masks as Masks
from .pruning import Sparsifier as Sparsifier
from .pruning import attach as attach
from .pruning import magnitude_masks as magnitude_masks
from .sam import SAM as SAM

__version__: str
