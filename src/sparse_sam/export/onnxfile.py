"""ONNX files: networks for any runtime, with the normalisation inside. Alone touches that format.

The input ``pixels`` is bytes, (N, channels, height, width), as the data set's files have them; the
outputs are ``label``, int64 (N,), ``logits``, float32 (N, classes), and ``class``, the label's name
as text, (N,). N is free.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparse_sam.data import Scale
from sparse_sam.errors import ConfigError, ExportError
from sparse_sam.files import atomic_path

INPUT, ONNX_OUTPUTS = "pixels", ("label", "logits")
CLASS = "class"
"""The output that names the label's class."""


class FromPixels(nn.Module):
    """A network with its normalisation in front: bytes in, classes and logits out."""

    scale: Scale

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network, self.scale = network, Scale.of(mean, std)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Map bytes (N, C, H, W) to labels (N,) and logits (N, classes)."""
        logits = self.network((pixels.float() / 255 - self.scale.mean) / self.scale.std)
        return logits.argmax(1), logits


def save_onnx(
    path: str | Path,
    network: FromPixels,
    image_shape: tuple[int, int, int],
    classes: Sequence[str],
) -> None:
    """Write the network to ``path``, atomically.

    Args:
        path: the file.
        network: bytes in, labels and logits out.
        image_shape: (channels, height, width).
        classes: their names, in the order of the logits.

    Raises:
        ExportError: ONNX cannot express it.
    """
    require("onnx", "onnxscript")
    import onnx

    example = torch.zeros(2, *image_shape, dtype=torch.uint8)
    said = io.StringIO()
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(said):
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                network.eval(),
                (example,),
                input_names=[INPUT],
                output_names=list(ONNX_OUTPUTS),
                dynamic_shapes={INPUT: {0: torch.export.Dim("batch")}},
                dynamo=True,
                verbose=False,
            )
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise ExportError(f"torch cannot export this network to ONNX: {reason}") from error
    assert program is not None  # noqa: S101
    proto = program.model_proto
    _without_traces(proto)
    _name_classes(proto, classes)
    onnx.checker.check_model(proto)
    with atomic_path(Path(path)) as temporary:
        temporary.write_bytes(proto.SerializeToString(deterministic=True))


def _name_classes(proto: Any, classes: Sequence[str]) -> None:
    """Let the network say the name of the class, too, by looking the label up in a list."""
    from onnx import TensorProto, helper

    names = f"{CLASS}_names"
    listed: Any = [name.encode() for name in classes]
    proto.graph.initializer.append(
        helper.make_tensor(names, TensorProto.STRING, [len(listed)], listed)
    )
    proto.graph.node.append(helper.make_node("Gather", [names, ONNX_OUTPUTS[0]], [CLASS]))
    batch = proto.graph.output[0].type.tensor_type.shape.dim[0].dim_param
    proto.graph.output.append(helper.make_tensor_value_info(CLASS, TensorProto.STRING, [batch]))


def onnx_session(path: str | Path, threads: int = 1) -> Any:
    """An ``onnxruntime.InferenceSession`` on the CPU. Raises ExportError if it is refused."""
    require("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 - its errors have no common type
        raise ExportError(f"ONNX Runtime rejects {path}: {error}") from None


def predict_onnx(path: Path, pixels: NDArray[np.uint8], batch: int = 256) -> tuple[Tensor, Tensor]:
    """Classes and logits that ONNX Runtime gives, for bytes of shape (N, C, H, W)."""
    runtime = onnx_session(path, torch.get_num_threads())
    parts = [
        runtime.run(list(ONNX_OUTPUTS), {INPUT: pixels[start : start + batch]})
        for start in range(0, len(pixels), batch)
    ]
    labels, logits = (np.concatenate(part) for part in zip(*parts, strict=True))
    return torch.from_numpy(labels), torch.from_numpy(logits)


def load_onnx(path: str | Path) -> Any:
    """The file as an ``onnx.ModelProto``."""
    require("onnx")
    import onnx

    return onnx.load(path)


def onnx_requirements() -> list[str]:
    """What pip must install, in these versions, where an ONNX file is run."""
    return [f"{package}=={version(package)}" for package in ("onnx", "onnxruntime")]


def require(*packages: str) -> None:
    """Raise ConfigError, with the cure, if a package that exports need is not installed."""
    from importlib.util import find_spec

    lacking = [package for package in packages if find_spec(package) is None]
    if lacking:
        raise ConfigError(f"export needs {', '.join(lacking)}: pip install 'sparse-sam[export]'")


def _without_traces(proto: Any) -> None:
    """Take out where the exporter stood: paths of this machine, which nobody can use."""
    graph = proto.graph
    for holder in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del holder.metadata_props[:]
    for value in graph.value_info:
        del value.metadata_props[:]
    for node in graph.node:
        node.doc_string = ""
