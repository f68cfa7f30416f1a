"""The examples of docs/frameworks.md run as they stand, and do what they say."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from tests.pages import examples, page_of

pytestmark = pytest.mark.frameworks

PAGE = page_of("frameworks.md")
EXAMPLES = examples(PAGE)


class WithLoss(nn.Module):
    """A network as transformers has them: labels go in, a loss comes out."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, inputs: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        outputs = self.net(inputs)
        return {"loss": cross_entropy(outputs, labels), "logits": outputs}


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    monkeypatch.chdir(tmp_path)


def run_example(name: str, code: str | None = None) -> dict[str, Any]:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(12, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4)
    )
    inputs = torch.randn(160, 12)
    labels = inputs[:, :4].argmax(1)
    rows = [{"inputs": x, "labels": y} for x, y in zip(inputs, labels, strict=True)]
    names: dict[str, Any] = {
        "model": WithLoss(net) if name == "pruning in transformers" else net,
        "loader": DataLoader(TensorDataset(inputs, labels), batch_size=8),
        "dataset": rows,
        "epochs": 3,
    }

    def loss() -> float:
        mode = net.training
        value = float(cross_entropy(net.eval().cpu()(inputs), labels).detach())
        net.train(mode)
        return value

    before = loss()
    code = code or EXAMPLES[name]
    exec(compile(code, f"docs/frameworks.md, {name}", "exec"), names)  # noqa: S102
    return {**names, "net": net, "losses": (before, loss())}


def test_every_block_of_code_is_an_example_that_is_tested() -> None:
    assert PAGE.count("```python") == len(EXAMPLES) == 7


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_learn(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # What is compiled is made neither into C++ nor for a GPU, which would take half a minute.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    names = run_example(name)
    before, after = names["losses"]
    assert after < 0.9 * before
    net = names["net"]
    # The second passes do not count. (What is checkpointed counts itself twice, without SAM too.)
    assert int(net[1].num_batches_tracked) == (120 if "checkpoint" in EXAMPLES[name] else 60)
    if "pruning" in name:
        report = names["sparsifier"].report()
        assert report["sparsity"] == pytest.approx(0.8, abs=0.01)
        kept = sum(int(w.count_nonzero()) for w in (net[0].weight, net[3].weight))
        assert kept == report["weights_kept"]
        assert not any("parametrizations" in key for key in net.state_dict())


def test_pruning_in_lightning_needs_no_sam() -> None:
    name, code = "pruning in lightning", EXAMPLES["pruning in lightning"]
    page = " ".join(PAGE.split())
    plain = "return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)"
    (line,) = re.findall(r"return SAM\(.*", code)
    assert f"`class Finetuning(LightningModule)`, `{plain}`" in page
    code = code.replace("SAMModule, LightningModule", "LightningModule").replace(line, plain)
    names = run_example(name, re.sub(r"from .* import SAM.*\n", "", code))
    before, after = names["losses"]
    assert after < 0.9 * before
    assert names["sparsifier"].report()["sparsity"] == pytest.approx(0.8, abs=0.01)
    assert names["sparsifier"].done == names["steps"] == 30
