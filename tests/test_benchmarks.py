"""The benchmarks: what they compute from their measurements, and that they run."""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from sparse_sam.data.prepare import read_data

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def load() -> Iterator[Any]:
    """Import a benchmark as it is run: its folder first on the path."""

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    sys.path.insert(0, str(FOLDER))
    yield load
    sys.path.remove(str(FOLDER))


def measured(median: float, spread: float, better: str = "lower") -> dict[str, Any]:
    return {
        "name": "a step",
        "unit": "ms",
        "median": median,
        "lower": median - spread,
        "upper": median + spread,
        "better": better,
    }


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (measured(10, 1), measured(13, 1), "slower"),
        (measured(10, 1), measured(7, 1), "faster"),
        (measured(10, 2), measured(13, 2), "alike"),  # the ranges overlap
        (measured(10, 0.1), measured(10.4, 0.1), "alike"),  # less than 5 %
        (measured(10, 1, "higher"), measured(7, 1, "higher"), "slower"),
        (measured(10, 1, "higher"), measured(13, 1, "higher"), "faster"),
        (measured(10, 1, "neither"), measured(99, 1, "neither"), "alike"),
    ],
)
def test_slower_is_what_lies_beyond_noise(
    load: Any, old: dict[str, Any], new: dict[str, Any], expected: str
) -> None:
    assert load("compare").verdict(old, new) == expected


def result(commit: str, day: int, *, cores: int = 2, quick: bool = False) -> dict[str, Any]:
    machine = {"device": "a CPU", "cores": cores, "threads": 1, "torch": "2"}
    when = f"2026-01-{day:02}T00:00:00+00:00"
    return {"commit": commit, "committed": when, "quick": quick, "machine": machine}


def test_a_result_is_compared_with_the_last_of_the_same_machine(load: Any) -> None:
    last_two = load("compare").last_two
    new = result("c", 3)
    others = [result("a", 1), result("b", 2, cores=64), result("q", 2, quick=True)]
    assert last_two([new, *others]) == (others[0], new)
    assert last_two([new, *others[1:]]) is None
    assert last_two([]) is None


def test_a_slowdown_between_two_commits_is_shown(
    load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "step").mkdir()
    for commit, day, median in (("a", 1, 10.0), ("b", 2, 20.0)):
        whole = {**result(commit, day), "benchmark": "step", "values": [measured(median, 1.0)]}
        (tmp_path / "step" / f"{commit}.json").write_text(json.dumps(whole))
    monkeypatch.setattr(sys, "argv", ["compare.py", "--results", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        load("compare").main()
    assert ended.value.code == 1
    assert "SLOWER step: a step: 10 (9–11) → 20 (19–21) ms, a → b" in capsys.readouterr().out


def test_medians_quartiles_ratios_and_exponents_by_hand(load: Any) -> None:
    harness = load("harness")
    found = harness.value("x", "s", [1.0, 2.0, 3.0, 4.0, 5.0])
    assert (found.lower, found.median, found.upper, found.count) == (2.0, 3.0, 4.0, 5)
    assert harness.value("x", "s", [7.0]).median == 7.0
    assert harness.ratios([2.0, 9.0], [1.0, 3.0]) == [2.0, 3.0]
    assert load("scale").exponent([1, 2, 4], [3, 12, 48]) == pytest.approx(2)


def test_every_case_runs_in_every_round(load: Any) -> None:
    seen: list[str] = []
    cases = {name: (lambda name=name: seen.append(name)) for name in "ab"}
    seconds = load("harness").in_turn(cases, rounds=5, warm_up=1)
    assert [len(times) for times in seconds.values()] == [5, 5]
    assert all(set(seen[i : i + 2]) == {"a", "b"} for i in range(0, 12, 2))


def test_a_result_is_printed_kept_and_put_on_the_page(
    load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    harness = load("harness")
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- benchmark step -->\nold\n<!-- end of benchmark step -->\nafter\n")
    monkeypatch.setattr(harness, "PAGE", page)
    monkeypatch.setattr(harness, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(harness, "commit", lambda: {"commit": "abc", "committed": "2026"})
    values = [harness.value("a step", "ms", [1.0, 2.0, 3.0])]
    arguments = SimpleNamespace(keep=True, docs=True, quick=True)
    harness.report("step", values, harness.machine(), arguments)
    assert "| a step | 2 ms | 1.5–2.5 | 3 |" in capsys.readouterr().out
    kept = json.loads((tmp_path / "results" / "step" / "abc.json").read_text())
    assert kept["values"][0]["median"] == 2.0
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("<!-- end of benchmark step -->\nafter\n")
    assert "old" not in text
    with pytest.raises(ValueError, match="no place for the benchmark other"):
        harness.write_between(page, "other", "")


def test_the_page_has_a_place_for_every_benchmark() -> None:
    page = (FOLDER.parent / "docs" / "performance.md").read_text(encoding="utf-8")
    names = (
        *(
            "summary",
            "data_path",
            "loops",
            "step",
            "scale",
            "memory",
            "obs",
            "pipeline",
            "pipeline_seeds",
        ),
    )
    for name in names:
        assert page.count(f"<!-- benchmark {name} -->") == 1
        assert page.count(f"<!-- end of benchmark {name} -->") == 1


def test_the_table_on_top_is_of_the_newest_results(load: Any) -> None:
    summary = load("summary")
    results = summary.newest()
    table = summary.table(results)
    assert "not measured" not in table
    assert table in (FOLDER.parent / "docs" / "performance.md").read_text(encoding="utf-8")
    picture = summary.picture(results)
    for title in ("The pipeline", "A training step of classifier", "How time grows"):
        assert title in picture


def test_the_newest_result_that_counts_is_taken(load: Any, tmp_path: Path) -> None:
    summary = load("summary")
    (tmp_path / "step").mkdir()
    kept = [result("a", 1), result("b", 3), result("c", 2), result("q", 4, quick=True)]
    for one in kept:
        whole = {**one, "benchmark": "step", "values": [measured(0.5, 0.1)]}
        (tmp_path / "step" / f"{one['commit']}.json").write_text(json.dumps(whole))
    results = summary.newest(tmp_path)
    assert results["step"]["commit"] == "b"
    rows = summary.table(results).splitlines()[2:-2]
    assert len(rows) == len(summary.ROWS)
    assert all("not measured" in row for row in rows)  # the file has none of these values


def test_the_data_path_gives_all_paths_the_same_images(load: Any) -> None:
    import torch

    data_path, digits = load("data_path"), load("digits")
    data, _ = read_data(digits.reference(fraction=0.1).data)
    part, info = data.train, data.info
    images = data_path.Images(part, info.mean, info.std)
    image, label = images[5]
    torch.testing.assert_close(image, part.taken(slice(5, 6))[0], rtol=1e-5, atol=1e-5)
    assert label == part.labels[5]


def test_the_operations_of_a_step_by_hand(load: Any) -> None:
    first, second, last = 64 * 16 * 14 * 14, 128 * 64 * 16 * 7 * 7, 6272 * 10
    expected = 2 * 64 * (2 * first + 3 * second + 3 * last)
    # The bias of the first layer counts as a weight: half a per cent of that layer.
    assert load("step").operations() == pytest.approx(expected, rel=2e-3)
