"""Finetune every pruned network with sharpness-aware minimization."""

from stages import layout
from stages.runner import Stage, main

ARMS = ("sam",)
OUTPUTS = (layout.models("sam"), layout.history("sam"), layout.metrics("finetune_sam"))


def work(stage: Stage) -> None:
    """Finetune from the same pruned weights, with the same batches, as the SGD arms."""
    from sparse_sam.parallel import begin_to_start

    begin_to_start()
    from stages.training import finetune_arms

    finetune_arms(stage, ARMS)


if __name__ == "__main__":
    main("finetune_sam", __doc__, OUTPUTS, work)
