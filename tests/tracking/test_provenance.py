"""What a run says of the code that it was made by."""

import subprocess
from pathlib import Path

import pytest

from sparse_sam.tracking.provenance import provenance


@pytest.mark.parametrize(
    ("file", "dirty"),
    [
        ("networks.py", "true"),
        ("lab/deep/networks.py", "true"),
        ("src/sparse_sam/page.html.j2", "true"),
        ("params.yaml", "true"),
        ("tests/test_networks.py", "false"),
        ("docs/figure.py", "false"),
        ("metrics/summary.json", "false"),
        ("README.md", "false"),
    ],
)
@pytest.mark.parametrize("committed", [True, False])
def test_what_makes_results_counts_as_changed_wherever_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, dirty: str, committed: bool
) -> None:
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.com"]
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True)

    for name in ("GIT_DIR", "GIT_WORK_TREE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    git("init", "-q")
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    if committed:
        path.write_text("a")
    git("add", "-A")
    git("commit", "-q", "--allow-empty", "-m", "all")
    assert provenance()["git.dirty"] == "false"
    path.write_text("b")
    assert provenance()["git.dirty"] == dirty
