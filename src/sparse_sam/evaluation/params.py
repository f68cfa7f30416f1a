"""The section ``evaluate`` of ``params.yaml``."""

from typing import Annotated

from pydantic import Field

from sparse_sam.files import Section


class EvaluateParams(Section):
    """What the comparison calls no difference, and how long inference is timed."""

    equivalence_margin: Annotated[float, Field(gt=0, lt=1)]
    latency_seconds: Annotated[float, Field(ge=0, le=3600)]
