"""What every optimizer is asked here: whether it holds the model."""

from torch import nn
from torch.optim import Optimizer

from sparse_sam.errors import StaleOptimizerError
from sparse_sam.pruning import plain_parameters


def check_holds(optimizer: Optimizer, model: nn.Module) -> None:
    """Check that ``optimizer`` holds the trainable parameters of ``model``, and nothing else.

    An optimizer that was made for another model steps without an error and moves nothing that
    the caller looks at. (That is the first fault of the notebook in docs/protocol.md.)

    Frozen parameters (``requires_grad`` False) may be held or not: no step moves them.

    Raises:
        StaleOptimizerError: it misses a parameter of the model, or holds one that is not.
    """
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    parameters = plain_parameters(model)
    missing = [name for name, p in parameters.items() if p.requires_grad and id(p) not in held]
    foreign = len(held - {id(parameter) for parameter in parameters.values()})
    if missing or foreign:
        names = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise StaleOptimizerError(
            f"the optimizer holds {foreign} tensors that are not parameters of this model and "
            f"misses {len(missing)} that are ({names or 'none'}). Make a new optimizer from "
            "model.parameters() after you build, prune or load the model."
        )
