"""The model card of an export: what the network is, was trained on, can do, and was not tested for.

Everything in it is read from the checkpoint, the manifest, the data set and what the run recorded;
what is not known is called so. It begins with the header that Hugging Face's hub reads.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sparse_sam.data import DataInfo
from sparse_sam.files import as_markdown, printable
from sparse_sam.training import parse_origin

CARD = "model_card.md"
_MOST_CLASSES = 20
_LICENCES = {
    **{name: name.lower() for name in ("MIT", "Apache-2.0", "ISC", "MPL-2.0", "Unlicense")},
    **{name: name.lower() for name in ("BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "EPL-2.0")},
    **{name: name.lower() for name in ("CC-BY-4.0", "CC-BY-SA-4.0", "CC-BY-NC-4.0")},
    **{
        f"{name}{which}": name.lower()
        for name in ("GPL-2.0", "GPL-3.0", "LGPL-2.1", "LGPL-3.0", "AGPL-3.0")
        for which in ("", "-only", "-or-later")
    },
}
"""SPDX's names that the hub knows, and what it calls them."""


@dataclass(frozen=True)
class Background:
    """What is known of a network beside the network itself.

    Attributes:
        data: the data set.
        arm: what the arm is called; None: as the checkpoint says.
        recipes: parameters of the stages that made it, by stage; None for one whose record is
            missing or of other networks.
        commit: of the code that finetuned it, in words.
        over_seeds: ``mean``, ``ci95`` and ``values`` of the arm's test accuracy.
        verdict: how the arms compare, as a sentence.
        licence: as an SPDX identifier, or in words.
        licence_from: the file of the project that says so.
    """

    data: DataInfo
    arm: str | None = None
    recipes: Mapping[str, Mapping[str, Any] | None] = field(default_factory=dict)
    commit: str | None = None
    over_seeds: Mapping[str, Any] | None = None
    verdict: str | None = None
    licence: str | None = None
    licence_from: str | None = None


