"""Checkpoints: the same network gives the same bytes, and a wrong one is refused by name."""

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor, nn

from sparse_sam.errors import CheckpointError, MaskError
from sparse_sam.files import tensorfile
from sparse_sam.files.tensorfile import TensorFileError
from sparse_sam.networks.build import build_model
from sparse_sam.pruning.masks import Masks, attach, masks_of, plain_parameters, plain_state
from sparse_sam.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from sparse_sam.training.origin import Origin

CURE = "Run `dvc repro prune`, or `dvc checkout` to restore it."
MODEL = "tiny_nets_for_tests:with_batchnorm"
KEEP = torch.arange(12 * 25).view(12, 25) % 3 == 0


@pytest.fixture(scope="session")
def origin(tiny_net: str) -> Origin:
    return Origin(
        model=tiny_net,
        image_shape=(1, 5, 5),
        classes=("cat", "dog", "owl"),
        mean=(0.1307,),
        std=(0.3081,),
        dataset="0123abcd",
        arm="pruned",
        seed=4,
    )


def network(origin: Origin, *, masks: dict[str, Tensor] | None = None) -> nn.Module:
    torch.manual_seed(0)
    model = build_model(origin.model, origin.image_shape, origin.num_classes)
    attach(model, Masks({"1.weight": KEEP} if masks is None else masks))
    return model


@pytest.fixture
def checkpoint(origin: Origin) -> Checkpoint:
    return Checkpoint.of(network(origin), origin)


def load(path: Path, **changes: Any) -> Checkpoint:
    expected = {"arm": "pruned", "seed": 4, "dataset": "0123abcd", "stage": "prune", "model": MODEL}
    return load_checkpoint(path, **{**expected, **changes})


def assert_refused(path: Path, reason: str, **changes: Any) -> None:
    with pytest.raises((CheckpointError, TensorFileError)) as raised:
        load(path, **changes)
    assert str(raised.value).startswith(str(path))
    assert str(raised.value).endswith(CURE)
    assert reason in str(raised.value)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# What is right


def test_what_is_saved_is_loaded(tmp_path: Path, checkpoint: Checkpoint) -> None:
    path = tmp_path / "models" / "seed-4.safetensors"
    save_checkpoint(path, checkpoint)
    loaded = load(path)
    assert loaded.origin == checkpoint.origin
    assert same(loaded.state, checkpoint.state)
    assert loaded.masks is not None
    assert list(loaded.masks) == ["1.weight"]
    assert torch.equal(loaded.masks["1.weight"], KEEP)
    assert int((loaded.state["1.weight"] == 0).sum()) == 200


def test_a_dense_checkpoint_has_no_masks(tmp_path: Path, origin: Origin) -> None:
    dense = Checkpoint.of(network(origin, masks={}), replace(origin, arm="dense"))
    assert dense.masks is None
    save_checkpoint(tmp_path / "file", dense)
    loaded = load(tmp_path / "file", arm="dense")
    assert loaded.masks is None
    assert masks_of(loaded.build()) is None


def test_the_network_that_is_built_is_the_one_that_was_saved(
    tmp_path: Path, origin: Origin
) -> None:
    model = network(origin)
    with torch.no_grad():  # running statistics and their count belong to the network
        model(torch.randn(7, 1, 5, 5))
        model(torch.randn(7, 1, 5, 5))
    save_checkpoint(tmp_path / "file", Checkpoint.of(model, origin))
    built = load(tmp_path / "file").build()
    images = torch.randn(9, 1, 5, 5)
    assert torch.equal(built.eval()(images), model.eval()(images))
    assert int(built.state_dict()["2.num_batches_tracked"]) == 2
    found = masks_of(built)
    assert found is not None
    assert torch.equal(found["1.weight"], KEEP)


def test_building_draws_no_random_numbers_of_the_caller(checkpoint: Checkpoint) -> None:
    before = torch.get_rng_state()
    checkpoint.build()
    assert torch.equal(torch.get_rng_state(), before)


