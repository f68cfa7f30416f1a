"""The parameters can be run. No number of the experiment is tested here."""

from pathlib import Path

from sparse_sam.config import load_params

ROOT = Path(__file__).parent.parent


def test_the_parameters_are_valid() -> None:
    load_params(ROOT / "params.yaml")


def test_the_files_of_the_network_are_there() -> None:
    files = load_params(ROOT / "params.yaml").model.files
    assert [name for name in files if not (ROOT / name).exists()] == []
