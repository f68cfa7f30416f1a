"""BatchNorm statistics: frozen, nothing is remembered; re-estimated, nothing else changes."""

from contextlib import ExitStack

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from sparse_sam.networks.batchnorm import frozen_batchnorm_statistics, reestimate_batchnorm


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4, momentum=0.3),
        nn.Flatten(),
        nn.Linear(4 * 36, 5),
        nn.BatchNorm1d(5, momentum=None),
        nn.BatchNorm1d(5, track_running_stats=False),
    )


def buffers(model: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


def unchanged(model: nn.Module, before: dict[str, Tensor]) -> bool:
    after = buffers(model)
    return after.keys() == before.keys() and all(after[name].equal(before[name]) for name in before)


IMAGES = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def test_statistics_and_counters_stay_and_the_output_is_that_of_training() -> None:
    model = network()
    expected = network()(IMAGES)
    before = buffers(model)
    with frozen_batchnorm_statistics(model):
        assert model(IMAGES).equal(expected)
    assert unchanged(model, before)
    model(IMAGES)
    assert not unchanged(model, before)
    assert model[1].num_batches_tracked == 1


def test_every_layer_gets_its_own_settings_back() -> None:
    model = network()
    with frozen_batchnorm_statistics(model):
        model(IMAGES)
    assert [layer.momentum for layer in (model[1], model[4])] == [0.3, None]
    assert [model[index].track_running_stats for index in (1, 4, 5)] == [True, True, False]


def test_nested_blocks_end_where_the_outer_one_ends() -> None:
    model = network()
    before = buffers(model)
    with frozen_batchnorm_statistics(model):
        with frozen_batchnorm_statistics(model):
            model(IMAGES)
        model(IMAGES)
    assert unchanged(model, before)
    model(IMAGES)
    assert model[1].num_batches_tracked == 1


def test_an_exception_restores_the_layers() -> None:
    model = network()
    with pytest.raises(RuntimeError, match="on purpose"), frozen_batchnorm_statistics(model):
        raise RuntimeError("on purpose")
    model(IMAGES)
    assert model[1].num_batches_tracked == 1


def test_layers_in_eval_mode_go_on_using_their_statistics() -> None:
    model = network()
    model(IMAGES)
    model.eval()
    expected = model(IMAGES)
    with frozen_batchnorm_statistics(model):
        assert model(IMAGES).equal(expected)


def test_a_gradient_flows_as_in_training() -> None:
    frozen, plain = network(), network()
    with frozen_batchnorm_statistics(frozen):
        frozen(IMAGES).square().sum().backward()
    plain(IMAGES).square().sum().backward()
    for one, other in zip(frozen.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


def settings_of(model: nn.Module) -> list[tuple[float | None, bool, bool]]:
    kind = nn.modules.batchnorm._NormBase
    layers = [layer for layer in model.modules() if isinstance(layer, kind)]
    return [(layer.momentum, layer.track_running_stats, layer.training) for layer in layers]


@given(
    parts=st.lists(st.sampled_from(["whole", "convolution", "head"]), max_size=4),
    fails=st.booleans(),
    evaluating=st.sets(st.sampled_from([1, 4])),
)
def test_any_nesting_and_any_exception_leave_batchnorm_as_it_was(
    parts: list[str], fails: bool, evaluating: set[int]
) -> None:
    model = network()
    model(IMAGES)
    for index in evaluating:
        model[index].eval()
    pieces = {"whole": model, "convolution": model[:2], "head": model[3:]}
    before, settings = buffers(model), settings_of(model)
    twin = network()
    twin.load_state_dict(model.state_dict())
    for index in evaluating:
        twin[index].eval()
    try:
        with ExitStack() as stack:
            for part in parts:
                stack.enter_context(frozen_batchnorm_statistics(pieces[part]))
            model(2 * IMAGES)
            if fails:
                raise RuntimeError("on purpose")
    except RuntimeError:
        pass
    assert settings_of(model) == settings
    frozen = {"whole": {1, 4}, "convolution": {1}, "head": {4}}
    still = set().union(*(frozen[part] for part in parts)) | evaluating
    for index in (1, 4):
        assert int(model[index].num_batches_tracked) == (1 if index in still else 2)
        assert model[index].running_mean.equal(before[f"{index}.running_mean"]) == (index in still)
    # What comes after is what would have come without the blocks.
    for index in {1, 4} - still:
        twin[index].load_state_dict(model[index].state_dict())
    model(IMAGES)
    twin(IMAGES)
    assert unchanged(model, buffers(twin))


def test_a_layer_that_is_switched_to_training_inside_the_block_is_frozen_too() -> None:
    model = network()
    model(IMAGES)
    model.eval()
    before = buffers(model)
    with frozen_batchnorm_statistics(model):
        model.train()
        model(IMAGES)
    assert unchanged(model, before)
    model(IMAGES)
    assert not unchanged(model, before)


# Estimated anew


def test_statistics_are_the_mean_of_those_of_the_batches() -> None:
    model = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm1d(2, momentum=0.1))
    model[1].running_mean.fill_(7.0)
    rows = torch.tensor([[0.0, 1.0], [2.0, 1.0], [4.0, 3.0], [6.0, 5.0], [100.0, 100.0]])
    reestimate_batchnorm(model, rows.split(2))  # the fifth is no batch
    assert model[1].running_mean.tolist() == [3.0, 2.5]  # no dropout is in it
    assert model[1].running_var.tolist() == [2.0, 1.0]  # (2 + 2)/2, (0 + 2)/2
    assert model[1].num_batches_tracked == 2
    reestimate_batchnorm(model, [rows])
    assert torch.allclose(model[1].running_mean, rows.mean(dim=0))


@pytest.mark.parametrize("training", [True, False])
def test_all_but_the_statistics_stays_also_after_an_error(training: bool) -> None:
    model = network().train(training)
    model[4].train(not training)
    modes = [module.training for module in model.modules()]
    parameters = [parameter.clone() for parameter in model.parameters()]

    def check() -> None:
        assert [module.training for module in model.modules()] == modes
        assert [model[1].momentum, model[4].momentum] == [0.3, None]
        assert all(map(torch.equal, model.parameters(), parameters))

    reestimate_batchnorm(model, [IMAGES])
    check()
    with pytest.raises(RuntimeError):
        reestimate_batchnorm(model, [torch.zeros(2, 1, 2, 2)])
    check()


def test_a_network_without_statistics_is_left_alone() -> None:
    called = []
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False))
    model.register_forward_hook(lambda *_: called.append(1))
    reestimate_batchnorm(model, [torch.zeros(4, 2)])
    assert not called


def test_instance_norms_statistics_are_as_they_were() -> None:
    layer = nn.InstanceNorm2d(2, track_running_stats=True)
    layer(torch.randn(4, 2, 3, 3) + 3)
    before = {name: buffer.clone() for name, buffer in layer.named_buffers()}
    assert before["running_mean"].abs().sum() > 0
    with frozen_batchnorm_statistics(nn.Sequential(layer)):
        layer(torch.randn(4, 2, 3, 3) + 3)
    assert all(torch.equal(buffer, before[name]) for name, buffer in layer.named_buffers())
