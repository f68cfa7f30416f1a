"""Tests with real frameworks: ``make test-frameworks``. Elsewhere they are not even read.

Their imports take ten seconds, and not everybody has them.
"""

import sys
from contextlib import suppress
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))


def pytest_configure(config: pytest.Config) -> None:
    """Frameworks import torchvision, which may be of another build than torch."""
    if wanted(config):
        with suppress(ImportError):
            from sparse_sam.files import import_torchvision

            import_torchvision()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return None if wanted(config) or collection_path == HERE else True


def wanted(config: pytest.Config) -> bool:
    chosen = config.option.markexpr
    return "frameworks" in chosen and "not frameworks" not in chosen
