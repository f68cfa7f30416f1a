"""Whether published numbers belong to this code: what is compared, and what is said."""

from collections.abc import Iterator

import pytest
from ruamel.yaml import YAML

from studies import recheck


def test_digits_that_differ_are_shown_and_fail(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def study(folder: str | None) -> Iterator[recheck.Pair]:
        yield "first", {"accuracy": 0.95}, {"accuracy": 0.95}
        yield folder or "second", {"accuracy": 0.95}, {"accuracy": 0.9500000001}

    monkeypatch.setattr(recheck, "STUDIES", {"one": study})
    assert recheck.main(["one", "--folder", "mnist"]) == 1
    said = capsys.readouterr().out
    assert "first: the same" in said
    assert "mnist: published {'accuracy': 0.95}, found {'accuracy': 0.9500000001}" in said
    assert said.endswith("1 differ\n")


def test_an_unknown_study_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        recheck.main(["lenets"])
    assert ended.value.code == 2
    assert "allowed: notebook, lenet, regimes" in capsys.readouterr().err


@pytest.mark.parametrize("study", recheck.STUDIES)
def test_every_study_has_a_lock_file_of_its_run(study: str) -> None:
    folder = recheck.HERE / study
    declared = YAML(typ="safe", pure=True).load(folder / "dvc.yaml")["stages"]
    locked = YAML(typ="safe", pure=True).load(folder / "dvc.lock")["stages"]
    names = [
        f"{name}@{item}" if "foreach" in stage else name
        for name, stage in declared.items()
        for item in stage.get("foreach", [""])
    ]
    assert set(names) == set(locked)
