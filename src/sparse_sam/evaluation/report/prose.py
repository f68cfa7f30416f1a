"""Sentences made of a run's own numbers. None says more than they do."""

from collections.abc import Mapping, Sequence
from typing import Any

from sparse_sam.evaluation.report.content import Content
from sparse_sam.files import gaps, why_not

NAMES = {
    "dense": "the dense network",
    "pruned": "the pruned network",
    "sgd": "SGD",
    "sgd_2x": "SGD for twice the epochs",
    "sam": "SAM",
}


def verdicts(content: Content) -> list[str]:
    """The comparisons, each a sentence."""
    return [compared["verdict"] for compared in content.summary["comparisons"].values()]


def sparse_networks(content: Content) -> list[str]:
    """Question 1: what sparsity costs and buys."""
    arms = content.summary["arms"]
    dense, pruned = (100 * arms[arm]["accuracy"]["mean"] for arm in ("dense", "pruned"))
    ticket = content.is_ticket
    how = ", and putting the others back to their initial values," if ticket else ""
    when, then = ("", "Trained from there") if ticket else (" before finetuning", "Finetuned")
    share = f"{arms['pruned']['sparsity']:.1%} of the prunable weights"
    said = [
        f"The network was given with {share} at 0, which stay there: its test accuracy is "
        f"{pruned:.2f} %."
        if content.came_sparse
        else f"Pruning {share}{how}{when} takes the test accuracy from {dense:.2f} % to "
        f"{pruned:.2f} %."
    ]
    for arm in ("sgd", "sgd_2x", "sam"):
        mean = 100 * arms[arm]["accuracy"]["mean"]
        said.append(
            f"{then} with {NAMES[arm]} it is {mean:.2f} %, {mean - dense:+.2f} points from "
            + ("what it was." if content.came_sparse else "dense.")
        )
    if content.compression:
        said += _sizes(content.compression)
    return said


def missing(what: str, measure: Any) -> str:
    """The sentence for a measure that could not be taken, or "" if there is one."""
    why = why_not(measure)
    return f"{what} not measured: {why}." if why is not None else ""


def _sizes(compression: Mapping[str, Any]) -> list[str]:
    size, count, latency = (compression[of] for of in ("bytes", "multiply_adds", "latency"))
    said = [
        missing("Bytes on disk were", size) or _bytes(size),
        missing("Multiplications were", count) or _multiplications(count),
    ]
    if gone := missing("Latency was", latency):
        return [*said, gone]
    for batch in dict.fromkeys(row["batch"] for row in latency["rows"]):
        rows = [row for row in latency["rows"] if row["batch"] == batch]
        said.append(missing(f"Latency at batch {batch} was", rows[0]) or _latency(batch, rows))
    return said


def _bytes(size: Mapping[str, Any]) -> str:
    return (
        f"On disk the weights take {size['dense'] / 1e3:.0f} kB dense and "
        f"{size['sparse'] / 1e3:.0f} kB packed ({size['sparse'] / size['dense']:.0%}). "
        "Compressed with zlib, where zeros cost little in either form, "
        f"{size['dense_compressed'] / 1e3:.0f} and {size['sparse_compressed'] / 1e3:.0f} kB. "
        "In memory, where torch stores the zeros, nothing is saved."
    )


def _multiplications(count: Mapping[str, Any]) -> str:
    said = (
        f"A forward pass multiplies and adds {count['dense'] / 1e6:.2f} million times; a "
        f"kernel that skipped every zero would do so {count['sparse'] / 1e6:.2f} million times."
    )
    if left_out := count["left_out"]:
        some = ", ".join(left_out[:3]) + (f" and {len(left_out) - 3} more" * (len(left_out) > 3))
        said += (
            " That is of linear, convolution and attention layers; weights that are used otherwise "
            f"are not in it ({some})."
        )
    return said