def interval(accuracy: float, images: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of images: how other images of the kind might come out."""
    from scipy.stats import binomtest

    found = binomtest(round(accuracy * images), images).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def percent(share: float) -> str:
    """A share as people write it."""
    return f"{100 * share:.2f} %"


def accuracy_in_words(manifest: Mapping[str, Any]) -> str:
    """The test accuracy of an export with its interval."""
    test = manifest["test"]
    low, high = interval(test["accuracy"], test["images"])
    return (
        f"{percent(test['accuracy'])} of {test['images']:,} test images "
        f"(95 % interval {100 * low:.2f}–{percent(high)})"
    )


def checks_in_words(manifest: Mapping[str, Any]) -> str:
    """How the files of an export were checked."""
    files = manifest["files"].values()
    ties = sum(file["ties"] for file in files)
    largest = max(file["largest_difference"] for file in files)
    but = f", but for {ties} ties at rounding" if ties else ""
    return (
        f"Every file was read back from disk and run on all {manifest['test']['images']:,} test "
        f"images: it gives the finetuned network's predictions{but}, and its logits within "
        f"{largest:.1e}."
    )


def model_card(manifest: Mapping[str, Any], known: Background) -> str:
    """The card as Markdown.

    Args:
        manifest: what ``export.json`` says; the card's own hash is not there yet.
        known: what else there is to say.
    """
    origin = parse_origin(manifest["origin"])
    arm = known.arm or origin.arm
    title = f"{origin.model}, {percent(manifest['sparsity'])} sparse, {arm}, seed {origin.seed}"
    sections = {
        "What it is": _what(manifest, origin, arm),
        "Intended use": _use(known.data, origin),
        "Limits": _limits(manifest, origin),
        "Results": _results(manifest, known, arm),
        "Files": _files(manifest),
        "Data": _data(known.data),
        "Training": _training(known),
        "Licence": _licence(known),
    }
    text = "\n\n".join(f"## {name}\n\n{body}" for name, body in sections.items())
    return f"{_front_matter(manifest, known, title)}\n# {as_markdown(title)}\n\n{text}\n"


def _front_matter(manifest: Mapping[str, Any], known: Background, title: str) -> str:
    """What Hugging Face's hub reads; JSON is YAML, and nobody's text breaks out of it."""
    test, source = manifest["test"], printable(known.data.source)
    result = {
        "task": {"type": "image-classification"},
        "dataset": {"name": source, "type": source, "split": "test"},
        "metrics": [{"type": "accuracy", "value": round(test["accuracy"], 6)}],
    }
    fields: dict[str, Any] = {
        "pipeline_tag": "image-classification",
        "library_name": "onnx",
        "tags": ["image-classification", "pruning", "sparsity"],
        "metrics": ["accuracy"],
        "model-index": [{"name": printable(title), "results": [result]}],
    }
    if known.licence:
        fields["license"] = _LICENCES.get(known.licence, "other")
        if known.licence not in _LICENCES:
            fields["license_name"] = printable(known.licence)
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in fields.items()]
    return "\n".join(("---", *lines, "---", ""))


def _what(manifest: Mapping[str, Any], origin: Any, arm: str) -> str:
    channels, height, width = origin.image_shape
    names = ", ".join(map(as_markdown, origin.classes[:_MOST_CLASSES]))
    more = "" if origin.num_classes <= _MOST_CLASSES else ", …"
    removed = sum(manifest["channels_removed"].values())
    narrow = f" {removed:,} channels without weights are removed in the ONNX file." * bool(removed)
    return (
        f"A classifier of images: the network {as_markdown(origin.model)}, finetuned with "
        f"{as_markdown(arm)}. Of the weights that may be pruned, "
        f"{percent(manifest['sparsity'])} are 0.{narrow}"
        f"\n\nIt takes {channels} × {height} × {width} pixels and tells {origin.num_classes} "
        f"classes apart: {names}{more}."
    )


def _use(data: DataInfo, origin: Any) -> str:
    channels, height, width = origin.image_shape
    return (
        f"Images of the kind that {as_markdown(data.source)} holds, cut and scaled as there. "
        f"`model.onnx` takes bytes, uint8 (N, {channels}, {height}, {width}), 0 to 255; "
        "the other files take (pixels / 255 − mean) / std, with the numbers under Data.\n\n"
        "It was made to compare ways of finetuning pruned networks. It was tested for no other "
        "use: whoever has one in mind must test it on images of their own."
    )


def _limits(manifest: Mapping[str, Any], origin: Any) -> str:
    faster = (
        "What is smaller, and can be faster, are the files with channels removed."
        if manifest["channels_removed"]
        else "No whole channels could be removed from this network."
    )
    return (
        "- The test images come from the same data set as the training images. How it does on "
        "others (another source, another camera, damaged or shifted images) was not measured.\n"
        f"- It answers with one of its {origin.num_classes} classes whatever it is shown, also an "
        "image of none of them.\n"
        "- Its logits were not calibrated: their softmax is no measured probability.\n"
        "- Whether it does equally well on all kinds of images within a class was not measured.\n"
        f"- Stored zeros do not make it faster. {faster}"
    )


def _results(manifest: Mapping[str, Any], known: Background, arm: str) -> str:
    sample = "The interval is Wilson's, and says how far another sample of such images might lie."
    said = [f"This network: **{accuracy_in_words(manifest)}**. {sample}"]
    if over := known.over_seeds:
        seeds, ends = len(over["values"]), over["ci95"]
        # Two seeds give intervals that no accuracy can have: they say nothing but that.
        is_possible = bool(ends) and ends[0] >= 0 and ends[1] <= 1
        between = f" (95 % interval {100 * ends[0]:.2f}–{percent(ends[1])})" * is_possible
        plural = "s" * (seeds != 1)
        said.append(
            f"{as_markdown(arm)}, over {seeds} seed{plural}: "
            f"{percent(over['mean'])} on average{between}."
        )
    else:
        said.append("Over several seeds: not recorded for this network.")
    if known.verdict:
        said.append(as_markdown(known.verdict))
    said.append(checks_in_words(manifest))
    return "\n\n".join(said)


def _files(manifest: Mapping[str, Any]) -> str:
    rows = [
        (name, f"{of['raw']:,}", f"{of['compressed']:,}", percent(of["accuracy"]), of["sha256"])
        for name, of in manifest["files"].items()
    ]
    return _table(("file", "bytes", "bytes compressed", "test accuracy", "SHA-256"), rows)


def _data(data: DataInfo) -> str:
    rows = [
        ("source", data.source),
        ("fingerprint", data.fingerprint),
        *((f"{part} images", f"{sum(counts):,}") for part, counts in data.counts.items()),
        ("mean, by channel", ", ".join(f"{value:.6g}" for value in data.mean)),
        ("std, by channel", ", ".join(f"{value:.6g}" for value in data.std)),
    ]
    return (
        f"{_table(('what', 'value'), rows)}\n\nUnless a person named this network, validation "
        "images chose it; test images chose nothing. The licence of the data is its "
        "source's, and not stated here."
    )


def _training(known: Background) -> str:
    if not any(known.recipes.values()):
        return "Not recorded: no run of these networks was found."
    said = [f"By the code of {known.commit}."] if known.commit else []
    seen: set[str] = set()  # a stage that continues another repeats its parameters
    for stage, recipe in known.recipes.items():
        rows = [one for one in (recipe or {}).items() if one[0] not in seen]
        seen |= {name for name, _ in rows}
        said.append(as_markdown(stage) if rows else f"{as_markdown(stage)}: not recorded.")
        if rows:
            said.append(_table(("parameter", "value"), rows))
    return "\n\n".join(said)


def _licence(known: Background) -> str:
    if not known.licence:
        return "Not stated by the project that made it."
    where, licence = as_markdown(known.licence_from), as_markdown(known.licence)
    return f"The project that made it states, in {where}: {licence}."


def _table(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join(f"| {' | '.join(map(as_markdown, line))} |" for line in lines)
