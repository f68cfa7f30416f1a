"""The SAM in what a framework has put around it."""

from typing import Any

from sparse_sam.sam import SAM


def sam_within(optimizer: Any) -> SAM | None:
    """The SAM within a framework's optimizer, such as accelerate's or Lightning's; None without."""
    while optimizer is not None and not isinstance(optimizer, SAM):
        optimizer = getattr(optimizer, "optimizer", None)
    return optimizer
