"""What MLflow's model registry says of a version and of the model: descriptions and tags."""

import json
from collections.abc import Mapping
from typing import Any

from sparse_sam.evaluation import ARM_NAMES
from sparse_sam.export import CARD, ONNX, accuracy_in_words, checks_in_words, interval, percent
from sparse_sam.training import parse_origin

_EXPORT = "sparse_sam.export"
OF_THE_MODEL = f"""\
Networks that were pruned and finetuned, as ONNX: bytes of images in; labels, their names and \
logits out.

A version's description says its accuracy, size and sparsity, and how it was checked; its tag \
`sparse_sam.gate`, whether the regression gate passed. The alias `champion` is the last version \
that passed. The run that a version comes from holds all its files, and the model card \
(`export/{CARD}`)."""
"""The description of the registered model."""


def tags(manifest: Mapping[str, Any]) -> dict[str, str]:
    """The tags of a version and of its run."""
    origin, test = manifest["origin"], manifest["test"]
    low, high = interval(test["accuracy"], test["images"])
    return {
        _EXPORT: json.dumps(manifest["checkpoint"], sort_keys=True),
        "model": str(parse_origin(origin).model),
        "arm": str(origin["arm"]),
        "seed": str(origin["seed"]),
        "sparsity": f"{manifest['sparsity']:.6g}",
        "dataset": str(origin["dataset"]),
        "data.source": str(test["source"]),
        "test_accuracy": f"{test['accuracy']:.6g}",
        "test_accuracy.interval": f"{low:.4f} to {high:.4f}",
        "test_images": str(test["images"]),
        "bytes": str(manifest["files"][ONNX]["raw"]),
    }


def of_the_version(manifest: Mapping[str, Any]) -> str:
    """The description of a version."""
    origin, files = parse_origin(manifest["origin"]), manifest["files"]
    sizes = ", ".join(f"`{name}` {file['raw']:,}" for name, file in files.items())
    removed = sum(manifest["channels_removed"].values())
    narrow = f"; {removed:,} channels without weights are removed" if removed else ""
    return f"""\
{accuracy_in_words(manifest)}, {percent(manifest["sparsity"])} sparse, {files[ONNX]["raw"]:,} bytes

- What: `{origin.model}` on {manifest["test"]["source"]}, {ARM_NAMES[origin.arm]}, \
seed {origin.seed}
- The interval is Wilson's: how far another sample of such images might lie
- Bytes: {sizes}{narrow}
- Checked: {checks_in_words(manifest)}
- More: the model card, `export/{CARD}` of the run that this version comes from"""
