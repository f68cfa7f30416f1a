"""Sentences made of a run's own numbers. None says more than they do."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sparse_sam.evaluation.report.content import Content
from sparse_sam.evaluation.shown_arms import ARM_NAMES, COMPARISONS
from sparse_sam.evaluation.words import signed
from sparse_sam.files import gaps, why_not


def facts(content: Content) -> list[tuple[str, str]]:
    """What was compared, where and when: names and values, the most asked for first."""
    summary, params = content.summary, content.params
    said = [
        ("network", f"{summary['model']}, {summary['arms']['sam']['sparsity']:.1%} sparse"),
        ("data", summary["dataset"]),
        ("seeds", ", ".join(map(str, summary["seeds"]))),
        ("ρ", f"{params['finetune.sam.rho']:g}" if "finetune.sam.rho" in params else ""),
        ("changed from the defaults", content.changed or ""),
    ]
    if content.provenance:
        last = content.provenance[-1]
        if last.ended is not None:
            moment = datetime.fromtimestamp(last.ended / 1000, UTC)
            said.append(("trained", f"{moment:%Y-%m-%d %H:%M} UTC"))
        said.append(("commit", last.commit[:10] + (" + changes" if last.dirty else "")))
        said.append(("machine", last.machine))
    return [(name, value) for name, value in said if value]


def difference(name: str) -> str:
    """A comparison by its arms."""
    first, second = COMPARISONS[name]
    return f"{ARM_NAMES[first]} − {ARM_NAMES[second]}"


def verdicts(content: Content) -> list[str]:
    """The comparisons, each a sentence; then what the arms cost."""
    arms = content.summary["arms"]
    costs = [
        f"{ARM_NAMES[arm]} {arms[arm]['gradient_evaluations']} ({arms[arm]['seconds']:.1f} s)"
        for arm in ("sgd", "sgd_2x", "sam")
    ]
    said = [compared["verdict"] for _, compared in comparisons(content)]
    return [*said, f"Gradient evaluations of finetuning, per seed: {', '.join(costs)}."]


def comparisons(content: Content) -> list[tuple[str, Any]]:
    """By name, the one that decides first."""
    decides = content.summary["primary"]
    return sorted(content.summary["comparisons"].items(), key=lambda one: one[0] != decides)


def sparse_networks(content: Content) -> list[str]:
    """Question 1: what sparsity costs and buys."""
    arms = content.summary["arms"]
    dense, pruned = (100 * arms[arm]["accuracy"]["mean"] for arm in ("dense", "pruned"))
    ticket = content.is_ticket
    how = " and resetting the others to their initial values" if ticket else ""
    when, then = ("", "Trained from there") if ticket else (" before finetuning", "Finetuned")
    share = f"{arms['pruned']['sparsity']:.1%} of the prunable weights"
    said = [
        f"The given network already has {share} at 0, and they stay at 0: its test accuracy is "
        f"{pruned:.2f} %."
        if content.came_sparse
        else f"Pruning {share}{how}{when} takes the test accuracy from {dense:.2f} % to "
        f"{pruned:.2f} %."
    ]
    for arm in ("sgd", "sgd_2x", "sam"):
        mean = 100 * arms[arm]["accuracy"]["mean"]
        said.append(
            f"{then} with {ARM_NAMES[arm]}, it is {mean:.2f} %, {signed(mean - dense)} points "
            "against " + ("the given network." if content.came_sparse else "the dense network.")
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
        f"On disk, the weights take {size['dense'] / 1e3:.0f} kB dense and "
        f"{size['sparse'] / 1e3:.0f} kB packed ({size['sparse'] / size['dense']:.0%}). "
        "Compressed with zlib, which makes zeros cheap in both forms, they take "
        f"{size['dense_compressed'] / 1e3:.0f} and {size['sparse_compressed'] / 1e3:.0f} kB. "
        "In memory nothing is saved, because torch stores the zeros."
    )


def _multiplications(count: Mapping[str, Any]) -> str:
    said = (
        f"A forward pass takes {count['dense'] / 1e6:.2f} million multiply-adds; a kernel that "
        f"skipped every zero would take {count['sparse'] / 1e6:.2f} million."
    )
    if left_out := count["left_out"]:
        some = ", ".join(left_out[:3]) + (f" and {len(left_out) - 3} more" * (len(left_out) > 3))
        said += (
            " This counts linear, convolution and attention layers, but not weights that are used "
            f"in other ways ({some})."
        )
    return said


def _latency(batch: int, rows: Sequence[Mapping[str, Any]]) -> str:
    dense, *others = rows
    timed = [row for row in others if why_not(row) is None]
    said = f"At batch {batch}, the dense network takes {dense['median_ms']:.2f} ms on this machine"
    if not timed:
        return f"{said}; no form of the sparse network could be timed."
    best = min(timed, key=lambda row: row["relative_to_dense"])
    factor = best["relative_to_dense"]
    gain = (
        "no form of the sparse network is faster by more than a tenth"
        if factor > 0.9
        else f"the fastest sparse form takes {factor:.2f} of that time"
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
            f"For the same epochs, SAM computes {gradients:.2f} times the gradients of SGD and "
            f"takes {sam['seconds'] / sgd['seconds']:.2f} times as long ({sam['seconds']:.1f} and "
            f"{sgd['seconds']:.1f} seconds per seed)."
        )
    ]
    for arm in ("sgd", "sgd_2x", "sam"):
        points = 100 * (arms[arm]["accuracy"]["mean"] - pruned["accuracy"]["mean"])
        name = ARM_NAMES[arm][0].upper() + ARM_NAMES[arm][1:]
        if round(points, 2) > 0:  # what is said; less is one of rounding
            said.append(
                f"{name} {verb} {points:.2f} points {start}, at "
                f"{arms[arm]['seconds'] / points:.1f} seconds per point."
            )
        else:
            said.append(f"{name} {verb} nothing {start} ({signed(points)} points).")
    said.append(
        "SAM adds a hyperparameter, the radius ρ, and one copy of the weights in memory"
        + _memory(content)
    )
    return said


def _memory(content: Content) -> str:
    if not content.cost:
        return "."
    sgd, sam = (content.cost[arm]["peak_step_memory_bytes"] for arm in ("sgd", "sam"))
    if gone := missing("A step's peak was", sam):
        return f". {gone}"
    return f": a step's peak is {sam / 2**20:.0f} MiB, against {sgd / 2**20:.0f} MiB with SGD."


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
            "Hessian, longer ascent and pictures are of the first seed only.)"
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
        found = (
            "these seeds show no difference."
            if _overlap(row, other)
            else f"{flatter}'s are flatter."
        )
        said.append(
            f"At ρ = {row['rho']:g}, the loss rises by {row['mean']:.4f} around SAM's weights and "
            f"by {other['mean']:.4f} around SGD's: {found}"
        )
    return said


def _overlap(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    if not one["ci95"] or not other["ci95"]:
        return True
    return bool(one["ci95"][0] <= other["ci95"][1] and other["ci95"][0] <= one["ci95"][1])
