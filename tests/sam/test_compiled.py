"""Networks under torch.compile, and with gradient checkpointing: the steps are those without."""

from typing import Any

import pytest
import torch
from sam_cases import VARIANT_CASES, batches, relative_distance, run, same, weights
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.checkpoint import checkpoint

from sparse_sam.pruning.magnitude import magnitude_masks
from sparse_sam.pruning.masks import attach, check_pruned_weights_are_zero
from sparse_sam.sam.build import build_sam
from sparse_sam.sam.optimizer import SAM

DATA = batches(5)
OPTIONS: dict[str, Any] = {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3}


class Network(nn.Module):
    """Two blocks, of which the first may be computed again in the backward pass."""

    def __init__(self, *, reentrant: bool | None = None, masked: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Sequential(nn.Linear(12, 16, bias=False), nn.BatchNorm1d(16), nn.Tanh())
        self.last = nn.Linear(16, 4)
        self.reentrant, self.computed = reentrant, 0
        if masked:
            attach(self, magnitude_masks(self, 0.5))

    def forward(self, inputs: Tensor) -> Tensor:
        if self.reentrant is None:
            return self.last(self.first(inputs))

        def again(x: Tensor) -> Tensor:
            self.computed += 1
            return self.first(x)

        if self.reentrant:  # its inputs must need a gradient, or nothing has one
            inputs = inputs.clone().requires_grad_()
        return self.last(checkpoint(again, inputs, use_reentrant=self.reentrant))

    @property
    def norm(self) -> nn.BatchNorm1d:
        norm = self.first[1]
        assert isinstance(norm, nn.BatchNorm1d)
        return norm


def trained(
    model: nn.Module, network: Network, variant: str, own: dict[str, Any], **options: Any
) -> SAM:
    optimizer = build_sam(variant, model, SGD, 0.3, settings=own, **OPTIONS, **options)
    for batch in DATA:
        run(model, optimizer, [batch])
        check_pruned_weights_are_zero(network)
    return optimizer


@pytest.fixture(autouse=True)
def _nothing_compiled() -> None:
    torch.compiler.reset()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("variant", "own"), VARIANT_CASES)
def test_a_compiled_network_takes_the_same_steps(
    variant: str, own: dict[str, Any], masked: bool
) -> None:
    plain, inner = Network(masked=masked), Network(masked=masked)
    trained(plain, plain, variant, own)
    # (Traced, without generated code, for which a compiler would have to be there.)
    trained(torch.compile(inner, backend="aot_eager"), inner, variant, own)
    assert relative_distance(inner, plain) < 1e-6
    assert inner.norm.num_batches_tracked == plain.norm.num_batches_tracked == len(DATA)
    torch.testing.assert_close(inner.norm.running_mean, plain.norm.running_mean)


@pytest.mark.parametrize("option", ["dense_gradient", "track_kept_share"])
def test_masks_open_in_a_compiled_network_too(option: str) -> None:
    plain, inner = Network(), Network()
    one = trained(plain, plain, "sam", {}, **{option: True})
    compiled = torch.compile(inner, backend="aot_eager")
    other = trained(compiled, inner, "sam", {}, **{option: True})
    assert relative_distance(inner, plain) < 1e-6
    if option == "track_kept_share":
        assert one.kept_share is not None
        assert 0 < float(one.kept_share) < 1
        torch.testing.assert_close(one.kept_share, other.kept_share)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize(("variant", "own"), VARIANT_CASES)
def test_what_is_computed_again_takes_the_same_steps(
    variant: str, own: dict[str, Any], reentrant: bool
) -> None:
    plain, thrifty = Network(), Network(reentrant=reentrant)
    trained(plain, plain, variant, own)
    trained(thrifty, thrifty, variant, own)
    assert same(weights(thrifty), weights(plain))
    # Twice for each gradient; BatchNorm counts both of the first pass, as torch's checkpoint has
    # it with any optimizer, and neither of the second.
    ascents = {"periodic": 2, "looksam": 2, "late": len(DATA) - 2, "momentum": 0}.get(
        variant, len(DATA)
    )
    assert thrifty.computed == 2 * (len(DATA) + ascents)
    assert plain.norm.num_batches_tracked == len(DATA)
    assert thrifty.norm.num_batches_tracked == 2 * len(DATA)
