"""Which network ships: the best on validation images, never on test images."""

from collections.abc import Mapping, Sequence
from typing import Any

from sparse_sam.errors import ConfigError

_CURE = "Name one: make export ARM=… SEED=…"


def select_best(
    metrics: Mapping[str, Mapping[str, Any]],
    seeds: Sequence[int],
    arm: str | None = None,
    seed: int | None = None,
) -> tuple[str, int]:
    """The finetuned arm with the best mean validation accuracy, and the best seed of it.

    What is named is kept. Ties go to the lower validation loss, then to the first.

    Args:
        metrics: of the finetuned arms, as ``training_metrics`` makes them.
        seeds: what their ``values`` belong to.
        arm: chosen already; may be one without validation metrics if ``seed`` is chosen too.
        seed: chosen already.

    Raises:
        ConfigError: there is no such seed, or nothing to choose by.
    """
    if seed is not None and seed not in seeds:
        raise ConfigError(f"SEED={seed} was not trained; allowed: {', '.join(map(str, seeds))}")
    if arm is not None and seed is not None:
        return arm, seed
    candidates = [arm] if arm else list(metrics)
    for one in candidates:
        measured = metrics.get(one, {}).get("validation_accuracy")
        if measured is None:
            raise ConfigError(f"{one} has no validation accuracy to choose by. {_CURE}")
        if len(measured["values"]) != len(seeds):
            raise ConfigError(
                f"{one} has {len(measured['values'])} seeds, but params.yaml names {len(seeds)}. "
                "Run `make repro`."
            )
    best = max(candidates, key=lambda one: _worth(metrics[one], "mean"))
    if seed is None:
        values = range(len(seeds))
        seed = seeds[max(values, key=lambda i: _worth(metrics[best], "values", i))]
    return best, seed


def _worth(of: Mapping[str, Any], what: str, place: int | None = None) -> tuple[float, float]:
    accuracy, loss = of["validation_accuracy"][what], of["validation_loss"][what]
    return (accuracy, -loss) if place is None else (accuracy[place], -loss[place])
