"""What a pipeline run is called: by the parameters that differ from the committed ones."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from sparse_sam.config import Params, load_params, parse_params
from sparse_sam.errors import ConfigError
from sparse_sam.files import git_says, printable
from sparse_sam.tracking.paths import layout

CHANGED = "params.changed"
"""The tag that says it."""
AS_COMMITTED = "committed parameters"
CHANGE_NO_RESULT = ("engine", "save_every_steps", "data.mirror", "data.folder", "registry")
"""Parameters, or sections of them, that change no result."""
_LONGEST_VALUE, _MOST_KEYS, _LONGEST = 40, 4, 120
_SHORT = {
    "finetune.sam.rho": "ρ {}",
    "finetune.sam.variant": "{}",
    "prune.criterion": "{}",
    "prune.schedule.name": "{}",
    "prune.scope": "{} scope",
    "prune.structure": "{}",
    "model.name": "{}",
    "data.source": "{}",
    "finetune.training.epochs": "{} epochs",
    "finetune.training.lr": "lr {}",
    "train_dense.epochs": "dense {} epochs",
    "train_dense.lr": "dense lr {}",
}


def changed_parameters() -> str | None:
    """How the parameters of the current folder differ from the committed ones, in short.

    None if there are none, as ``committed_parameters`` says.
    """
    committed = committed_parameters()
    if committed is None:
        return None
    try:
        now = load_params(layout.params)
    except ConfigError:
        return None
    return in_short(differences(now, committed)) or AS_COMMITTED


def differences(now: Params, before: Params) -> dict[str, Any]:
    """The flat parameters in effect that differ and can change a result, with their new values."""
    hidden = tuple(f"{name}." for name in CHANGE_NO_RESULT)
    values, old = in_effect(now.flat()), in_effect(before.flat())
    return {
        key: values.get(key)
        for key in (*values, *(one for one in old if one not in values))
        if (key not in old or key not in values or old[key] != values[key])
        and not f"{key}.".startswith(hidden)
    }


def in_effect(params: Mapping[str, Any]) -> dict[str, Any]:
    """Flat parameters without those that are not set, or that nothing asks in this run.

    MLflow's comparison of runs would begin with them.
    """
    idle = []
    if params.get("train_dense.optimizer") == "sgd":
        idle.append("train_dense.sam.")
    if params.get("finetune.distillation.weight") == 0:
        idle.append("finetune.distillation.temperature")
    return {
        key: value
        for key, value in params.items()
        if value not in (None, [], {}, "") and not key.startswith(tuple(idle))
    }


def in_short(changed: Mapping[str, Any]) -> str:
    """Changed parameters in a few words, such as ``ρ 0.1 · 50 % sparse``; "" if there are none."""
    said = [_one(key, value) for key, value in sorted(changed.items(), key=_importance)]
    if len(said) > _MOST_KEYS:
        said = [*said[: _MOST_KEYS - 1], f"{len(said) - _MOST_KEYS + 1} more"]
    return printable(" · ".join(said))[:_LONGEST]


def _importance(changed: tuple[str, Any]) -> tuple[int, str]:
    order = ("finetune.sam.rho", "prune.sparsity", *_SHORT)
    key = changed[0]
    return (order.index(key) if key in order else len(order), key)


def _one(key: str, value: Any) -> str:
    if key == "prune.sparsity":
        return "zeros as given" if value is None else f"{round(100 * value, 10):.12g} % sparse"
    if key == "seeds":
        return f"seeds {_listed(value)}"
    text = f"{value:.12g}" if isinstance(value, float) else str(value)
    text = text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 1]}…"
    return _SHORT.get(key, f"{key.replace('finetune.', '').replace('training.', '')} {{}}").replace(
        "{}", text
    )


def _listed(seeds: Sequence[int]) -> str:
    """Seeds in a row as a range."""
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[0] + len(seeds))):
        return f"{seeds[0]}–{seeds[-1]}"
    return ", ".join(map(str, seeds))


def committed_parameters() -> Params | None:
    """Those of the commit that an experiment of DVC began from, or of HEAD; None if it has none.

    Nor are there any where they are of another version.
    """
    text = committed_text(str(layout.params))
    try:
        return None if text is None else parse_params(YAML(typ="safe").load(text))
    except (YAMLError, ConfigError):
        return None


def committed_text(path: str) -> str | None:
    """What a file holds in that commit; None if it has none, and outside of git."""
    return git_says("show", f"{committed_revision()}:./{path}")


def committed_revision() -> str:
    """That commit, as git knows it."""
    return os.environ.get("DVC_EXP_BASELINE_REV") or "HEAD"
