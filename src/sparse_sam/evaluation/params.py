"""The section ``evaluate`` of ``params.yaml``."""

from typing import Annotated

from pydantic import Field

from sparse_sam.files import Section

Budget = Annotated[float, Field(ge=0, le=1_000_000)]


class BudgetParams(Section):
    """How many seconds a measure beside the comparison may take; one that needs more is left out.

    Whole measures, of all arms: what would take longer is known before, by a piece of it.
    """

    sharpness: Budget
    curvature: Budget
    landscape: Budget
    step_memory: Budget
    latency: Budget
    compression: Budget


class EvaluateParams(Section):
    """What the comparison calls no difference, and how long is measured beside it."""

    equivalence_margin: Annotated[float, Field(gt=0, lt=1)]
    latency_seconds: Annotated[float, Field(ge=0, le=3600)]
    budget_seconds: BudgetParams
