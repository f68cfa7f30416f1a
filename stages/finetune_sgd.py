"""Finetune every pruned network with SGD: for as many epochs as SAM, and for twice as many."""

from stages import layout
from stages.runner import Stage, main

ARMS = ("sgd", "sgd_2x")
OUTPUTS = (
    *map(layout.models, ARMS),
    *map(layout.history, ARMS),
    layout.metrics("finetune_sgd"),
)


def work(stage: Stage) -> None:
    """Finetune at equal epochs (``sgd``) and at equal compute (``sgd_2x``)."""
    from sparse_sam.parallel import begin_to_start

    begin_to_start()
    from stages.training import finetune_arms

    finetune_arms(stage, ARMS)


if __name__ == "__main__":
    main("finetune_sgd", __doc__, OUTPUTS, work)
