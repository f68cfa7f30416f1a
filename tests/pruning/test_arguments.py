"""What is given wrongly is said where it is given, and nothing was changed by then."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.optim import SGD, Adam

from sparse_sam.errors import ConfigError, MaskError, StaleOptimizerError
from sparse_sam.pruning.masks import attached_masks, masks_of
from sparse_sam.pruning.pruner import Pruner
from sparse_sam.pruning.schedules import Gradual
from sparse_sam.pruning.sparsifier import Sparsifier
from tests.pruning.loops import mlp, same, schedule_of


class Wrapping(nn.parallel.DistributedDataParallel):
    """As torch's, without its processes."""

    def __init__(self, module: nn.Module) -> None:
        nn.Module.__init__(self)
        self.module = module


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (
            lambda model: torch.compile(model, backend="eager"),
            r"by torch\.compile.*model\._orig_mod",
        ),
        (Wrapping, r"wrapped by Wrapping, .* itself \(model\.module\)"),
        (nn.DataParallel, r"wrapped by DataParallel, .* itself \(model\.module\)"),
        (lambda model: model.state_dict(), r"must be a torch\.nn\.Module, not OrderedDict"),
        (lambda _: nn.Linear, r"must be a torch\.nn\.Module, not Linear"),
    ],
)
def test_what_wraps_the_network_is_refused(wrap: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Sparsifier(wrap(mlp()), 0.5)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (
            "gradual",
            r"this is the name used in params\.yaml; .*such as Gradual\(initial=0\.0, end=0\.7",
        ),
        ("slow", r"schedule = 'slow': pass an object"),
        (Gradual, r"this is a class, not an object; pass an object"),
        ({"name": "gradual"}, r"or None to prune all at once"),
    ],
)
def test_a_schedule_is_an_object(schedule: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Sparsifier(mlp(), 0.5, schedule=schedule)


@pytest.mark.parametrize("sparsity", ["0.9", True, [0.9], torch.tensor(0.9)])
def test_a_sparsity_is_a_number(sparsity: Any) -> None:
    with pytest.raises(TypeError, match=r"^sparsity = .*: must be a number, not "):
        Sparsifier(mlp(), sparsity)
    with pytest.raises(TypeError, match=r"^1\.\* = .*: must be a number, not "):
        Sparsifier(mlp(), 0.5, overrides={"1.*": sparsity})
    with pytest.raises(TypeError, match=r"^sparsity = .*: must be a number, not "):
        Pruner().masks(mlp(), sparsity)


def test_steps_are_no_optimizer() -> None:
    model: nn.Module = mlp()
    sparsifier, given = Sparsifier(model, 0.5), model.parameters()
    for wrong, message in (
        (100, r"not int; pass the number of steps as steps=100"),
        (given, r"must be one torch\.optim\.Optimizer or several, not Parameter$"),
        ("adam", "not str"),
    ):
        with pytest.raises(TypeError, match=message):
            sparsifier.prepare(wrong)  # type: ignore[arg-type]
    for steps in ("100", 1.5, True):
        with pytest.raises(TypeError, match=r"steps = .*: must be a whole number, not"):
            sparsifier.prepare(steps=steps)  # type: ignore[arg-type]
    assert not attached_masks(model)
    sparsifier.prepare()
    with pytest.raises(TypeError, match="not int"):
        sparsifier.step(3)  # type: ignore[arg-type]


def test_an_unknown_name_is_that_of_an_argument() -> None:
    with pytest.raises(ConfigError) as raised:
        Sparsifier(mlp(), 0.5, criterion="magnitud")
    message = "criterion = 'magnitud' (prune.criterion in params.yaml): must be one of magnitude, "
    assert str(raised.value).startswith(message)
    for changes in ({"ignore": ["no.*"]}, {"overrides": {"no.*": 0.1}}):
        name = next(iter(changes))
        with pytest.raises(MaskError) as caught:
            Sparsifier(mlp(), 0.5, **changes).prepare()  # type: ignore[arg-type]
        assert f"{name} (prune.{name} in params.yaml): 'no.*' matches no" in str(caught.value)


@pytest.mark.parametrize("rewind_to", [{"nonsense": torch.zeros(1)}, {"1.weight": torch.zeros(1)}])
def test_weights_to_rewind_to_are_looked_at_first(rewind_to: dict[str, torch.Tensor]) -> None:
    model = mlp()
    before = {name: one.clone() for name, one in model.state_dict().items()}
    sparsifier = Sparsifier(model, 0.5)
    with pytest.raises(MaskError, match=r"the state does not fit the model: .*1\.weight"):
        sparsifier.prepare(
            rewind_to={**before, **rewind_to} if "1.weight" in rewind_to else rewind_to
        )
    assert same(dict(model.state_dict()), before)
    sparsifier.prepare()


def test_a_state_of_other_steps_is_refused_before_masks_are_attached() -> None:
    first = Sparsifier(mlp(), 0.5)
    first.prepare(steps=5)
    again = Sparsifier(mlp(), 0.5)
    again.load_state_dict(first.state_dict())
    with pytest.raises(MaskError, match="with steps = 5, but this Sparsifier has 9"):
        again.prepare(steps=9)
    assert masks_of(again.model) is None


def test_a_lazy_layer_is_named() -> None:
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(8), nn.ReLU(), nn.LazyBatchNorm1d())
    with pytest.raises(MaskError, match=r"1\.weight has no shape yet.*run one batch of inputs"):
        Sparsifier(model, 0.5).prepare()
    model(torch.randn(4, 25))
    Sparsifier(model, 0.5).prepare()


