"""This project's own network does what the pipeline needs."""

import pytest
import torch
from networks import small

from sparse_sam import SAM, attach, magnitude_masks

SHAPE, CLASSES = (1, 28, 28), 10


@pytest.mark.parametrize("shape", [SHAPE, (3, 7, 9)])
def test_it_gives_a_logit_for_every_class(shape: tuple[int, int, int]) -> None:
    logits = small(shape, CLASSES)(torch.randn(4, *shape))
    assert logits.shape == (4, CLASSES)
    assert logits.isfinite().all()


def test_pruned_weights_stay_zero_while_sam_trains_the_others() -> None:
    torch.manual_seed(0)
    model = small(SHAPE, CLASSES)
    attach(model, magnitude_masks(model, sparsity=0.9))
    pruned = model[4].weight == 0
    before = model[4].weight.detach().clone()
    images, labels = torch.randn(8, *SHAPE), torch.arange(8)
    optimizer = SAM(model.parameters(), torch.optim.SGD, rho=0.05, model=model, lr=0.1)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert pruned.float().mean() == pytest.approx(0.9, abs=0.001)
    assert not model[4].weight[pruned].any()
    assert not torch.equal(model[4].weight, before)
