"""Write the study's page from its results: ``python -m studies.colour.report``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparse_sam.evaluation import ARM_NAMES
from sparse_sam.files import read_json, write_text

HERE = Path(__file__).resolve().parent
RESULTS, REPORT = HERE / "results.json", HERE / "REPORT.md"


def page(results: Mapping[str, Any]) -> str:
    """The results as a page."""
    arms, data = results["summary"]["arms"], results["data"]
    rows = "\n".join(
        f"| {ARM_NAMES[arm]} | {100 * of['accuracy']['mean']:.1f} | "
        f"{' '.join(f'{100 * one:.1f}' for one in of['accuracy']['values'])} | "
        f"{of['sparsity']:.1%} | {of['gradient_evaluations']} | {of['seconds']:.0f} |"
        for arm, of in arms.items()
    )
    verdicts = "\n".join(
        f"- {one['verdict']}" for one in results["summary"]["comparisons"].values()
    )
    images, pixels = data["images"], results["logistic_regression"]
    return f"""# A residual network on photographs

`{results["summary"]["model"]}` is trained, pruned and finetuned on colour images of {" × ".join(map(str, data["image_shape"]))} in {len(data["classes"])} class folders, with flips and padded crops. It uses {images["train"]} training, {images["validation"]} validation and {images["test"]} test images, a stratified part of the folder (fingerprint {data["fingerprint"][:16]}…). `params.yaml` lists what differs from the reference protocol. The images are strongly compressed copies of CIFAR-10's: compare the rows with each other, not with published results on CIFAR-10. `python -m studies.colour.run` writes this page.

| arm | test accuracy % | every seed | sparsity | gradient evaluations | seconds a seed |
|---|---|---|---|---|---|
{rows}
| logistic regression on the pixels | {100 * pixels["accuracy"]:.1f} | | | | |

{verdicts}

Logistic regression on the same images is the baseline (C = {pixels["C"]:g}, chosen on the validation part among {", ".join(f"{one:g}" for one in pixels["tried"])}). The dense network is {100 * (arms["dense"]["accuracy"]["mean"] - pixels["accuracy"]):.1f} points above it, and SAM's sparse network {100 * (arms["sam"]["accuracy"]["mean"] - pixels["accuracy"]):.1f}.
"""


if __name__ == "__main__":
    write_text(REPORT, page(read_json(RESULTS, cure="Run python -m studies.colour.run first.")))
