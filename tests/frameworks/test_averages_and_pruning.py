"""Averaged weights of a masked network, and pruning on the way, in Lightning's loop with SAM."""

from pathlib import Path
from typing import Any

import pytest
from cases import STEPS, assert_same, batches, distance, network, state
from lightning.pytorch.callbacks import (
    Callback,
    EMAWeightAveraging,
    StochasticWeightAveraging,
    WeightAveraging,
)
from test_lightning import Net, fit

from sparse_sam.pruning import Iterative, Sparsifier, masks_of

pytestmark = pytest.mark.frameworks


class Constant(Net):
    """With a learning rate of its own for each average to set."""

    def configure_optimizers(self) -> Any:
        return super().configure_optimizers()["optimizer"]


@pytest.mark.parametrize(
    "averaging",
    [EMAWeightAveraging(decay=0.8), StochasticWeightAveraging(0.05, swa_epoch_start=1)],
    ids=["EMA", "SWA"],
)
def test_an_average_of_a_masked_network_has_its_zeros(averaging: WeightAveraging) -> None:
    module, without = Constant(), Constant()
    fit(module, batches(STEPS), max_epochs=4, callbacks=[averaging])
    fit(without, batches(STEPS), max_epochs=4)
    assert distance(state(module), state(without)) > 1e-4  # it is an average
    masks = masks_of(module.net)
    assert masks is not None
    kept = masks["0.weight"].cpu()
    averaged = module.net.cpu()[0]
    assert not averaged.weight[~kept].any()
    assert not averaged.parametrizations.weight.original[~kept].any()
    assert averaged.weight[kept].all()


class Pruning(Callback):
    """That of docs/frameworks.md."""

    def __init__(self, sparsifier: Sparsifier) -> None:
        self.sparsifier = sparsifier

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step > self.sparsifier.done:
            self.sparsifier.step(trainer.optimizers)

    def state_dict(self) -> dict[str, Any]:
        return self.sparsifier.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.sparsifier.load_state_dict(state_dict)


def test_pruning_on_the_way_resumes_with_the_same_bits(tmp_path: Path) -> None:
    data = batches(4)

    def begin() -> tuple[Net, Pruning]:
        module = Net(network(masked=False))
        schedule = Iterative(name="iterative", rounds=3, rewind="none")
        sparsifier = Sparsifier(module.net, 0.9, schedule=schedule)
        sparsifier.prepare(steps=6)
        return module, Pruning(sparsifier)

    def options(pruning: Pruning, epochs: int) -> dict[str, Any]:
        return {"accumulate_grad_batches": 2, "max_epochs": epochs, "callbacks": [pruning]}

    (through, one), (begun, two), (resumed, three) = begin(), begin(), begin()
    fit(through, data, **options(one, 3))
    trainer = fit(begun, data, **options(two, 2))
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    fit(resumed, data, str(tmp_path / "two.ckpt"), **options(three, 3))
    assert distance(state(through), state(begun)) > 1e-3
    assert_same(state(resumed), state(through))
    for pruning in (one, three):
        assert pruning.sparsifier.done == 6
        pruning.sparsifier.verify()
        assert pruning.sparsifier.sparsity == pytest.approx(0.9, abs=0.01)
