from .batchnorm import BATCHNORM_BATCH as BATCHNORM_BATCH
from .batchnorm import frozen_batchnorm_statistics as frozen_batchnorm_statistics
from .batchnorm import reestimate_batchnorm as reestimate_batchnorm
from .build import build_model as build_model
from .modes import in_evaluation_mode as in_evaluation_mode
from .params import ModelParams as ModelParams
from .registry import ImageShape as ImageShape
from .registry import NETWORKS as NETWORKS
