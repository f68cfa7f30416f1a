"""torch's optimizers without torch's compiler.

``torch.optim.Optimizer`` imports the compiler (``torch._dynamo``) when it is made and when it
steps, only to say that neither is to be compiled: a second of every process that trains. Here is
the same code without that wrapping, for steps that are not compiled themselves. The network may be.
"""

import inspect

import torch
from torch.optim import Optimizer


class Uncompiled:
    """What of an optimizer would import the compiler, as it is within. To be inherited first."""

    add_param_group = inspect.unwrap(Optimizer.add_param_group)
    zero_grad = inspect.unwrap(Optimizer.zero_grad)
    state_dict = inspect.unwrap(Optimizer.state_dict)
    load_state_dict = inspect.unwrap(Optimizer.load_state_dict)


class SGD(Uncompiled, torch.optim.SGD):
    """``torch.optim.SGD``, to the bit. Raises what it raises."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.SGD.step))
