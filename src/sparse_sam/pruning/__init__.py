"""Which weights go: criterion × scope × structure, at the sparsity that a schedule asks for.

Each axis is a registry of small objects that know nothing of the others. A ``Pruner`` holds one
of each and turns a model and a sparsity into masks; ``ScheduledPruning`` does so during training.
"""

from sparse_sam.pruning.during_training import ScheduledPruning as ScheduledPruning
from sparse_sam.pruning.magnitude import magnitude_masks as magnitude_masks
from sparse_sam.pruning.pruner import Pruner as Pruner
from sparse_sam.pruning.ranking import pruned_count as pruned_count
from sparse_sam.pruning.targets import prunable_parameters as prunable_parameters
