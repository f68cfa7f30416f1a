"""Train a dense network for every seed, with SGD or a variant of SAM."""

from stages import layout
from stages.runner import Stage, main

OUTPUTS = (layout.models("dense"), layout.history("dense"), layout.metrics("train_dense"))


def work(stage: Stage) -> None:
    """Train every seed from its own initialisation."""
    from sparse_sam.parallel import begin_to_start

    begin_to_start()
    from stages.training import train_arms

    train_arms(stage, {"dense": stage.params.train_dense.epochs})


if __name__ == "__main__":
    main("train_dense", __doc__, OUTPUTS, work)
