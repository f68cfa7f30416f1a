"""A training that is killed goes on from its last epoch, to the same bits."""

import multiprocessing
import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sparse_sam.data.dataset import DataInfo
from sparse_sam.data.seeding import seeded
from sparse_sam.data.tensors import Split, TrainingData
from sparse_sam.files import tensorfile
from sparse_sam.networks.build import build_model
from sparse_sam.pruning.magnitude import magnitude_masks
from sparse_sam.pruning.masks import attach, plain_state
from sparse_sam.sam.registry import VARIANTS
from sparse_sam.training.base_optimizer import make_base
from sparse_sam.training.distillation import Teacher
from sparse_sam.training.epoch import steps_per_epoch
from sparse_sam.training.loop import Epoch, train
from sparse_sam.training.params import TrainingParams
from sparse_sam.training.resume import ResumePoint
from sparse_sam.training.with_sam import make_sam
from sparse_sam.training.worker import on_threads
from tests.recipes import sam_params

Recipe = Callable[..., TrainingParams]
Data = Callable[..., TrainingData]
EPOCHS = 4


def tensor_of(dtype: torch.dtype) -> st.SearchStrategy[Tensor]:
    shapes = st.lists(st.integers(0, 3), max_size=3)
    return st.builds(lambda shape: torch.randn(shape).mul(9).to(dtype), shapes)


DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool]
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**60), 2**60),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5),
    st.sampled_from(DTYPES).flatmap(tensor_of),
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.one_of(st.integers(), st.text(max_size=3)), inner, max_size=3),
    ),
    max_leaves=8,
)


