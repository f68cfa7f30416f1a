"""Networks that were trained elsewhere: taken over as they are, or refused by what is wrong."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file, save_model
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune
from torch.optim.swa_utils import AveragedModel

from sparse_sam.data.tensors import TrainingData
from sparse_sam.errors import CheckpointError
from sparse_sam.networks.build import build_model
from sparse_sam.networks.network import Network
from sparse_sam.pruning.magnitude import magnitude_masks
from sparse_sam.pruning.masks import attach
from sparse_sam.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from sparse_sam.training.experiment import train_dense
from sparse_sam.training.loop import evaluate
from sparse_sam.training.origin import Origin
from sparse_sam.training.params import DenseParams
from sparse_sam.training.taken_over import as_trained, given_path, take_over
from tests.recipes import sam_params

SCRIPT = """
import sys
import torch
from torch import nn
from tiny_nets_for_tests import with_batchnorm

data = torch.load(sys.argv[1], weights_only=True)
torch.manual_seed(3)
model = nn.DataParallel(with_batchnorm((1, 5, 5), 3))  # whose keys begin with module.
optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
for _ in range(60):
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(data["images"]), data["labels"])
    loss.backward()
    optimizer.step()
model.eval()
right = model(data["held_images"]).argmax(1) == data["held_labels"]
print(right.double().mean().item())
whole = {"epoch": 60, "state_dict": model.state_dict(), "optimizer": optimizer.state_dict()}
torch.save(whole, sys.argv[2])
"""


@pytest.fixture
def origin(tiny_net: str, make_data: Callable[..., TrainingData]) -> Origin:
    info = make_data(60, 30).info
    return Origin(
        tiny_net, (1, 5, 5), ("0", "1", "2"), info.mean, info.std, info.fingerprint, "dense", 7
    )


@pytest.fixture
def state(origin: Origin) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return build_model(origin.model, origin.image_shape, 3).state_dict()


def test_what_a_plain_script_trained_is_as_good_here(
    origin: Origin, make_data: Callable[..., TrainingData], tmp_path: Path
) -> None:
    data = make_data(60, 30)
    assert data.validation is not None
    given = {
        "images": data.train.images,
        "labels": data.train.labels,
        "held_images": data.validation.images,
        "held_labels": data.validation.labels,
    }
    torch.save(given, tmp_path / "data.pt")
    folder = (
        Path(str(sys.modules["tiny_nets_for_tests"].__file__)).parent
        if ("tiny_nets_for_tests" in sys.modules)
        else next(Path(one) for one in sys.path if (Path(one) / "tiny_nets_for_tests.py").is_file())
    )
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "data.pt"), str(tmp_path / "net.pt")],
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    taken = take_over(tmp_path / "net.pt", origin)
    assert taken.origin == origin
    assert taken.masks is None
    trained = as_trained(taken, data)
    assert [row.epoch for row in trained.history] == [0]
    assert trained.history[0].validation_accuracy == float(done.stdout)
    assert trained.history[0].validation_accuracy > 0.9
    assert evaluate(taken.build(), data.validation).accuracy == float(done.stdout)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "model."])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_prefixes_of_wrappers_are_stripped(
    origin: Origin, state: dict[str, Tensor], prefix: str, suffix: str, tmp_path: Path
) -> None:
    named = {f"{prefix}{name}": tensor for name, tensor in state.items()}
    path = tmp_path / f"net.{suffix}"
    if suffix == "pt":
        torch.save(named, path)
    else:
        save_file(named, path)
    taken = take_over(path, origin)
    assert taken.state.keys() == state.keys()
    assert all(torch.equal(taken.state[name], state[name]) for name in state)


def test_half_precision_and_the_oldest_format_are_read(
    origin: Origin, state: dict[str, Tensor], tmp_path: Path
) -> None:
    half = {n: t.half() if t.is_floating_point() else t for n, t in state.items()}
    torch.save(half, tmp_path / "net.pth", _use_new_zipfile_serialization=False)
    taken = take_over(tmp_path / "net.pth", origin)
    for name, tensor in half.items():
        assert taken.state[name].dtype == state[name].dtype
        assert torch.equal(taken.state[name], tensor.to(state[name].dtype))


class Payload:
    def __reduce__(self) -> Any:
        return os.system, ("touch unpickled",)


def without(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in state.items() if key != name}


BAD: dict[str, tuple[Callable[[dict[str, Tensor]], Any], str]] = {
    "a payload": (lambda state: {**state, "more": Payload()}, "would run its own code"),
    "only a payload": (lambda _: Payload(), "would run its own code"),
    "a whole model": (lambda _: nn.Linear(2, 2), "would run its own code"),
    "a list": (lambda state: list(state.values()), "holds list, not a state dict"),
    "nothing": (lambda _: {}, "not a state dict"),
    "a number in it": (lambda state: {**state, "epoch": 3}, "'epoch' is int, not a tensor"),
    "a layer less": (
        lambda state: without(state, "4.weight"),
        "it lacks 4.weight. Set model.name to its",
    ),
    "a layer more": (
        lambda state: {**state, "5.weight": state["4.weight"]},
        (
            "holds more than the network tiny_nets_for_tests:with_batchnorm: it has the unknown "
            "tensors 5.weight. Save the state dict of the network only."
        ),
    ),
    "another network": (
        lambda state: {f"fc{name}": tensor for name, tensor in state.items()},
        "it lacks 1.weight, 2.weight, 2.bias, 2.running_mean and 3 more and has the unknown",
    ),
    "another shape": (
        lambda state: {**state, "4.weight": torch.zeros(5, 12)},
        "4.weight has shape (5, 12), but tiny_nets_for_tests:with_batchnorm for images",
    ),
    "a loss with weights beside": (
        lambda state: {
            **{f"model.{name}": tensor for name, tensor in state.items()},
            "criterion.weight": torch.ones(3),
        },
        "it has the unknown tensors criterion.weight. Save the state dict",
    ),
    "sparse": (
        lambda state: {**state, "4.weight": state["4.weight"].to_sparse_csr()},
        "4.weight is stored as torch.sparse_csr: save plain dense tensors",
    ),
    "no content": (
        lambda state: {**state, "4.weight": state["4.weight"].to("meta")},
        "4.weight has no content (meta)",
    ),
    "NaN": (
        lambda state: {**state, "4.bias": torch.tensor([0.0, torch.nan, 0.0])},
        "4.bias is not finite, so its training diverged.",
    ),
    "too large": (
        lambda state: {**state, "4.bias": torch.full((3,), 1e300, dtype=torch.float64)},
        "4.bias is not finite",
    ),
    "complex": (
        lambda state: {**state, "4.bias": torch.zeros(3, dtype=torch.complex64)},
        "4.bias is torch.complex64, not torch.float32",
    ),
    "whole numbers": (
        lambda state: {**state, "4.bias": torch.zeros(3, dtype=torch.int64)},
        "4.bias is torch.int64, not torch.float32",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_checkpoint_of_the_network_is_refused(
    origin: Origin,
    state: dict[str, Tensor],
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    spoil, reason = BAD[name]
    torch.save(spoil(state), tmp_path / "net.pt")
    with pytest.raises(CheckpointError) as raised:
        take_over(tmp_path / "net.pt", origin)
    said = str(raised.value)
    assert said.startswith(f"model.checkpoint: {tmp_path / 'net.pt'}")
    assert reason in said
    assert "\n" not in said
    assert not Path("unpickled").exists()


def test_files_that_are_none_are_refused(
    origin: Origin, state: dict[str, Tensor], tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_text("weights, somewhere")
    (tmp_path / "pickle").write_bytes(pickle.dumps({"4.bias": [1.0]}))
    np.savez(tmp_path / "arrays", **{"4.bias": np.zeros(3)})
    torch.save(state, tmp_path / "whole")
    (tmp_path / "cut").write_bytes((tmp_path / "whole").read_bytes()[:-300])
    save_file(state, tmp_path / "safe")
    (tmp_path / "cut safe").write_bytes((tmp_path / "safe").read_bytes()[:-8])
    os.mkfifo(tmp_path / "pipe")
    for name in (
        "folder",
        "empty",
        "text",
        "pickle",
        "arrays.npz",
        "cut",
        "cut safe",
        "pipe",
        "no",
    ):
        with pytest.raises(CheckpointError) as raised:
            take_over(tmp_path / name, origin)
        assert str(tmp_path / name) in str(raised.value)
        assert "\n" not in str(raised.value)


def test_a_file_a_seed_or_one_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    for name in ("one.pt", "seed-3.pt"):
        (tmp_path / name).write_bytes(b"x")
    assert given_path("one.pt", 3) == tmp_path / "one.pt"
    assert given_path("seed-{seed}.pt", 3) == tmp_path / "seed-3.pt"
    with pytest.raises(CheckpointError, match=r"model\.checkpoint = 'seed-\{seed\}\.pt': .*seed-4"):
        given_path("seed-{seed}.pt", 4)


def test_seeds_differ_in_nothing_but_their_number(
    origin: Origin, state: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save(state, tmp_path / "net.pt")
    one, other = (take_over(tmp_path / "net.pt", replace(origin, seed=seed)) for seed in (0, 1))
    assert (one.origin.seed, other.origin.seed) == (0, 1)
    assert all(torch.equal(one.state[name], other.state[name]) for name in state)


def pruned_by_torch(model: nn.Sequential) -> dict[str, Tensor]:
    for one in (model[1], model[4]):
        torch_prune.l1_unstructured(one, "weight", amount=0.5)
    return model.state_dict()


def pruned_by_us(model: nn.Sequential) -> dict[str, Tensor]:
    attach(model, magnitude_masks(model, 0.5))
    return model.state_dict()


def averaged(model: nn.Sequential) -> dict[str, Tensor]:
    return AveragedModel(model).state_dict()


def parallel_and_pruned(model: nn.Sequential) -> dict[str, Tensor]:
    return {f"module.{name}": tensor for name, tensor in pruned_by_torch(model).items()}


@pytest.mark.parametrize("save", [pruned_by_torch, pruned_by_us, averaged, parallel_and_pruned])
def test_masks_and_means_that_are_still_in_the_file_are_understood(
    origin: Origin, save: Callable[[nn.Sequential], dict[str, Tensor]], tmp_path: Path
) -> None:
    torch.manual_seed(2)
    model = build_model(origin.model, origin.image_shape, 3)
    assert isinstance(model, nn.Sequential)
    torch.save(save(model), tmp_path / "net.pt")
    taken = take_over(tmp_path / "net.pt", origin)
    images = torch.rand(4, 1, 5, 5)
    with torch.no_grad():
        assert torch.equal(taken.build().eval()(images), model.eval()(images))


def test_a_network_of_this_project_is_taken_over_with_its_zeros(
    origin: Origin, tmp_path: Path
) -> None:
    model = build_model(origin.model, origin.image_shape, 3)
    attach(model, magnitude_masks(model, 0.5))
    ours = Checkpoint.of(model, replace(origin, arm="sam"))
    save_checkpoint(tmp_path / "net.safetensors", ours)
    taken = take_over(tmp_path / "net.safetensors", origin)
    assert taken.masks is None
    assert all(torch.equal(taken.state[name], ours.state[name]) for name in ours.state)


def test_a_tensor_that_layers_share_may_stand_under_one_name(
    origin: Origin, tmp_path: Path
) -> None:
    tied = replace(origin, model=Network.of("tests.sample_networks:tied"))
    model = build_model(tied.model, tied.image_shape, 3)
    save_model(model, str(tmp_path / "net.safetensors"))
    whole = model.state_dict()
    assert len(load_file(tmp_path / "net.safetensors")) < len(whole)
    taken = take_over(tmp_path / "net.safetensors", tied)
    assert all(torch.equal(taken.state[name], tensor) for name, tensor in whole.items())


def test_a_buffer_that_is_infinite_from_the_beginning_is_no_divergence(
    origin: Origin, make_data: Callable[..., TrainingData], make_recipe: Any, tmp_path: Path
) -> None:
    network = Network.of("tests.sample_networks:with_infinite_buffer")
    model = build_model(network, origin.image_shape, 3)
    torch.save(model.state_dict(), tmp_path / "net.pt")
    taken = take_over(tmp_path / "net.pt", replace(origin, model=network))
    save_checkpoint(tmp_path / "net.safetensors", taken)
    of = {"arm": "dense", "seed": 7, "dataset": origin.dataset, "stage": "train_dense"}
    again = load_checkpoint(tmp_path / "net.safetensors", model=network, **of)
    assert torch.equal(again.state["unseen"], torch.tensor([0.0, -torch.inf]))
    recipe = DenseParams(**make_recipe().model_dump(), optimizer="sgd", sam=sam_params())
    done = train_dense(make_data(60, 30), network, recipe, 0, lambda _: None)
    assert done.checkpoint.state["unseen"].isinf().any()
    spoiled = {**model.state_dict(), "unseen": torch.tensor([torch.inf, 0.0])}
    torch.save(spoiled, tmp_path / "net.pt")
    with pytest.raises(CheckpointError, match="unseen is not finite"):
        take_over(tmp_path / "net.pt", replace(origin, model=network))
