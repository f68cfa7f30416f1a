"""An epoch of SGD: our training loop against Lightning's, on the same network and images.

    pip install --constraint constraints.txt lightning
    python benchmarks/loops.py                # about a minute

Both take shuffled batches of 64 of the same tensors; Lightning through ``DataLoader``, with
logging, checkpoints and progress switched off.
"""

import logging
import warnings
from typing import Any

import torch
from digits import made_up
from harness import Value, arguments_of, in_turn, machine, ratios, report, value
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from sparse_sam.data import DataInfo, TrainingData
from sparse_sam.files import import_torchvision
from sparse_sam.networks import build_model
from sparse_sam.training import TrainingParams, make_sgd, select_device, train


def measure(*, quick: bool) -> list[Value]:
    """Seconds an epoch, and the ratio."""
    import_torchvision()  # which Lightning imports too, and may not be able to by itself
    import lightning

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    select_device("cpu")
    part, model = made_up(256 if quick else 3500), "lenet-300-100" if quick else "classifier"
    recipe = TrainingParams(
        epochs=1,
        batch_size=64,
        base_optimizer="sgd",
        lr=0.05,
        momentum=0.0,
        weight_decay=0.0,
        schedule="constant",
        warmup_epochs=0.0,
        clip_norm=None,
        label_smoothing=0.0,
        shift_pixels=0,
        flip=False,
        cutout_pixels=0,
        precision="float32",
    )

    class Module(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = build_model(model, (1, 28, 28), 10)

        def training_step(self, batch: list[Tensor], _: int) -> Tensor:
            return cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return make_sgd(self.net, recipe)

    def theirs() -> None:
        loader = DataLoader(
            TensorDataset(part.taken(slice(None)), part.labels), batch_size=64, shuffle=True
        )
        lightning.Trainer(
            max_epochs=1,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        ).fit(Module(), loader)

    def ours() -> None:
        info = DataInfo("made-up", "", (1, 28, 28), tuple("0123456789"), (0.0,), (1.0,), {}, {})
        net = build_model(model, (1, 28, 28), 10)
        data = TrainingData(part, None, info)
        train(net, make_sgd(net, recipe), data, recipe, seed=0, purpose="benchmark")

    torch.manual_seed(0)
    seconds = in_turn({"ours": ours, "Lightning": theirs}, rounds=3 if quick else 9)
    values = [value(f"{name}: an epoch of {model}", "s", times) for name, times in seconds.items()]
    return [*values, value("ours / Lightning", "×", ratios(seconds["ours"], seconds["Lightning"]))]


def main() -> None:
    """Measure and report."""
    arguments = arguments_of(__doc__).parse_args()
    where = machine()
    report("loops", measure(quick=arguments.quick), where, arguments)


if __name__ == "__main__":
    main()