def test_the_network_itself_is_finalized_as_without_it() -> None:
    model = mlp()
    sparsifier = Sparsifier(model, 0.5)
    sparsifier.prepare(SGD(model.parameters(), lr=0.1))
    assert sparsifier.finalize(model) is model
    with pytest.raises(RuntimeError, match="already finalized"):
        sparsifier.step()
    sparsifier.verify()


def test_verify_can_ask_for_the_end() -> None:
    model = mlp()
    optimizer = SGD(model.parameters(), lr=0.1)
    sparsifier = Sparsifier(model, 0.6, schedule=schedule_of("gradual"))
    sparsifier.prepare(optimizer, steps=5)
    for _ in range(5):  # without sparsifier.step()
        model(torch.randn(4, 25)).square().sum().backward()
        optimizer.step()
    sparsifier.verify()
    with pytest.raises(MaskError, match=r"0 of 5 steps are done.*call sparsifier\.step\(\) after"):
        sparsifier.verify(finished=True)
    for _ in range(5):
        sparsifier.step()
    sparsifier.verify(finished=True)


@pytest.mark.parametrize("kind", ["adam", "momentum"])
def test_an_optimizer_state_from_the_other_side_of_prepare_is_refused(kind: str) -> None:
    def made(model: nn.Module) -> torch.optim.Optimizer:
        if kind == "adam":
            return Adam(model.parameters(), lr=0.1)
        return SGD(model.parameters(), lr=0.1, momentum=0.9)

    def trained(*, late: bool) -> tuple[nn.Module, torch.optim.Optimizer, Sparsifier]:
        torch.manual_seed(0)
        model: nn.Module = nn.Sequential(parametrizations.weight_norm(nn.Linear(9, 5)), mlp()[1:])[
            0
        ]
        model = nn.Sequential(model, nn.ReLU(), nn.Linear(5, 3))
        sparsifier = Sparsifier(model, 0.4)
        if late:
            sparsifier.prepare()
        optimizer = made(model)
        model(torch.randn(4, 9)).square().sum().backward()
        if not late:
            sparsifier.prepare(optimizer)
        optimizer.step()
        sparsifier.step(optimizer)
        return model, optimizer, sparsifier

    _, early, state = trained(late=False)
    _, late, sparsifier = trained(late=True)
    late.load_state_dict(early.state_dict())
    with pytest.raises(StaleOptimizerError, match=r"has shape .* other side of it.* in both$"):
        sparsifier.load_state_dict(state.state_dict())
    dense = nn.Linear(9, 5)
    optimizer = made(dense)
    pruned = nn.Linear(9, 5)
    Sparsifier(pruned, 0.4).prepare()
    other = made(pruned)
    pruned(torch.randn(4, 9)).square().sum().backward()
    other.step()
    optimizer.load_state_dict(other.state_dict())
    with pytest.raises(StaleOptimizerError, match="prepare changes the order"):
        Sparsifier(dense, 0.4).prepare(optimizer)
    assert masks_of(dense) is None
