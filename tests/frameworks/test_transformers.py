"""SAM in the loop of transformers' Trainer: the same five steps as in a plain loop."""

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from cases import (
    CLIP,
    DEVICE,
    OF_SGD,
    RHO,
    STEPS,
    VARIANTS,
    Batch,
    assert_drawn_in_both_passes_alike,
    assert_same,
    batches,
    distance,
    make_sam,
    network,
    plain,
    set_scaler,
    state,
    weights_after,
    weights_in,
    with_noise,
)
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from sparse_sam.frameworks import SAMTrainer
from sparse_sam.sam import SAM, LookSAM, MomentumSAM

pytestmark = pytest.mark.frameworks
PRECISIONS = ["fp32", "bf16", "fp16"]


class Finetuning(SAMTrainer, Trainer):
    pass


class Net(nn.Module):
    """What Trainer takes: a loss comes out of ``forward``."""

    def __init__(self, net: nn.Module | None = None) -> None:
        super().__init__()
        self.net = net or network()

    def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        outputs = self.net(inputs)
        return {"loss": cross_entropy(outputs, labels), "logits": outputs}


def examples(data: list[Batch]) -> list[dict[str, Tensor]]:
    pairs = [(x, y) for inputs, labels in data for x, y in zip(inputs.cpu(), labels, strict=True)]
    return [{"inputs": x, "labels": y.cpu()} for x, y in pairs]


def arguments(folder: Path, accumulate: int = 1, **options: Any) -> TrainingArguments:
    defaults: dict[str, Any] = {
        "use_cpu": DEVICE == "cpu",
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": accumulate,
        "train_sampling_strategy": "sequential",
        "num_train_epochs": 1,
        "max_grad_norm": 0.0,
        "report_to": [],
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
    }
    return TrainingArguments(str(folder), **{**defaults, **options})


def in_precision(precision: str) -> dict[str, Any]:
    at_first = "fp32" if precision == "fp16" and DEVICE == "cpu" else precision
    return {} if at_first == "fp32" else {at_first: True}


