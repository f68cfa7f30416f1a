"""What a training is that came to no network."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Diverged:
    """A training whose loss or weights became infinite or NaN: a finding, and no fault."""

    why: str