def test_a_checkpoint_is_a_copy(origin: Origin) -> None:
    model = network(origin)
    checkpoint = Checkpoint.of(model, origin)
    before = {name: tensor.clone() for name, tensor in checkpoint.state.items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    built = checkpoint.build()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.mul_(2)
    assert same(checkpoint.state, before)


def test_any_tool_reads_plain_names_and_zeros(tmp_path: Path, checkpoint: Checkpoint) -> None:
    save_checkpoint(tmp_path / "file", checkpoint)
    with safe_open(tmp_path / "file", framework="pt") as file:
        assert sorted(file.keys()) == [
            "mask/1.weight",
            "state/1.weight",
            "state/2.bias",
            "state/2.num_batches_tracked",
            "state/2.running_mean",
            "state/2.running_var",
            "state/2.weight",
            "state/4.bias",
            "state/4.weight",
        ]
        assert int((file.get_tensor("state/1.weight") == 0).sum()) == 200


def test_equal_checkpoints_give_equal_bytes(tmp_path: Path, origin: Origin) -> None:
    for name in ("one", "other"):
        save_checkpoint(tmp_path / name, Checkpoint.of(network(origin), origin))
    # And so does one that was loaded and built.
    again = Checkpoint.of(load(tmp_path / "one").build(), origin)
    save_checkpoint(tmp_path / "again", again)
    contents = {path.read_bytes() for path in tmp_path.iterdir()}
    assert len(contents) == 1
    save_checkpoint(tmp_path / "differs", replace(again, origin=replace(origin, seed=5)))
    assert (tmp_path / "differs").read_bytes() not in contents


# What is wrong


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"seed": 5}, "is of seed 4, not 5."),
        ({"arm": "sam"}, "is of arm pruned, not sam."),
        ({"dataset": "ffff"}, "is of data set 0123abcd, not ffff."),
    ],
)
def test_another_networks_checkpoint_is_refused(
    tmp_path: Path, checkpoint: Checkpoint, changes: dict[str, Any], reason: str
) -> None:
    save_checkpoint(tmp_path / "file", checkpoint)
    assert_refused(tmp_path / "file", reason, **changes)


def test_the_cure_names_the_stage_that_was_asked_for(tmp_path: Path) -> None:
    with pytest.raises(TensorFileError, match=r"is missing\. Run `dvc repro finetune_sam`, or"):
        load(tmp_path / "file", stage="finetune_sam")


def test_a_cut_file_is_refused(tmp_path: Path, checkpoint: Checkpoint) -> None:
    path = tmp_path / "file"
    save_checkpoint(path, checkpoint)
    whole = path.read_bytes()
    for size in (0, 7, 8, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert_refused(path, "is damaged")


@given(data=st.data())
def test_a_changed_byte_is_refused(
    data: st.DataObject, origin: Origin, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "changed.safetensors"
    save_checkpoint(path, Checkpoint.of(network(origin), origin))
    content = bytearray(path.read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    position = data.draw(
        st.one_of(st.integers(0, header - 1), st.integers(header, len(content) - 1))
    )
    change = data.draw(st.integers(1, 255))
    if content[position] == ord(" "):
        return  # white space in the header, which means nothing
    content[position] ^= change
    path.write_bytes(content)
    assert_refused(path, "")


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path("unpickled").touch, ())


def test_a_pickle_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint: Checkpoint
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "file"
    torch.save({"state": checkpoint.state, "payload": Payload()}, path)
    assert_refused(path, "is damaged")
    path.write_bytes(pickle.dumps(Payload()))
    assert_refused(path, "is damaged")
    assert not Path("unpickled").exists()


def test_another_kind_and_version_are_refused(tmp_path: Path, checkpoint: Checkpoint) -> None:
    path = tmp_path / "file"
    header = {"origin": checkpoint.origin.content()}
    tensorfile.save_tensors(path, checkpoint.state, kind="data set", version=1, header=header)
    assert_refused(path, "is a data set, not a checkpoint")
    tensorfile.save_tensors(path, checkpoint.state, kind="checkpoint", version=99, header=header)
    assert_refused(path, "has format version 99; this version of sparse-sam reads 2")


def write_by_hand(path: Path, checkpoint: Checkpoint, **tensors: Tensor) -> None:
    """A file that is sound, but whose content no save of ours would write."""
    content = {f"state/{name}": tensor for name, tensor in checkpoint.state.items()}
    content["mask/1.weight"] = KEEP
    header = {"origin": checkpoint.origin.content()}
    content |= tensors
    tensorfile.save_tensors(path, content, kind="checkpoint", version=2, header=header)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["2.running_var", "4.bias"])
def test_weights_that_are_not_finite_are_refused(
    tmp_path: Path, checkpoint: Checkpoint, name: str, value: float
) -> None:
    bad = checkpoint.state[name].clone()
    bad[1] = value
    write_by_hand(tmp_path / "file", checkpoint, **{f"state/{name}": bad})
    assert_refused(tmp_path / "file", f"{name} is not finite")


def test_a_revived_weight_is_refused(tmp_path: Path, checkpoint: Checkpoint) -> None:
    bad = checkpoint.state["1.weight"].clone()
    bad[0, 1] = 1e-20
    write_by_hand(tmp_path / "file", checkpoint, **{"state/1.weight": bad})
    assert_refused(tmp_path / "file", "pruned weights of 1.weight are not 0")


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (KEEP.t(), "pruned weights of 1.weight are not 0"),
        (KEEP.float(), "must be boolean"),
        (torch.zeros_like(KEEP), "prunes all 300 weights"),
    ],
)
def test_a_mask_that_cannot_be_one_is_refused(
    tmp_path: Path, checkpoint: Checkpoint, mask: Tensor, reason: str
) -> None:
    write_by_hand(tmp_path / "file", checkpoint, **{"mask/1.weight": mask})
    assert_refused(tmp_path / "file", reason)


