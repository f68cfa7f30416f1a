"""What a model card is told of the project."""

from pathlib import Path

import pytest

from sparse_sam.tracking.card import project_licence

MIT = "MIT License\n\nCopyright (c) 2026 Ann"


@pytest.mark.parametrize(
    ("pyproject", "licence", "said"),
    [
        (None, None, (None, None)),
        ("[project]\nname = 'x'", None, (None, None)),
        ("[project]\nlicense = 'MIT'", MIT, ("MIT", "pyproject.toml")),
        ("[project]\nlicense = {text = 'Ours'}", None, ("Ours", "pyproject.toml")),
        ("[project]\nlicense = {file = 'LICENSE'}", MIT, ("MIT License", "LICENSE")),
        ("project = [1]", MIT, ("MIT License", "LICENSE")),
        ("no toml", MIT, ("MIT License", "LICENSE")),
        (None, "", ("see that file", "LICENSE")),
    ],
)
def test_the_licence_is_the_projects_own(
    tmp_path: Path,
    pyproject: str | None,
    licence: str | None,
    said: tuple[str | None, str | None],
) -> None:
    if pyproject is not None:
        (tmp_path / "pyproject.toml").write_text(pyproject)
    if licence is not None:
        (tmp_path / "LICENSE").write_text(licence)
    assert project_licence(tmp_path) == said
