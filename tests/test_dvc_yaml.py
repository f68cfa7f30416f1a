"""dvc.yaml says what the stages really read; what they run stands in inputs/."""

import ast
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import grimp
import pytest
from ruamel.yaml import YAML

from sparse_sam.evaluation import ARM_COLOURS, ARM_NAMES
from sparse_sam.tracking.stages import STAGES

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = ROOT / "src" / "sparse_sam"
KNOWN = ["inputs", *STAGES]
"""The stages of this project: whoever adds one of his own to dvc.yaml breaks no promise of it."""
ROOMS = {path.parent.name for path in LIBRARY.glob("*/__init__.py")}
TEXT = (ROOT / "dvc.yaml").read_text()
DVC = YAML(typ="safe").load(TEXT)
MLPROJECT = YAML(typ="safe").load((ROOT / "MLproject").read_text())


def names_of(items: list[Any]) -> list[str]:
    """Of outputs, with options or without."""
    return [name for item in items for name in (item if isinstance(item, dict) else [item])]


def outputs_of(stage: str) -> list[str]:
    entry = DVC["stages"][stage]
    return names_of([*entry.get("outs", []), *entry.get("metrics", []), *entry.get("plots", [])])


@pytest.mark.parametrize("stage", STAGES.values(), ids=[*STAGES])
class TestTable:
    """What the pipeline's table says of a stage, dvc.yaml says to DVC."""

    def test_the_script_is_that_of_the_stage(self, stage: Any) -> None:
        assert DVC["stages"][stage.name]["cmd"] == f"python -m stages.{stage.name}"
        assert (LIBRARY / "stages" / f"{stage.name}.py").is_file()

    def test_the_parameters_are_the_same(self, stage: Any) -> None:
        assert tuple(DVC["stages"][stage.name]["params"]) == stage.params

    def test_the_outputs_are_the_same_and_the_journal(self, stage: Any) -> None:
        assert stage.journal.as_posix() == f"runs/{stage.name}.jsonl"
        written = [*stage.outputs, stage.journal.as_posix()]
        assert sorted(outputs_of(stage.name)) == sorted(written)

    def test_the_stages_before_it_are_the_same(self, stage: Any) -> None:
        made_by = {name: other for other in STAGES for name in outputs_of(other)}
        deps = {*DVC["stages"][stage.name]["deps"]} - {f"inputs/{stage.name}.json"}
        assert {made_by[dep] for dep in deps} == set(stage.after)

    def test_what_it_is_made_by_is_found_at_every_run_and_listed_by_nobody(
        self, stage: Any
    ) -> None:
        deps = DVC["stages"][stage.name]["deps"]
        assert f"inputs/{stage.name}.json" in deps
        assert not [dep for dep in deps if dep.startswith(("src/", "stages/"))]
        assert DVC["stages"]["inputs"]["always_changed"] is True
        assert f"inputs/{stage.name}.json" in outputs_of("inputs")


def test_the_stages_and_their_order_are_the_same() -> None:
    assert [name for name in DVC["stages"] if name in KNOWN] == KNOWN
    order = list(STAGES)
    for name, stage in STAGES.items():
        assert all(order.index(other) < order.index(name) for other in stage.after)


def test_the_entry_points_of_mlflow_are_the_stages() -> None:
    points = {name: point["command"] for name, point in MLPROJECT["entry_points"].items()}
    assert points.pop("main").startswith("dvc repro && ")
    assert points == {name: f"python -m stages.{name}" for name in STAGES}
    assert list(points) == list(STAGES)


@pytest.mark.parametrize("room", sorted(ROOMS - {"tracking", "sweep"}))
def test_what_no_import_shows_stays_within_a_room(room: str) -> None:
    """Front doors and registries name code that they load later: their own room's only."""
    stub = ast.parse((LIBRARY / room / "__init__.pyi").read_text())
    assert stub.body
    for node in stub.body:
        assert isinstance(node, ast.ImportFrom), ast.unparse(node)
        assert node.level == 1, ast.unparse(node)
    for path in (LIBRARY / room).rglob("*.py"):
        tree = ast.parse(path.read_text())
        texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
        places = [text for text in map(str, texts) if re.match(r"sparse_sam\.\w+[.\w]*:", text)]
        assert all(place.startswith(f"sparse_sam.{room}.") for place in places), path


def test_nothing_is_used_through_the_librarys_front_door() -> None:
    """It names things of many rooms, and counts for none."""
    whole = grimp.build_graph("sparse_sam", cache_dir=None)
    for module in whole.find_modules_that_directly_import("sparse_sam"):
        for detail in whole.get_import_details(importer=module, imported="sparse_sam"):
            assert detail["line_contents"] == "import sparse_sam"
        path = ROOT / "src" / f"{module.replace('.', '/')}.py"
        used = [
            node.attr
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "sparse_sam"
        ]
        assert set(used) == {"__file__"}, module


def test_it_can_be_read_at_once() -> None:
    assert len(TEXT.splitlines()) <= 160


@pytest.mark.parametrize("stage", STAGES)
def test_only_metrics_and_plots_stay_out_of_the_cache(stage: str) -> None:
    """DVC restores a stage from its cache only if every other output is cached."""
    entry = DVC["stages"][stage]
    shown = [*entry["metrics"], *entry.get("plots", [])]
    assert all(isinstance(name, str) for name in entry["outs"])
    kept_in_git = [name for item in shown for name in item if item[name]["cache"] is False]
    assert kept_in_git == names_of(shown)


def test_the_page_of_plots_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    command = ["dvc", "plots", "show", "--out", str(tmp_path / "plots")]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    page = (tmp_path / "plots" / "index.html").read_text()
    assert not re.findall(r"""<(?:script|link|img)[^>]*(?:src|href)=["']?(?:https?:)?//""", page)
    for library in ("vega", "vega-lite", "vega-embed"):
        assert f"<script>/* {library} " in page
    assert page.count("vegaEmbed(") >= 10


def test_an_arm_has_its_name_and_colour_in_plots_too() -> None:
    template = json.loads((ROOT / ".dvc" / "plots" / "seeds.json").read_text())
    scale = template["encoding"]["color"]["scale"]
    colours = dict(zip(scale["domain"], scale["range"], strict=True))
    (calculated,) = template["transform"]
    for arm in ("dense", "sgd", "sgd_2x", "sam"):
        assert colours[ARM_NAMES[arm]] == ARM_COLOURS[arm]
        assert f"'{arm}.csv': '{ARM_NAMES[arm]}'" in calculated["calculate"]
