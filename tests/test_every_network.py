"""What is promised of a network holds for every one that has a name, and one of torchvision."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sparse_sam.data.tensors import TrainingData
from sparse_sam.export import network_files as exports
from sparse_sam.export.channels import narrow
from sparse_sam.export.compression import folded, multiply_adds
from sparse_sam.export.latency import with_sparse_linears
from sparse_sam.export.manifest import DENSE, NARROW, ONNX, SPARSE, load_manifest
from sparse_sam.export.network_files import export_network, load_dense, load_sparse, pixels_of
from sparse_sam.export.onnxfile import predict_onnx
from sparse_sam.networks.network import Network
from sparse_sam.pruning.masks import check_pruned_weights_are_zero, masks_of, plain_state
from sparse_sam.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from sparse_sam.training.experiment import finetune, initial_checkpoint, prune, train_dense
from sparse_sam.training.params import DenseParams, FinetuneParams, TrainingParams
from sparse_sam.training.resume import ResumePoint
from tests.every_network import EVERY, training_data, unseen_data
from tests.recipes import NOT_DISTILLED, prune_params, sam_params

SHAPE = (3, 32, 32)
SEED = 3
STRUCTURES = {"unstructured": 0.8, "channels": 0.4}
Recipe = Callable[..., TrainingParams]

each_network = pytest.mark.parametrize("network", EVERY, ids=lambda one: one.name)
each_structure = pytest.mark.parametrize("structure", STRUCTURES)


@pytest.fixture(scope="module")
def data() -> TrainingData:
    return training_data(SHAPE)


@pytest.fixture(scope="module")
def recipe(make_recipe: Recipe) -> dict[str, Any]:
    values = {"epochs": 1, "lr": 0.01, "momentum": 0.9, "weight_decay": 1e-3}
    return make_recipe(**values).model_dump()


@pytest.fixture(scope="module")
def pruned(data: TrainingData, recipe: dict[str, Any]) -> Callable[[Network, str], Checkpoint]:
    """Trained for an epoch and pruned, made once."""
    made: dict[tuple[Network, str], Checkpoint] = {}
    dense: dict[Network, Checkpoint] = {}
    params = DenseParams(**recipe, optimizer="sgd", sam=sam_params())

    def make(network: Network, structure: str) -> Checkpoint:
        if network not in dense:
            trained = train_dense(data, network, params, SEED, lambda _: None)
            dense[network] = trained.checkpoint
        if (network, structure) not in made:
            chosen = prune_params(sparsity=STRUCTURES[structure], structure=structure)
            made[network, structure] = prune(dense[network], chosen, data)
        return made[network, structure]

    return make


def tuned(
    start: Checkpoint,
    data: TrainingData,
    recipe: dict[str, Any],
    arm: str,
    *,
    resume: ResumePoint | None = None,
    report: Callable[[Any], None] = lambda _: None,
) -> Checkpoint:
    params = FinetuneParams(
        training=TrainingParams(**recipe), distillation=NOT_DISTILLED, sam=sam_params()
    )
    return finetune(start, data, params, arm, report, resume).checkpoint


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@each_network
@each_structure
@pytest.mark.parametrize("arm", ["sgd", "sam"])
def test_masks_hold_while_every_tensor_is_trained(
    network: Network,
    structure: str,
    arm: str,
    data: TrainingData,
    recipe: dict[str, Any],
    pruned: Callable[[Network, str], Checkpoint],
) -> None:
    start = pruned(network, structure)
    assert start.masks is not None
    assert start.masks.sparsity == pytest.approx(STRUCTURES[structure], abs=0.2)
    done = tuned(start, data, recipe, arm)
    assert done.masks is not None
    assert same(dict(done.masks), dict(start.masks))
    for name, mask in done.masks.items():
        assert not done.state[name][~mask].any(), name
        if start.state[name].any():
            assert not torch.equal(done.state[name], start.state[name]), name
    check_pruned_weights_are_zero(done.build())


@each_network
@each_structure
def test_a_checkpoint_brings_back_its_network_from_the_file_and_its_name(
    network: Network,
    structure: str,
    data: TrainingData,
    pruned: Callable[[Network, str], Checkpoint],
    tmp_path: Path,
) -> None:
    checkpoint = pruned(network, structure)
    save_checkpoint(tmp_path / "saved", checkpoint)
    loaded = load_checkpoint(
        tmp_path / "saved",
        arm="pruned",
        seed=SEED,
        dataset=data.info.fingerprint,
        stage="prune",
        model=network,
    )
    assert loaded.origin == checkpoint.origin
    assert loaded.origin.model.arguments == network.arguments
    model, built = checkpoint.build().eval(), loaded.build().eval()
    assert same(plain_state(built), checkpoint.state)
    masks = masks_of(built)
    assert masks is not None
    assert checkpoint.masks is not None
    assert same(dict(masks), dict(checkpoint.masks))
    with torch.no_grad():
        assert torch.equal(
            built(data.train.taken(slice(None))), model(data.train.taken(slice(None)))
        )


@each_network
@pytest.mark.parametrize("arm", ["sgd", "sam"])
def test_a_training_that_was_stopped_ends_with_the_same_bits(
    network: Network,
    arm: str,
    data: TrainingData,
    recipe: dict[str, Any],
    pruned: Callable[[Network, str], Checkpoint],
    tmp_path: Path,
) -> None:
    start, longer = pruned(network, "unstructured"), {**recipe, "epochs": 2}
    whole = tuned(start, data, longer, arm)

    def stop(row: Any) -> None:
        if row.epoch == 1:
            raise KeyboardInterrupt

    point = ResumePoint(tmp_path, "key")
    with pytest.raises(KeyboardInterrupt):
        tuned(start, data, longer, arm, resume=point, report=stop)
    assert point.path.is_file()
    gone_on_with = tuned(start, data, longer, arm, resume=point)
    assert same(gone_on_with.state, whole.state)


@each_network
@each_structure
def test_every_file_of_an_export_gives_the_same_predictions(
    network: Network,
    structure: str,
    pruned: Callable[[Network, str], Checkpoint],
    tmp_path: Path,
) -> None:
    """From colour images, by each file alone; the export itself has compared them, too."""
    tested = unseen_data(SHAPE)
    origin = replace(pruned(network, structure).origin, arm="sam")
    checkpoint = replace(pruned(network, structure), origin=origin)
    folder = tmp_path / "export"
    manifest = export_network(checkpoint, tested, folder, {})
    assert load_manifest(folder) == manifest
    images = tested.test.taken(slice(None))
    with torch.no_grad():
        expected = checkpoint.build().eval()(images).argmax(1)
        for name in (DENSE, NARROW):
            if (folder / name).exists():
                model, found = load_dense(folder / name, network)
                assert found == origin
                assert torch.equal(model(images).argmax(1), expected), name
        sparse = load_sparse(folder / SPARSE, network)
        assert torch.equal(sparse.build().eval()(images).argmax(1), expected)
    labels, _ = predict_onnx(folder / ONNX, pixels_of(tested))
    assert torch.equal(labels, expected)
    assert structure != "channels" or NARROW in manifest["files"]


@each_network
def test_channels_that_cannot_be_removed_are_said_layer_by_layer(
    network: Network, pruned: Callable[[Network, str], Checkpoint]
) -> None:
    checkpoint = pruned(network, "channels")
    assert checkpoint.masks is not None
    model = folded(checkpoint)
    narrowed = narrow(model, SHAPE)
    for name, mask in checkpoint.masks.items():
        if (~mask.flatten(1).any(1)).any():
            layer = name.removesuffix(".weight")
            assert narrowed.removed.get(layer, 0) > 0 or layer in narrowed.kept
    assert narrowed.removed
    assert "" not in narrowed.kept


@each_network
def test_weights_are_counted_and_can_be_stored_sparse(
    network: Network, pruned: Callable[[Network, str], Checkpoint]
) -> None:
    checkpoint = pruned(network, "unstructured")
    total, kept = multiply_adds(checkpoint)
    assert 0 < kept < 0.7 * total
    model, images = folded(checkpoint), unseen_data(SHAPE, 6).test.taken(slice(None))
    with torch.no_grad():
        sparse = with_sparse_linears(model, images)
        torch.testing.assert_close(sparse(images), model(images), rtol=1e-3, atol=1e-4)


def test_what_an_untrained_network_is_has_its_arguments() -> None:
    network = Network.of("resnet-20", width=2, shortcut="B")
    checkpoint = initial_checkpoint(training_data(SHAPE), network, SEED)
    assert checkpoint.origin.model == network
    assert "blocks.2-1.shortcut.0.weight" in checkpoint.state
    packed = exports.pack(checkpoint)
    assert packed.keys() == {f"dense/{name}" for name in checkpoint.state}
