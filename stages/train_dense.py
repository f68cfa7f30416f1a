"""Train a dense network for every seed, with SGD or a variant of SAM."""

from stages import layout
from stages.runner import Stage, main

OUTPUTS = (layout.models("dense"), layout.history("dense"), layout.metrics("train_dense"))


def work(stage: Stage) -> None:
    """Train every seed from its own initialisation."""
    from sparse_sam.compute import select_device
    from sparse_sam.dataset import load_training_data
    from sparse_sam.experiment import OnEpoch, Trained, train_dense
    from sparse_sam.resume import ResumePoint
    from stages.training import train_arms

    params = stage.params
    data = load_training_data(layout.DATASET).to(select_device(params.device))

    def train(_: str, seed: int, on_epoch: OnEpoch, resume: ResumePoint) -> Trained:
        return train_dense(data, params.model.name, params.train_dense, seed, on_epoch, resume)

    train_arms(stage, data, {"dense": params.train_dense.epochs}, train)


if __name__ == "__main__":
    main("train_dense", __doc__, OUTPUTS, work)
