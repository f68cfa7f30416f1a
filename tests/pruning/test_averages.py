"""Averages of a network whose masks shrink meanwhile (EMA, SWA): sparse as the network is."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import (
    AveragedModel,
    get_ema_avg_fn,
    get_ema_multi_avg_fn,
    get_swa_avg_fn,
    get_swa_multi_avg_fn,
    update_bn,
)

from sparse_sam.errors import MaskError
from sparse_sam.pruning.masks import attached_masks, plain_parameters, plain_state
from sparse_sam.pruning.sparsifier import Sparsifier
from tests.pruning.loops import Run, mlp, same, schedule_of

STEPS, DECAY = 8, 0.7
FUNCTIONS: dict[str, Callable[[], dict[str, Any]]] = {
    "swa": dict,
    "swa, each": lambda: {"avg_fn": get_swa_avg_fn()},
    "swa, together": lambda: {"multi_avg_fn": get_swa_multi_avg_fn()},
    "ema, each": lambda: {"avg_fn": get_ema_avg_fn(DECAY)},
    "ema, together": lambda: {"multi_avg_fn": get_ema_multi_avg_fn(DECAY)},
}


def mean_of(kind: str, seen: list[dict[str, Tensor]], name: str) -> Tensor:
    """The average by hand, in float64."""
    values = [one[name].double() for one in seen]
    if kind.startswith("swa"):
        return torch.stack(values).mean(0)
    average = values[0]
    for value in values[1:]:
        average = DECAY * average + (1 - DECAY) * value
    return average


@pytest.mark.parametrize("network", ["residual", "tied", "lstm"])
@pytest.mark.parametrize("use_buffers", [False, True])
@pytest.mark.parametrize("kind", FUNCTIONS)
def test_what_is_pruned_is_zero_in_the_average_too(
    kind: str, use_buffers: bool, network: str
) -> None:
    if (kind, use_buffers, network) == ("swa, together", True, "residual"):
        pytest.skip("torch cannot average the number of batches that BatchNorm has seen")
    options = {"sparsity": 0.6, "schedule": schedule_of("gradual")}
    run = Run(network, "sam around sgd", STEPS, options).prepare()
    average = AveragedModel(run.model, use_buffers=use_buffers, **FUNCTIONS[kind]())
    seen: list[dict[str, Tensor]] = []
    for done in run.go_on():
        if not done:
            continue
        average.update_parameters(run.model)
        seen.append(plain_state(run.model))
        # As it is evaluated on the way: a copy is finalized, and the average goes on.
        look = run.sparsifier.finalize(copy.deepcopy(average))
        assert not attached_masks(look)
        masks = run.sparsifier.state_dict()["masks"]
        state = {name.removeprefix("module."): one for name, one in look.state_dict().items()}
        assert state.keys() == {*run.initial, "n_averaged"}
        for name, mask in masks.items():
            assert not state[name][~mask].any()
            expected = mean_of(kind, seen, name) * mask
            torch.testing.assert_close(state[name].double(), expected, rtol=1e-5, atol=1e-6)
            if done > 1 and not torch.equal(seen[0][name] != 0, mask):
                # There is something to mend: a weight that went is not 0 in the mean.
                assert mean_of(kind, seen, name)[~mask].any()
        for name in plain_parameters(run.model).keys() - masks.keys():
            expected = mean_of(kind, seen, name)
            torch.testing.assert_close(state[name].double(), expected, rtol=1e-5, atol=1e-6)
    images, _ = run.batch(0)
    assert look.eval()(images).isfinite().all()
    # The network is as it was, which its copies share a class with, and the average goes the same
    # way, before it or after it.
    run.sparsifier.verify()
    run.sparsifier.finalize()
    run.sparsifier.finalize(average)
    assert same(average.state_dict(), look.state_dict())


def test_masks_that_were_averaged_are_no_masks_until_they_are_held() -> None:
    options = {"sparsity": 0.6, "schedule": schedule_of("gradual")}
    run = Run("residual", "sgd", STEPS, options).prepare()
    average = AveragedModel(run.model, use_buffers=True)
    for done in run.go_on():
        if done:
            average.update_parameters(run.model)
    statistics = average.module.stem[1].running_mean.clone()
    broken = [one.mask.unique().tolist() for one in attached_masks(average)]
    assert all(any(0 < value < 1 for value in values) for values in broken)
    run.sparsifier.hold(average)
    now = run.sparsifier.state_dict()["masks"]
    for one in attached_masks(average):
        assert torch.equal(one.mask.bool(), now[one.name.removeprefix("module.")])
        assert set(one.mask.unique().tolist()) == {0.0, 1.0}
        assert not one.original[one.mask == 0].any()
    assert torch.equal(average.module.stem[1].running_mean, statistics)
    # It is averaged on, and BatchNorm's statistics are taken anew from the sparse network.
    average.update_parameters(run.model)
    run.sparsifier.hold(average)
    update_bn([run.batch(step)[0] for step in range(4)], average)
    assert not torch.equal(average.module.stem[1].running_mean, statistics)
    run.sparsifier.finalize(average)


def test_what_is_no_copy_is_refused() -> None:
    sparsifier = Sparsifier(mlp(), 0.5)
    sparsifier.prepare()
    with pytest.raises(
        MaskError, match=r"not a copy of the pruned network: it has no parameter 1\.w"
    ):
        sparsifier.hold(nn.Linear(2, 2))
    other = mlp()
    other[1] = nn.Linear(20, 16)
    with pytest.raises(
        MaskError, match=r"the mask of 1\.weight has shape \(16, 25\), but the param"
    ):
        sparsifier.finalize(other)
    # One without masks is a copy as well.
    plain = sparsifier.finalize(mlp())
    assert int((plain[1].weight == 0).sum()) == 200  # type: ignore[index]
