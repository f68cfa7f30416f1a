"""torch's own steps, to the bit, without the second that its compiler's import takes."""

import copy
import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import Optimizer

from sparse_sam.sam.registry import VARIANTS
from sparse_sam.sam.uncompiled import SGD
from sparse_sam.training.with_adamw import AdamW

TRAINING = """
import sys
import torch
from torch import nn
from sparse_sam.sam import SAMParams, variant_settings
from sparse_sam.training import LEARNING_RATES, TrainingParams, make_base, make_sam
from sparse_sam.pruning.forgetting import forget_everything
from sparse_sam.training.warm_up import warmed_up

base = sys.argv[2]
recipe = TrainingParams(
    epochs=1, batch_size=2, base_optimizer=base, lr=0.1, momentum=0.9 * (base == "sgd"),
    weight_decay=0.1, schedule="cosine", warmup_epochs=0.5, clip_norm=1.0, label_smoothing=0.0,
    shift_pixels=0, flip=False, cutout_pixels=0, precision="float32",
)
model = nn.Linear(2, 2)
if sys.argv[1] == "sgd":
    optimizer = make_base(model, recipe)
else:
    allowed = variant_settings(sys.argv[1]).items()
    # All null, but for what has no default.
    settings = {name: 1 if one.default is one.empty else None for name, one in allowed}
    optimizer = make_sam(model, recipe, SAMParams(variant=sys.argv[1], rho=0.05, **settings))
schedule = warmed_up(LEARNING_RATES.load(recipe.schedule), optimizer, 3, (), 1)

def closure():
    optimizer.zero_grad()
    loss = model(torch.ones(1, 2)).square().sum()
    loss.backward()
    return loss

optimizer.step(closure)
schedule.step()
optimizer.load_state_dict(optimizer.state_dict())
optimizer.step(closure)
forget_everything(optimizer)
sys.exit("torch._dynamo" in sys.modules)
"""


@pytest.mark.parametrize(
    ("variant", "base"), [*((one, "sgd") for one in VARIANTS), ("sgd", "sgd"), ("sgd", "adamw")]
)
def test_training_does_not_import_the_compiler(variant: str, base: str) -> None:
    command = [sys.executable, "-c", TRAINING, variant, base]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def descend(optimizer: Optimizer, weight: Tensor, steps: int) -> None:
    for step in range(steps):
        optimizer.zero_grad()
        (weight * (weight + step)).sin().sum().backward()
        optimizer.step()


@given(
    options=st.fixed_dictionaries(
        {
            "lr": st.sampled_from([0.01, 0.5]),
            "momentum": st.sampled_from([0.5, 0.9]),
            "weight_decay": st.sampled_from([0.0, 0.1]),
            "nesterov": st.booleans(),
            "maximize": st.booleans(),
            "foreach": st.sampled_from([None, False, True]),
        }
    ),
    steps=st.integers(0, 5),
)
def test_it_is_torchs_own_sgd(options: dict[str, Any], steps: int) -> None:
    start = torch.linspace(-2, 2, 7)
    one, other = (nn.Parameter(start.clone()) for _ in range(2))
    ours, torchs = SGD([one], **options), SGD([other], **options)
    descend(ours, one, steps)
    descend(torchs, other, steps)
    assert torch.equal(one, other)
    again = SGD([one], lr=1.0)
    again.load_state_dict(copy.deepcopy(torchs.state_dict()))
    descend(again, one, 2)
    descend(torchs, other, 2)
    assert torch.equal(one, other)


@given(
    options=st.fixed_dictionaries(
        {
            "lr": st.sampled_from([0.01, 0.5]),
            "weight_decay": st.sampled_from([0.0, 0.1]),
            "amsgrad": st.booleans(),
            "maximize": st.booleans(),
            "foreach": st.sampled_from([None, False, True]),
        }
    ),
    steps=st.integers(0, 5),
)
def test_it_is_torchs_own_adamw(options: dict[str, Any], steps: int) -> None:
    start = torch.linspace(-2, 2, 7)
    one, other = (nn.Parameter(start.clone()) for _ in range(2))
    ours, torchs = AdamW([one], **options), torch.optim.AdamW([other], **options)
    descend(ours, one, steps)
    descend(torchs, other, steps)
    assert torch.equal(one, other)
    again = AdamW([one], lr=1.0)
    again.load_state_dict(copy.deepcopy(torchs.state_dict()))
    descend(again, one, 2)
    descend(torchs, other, 2)
    assert torch.equal(one, other)


def test_no_graph_is_made_of_a_step() -> None:
    weight = nn.Parameter(torch.ones(2))
    optimizer = SGD([weight], lr=0.1, momentum=0.9)
    descend(optimizer, weight, 2)
    assert weight.is_leaf
    assert torch.is_grad_enabled()
    with pytest.raises(ValueError, match="Invalid learning rate"):
        SGD([weight], lr=-1.0)
