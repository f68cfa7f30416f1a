"""What a variant keeps between steps, as part of a base optimizer's ``state_dict``.

It lies beside what the base optimizer keeps for each parameter, where whoever reads a state dict
looks: ``torch.distributed.checkpoint`` saves that by the parameter's name and in shards, and knows
of nothing else. What is of no parameter lies there for each of them.
"""

from typing import Any

from torch import Tensor

_OF_EACH, _OF_ALL = "sam_each_", "sam_all_"


def with_own(state_dict: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """``state_dict`` with a variant's own state in it.

    Args:
        state_dict: of the base optimizer; it is left as it is.
        own: by name a value, or a dict of tensors by the place of their parameter.
    """
    state = {**state_dict["state"]}
    for place in (place for group in state_dict["param_groups"] for place in group["params"]):
        mine = {}
        for name, value in own.items():
            if not _is_of_each(value):
                mine[_OF_ALL + name] = value
            elif place in value:
                mine[_OF_EACH + name] = value[place]
        if mine:
            state[place] = {**state.get(place, {}), **mine}
    return {**state_dict, "state": state}


def without_own(state_dict: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Take a state dict apart into the base optimizer's and what ``with_own`` was given.

    Places are counted, whatever names the state dict has for parameters.
    """
    # A key of its own: where earlier versions kept it.
    state, own = {**state_dict["state"]}, {**state_dict.get("sam", {})}
    names = [name for group in state_dict["param_groups"] for name in group["params"]]
    for place, name in enumerate(names):
        theirs = {}
        for key, value in state.pop(name, {}).items():
            if key.startswith(_OF_EACH):
                own.setdefault(key.removeprefix(_OF_EACH), {})[place] = value
            elif key.startswith(_OF_ALL):
                own[key.removeprefix(_OF_ALL)] = value
            else:
                theirs[key] = value
        if theirs:
            state[name] = theirs
    return {**state_dict, "state": state}, own


def _is_of_each(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(place, int) and isinstance(one, Tensor) for place, one in value.items()
    )
