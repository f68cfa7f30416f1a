"""Which parameters pruning may choose from."""

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from sparse_sam.pruning.directions import is_gain

NORMALISATION = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
WITH_OUTPUTS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def prunable_parameters(
    model: nn.Module, *, batchnorm: bool = False, biases: bool = False
) -> dict[str, nn.Parameter]:
    """The parameters that pruning may choose from, by name, each once.

    Weights are the parameters with two or more dimensions. Biases and the scales of BatchNorm
    and other normalisation layers are left alone unless asked for: pruning half of the scales
    silences half of the channels. For the same reason the gains of weight normalisation (Salimans
    and Kingma 2016, arXiv:1602.07868) are left alone; the directions are pruned,
    but for one weight of each.
    """
    chosen: dict[str, nn.Parameter] = {}
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(prefix, recurse=False):
            if is_gain(module, name.rpartition(".")[2]):
                continue
            is_bias = name.rpartition(".")[2].endswith("bias")
            if isinstance(module, NORMALISATION):
                wanted = biases if is_bias else batchnorm
            else:
                wanted = biases if is_bias else parameter.dim() >= 2
            if wanted and not any(parameter is other for other in chosen.values()):
                chosen[name] = parameter
    return chosen


def layer_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights of linear and convolutional layers, by the first of their names, each once.

    Their first dimension is that of the outputs, and the others are summed over. A transposed
    convolution's are otherwise, so it is not among them.
    """
    names = {parameter: name for name, parameter in model.named_parameters()}
    chosen: dict[str, nn.Parameter] = {}
    for module in model.modules():
        if isinstance(module, WITH_OUTPUTS):
            for own, parameter in module.named_parameters(recurse=False):
                if own == "weight":
                    chosen.setdefault(names[parameter], parameter)
    return chosen
