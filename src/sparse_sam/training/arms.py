"""The names of the arms: every model that is compared, in the pipeline's order."""

DENSE, PRUNED, SGD, SGD_2X, SAM = ARMS = ("dense", "pruned", "sgd", "sgd_2x", "sam")