def same(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@given(tree=TREES)
def test_any_tree_makes_the_round_trip(tree: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    point = ResumePoint(tmp_path_factory.getbasetemp() / "trees", "key")
    point.save(tree)
    assert same(point.load(), tree)


def test_what_cannot_be_saved_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="cannot hold Linear"):
        ResumePoint(tmp_path, "key").save({"model": nn.Linear(2, 2)})
    assert not list(tmp_path.iterdir())


@settings(max_examples=60)
@given(data=st.data())
def test_a_damaged_point_is_no_point(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    point = ResumePoint(tmp_path_factory.getbasetemp() / "damaged", "key")
    point.save({"weights": torch.ones(5), "epoch": 3})
    content = bytearray(point.path.read_bytes())
    if data.draw(st.booleans(), "cut"):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    point.path.write_bytes(content)
    loaded = point.load()
    # (A bit of the padding between header and tensors means nothing.)
    assert loaded is None or same(loaded, {"weights": torch.ones(5), "epoch": 3})


@pytest.mark.parametrize("tree", [[1], 7, {"tensor": "t9"}, {"list": 1}, {"exec": "x"}, {}])
def test_a_sealed_file_that_holds_no_tree_is_no_point(tree: Any, tmp_path: Path) -> None:
    point = ResumePoint(tmp_path, "key")
    point.save({"a": torch.zeros(2)})
    assert point.load() is not None
    header = {"tree": tree} if tree else {}
    tensorfile.save_tensors(point.path, {}, kind="resume point", version=2, header=header)
    assert point.load() is None


def test_removing_leaves_no_old_ones_behind(tmp_path: Path) -> None:
    import os

    old, new, mine = (ResumePoint(tmp_path, name) for name in ("old", "new", "mine"))
    for point in (old, new, mine):
        point.save({})
    long_ago = time.time() - 8 * 24 * 3600
    os.utime(old.path, (long_ago, long_ago))
    mine.remove()
    mine.remove()
    assert [path.stem for path in tmp_path.iterdir()] == ["new"]


# Training


def start(tiny_net: str, sparsity: float) -> nn.Module:
    with seeded(3, "initialisation"):
        model = build_model(tiny_net, (1, 5, 5), 3)
    if sparsity:
        attach(model, magnitude_masks(model, sparsity))
    return model


class Stop(Exception):  # noqa: N818 - no error
    pass


def run(
    tiny_net: str,
    data: TrainingData,
    recipe: TrainingParams,
    variant: str,
    *,
    resume: ResumePoint | None = None,
    stop_after: int | None = None,
    stop_before_step: int | None = None,
    teacher: Teacher | None = None,
) -> tuple[nn.Module, list[Epoch], int]:
    """The network, its history, and how many gradients this run itself computed."""
    model = start(tiny_net, 0.6)
    if variant == "sgd":
        optimizer = make_base(model, recipe)
    else:
        optimizer = make_sam(model, recipe, sam_params(variant=variant))
    computed = 0
    forward = type(model).forward

    def counting(module: nn.Module, inputs: Tensor) -> Tensor:
        nonlocal computed
        computed += module.training
        return forward(module, inputs)

    model.forward = counting.__get__(model)  # type: ignore[method-assign]
    told: list[Epoch] = []

    def on_epoch(row: Epoch) -> None:
        told.append(row)
        if row.epoch == stop_after:
            raise Stop

    def before_step(step: int) -> None:
        if step == stop_before_step:
            raise Stop

    try:
        history = train(
            model,
            optimizer,
            data,
            recipe,
            seed=3,
            purpose="finetune",
            on_epoch=on_epoch,
            before_step=before_step,
            teacher=teacher,
            resume=resume,
        )
        assert told == history
    except Stop:
        history = told
    return model, history, computed


def untimed(history: list[Epoch]) -> list[Epoch]:
    return [replace(row, seconds=0.0) for row in history]


@pytest.mark.parametrize("variant", ["sgd", *VARIANTS])
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_going_on_after_any_epoch_equals_never_having_stopped(
    variant: str,
    schedule: str,
    tmp_path: Path,
    make_data: Data,
    make_recipe: Recipe,
    tiny_net: str,
) -> None:
    data = make_data()
    recipe = make_recipe(epochs=EPOCHS, momentum=0.9, weight_decay=0.01, schedule=schedule)
    whole, expected, all_gradients = run(tiny_net, data, recipe, variant)
    for stop_after in range(EPOCHS + 1):
        point = ResumePoint(tmp_path, f"key {stop_after}")
        run(tiny_net, data, recipe, variant, resume=point, stop_after=stop_after)
        torch.manual_seed(stop_after)  # whatever the process did before
        model, history, gradients = run(tiny_net, data, recipe, variant, resume=point)
        assert same(dict(model.state_dict()), dict(whole.state_dict()))
        assert untimed(history) == untimed(expected)
        assert gradients == all_gradients - expected[stop_after].gradient_evaluations


class Drops(nn.Sequential):
    """A network whose layers draw random numbers."""

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int) -> None:
        size = torch.Size(image_shape).numel()
        super().__init__(nn.Flatten(), nn.Dropout(0.3), nn.Linear(size, num_classes))


@pytest.mark.parametrize("every_steps", [1, 2, 3, 100])
@pytest.mark.parametrize("variant", ["sgd", *VARIANTS])
def test_going_on_after_any_step_equals_never_having_stopped(
    variant: str, every_steps: int, tmp_path: Path, make_data: Data, make_recipe: Recipe
) -> None:
    data = make_data()
    recipe = make_recipe(epochs=2, momentum=0.9, schedule="cosine", shift_pixels=1)
    net = f"{__name__}:{Drops.__name__}"
    whole, expected, all_gradients = run(net, data, recipe, variant)
    steps = all_steps(data, recipe)
    for stop in range(1, steps):
        point = ResumePoint(tmp_path, f"key {stop}", every_steps)
        _, _, before = run(net, data, recipe, variant, resume=point, stop_before_step=stop)
        torch.manual_seed(stop)  # whatever the process did before
        model, history, after = run(net, data, recipe, variant, resume=point)
        assert same(dict(model.state_dict()), dict(whole.state_dict()))
        assert untimed(history) == untimed(expected)
        # Done twice is what came after the last save, in at most two passes a step.
        in_epoch = stop % (steps // recipe.epochs)
        assert 0 <= before + after - all_gradients <= 2 * (in_epoch % every_steps)


ALL_AT_ONCE: dict[str, Any] = {
    "schedule": "cosine",
    "warmup_epochs": 1.25,
    "clip_norm": 0.3,
    "weight_decay": 0.01,
    "shift_pixels": 1,
    "flip": True,
    "cutout_pixels": 2,
}
BASES = {"sgd": {"momentum": 0.9}, "adamw": {"base_optimizer": "adamw", "lr": 0.02}}


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("variant", ["sgd", *VARIANTS])
def test_so_it_is_with_every_base_warm_up_clipping_augmentation_and_a_teacher(
    variant: str, base: str, tmp_path: Path, make_data: Data, make_recipe: Recipe, tiny_net: str
) -> None:
    data, recipe = make_data(), make_recipe(**ALL_AT_ONCE, **BASES[base])
    with seeded(9, "initialisation"):
        teacher = Teacher(build_model(tiny_net, (1, 5, 5), 3), 0.5, 4.0, "float32")
    whole, expected, _ = run(tiny_net, data, recipe, variant, teacher=teacher)
    assert len({row.learning_rate for row in expected}) == 1 + recipe.epochs
    for stop in range(1, all_steps(data, recipe)):  # within the warm-up, at its end, and after it
        point = ResumePoint(tmp_path, f"key {stop}", 1)
        with_point = {"resume": point, "teacher": teacher}
        run(tiny_net, data, recipe, variant, stop_before_step=stop, **with_point)
        torch.manual_seed(stop)
        model, history, _ = run(tiny_net, data, recipe, variant, **with_point)
        assert same(dict(model.state_dict()), dict(whole.state_dict()))
        assert untimed(history) == untimed(expected)


def all_steps(data: TrainingData, recipe: TrainingParams) -> int:
    return recipe.epochs * steps_per_epoch(len(data.train), recipe.batch_size)


def test_any_number_of_kills_changes_nothing(
    tmp_path: Path, make_data: Data, make_recipe: Recipe, tiny_net: str
) -> None:
    """SIGKILL at random moments, in processes of their own, until one comes to the end."""
    data = make_data()
    recipe = make_recipe(epochs=30, momentum=0.9)
    with on_threads(1):  # as the processes below
        whole, expected, _ = run(tiny_net, data, recipe, "sam")
    context = multiprocessing.get_context("fork")
    point, moments = ResumePoint(tmp_path, "key"), random.Random(0)
    kills, seen = 0, 0

    def child(epochs: Any) -> None:
        torch.set_num_threads(1)
        model = start(tiny_net, 0.6)
        optimizer = make_sam(model, recipe, sam_params())
        train(
            model,
            optimizer,
            data,
            recipe,
            seed=3,
            purpose="finetune",
            on_epoch=lambda row: epochs.put(row.epoch),
            resume=point,
        )
        ResumePoint(tmp_path, "end").save(plain_state(model))

    while True:
        epochs = context.SimpleQueue()
        process = context.Process(target=child, args=(epochs,))
        process.start()
        first = epochs.get()
        assert first == 0  # the rows of earlier processes are told again
        process.join(moments.uniform(0, 0.06) if kills < 25 else None)
        process.kill()
        process.join()
        reached = first
        while not epochs.empty():
            reached = epochs.get()
        assert reached >= seen  # what was told is never lost
        seen = reached
        if process.exitcode == 0:
            break
        kills += 1
    assert kills > 0
    assert same(ResumePoint(tmp_path, "end").load(), dict(plain_state(whole)))
    saved = point.load()
    assert saved is not None
    assert untimed([Epoch(**row) for row in saved["history"]]) == untimed(expected)


def test_what_an_optimizer_remembers_lies_in_memory_as_its_weights(
    tmp_path: Path, make_recipe: Recipe
) -> None:
    """LeNet-5 has its channels side by side; the norm of its momentum sums in that order."""
    recipe = make_recipe(epochs=3, lr=0.02, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    split = Split(torch.randn(48, 1, 16, 16, generator=generator), torch.arange(48) % 3)
    info = DataInfo(
        "made-for-tests", "0", (1, 16, 16), tuple("012"), (0.0,), (1.0,), {"train": [16] * 3}, {}
    )
    data = TrainingData(split, None, info)

    def trained(stops: bool) -> dict[str, Tensor]:
        for attempt in (2, None) if stops else (None,):
            with seeded(1):
                model = build_model("lenet-5", (1, 16, 16), 3)
            optimizer = make_sam(model, recipe, sam_params(variant="momentum", rho=0.5))

            def before(step: int, attempt: int | None = attempt) -> None:
                if step == attempt:
                    raise KeyboardInterrupt

            with suppress(KeyboardInterrupt):
                train(
                    model,
                    optimizer,
                    data,
                    recipe,
                    seed=0,
                    purpose="test",
                    before_step=before,
                    resume=ResumePoint(tmp_path, f"key{stops}", every_steps=1),
                )
        return plain_state(model)

    whole, resumed = trained(stops=False), trained(stops=True)
    assert all(torch.equal(whole[name], tensor) for name, tensor in resumed.items())
