"""The names of the arms: every model that is compared, in the pipeline's order."""

DENSE, PRUNED, SGD_ARM, SGD_2X_ARM, SAM_ARM = ARMS = ("dense", "pruned", "sgd", "sgd_2x", "sam")


def arm_optimizer(arm: str) -> str:
    """The name in ``OPTIMIZERS`` of what an arm finetunes with."""
    return "sam" if arm == SAM_ARM else "sgd"
