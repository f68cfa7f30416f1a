"""The choice of every arm's candidate in every regime, from validation results alone."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean

from sparse_sam.sweep.cells import Cell, Chosen
from sparse_sam.sweep.compute import Result
from sparse_sam.sweep.declaration import Changes, Regime, Sweep


@dataclass(frozen=True)
class Choice:
    """What was chosen, and the regimes and arms where nothing could be.

    Attributes:
        chosen: the candidate by regime and arm.
        lacking: why there is none, by regime and arm.
    """

    chosen: Chosen
    lacking: Mapping[tuple[Regime, str], str]


def choose_all(sweep: Sweep, tried: Iterable[Cell], results: Mapping[str, Result]) -> Choice:
    """Choose for every regime and arm.

    The candidate with the best mean validation accuracy over the seeds that choose; among equals
    the one with the smaller mean validation loss, then the first. A candidate that diverged with
    any of the seeds is not chosen. An arm with one candidate has no choice.

    Args:
        sweep: the declaration.
        tried: the cells that choose.
        results: what they found, by key; those that failed are not there.
    """
    groups: dict[tuple[Regime, str], dict[Changes, list[Cell]]] = {}
    for cell in tried:
        groups.setdefault((cell.regime, cell.arm), {}).setdefault(cell.candidate, []).append(cell)
    chosen: dict[tuple[Regime, str], Changes] = {}
    lacking: dict[tuple[Regime, str], str] = {}
    for regime in sweep.regimes():
        for arm in sweep.arms:
            place = (regime, arm.name)
            if len(arm.candidates) == 1:
                chosen[place] = arm.candidates[0]
                continue
            candidates = groups[place]
            if any(cell.key not in results for cells in candidates.values() for cell in cells):
                lacking[place] = "cells that the choice needs failed"
                continue
            best = _best({one: [results[c.key] for c in of] for one, of in candidates.items()})
            if best is None:
                lacking[place] = "every candidate diverged"
            else:
                chosen[place] = best
    return Choice(chosen, lacking)


def _best(found: Mapping[Changes, list[Result]]) -> Changes | None:
    ranked = []
    for place, (candidate, results) in enumerate(found.items()):
        accuracies = [one.validation_accuracy for one in results]
        losses = [one.validation_loss for one in results]
        known = [a for a in accuracies if a is not None], [x for x in losses if x is not None]
        if len(known[0]) == len(results) and len(known[1]) == len(results):
            ranked.append((-fmean(known[0]), fmean(known[1]), place, candidate))
    return min(ranked)[-1] if ranked else None
