"""The arithmetic of a cell: the same library functions as the stages', and pure.

What chooses takes ``TrainingData`` and cannot see a test image; only ``report`` takes ``TestData``.
Masks are made anew in every cell: from the same dense network they are the same, and take a
hundredth of the time of the finetuning that follows. Dense networks are given, made once.
"""

import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from sparse_sam.data import TestData, TrainingData
from sparse_sam.errors import DivergenceError
from sparse_sam.evaluation import sharpness, some_images
from sparse_sam.files import NotMeasured
from sparse_sam.training import (
    Checkpoint,
    Diverged,
    Trained,
    evaluate,
    finetune,
    measured,
    prune,
    sparsity_metrics,
    train_dense,
)

if TYPE_CHECKING:
    from sparse_sam.sweep.work import Work
    from sparse_sam.training import Dense


@dataclass(frozen=True)
class Result:
    """What a cell found. All but ``diverged`` are None where it diverged or was not measured.

    Attributes:
        diverged: whether the dense training or the finetuning did.
        validation_accuracy: share of right answers after the last epoch.
        validation_loss: mean cross-entropy.
        train_loss: mean over the last epoch.
        gradient_evaluations: of the finetuning.
        sparsity: share of the prunable weights that are 0.
        test_accuracy: of the finetuned network.
        test_loss: likewise.
        dense_test_accuracy: of the network before pruning.
        pruned_test_accuracy: of the network between pruning and finetuning.
        sharpness: rise of the training loss within the declared radius, of the finetuned network.
    """

    diverged: bool = False
    validation_accuracy: float | None = None
    validation_loss: float | None = None
    train_loss: float | None = None
    gradient_evaluations: int | None = None
    sparsity: float | None = None
    test_accuracy: float | None = None
    test_loss: float | None = None
    dense_test_accuracy: float | None = None
    pruned_test_accuracy: float | None = None
    sharpness: float | None = None


def dense_network(dense: "Dense", data: TrainingData) -> Trained | Diverged:
    """Train the network that cells share."""
    try:
        return train_dense(data, dense.model, dense.recipe, dense.seed, lambda _: None)
    except DivergenceError as error:
        return Diverged(str(error))


def measure(
    work: "Work", dense: Checkpoint | Diverged, data: TrainingData, test: TestData | None
) -> Result:
    """A cell: one that chooses, or, where the test set is given, one that is reported."""
    return choose(work, dense, data) if test is None else report(work, dense, data, test)


def choose(work: "Work", dense: Checkpoint | Diverged, data: TrainingData) -> Result:
    """Finetune, and measure on validation."""
    finetuned = None if isinstance(dense, Diverged) else _finetuned(work, dense, data)
    if finetuned is None:
        return Result(diverged=True)
    return Result(**_trained(finetuned[1]))


def report(
    work: "Work", dense: Checkpoint | Diverged, data: TrainingData, test: TestData
) -> Result:
    """Finetune, and measure on the test set, before and after; and how flat it became."""
    finetuned = None if isinstance(dense, Diverged) else _finetuned(work, dense, data)
    if finetuned is None or isinstance(dense, Diverged):
        return Result(diverged=True)
    pruned, trained = finetuned
    model = trained.checkpoint.build()
    tested = evaluate(model, test.test)
    sharp = None
    if work.flatness and work.flatness.images:
        part = some_images(data.train, work.flatness.images)
        rho, steps = work.flatness.rho, work.flatness.steps
        found = measured(lambda: sharpness(model, part, rho, steps).value)
        if isinstance(found, NotMeasured):
            sys.stderr.write(f"warning: {work.arm}: sharpness was not measured: {found.why}\n")
        else:
            sharp = found
    return Result(
        **_trained(trained),
        test_accuracy=tested.accuracy,
        test_loss=tested.loss,
        dense_test_accuracy=evaluate(dense.build(), test.test).accuracy,
        pruned_test_accuracy=evaluate(pruned.build(), test.test).accuracy,
        sharpness=sharp,
    )


def _finetuned(
    work: "Work", dense: Checkpoint, data: TrainingData
) -> tuple[Checkpoint, Trained] | None:
    pruned = prune(dense, work.prune, data)
    try:
        trained = finetune(
            pruned, data, work.finetune, work.arm, lambda _: None, pruning=work.prune, teacher=dense
        )
    except DivergenceError:
        return None
    return pruned, trained


def _trained(trained: Trained) -> dict[str, Any]:
    last = asdict(trained.history[-1])
    taken = ("validation_accuracy", "validation_loss", "train_loss", "gradient_evaluations")
    sparsity = sparsity_metrics([trained.checkpoint])["sparsity"]
    return {**{name: last[name] for name in taken}, "sparsity": sparsity}