def _latency(batch: int, rows: Sequence[Mapping[str, Any]]) -> str:
    dense, *others = rows
    timed = [row for row in others if why_not(row) is None]
    said = f"At batch {batch} this machine takes {dense['median_ms']:.2f} ms for the dense network"
    if not timed:
        return f"{said}; no form of the sparse network could be timed."
    best = min(timed, key=lambda row: row["relative_to_dense"])
    factor = best["relative_to_dense"]
    gain = (
        "no form of the sparse network is faster by more than a tenth"
        if factor > 0.9
        else f"the fastest sparse form takes {factor:.2f} of that"
    )
    return f"{said}; {gain} ({best['form']}: {best['median_ms']:.2f} ms)."


def drawbacks(content: Content) -> list[str]:
    """Question 4: what SAM costs."""
    arms = content.summary["arms"]
    sgd, sam, pruned = arms["sgd"], arms["sam"], arms["pruned"]
    verb, start = "recovers", "from the pruned network"
    if content.is_ticket:  # nobody had these points before
        verb, start = "gains", "on the rewound network"
    gradients = sam["gradient_evaluations"] / sgd["gradient_evaluations"]
    said = [
        (
            f"For the same epochs SAM takes {gradients:.2f} times the gradients of SGD and "
            f"{sam['seconds'] / sgd['seconds']:.2f} times its seconds ({sam['seconds']:.1f} and "
            f"{sgd['seconds']:.1f} a seed)."
        )
    ]
    for arm in ("sgd", "sgd_2x", "sam"):
        points = 100 * (arms[arm]["accuracy"]["mean"] - pruned["accuracy"]["mean"])
        name = NAMES[arm][0].upper() + NAMES[arm][1:]
        if points > 0:
            said.append(
                f"{name} {verb} {points:.2f} points {start}, at "
                f"{arms[arm]['seconds'] / points:.1f} seconds a point."
            )
        else:
            said.append(f"{name} {verb} nothing {start} ({points:+.2f} points).")
    said.append(
        "SAM needs a radius to choose, ρ, and one copy of the weights in memory" + _memory(content)
    )
    return said


def _memory(content: Content) -> str:
    if not content.cost:
        return "."
    sgd, sam = (content.cost[arm]["peak_step_memory_bytes"] for arm in ("sgd", "sam"))
    if gone := missing("A step's peak was", sam):
        return f". {gone}"
    return f": a step's peak was {sam / 2**20:.0f} MiB, and {sgd / 2**20:.0f} MiB with SGD."


def flatness(content: Content) -> list[str]:
    """What the measures of flatness say, if they were taken, and which of them were not."""
    if not content.flatness:
        return []
    arms = content.flatness["arms"]
    said = []
    if why_not(arms["sam"]["sharpness"]) is None:
        said += _sharpness(arms)
    said += [f"Not measured: {names}: {why}." for why, names in gaps(content.flatness).items()]
    budget, sam = content.flatness["budget"], arms["sam"]
    numbers = (sam["sharpness"], sam["top_eigenvalues"], sam["trace"])
    if content.slices or content.surfaces or any(why_not(one) is None for one in numbers):
        said.append(
            f"(Measured on {budget['images']} training images in {budget['seconds']:g} seconds; "
            "Hessian, longer ascent and pictures are of the first seed alone.)"
        )
    return said


def _sharpness(arms: Mapping[str, Any]) -> list[str]:
    said = []
    rows: Sequence[Mapping[str, Any]] = arms["sam"]["sharpness"]
    for row in (row for row in rows if row["steps"] == 1):
        other = next(
            one for one in arms["sgd"]["sharpness"] if (one["rho"], one["steps"]) == (row["rho"], 1)
        )
        flatter = "SAM" if row["mean"] < other["mean"] else "SGD"
        overlap = _overlap(row, other)
        said.append(
            f"At ρ = {row['rho']:g} the loss rises by {row['mean']:.4f} around SAM's weights and "
            f"by {other['mean']:.4f} around SGD's: {flatter}'s are the flatter"
            + (", though the seeds' intervals overlap." if overlap else ".")
        )
    return said


def _overlap(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    if not one["ci95"] or not other["ci95"]:
        return True
    return bool(one["ci95"][0] <= other["ci95"][1] and other["ci95"][0] <= one["ci95"][1])