@pytest.mark.parametrize(
    "change",
    [
        lambda _: None,
        lambda origin: {name: value for name, value in origin.items() if name != "seed"},
        lambda origin: {**origin, "colour": "red"},
        lambda origin: {**origin, "image_shape": 3},
    ],
)
def test_an_origin_that_is_none_is_refused(
    tmp_path: Path, checkpoint: Checkpoint, change: Callable[[dict[str, Any]], Any]
) -> None:
    header = {"origin": change(checkpoint.origin.content())}
    path = tmp_path / "file"
    tensorfile.save_tensors(path, checkpoint.state, kind="checkpoint", version=2, header=header)
    assert_refused(path, "is damaged")


def test_weights_that_do_not_fit_the_model_name_the_checkpoint(checkpoint: Checkpoint) -> None:
    other = replace(checkpoint, origin=replace(checkpoint.origin, classes=tuple("0123")))
    with pytest.raises(CheckpointError) as raised:
        other.build()
    message = str(raised.value)
    assert message.startswith("the weights of pruned, seed 4, do not fit the current model tiny_")
    assert "size mismatch for 4.weight" in message
    assert message.endswith("`dvc repro --force train_dense`, then `dvc repro`.")
    assert "\n" not in message


def test_a_mask_that_does_not_fit_the_model_names_the_checkpoint(checkpoint: Checkpoint) -> None:
    other = replace(checkpoint, masks=Masks({"5.weight": KEEP}))
    with pytest.raises(
        CheckpointError, match=r"pruned, seed 4, .*: the model has no parameter 5\.weight"
    ):
        other.build()


def test_a_network_with_a_revived_weight_is_not_taken(origin: Origin) -> None:
    model = network(origin)
    with torch.no_grad():
        plain_parameters(model)["1.weight"].add_(1)
    with pytest.raises(MaskError, match="200 pruned weights"):
        Checkpoint.of(model, origin)


# Nothing half-written


def test_an_exception_while_saving_leaves_the_old_file(
    tmp_path: Path, checkpoint: Checkpoint
) -> None:
    path = tmp_path / "file"
    save_checkpoint(path, checkpoint)
    before = path.read_bytes()
    broken = replace(checkpoint, state={**checkpoint.state, "x": torch.empty(2, device="meta")})
    unwritable = replace(checkpoint, origin=replace(checkpoint.origin, mean=float("nan")))
    for one in (broken, unwritable):
        with pytest.raises((ValueError, RuntimeError, NotImplementedError)):
            save_checkpoint(path, one)
        with pytest.raises((ValueError, RuntimeError, NotImplementedError)):
            save_checkpoint(tmp_path / "new", one)
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["file"]
    assert same(load(path).state, checkpoint.state)


@given(seed=st.integers(0, 1000), density=st.sampled_from([0.02, 0.1, 0.5, 1.0]))
def test_any_network_makes_the_round_trip(
    origin: Origin, seed: int, density: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    generator = torch.Generator().manual_seed(seed)
    keep = {
        name: (torch.rand(shape, generator=generator) < density).index_fill(
            0, torch.tensor([0]), True
        )
        for name, shape in {"1.weight": (12, 25), "4.weight": (3, 12), "2.weight": (12,)}.items()
    }
    model = network(origin, masks=keep)
    save_checkpoint(path, Checkpoint.of(model, origin))
    loaded = load(path)
    assert same(loaded.state, plain_state(model))
    assert same(plain_state(loaded.build()), plain_state(model))
    assert loaded.masks is not None
    assert loaded.masks.kept == sum(int(mask.sum()) for mask in keep.values())


def test_weights_of_a_type_that_cannot_be_are_refused(tmp_path: Path) -> None:
    origin = Origin(
        "mlpnet", (1, 2, 2), tuple("0123456789"), (0.1,), (0.3,), "0123abcd", "dense", 0
    )
    weights = {"1.weight": torch.zeros(40, 4).to(torch.float8_e4m3fn)}
    save_checkpoint(tmp_path / "file", Checkpoint(origin, weights, None))
    with pytest.raises(CheckpointError, match="Float8"):
        load_checkpoint(
            tmp_path / "file", arm="dense", seed=0, dataset="0123abcd", stage="x", model="mlpnet"
        )
