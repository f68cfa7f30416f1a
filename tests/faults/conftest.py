"""The faults are injected into the same small clones that the pipeline's tests use."""

from tests.pipeline.conftest import make_clone

__all__ = ["make_clone"]
