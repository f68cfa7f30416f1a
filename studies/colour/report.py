"""The page of the study: ``results.json`` in words."""

from collections.abc import Mapping
from typing import Any


def page(results: Mapping[str, Any]) -> str:
    """The results as a page."""
    arms, data = results["summary"]["arms"], results["data"]
    rows = "\n".join(
        f"| {arm} | {100 * of['accuracy']['mean']:.1f} | "
        f"{' '.join(f'{100 * one:.1f}' for one in of['accuracy']['values'])} | "
        f"{of['sparsity']:.1%} | {of['gradient_evaluations']} | {of['seconds']:.0f} |"
        for arm, of in arms.items()
    )
    verdicts = "\n".join(
        f"- {one['verdict']}" for one in results["summary"]["comparisons"].values()
    )
    images, pixels = data["images"], results["logistic_regression"]
    return f"""# A residual network on photographs

`{results["summary"]["model"]}` on colour images of {" × ".join(map(str, data["image_shape"]))} in {len(data["classes"])} class folders, with flips and padded crops: {images["train"]} training, {images["validation"]} validation and {images["test"]} test images, a stratified part of the folder (fingerprint {data["fingerprint"][:16]}…). What differs from the reference protocol is in `params.yaml`. The images are strongly compressed copies of CIFAR-10's: compare the rows with each other, and not with tables of CIFAR-10. Written by `python -m studies.colour.run`.

| arm | test accuracy % | every seed | sparsity | gradient evaluations | seconds a seed |
|---|---|---|---|---|---|
{rows}
| logistic regression on the pixels | {100 * pixels["accuracy"]:.1f} | | | | |

{verdicts}

The dense network is {100 * (arms["dense"]["accuracy"]["mean"] - pixels["accuracy"]):.1f} points above logistic regression on the same images (C = {pixels["C"]:g}, chosen on the validation part among {", ".join(f"{one:g}" for one in pixels["tried"])}), and SAM's sparse one {100 * (arms["sam"]["accuracy"]["mean"] - pixels["accuracy"]):.1f}.
"""
