"""Train a dense network for every seed."""

from sparse_sam.stages.runner import Stage, main


def work(stage: Stage) -> None:
    """Train its arms, from the same weights and with the same batches for every arm of a seed."""
    from sparse_sam.training import prepare_workers

    prepare_workers()
    from sparse_sam.stages.training import train_stage

    train_stage(stage)


if __name__ == "__main__":
    main("train_dense", __doc__, work)
