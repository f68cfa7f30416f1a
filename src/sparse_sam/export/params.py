"""The section ``registry`` of ``params.yaml``."""

import re
from typing import Annotated, Any

from pydantic import BeforeValidator

from sparse_sam.files import Section

_NAME = re.compile(r"[A-Za-z0-9][\w.+-]{0,99}", re.ASCII)


def _plain(value: Any) -> Any:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError("must be a name: up to 100 letters, digits and . _ + - only")
    return value


class RegistryParams(Section):
    """As what an export is registered in MLflow. It makes no number, and nothing depends on it."""

    name: Annotated[str, BeforeValidator(_plain)]
