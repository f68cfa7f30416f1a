"""Torchvision, imported where its build fits torch and where it does not. Alone imports it."""

import re
import sys
from types import ModuleType
from typing import cast

import torch

_OPERATORS = torch.library.Library(  # type: ignore[no-untyped-call]
    "torchvision", "FRAGMENT"
)  # lives as long as its operators


def import_torchvision() -> ModuleType:
    """Torchvision, also where it was built for another build of torch.

    Its import then fails for want of operators that this project does not use. What is missing
    is defined, and nothing else: a torchvision that matches defines its operators itself.
    """
    while True:
        try:
            import torchvision
        except RuntimeError as error:
            missing = re.search(r"operator torchvision::(q?nms) does not exist", str(error))
            if not missing:
                raise
            for module in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
                del sys.modules[module]
            # This ends: to define an operator a second time is an error.
            schema = f"{missing[1]}(Tensor dets, Tensor scores, float threshold) -> Tensor"
            _OPERATORS.define(schema)  # type: ignore[no-untyped-call]
        else:
            return cast("ModuleType", torchvision)