@pytest.fixture(autouse=True)
def another_accelerator() -> None:
    """Its precision holds for the whole process until it is forgotten."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def with_our_schedule(model: nn.Module, **options: Any) -> dict[str, Any]:
    """A SAM with the schedule of the plain loop."""
    optimizer = make_sam(model, **options)
    return {"optimizers": (optimizer, CosineAnnealingLR(optimizer, STEPS))}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("clip", [None, CLIP])
def test_five_steps_are_those_of_a_plain_loop(
    precision: str, accumulate: int, clip: float | None, tmp_path: Path
) -> None:
    data, model = batches(STEPS * accumulate), Net()
    own = in_precision(precision)
    given = arguments(tmp_path, accumulate, max_grad_norm=clip or 0.0, **own)
    trainer = Finetuning(model, given, train_dataset=examples(data), **with_our_schedule(model))
    if precision == "fp16":
        set_scaler(trainer.accelerator)
    trainer.train()
    assert trainer.state.global_step == STEPS
    options: dict[str, Any] = {"accumulate": accumulate, "precision": precision}
    assert_same(state(model), plain(data, clip=clip, **options))
    assert distance(state(model), plain(data, clip=None if clip else CLIP, **options)) > 1e-3
    logged = [log for log in trainer.state.log_history if "loss" in log]
    assert len(logged) == STEPS
    first = network()
    losses = [float(cross_entropy(first(x), y)) for x, y in data[:accumulate]]
    exact = 1e-3 if precision == "fp32" else 1e-2  # it rounds what it logs
    assert float(logged[0]["loss"]) == pytest.approx(sum(losses) / accumulate, rel=exact)


@pytest.mark.parametrize(
    ("variant", "own"),
    [*VARIANTS, (MomentumSAM, {})],
)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_variants_around_trainers_own_optimizer(
    variant: Any, own: dict[str, Any], precision: str, tmp_path: Path
) -> None:
    data, model = batches(2 * STEPS), Net()
    half = in_precision(precision)
    trainer = Finetuning(
        model,
        arguments(tmp_path, 2, learning_rate=1e-2, weight_decay=0.01, optim="adamw_torch", **half),
        train_dataset=examples(data),
        rho=RHO,
        variant=variant,
        sam_options=own,
    )
    if precision == "fp16":
        set_scaler(trainer.accelerator)
    trainer.train()
    sam = trainer.optimizer.optimizer
    assert type(sam) is variant
    assert isinstance(sam.base_optimizer, AdamW)

    expected = Net()
    decayed = [p for n, p in expected.named_parameters() if trainers_decay(trainer, n)]
    others = [p for n, p in expected.named_parameters() if not trainers_decay(trainer, n)]
    assert decayed
    assert others
    groups = [
        {"params": decayed, "weight_decay": 0.01},
        {"params": others, "weight_decay": 0.0},
    ]
    optimizer = variant(groups, AdamW, rho=RHO, model=expected, lr=1e-2, **own)
    linear = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (STEPS - step) / STEPS)
    scaler = torch.amp.GradScaler(DEVICE, init_scale=2.0**10, enabled=precision == "fp16")
    dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    for one, other in zip(data[::2], data[1::2], strict=True):

        def closure(window: tuple[Batch, Batch] = (one, other)) -> None:
            for inputs, labels in window:
                with torch.autocast(DEVICE, dtype, enabled=dtype is not None):
                    loss = expected(inputs, labels)["loss"] / 2
                scaler.scale(loss).backward()

        optimizer.step(closure, scaler=scaler)
        scaler.update()
        linear.step()
    theirs = state(expected)
    if variant is MomentumSAM:  # BatchNorm sees w in the pass that is Trainer's
        theirs |= {name: one for name, one in state(model).items() if "running" in name}
    assert_same(state(model), theirs, 0.0 if DEVICE == "cpu" else 1e-5)


def trainers_decay(trainer: Trainer, name: str) -> bool:
    return name in trainer.get_decay_parameter_names(trainer.model)


def test_the_gradient_norm_that_is_logged_is_that_which_moves_the_weights(tmp_path: Path) -> None:
    seen: list[float] = []

    class Watch(TrainerCallback):
        def on_pre_optimizer_step(self, *_: Any, model: nn.Module, **__: Any) -> None:
            squares = [p.grad.square().sum() for p in model.parameters() if p.grad is not None]
            seen.append(float(torch.stack(squares).sum().sqrt()))

    data, model = batches(2 * STEPS), Net()
    given = arguments(tmp_path, 2, max_grad_norm=CLIP)
    trainer = Finetuning(
        model, given, train_dataset=examples(data), callbacks=[Watch()], **with_our_schedule(model)
    )
    trainer.train()
    assert max(seen) == pytest.approx(CLIP, rel=1e-4)
    norms = [float(log["grad_norm"]) for log in trainer.state.log_history if "grad_norm" in log]

    first = network()
    optimizer = make_sam(first, max_grad_norm=1e9)
    norm: list[float] = []

    def closure() -> None:
        for inputs, labels in data[:2]:
            (cross_entropy(first(inputs), labels) / 2).backward()
        gradients = [p.grad for p in first.parameters() if p.grad is not None]
        norm.append(float(torch.cat([one.flatten() for one in gradients]).norm()))

    optimizer.step(closure)
    assert norms[0] == pytest.approx(norm[1], rel=1e-3)
    assert norms[0] != pytest.approx(norm[0], rel=1e-2)


def test_label_smoothing(tmp_path: Path) -> None:
    config = BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=8, num_labels=3,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    model, expected = (BertForSequenceClassification(config).to(DEVICE) for _ in range(2))
    expected.load_state_dict(model.state_dict())
    words, labels = torch.randint(20, (32, 6)), torch.randint(3, (32,))
    rows = [{"input_ids": x, "labels": y} for x, y in zip(words, labels, strict=True)]
    given = arguments(tmp_path, 2, label_smoothing_factor=0.1)
    optimizer = SAM(model.parameters(), SGD, rho=RHO, model=model, **OF_SGD)
    constant = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
    Finetuning(model, given, train_dataset=rows, optimizers=(optimizer, constant)).train()

    ours = SAM(expected.parameters(), SGD, rho=RHO, model=expected, **OF_SGD)
    expected.train()
    for start in (0, 16):

        def closure(start: int = start) -> None:
            for first in (start, start + 8):
                part = slice(first, first + 8)
                outputs = expected(input_ids=words[part].to(DEVICE)).logits
                target = labels[part].to(DEVICE)
                (cross_entropy(outputs, target, label_smoothing=0.1) / 2).backward()

        ours.step(closure)
    assert_same(state(model), state(expected), 1e-5)


def test_micro_batches_of_different_lengths_are_weighted_as_in_the_first_pass(
    tmp_path: Path,
) -> None:
    """A language model's loss is divided by the number of tokens of the whole step."""
    config = GPT2Config(
        vocab_size=20, n_positions=8, n_embd=8, n_layer=1, n_head=2, bos_token_id=0,
        eos_token_id=0, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    model, expected = (GPT2LMHeadModel(config).to(DEVICE) for _ in range(2))
    expected.load_state_dict(model.state_dict())
    words = torch.randint(20, (32, 8))
    labels = words.clone()
    labels[:, 0] = labels[:8, 2:] = labels[24:, 5:] = -100  # left out of the loss
    rows = [{"input_ids": x, "labels": y} for x, y in zip(words, labels, strict=True)]
    optimizer = SAM(model.parameters(), SGD, rho=RHO, model=model, **OF_SGD)
    constant = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
    # Its name in new versions, and in old ones.
    fields = TrainingArguments.__dataclass_fields__
    names = ("activation_checkpointing", "gradient_checkpointing")
    given = arguments(tmp_path, 2, **{next(one for one in names if one in fields): True})
    Finetuning(model, given, train_dataset=rows, optimizers=(optimizer, constant)).train()

    ours = SAM(expected.parameters(), SGD, rho=RHO, model=expected, **OF_SGD)
    expected.train()
    for start in (0, 16):

        def closure(start: int = start) -> None:
            whole = slice(start, start + 16)
            target = labels[whole, 1:].to(DEVICE)
            outputs = expected(input_ids=words[whole].to(DEVICE)).logits[:, :-1]
            cross_entropy(outputs.reshape(-1, 20), target.reshape(-1)).backward()

        ours.step(closure)
    assert_same(state(model), state(expected), 1e-5)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_dropout_takes_the_same_units_in_both_passes(accumulate: int, tmp_path: Path) -> None:
    model = Net(with_noise())
    data = examples(batches(3 * accumulate))
    Finetuning(model, arguments(tmp_path, accumulate), train_dataset=data).train()
    assert_drawn_in_both_passes_alike(model.net[1].drawn, accumulate)


def test_it_resumes_with_the_same_bits(tmp_path: Path) -> None:
    data = examples(batches(2 * STEPS))
    options = {"optim": "adamw_torch", "learning_rate": 0.05, "num_train_epochs": 2}

    def trainer(folder: str, **more: Any) -> Finetuning:
        given = arguments(tmp_path / folder, 2, save_strategy="steps", **options, **more)
        net = Net(nn.Sequential(*network(), nn.Dropout(0.2)))
        own = {"variant": LookSAM, "sam_options": {"k": 3}, "rho": RHO}
        return Finetuning(net, given, train_dataset=data, **own)

    through = trainer("through", save_steps=4, train_sampling_strategy="random")
    through.train()
    resumed = trainer("resumed", save_steps=100, train_sampling_strategy="random")
    resumed.train(resume_from_checkpoint=str(tmp_path / "through" / "checkpoint-8"))
    assert resumed.state.global_step == 2 * STEPS
    assert_same(state(resumed.model), state(through.model))
    assert resumed.state.log_history[-2]["loss"] == through.state.log_history[-2]["loss"]


def test_it_can_be_trained_again(tmp_path: Path) -> None:
    model = Net()
    trainer = Finetuning(model, arguments(tmp_path), train_dataset=examples(batches(2)))
    trainer.train()
    first = state(model)
    trainer.train()
    assert isinstance(trainer.optimizer.optimizer, SAM)
    assert not isinstance(trainer.optimizer.optimizer.base_optimizer, SAM)
    assert distance(first, state(model)) > 0


def test_what_is_logged_in_the_second_pass_is_left_out(tmp_path: Path) -> None:
    class Chatty(Trainer):
        passes: list[bool]

        def compute_loss(self, *given: Any, **options: Any) -> Any:
            self.passes.append(self.in_second_pass)
            self.log({"said": 1.0})
            return super().compute_loss(*given, **options)

    class Own(SAMTrainer, Chatty):
        pass

    trainer = Own(Net(), arguments(tmp_path, 2), train_dataset=examples(batches(4)))
    trainer.passes = []
    trainer.train()
    assert trainer.passes == [False, False, True, True] * 2
    assert sum("said" in log for log in trainer.state.log_history) == 4


def test_a_compiled_network(tmp_path: Path) -> None:
    data, model = batches(2 * STEPS), Net()
    given = arguments(tmp_path, 2, torch_compile=True, torch_compile_backend="aot_eager")
    Finetuning(model, given, train_dataset=examples(data), **with_our_schedule(model)).train()
    assert_same(state(model), plain(data, accumulate=2), 1e-6)


def test_an_optimizer_that_is_no_sam_is_named(tmp_path: Path) -> None:
    class Replaced(Finetuning):
        def create_optimizer(self, model: nn.Module | None = None) -> Any:
            self.optimizer = SGD((model or self.model).parameters(), lr=0.1)
            return self.optimizer

    trainer = Replaced(Net(), arguments(tmp_path), train_dataset=examples(batches(2)))
    with pytest.raises(RuntimeError, match="finds no SAM in its optimizer"):
        trainer.train()


@pytest.mark.parametrize("within", [False, True])
def test_a_micro_batch_that_a_subclass_gives_up_is_in_neither_pass(
    within: bool, tmp_path: Path
) -> None:
    data, calls = batches(6), []

    class Failing(Net):
        def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
            calls.append(inputs)
            if len(calls) == 5:  # two passes of two micro-batches come before it
                raise MemoryError
            return super().forward(inputs, labels)

    class Surviving(Trainer):
        def training_step(self, *given: Any, **options: Any) -> Tensor:
            try:
                return super().training_step(*given, **options)
            except MemoryError:
                return torch.zeros((), device=DEVICE)

    class Inside(SAMTrainer, Surviving):
        pass

    class Outside(Finetuning):
        def training_step(self, *given: Any, **options: Any) -> Tensor:
            try:
                return super().training_step(*given, **options)
            except MemoryError:
                return torch.zeros((), device=DEVICE)

    model = Failing()
    own = make_sam(model)
    schedule = torch.optim.lr_scheduler.ConstantLR(own, factor=1.0)
    kind = Inside if within else Outside
    given = arguments(tmp_path, 2)
    kind(model, given, train_dataset=examples(data), optimizers=(own, schedule)).train()
    expected = weights_after([data[:2], data[3:4], data[4:]], 2)
    assert_same(weights_in(state(model)), expected)
    assert len(calls) == 4 + 1 + 2 + 4
