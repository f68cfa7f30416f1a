"""The examples of docs/pruning.md run as they stand."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparse_sam.data.tensors import Split
from sparse_sam.pruning.criteria import Evidence
from sparse_sam.pruning.detaching import detach
from sparse_sam.pruning.masks import attached_masks
from sparse_sam.pruning.pruner import Pruner
from tests.pages import examples, page_of
from tests.pruning.loops import CLASSES, SHAPE, Residual, same

PAGE = page_of("pruning.md")
EXAMPLES = examples(PAGE)
BATCHES, EPOCHS = 6, 2


def run_example(name: str, model: nn.Module, **more: Any) -> dict[str, Any]:
    torch.manual_seed(1)
    loader = [(torch.randn(8, *SHAPE), torch.randint(0, CLASSES, (8,))) for _ in range(BATCHES)]
    names: dict[str, Any] = {"model": model, "loader": loader, "epochs": EPOCHS, **more}
    exec(compile(EXAMPLES[name], f"docs/pruning.md, {name}", "exec"), names)  # noqa: S102
    return names


class Interrupted:
    """A loader that shuffles, and is interrupted after so many batches in all."""

    def __init__(self, after: int | None = None) -> None:
        self.left = after

    def __len__(self) -> int:
        return BATCHES

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for place in torch.randperm(BATCHES).tolist():
            if self.left == 0:
                raise KeyboardInterrupt
            self.left = None if self.left is None else self.left - 1
            generator = torch.Generator().manual_seed(place)
            images = torch.randn(8, *SHAPE, generator=generator)
            yield images, torch.randint(0, CLASSES, (8,), generator=generator)


def share_of_zeros(model: nn.Module) -> float:
    weights = [one for one in model.parameters() if one.dim() > 1]
    return sum(int((one == 0).sum()) for one in weights) / sum(one.numel() for one in weights)


def test_every_block_of_code_is_an_example_that_is_tested() -> None:
    assert set(EXAMPLES) == {
        "plain",
        "resume",
        "average",
        "second order",
        "second order at once",
        "second order to several sparsities",
    }
    assert PAGE.count("```python") == len(EXAMPLES) + 1  # the parts, which other tests take up


def test_the_plain_example_prunes(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    model = Residual()
    names = run_example("plain", model)
    assert not attached_masks(model)
    assert share_of_zeros(model) == pytest.approx(0.9, abs=1e-3)
    said = capsys.readouterr().out.split("\n")
    assert said[0].endswith("% pruned")
    assert said[1] == "90.0% pruned"
    names["sparsifier"].verify()


@pytest.mark.parametrize("name", ["second order", "second order at once"])
def test_the_examples_of_second_order_prune(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    model = Residual()
    before = {name: one.detach().clone() for name, one in model.named_parameters()}
    inputs, labels = torch.randn(40, *SHAPE), torch.randint(0, CLASSES, (40,))
    names = run_example(name, model, inputs=inputs, labels=labels)
    if "sparsifier" in names:
        names["sparsifier"].verify()
        names["sparsifier"].finalize()
    else:
        assert capsys.readouterr().out == "90.0% pruned\n"
        detach(model)
    assert share_of_zeros(model) == pytest.approx(0.9, abs=1e-3)
    # The others were updated.
    assert any(((one != before[name]) & (one != 0)).any() for name, one in model.named_parameters())


def test_the_example_of_several_sparsities_prunes_to_each_as_alone() -> None:
    torch.manual_seed(0)
    model, name = Residual(), "second order to several sparsities"
    inputs, labels = torch.randn(40, *SHAPE), torch.randint(0, CLASSES, (40,))
    found = run_example(name, copy.deepcopy(model), inputs=inputs, labels=labels)["pruned"]
    assert len(found) == 3
    for sparsity, network in found.items():
        detach(network)
        assert share_of_zeros(network) == pytest.approx(sparsity, abs=1e-3)
        alone = copy.deepcopy(model)
        evidence = Evidence(seed=0, train=Split(inputs, labels))
        Pruner("obs", "global").prune(alone, sparsity, evidence)
        detach(alone)
        assert all(map(torch.equal, network.parameters(), alone.parameters()))


def test_the_example_that_resumes_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def network() -> nn.Module:
        torch.manual_seed(0)
        return Residual()

    loader = Interrupted()
    whole = run_example("resume", network(), path=tmp_path / "whole.pt", loader=loader)
    assert whole["sparsifier"].done == BATCHES * EPOCHS
    path = tmp_path / "state.pt"
    with pytest.raises(KeyboardInterrupt):
        run_example("resume", network(), path=path, loader=Interrupted(after=BATCHES + 4))
    assert not capsys.readouterr().out
    more = run_example("resume", network(), path=path, loader=loader)
    assert capsys.readouterr().out == f"{BATCHES} steps are done\n"
    for one in ("model", "optimizer", "sparsifier"):
        assert same(more[one].state_dict(), whole[one].state_dict())
    more["sparsifier"].finalize()
    # Stopped within an epoch, the batches that were trained on are skipped.
    given = {name: whole[name].state_dict() for name in ("model", "optimizer", "sparsifier")}
    torch.save(given, path)
    again = run_example("resume", network(), path=path, loader=loader)
    assert same(again["model"].state_dict(), whole["model"].state_dict())


def test_the_example_of_an_average_is_sparse() -> None:
    torch.manual_seed(0)
    model = Residual()
    names = run_example("average", model)
    for plain in (names["evaluated"], names["average"]):
        assert not attached_masks(plain)
        assert share_of_zeros(plain) == pytest.approx(0.8, abs=2e-3)
    assert same(names["evaluated"].state_dict(), names["average"].state_dict())
    assert attached_masks(model)  # which is trained on
