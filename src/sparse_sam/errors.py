"""The errors that this library raises on purpose.

Every message is written for the person who must act: what is wrong, where (file, key, value),
what is allowed, what to do. Command lines print the message alone and exit with a code that is
not 0; anything else that escapes is a bug and keeps its traceback. No message holds a secret.
"""

from sparse_sam.redaction import redacted


class SparseSamError(Exception):
    """Base of all errors that a user can cause and cure."""

    def __init__(self, message: str) -> None:
        super().__init__(redacted(message))


class ConfigError(SparseSamError):
    """A value in ``params.yaml`` is unknown, of the wrong type or out of range."""


class DataError(SparseSamError):
    """A data set is missing, damaged, or not what it says it is."""


class CheckpointError(SparseSamError):
    """A checkpoint is missing, damaged, or belongs to something else."""


class MaskError(SparseSamError):
    """A mask does not fit its model, or a pruned weight is not exactly zero."""


class StaleOptimizerError(SparseSamError):
    """An optimizer does not hold exactly the parameters of the model it is to train."""


class DivergenceError(SparseSamError):
    """A loss, gradient or weight became infinite or NaN."""


class FrozenWeightError(SparseSamError):
    """A tensor that requires a gradient was not trained by an epoch."""


class DeadWeightError(FrozenWeightError, DivergenceError):
    """Nor could it be: units died in training, and no gradient reaches the tensor any more."""


class StalledError(SparseSamError):
    """A job has not finished a step for so long that it was given up.

    Attributes:
        job: which.
    """

    def __init__(self, message: str, job: object = None) -> None:
        super().__init__(message)
        self.job = job


class OverBudgetError(SparseSamError):
    """A measure would take longer than it may."""


class ExportError(SparseSamError):
    """A network could not be exported, or an export is not what it should be."""


class TrackingError(SparseSamError):
    """MLflow could not be reached, or refused what was sent."""


class RefusedError(TrackingError):
    """MLflow was reached and does not take this run, which keeps no other from being sent."""
