from .for_accelerate import SAMPasses as SAMPasses
from .for_lightning import SAMModule as SAMModule
from .for_transformers import SAMTrainer as SAMTrainer
