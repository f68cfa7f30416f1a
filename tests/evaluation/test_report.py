"""The report says what the numbers say, opens without a network, and shows text as text."""

import copy
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparse_sam.config import REFERENCE, load_params
from sparse_sam.evaluation.cost import finetuning_cost
from sparse_sam.evaluation.report.content import (
    Content,
    Provenance,
    confusion,
    disagreements,
    read_rows,
)
from sparse_sam.evaluation.report.render import render_html, render_markdown
from sparse_sam.evaluation.statistics import summarize
from sparse_sam.evaluation.summary import summarize_experiment
from sparse_sam.files.unmeasured import NotMeasured
from sparse_sam.stages.evaluate import shown
from sparse_sam.tracking.provenance import read_provenance
from sparse_sam.tracking.stages import STAGES
from sparse_sam.training.arms import ARMS
from tools.browser import Browser, missing
from tools.check_pages import look

SEEDS, IMAGES = [0, 1, 2], 40
EVIL = "<script>alert(\"x\")</script> | & 'quoted'"


def history(arm: str) -> list[dict[str, str]]:
    return [
        {
            "seed": str(seed),
            "epoch": str(epoch),
            "gradient_evaluations": str(epoch * (20 if arm == "sam" else 10)),
            "validation_accuracy": str(0.9 + epoch / 100 + seed / 1000),
        }
        for seed in SEEDS
        for epoch in range(4)
    ]


def flatness() -> dict[str, Any]:
    arms = {
        arm: {
            "sharpness": [
                {"rho": rho, "steps": steps, **summarize([rho * (1 + i), rho * 1.1, rho])}
                for rho in (0.05, 0.1)
                for steps in (1, 4)
            ],
            "top_eigenvalues": [{"rank": 1, **summarize([10.0 + i])}],
            "trace": summarize([77.0 + i]),
        }
        for i, arm in enumerate(ARMS)
    }
    return {"budget": {"images": 96, "seconds": 7.5}, "arms": arms}


def compression() -> dict[str, Any]:
    rows = [
        {
            "form": form,
            "batch": batch,
            "median_ms": 2.0 * factor,
            "quartiles_ms": [1.9 * factor, 2.1 * factor],
            "relative_to_dense": factor,
            "runs": 9,
        }
        for batch in (1, 256)
        for form, factor in (("dense", 1.0), ("zeros stored", 1.01), ("CSR", 1.3))
    ]
    return {
        "layers": [{"name": "0.weight", "weights": 1024, "kept": 512}],
        "bytes": {
            "dense": 800_000,
            "sparse": 420_000,
            "dense_compressed": 400_000,
            "sparse_compressed": 380_000,
        },
        "multiply_adds": {"dense": 6_000_000, "sparse": 3_000_000, "left_out": []},
        "latency": {"threads": 2, "rows": rows},
    }


@pytest.fixture(scope="module")
def content() -> Content:
    rng = np.random.default_rng(0)
    labels = np.arange(IMAGES) % 10
    predictions = {}
    for arm in ARMS:
        wrong = rng.random((len(SEEDS), IMAGES)) < 0.2
        predictions[arm] = np.where(wrong, (labels + 1) % 10, labels)
    correct = {arm: predictions[arm] == labels for arm in ARMS}
    summary = summarize_experiment(
        dataset="mnist-sample",
        model="classifier",
        seeds=SEEDS,
        accuracy={arm: summarize(correct[arm].mean(1).tolist()) for arm in ARMS},
        correct=correct,
        costs={
            arm: {
                "sparsity": 0.0 if arm == "dense" else 0.5,
                "gradient_evaluations": 330 if arm in {"sam", "sgd_2x"} else 165,
                "seconds": 10.0 if arm in {"sam", "sgd_2x"} else 5.0,
            }
            for arm in ARMS
        },
        margin=0.005,
    )
    side = (-1.0, 0.0, 1.0)
    return Content(
        summary=summary,
        params={"seeds": SEEDS, "finetune.sam.rho": 0.05, "data.fraction": 1.0},
        fingerprint="0123456789abcdef" * 4,
        histories={arm: history(arm) for arm in ("sgd", "sgd_2x", "sam")},
        provenance=[Provenance("prune", "f" * 32, "c" * 40, True, {"models/pruned": "d" * 32})],
        compression=compression(),
        cost=finetuning_cost(summary, {"sgd": 50 << 20, "sgd_2x": 50 << 20, "sam": 60 << 20}),
        flatness=flatness(),
        slices=[
            {"arm": arm, "seed": "0", "x": str(x), "loss": str(0.1 + x * x)}
            for arm in ARMS
            for x in side
        ],
        surfaces=[
            {"arm": arm, "seed": "0", "x": str(x), "y": str(y), "loss": str(0.1 + x * x + y * y)}
            for arm in ("sgd", "sam")
            for x in side
            for y in side
        ],
        labels=labels,
        predictions=predictions,
        images=rng.integers(0, 256, (IMAGES, 1, 28, 28), np.uint8),
        classes=tuple("0123456789"),
    )


@pytest.fixture(scope="module")
def source(content: Content) -> str:
    return render_html(content)


class Page(HTMLParser):
    """What a page has: its text outside of figures, its tags, ids and addresses."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.text, self.tags, self.ids, self.addresses = "", [], [], []  # type: ignore[var-annotated]
        self.feed(source)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            if name in {"href", "src", "xlink:href", "action", "srcset", "data"}:
                self.addresses.append(value)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_numbers_are_the_inputs(content: Content, source: str) -> None:
    page = Page(source)
    text = " ".join(page.text.split())
    for compared in content.summary["comparisons"].values():
        assert compared["verdict"] in text
        assert compared["verdict"] in render_markdown(content)
    for of in content.summary["arms"].values():
        assert f"{100 * of['accuracy']['mean']:.2f}" in text
    for said in ("800 kB dense and 420 kB packed (52%)", "6.00 million", "77", "7.5 seconds"):
        assert said in text
    assert "no form of the sparse network is faster by more than a tenth" in text
    assert "SAM computes 2.00 times the gradients of SGD and takes 2.00 times as long" in text
    assert "finetune.sam.rho" in text
    assert ("c" * 10) in text
    assert "+ changes" in text
    assert ("d" * 10) in text


def test_the_first_screen_answers(content: Content, source: str) -> None:
    text = " ".join(Page(source).text.split())
    shown = text[: text.index("SAM against SGD after pruning")]
    assert content.summary["answer"] in shown
    for said in ("classifier, 50.0% sparse", "mnist-sample", "0, 1, 2", "ρ 0.05", "c" * 10):
        assert said in shown
    moved = replace(
        content,
        changed="ρ 0.1",
        provenance=[
            replace(content.provenance[0], ended=1_700_000_000_000, machine="Linux, 2 cores")
        ],
    )
    text = " ".join(Page(render_html(moved)).text.split())
    for said in (
        "changed from the defaults ρ 0.1",
        "trained 2023-11-14 22:13 UTC",
        "machine Linux, 2 cores",
    ):
        assert said in text
    assert content.summary["answer"] in render_markdown(content).splitlines()[4]


def test_no_interval_is_of_accuracies_that_cannot_be(content: Content) -> None:
    summary = json.loads(json.dumps(content.summary))
    summary["arms"]["sam"]["accuracy"]["ci95"] = [0.7929, 1.0471]
    for said in (
        render_html(replace(content, summary=summary)),
        render_markdown(replace(content, summary=summary)),
    ):
        assert "too few seeds" in said
        assert "104.71" not in said


def test_a_difference_of_rounding_is_none(content: Content) -> None:
    summary = json.loads(json.dumps(content.summary))
    pruned = summary["arms"]["pruned"]["accuracy"]["mean"]
    summary["arms"]["dense"]["accuracy"]["mean"] = pruned + 1e-16
    summary["arms"]["sgd"]["accuracy"]["mean"] = pruned + 1e-16
    summary["arms"]["sam"]["accuracy"]["mean"] = pruned - 1e-16
    said = render_markdown(replace(content, summary=summary))
    assert "−0.00" not in said
    assert said.count("nothing from the pruned network (+0.00 points)") >= 2


def test_parameters_that_change_no_result_are_not_shown() -> None:
    flat = load_params(REFERENCE).flat()
    assert set(flat) - set(shown(flat)) == {
        "engine.name",
        "save_every_steps",
        "data.folder",
        "data.mirror",
        "registry.name",
    }
    assert shown({"engine.name": "ray", "engine.address": "x:1", "engines": 1}) == {"engines": 1}


def test_a_ticket_is_not_called_a_network_that_only_lost_weights(content: Content) -> None:
    ticket = replace(content, is_ticket=True)
    for said in (render_markdown(content), Page(render_html(content)).text):
        assert "Pruning 50.0% of the prunable weights before finetuning takes" in said
        assert "points from the pruned network" in said
        assert "initial" not in said
    for said in (render_markdown(ticket), Page(render_html(ticket)).text):
        text = " ".join(said.split())
        assert (
            "Pruning 50.0% of the prunable weights and resetting the others to their initial "
            "values takes the test accuracy from" in text
        )
        assert "before finetuning takes" not in text
        assert "points from the pruned network" not in text
        assert "Trained from there with SAM, it is" in text
        assert re.search(
            r"SAM gains \d+\.\d+ points on the rewound network, at|SAM gains nothing", text
        )


def test_a_network_that_came_sparse_is_not_said_to_be_pruned_here(content: Content) -> None:
    sparse = replace(content, came_sparse=True)
    for said in (render_markdown(sparse), Page(render_html(sparse)).text):
        text = " ".join(said.split())
        assert "The given network already has 50.0% of the prunable weights at 0" in text
        assert "Pruning 50.0%" not in text
        assert "points against the given network." in text


def test_without_a_validation_part_there_are_no_curves_and_that_is_said(content: Content) -> None:
    histories = {
        arm: [{**row, "validation_accuracy": "", "validation_loss": ""} for row in rows]
        for arm, rows in content.histories.items()
    }
    params = {**content.params, "data.validation_fraction": 0.0}
    page = render_html(replace(content, histories=histories, params=params))
    assert "There is no validation part" in Page(page).text
    assert "Validation accuracy by epoch" not in page
    assert "Validation accuracy by epoch" in render_html(content)


def test_it_is_one_file_and_asks_for_nothing(source: str) -> None:
    page = Page(source)
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in page.addresses)
    assert not {"script", "link", "iframe", "object", "embed"} & set(page.tags)
    assert not re.search(r"@import|url\((?!#)", source)
    assert page.tags.count("svg") == page.tags.count("figure") == 13
    assert len(page.ids) == len(set(page.ids))
    targets = {address[1:] for address in page.addresses if address.startswith("#")}
    assert targets <= set(page.ids)
    assert len(source) < 3_000_000


def test_equal_inputs_give_equal_bytes(content: Content, source: str) -> None:
    assert render_html(copy.deepcopy(content)) == source


def test_markup_in_a_parameter_is_text(content: Content) -> None:
    summary = {**content.summary, "dataset": EVIL, "model": EVIL}
    params = {EVIL: EVIL, **content.params}
    evil = replace(content, summary=summary, params=params)
    page = Page(render_html(evil))
    assert "script" not in page.tags
    assert page.text.count('<script>alert("x")</script>') >= 4
    assert "\\|" in render_markdown(evil).splitlines()[2]


def test_what_is_missing_is_left_out(content: Content) -> None:
    bare = replace(
        content, compression=None, cost=None, flatness=None, slices=[], surfaces=[], provenance=[]
    )
    page = Page(render_html(bare))
    assert "flatter" not in page.text
    assert "kB" not in page.text
    assert page.tags.count("figure") == 8
    assert "flatter" not in render_markdown(bare)
    alike = dict.fromkeys(ARMS, content.predictions["sgd"])
    assert Page(render_html(replace(bare, predictions=alike))).tags.count("figure") == 7


def gap(why: str) -> dict[str, str]:
    return NotMeasured(why).as_json()


def without(content: Content, names: set[str]) -> Content:
    """The same, where these measures could not be taken: each by its name with a mark."""
    flat = copy.deepcopy(content.flatness)
    sizes = copy.deepcopy(content.compression)
    cost = copy.deepcopy(content.cost)
    assert flat
    assert sizes
    assert cost
    for name in names & {"sharpness", "top_eigenvalues", "trace"}:
        for of in flat["arms"].values():
            of[name] = gap(f"no {name} <here>")
    for name in names & {"slice", "surface"}:
        flat[name] = gap(f"no {name} <here>")
    for name in names & {"bytes", "multiply_adds", "latency"}:
        sizes[name] = gap(f"no {name} <here>")
    if "batch" in names:
        for row in sizes["latency"]["rows"][3:]:
            row.clear()
            row.update(form="a form", batch=256, **gap("no batch <here>"))
    if "csr" in names:
        sizes["latency"]["rows"][2] = {"form": "CSR", "batch": 1, **gap("no csr <here>")}
    if "memory" in names:
        for of in cost.values():
            of["peak_step_memory_bytes"] = gap("no memory <here>")
    return replace(
        content,
        flatness=flat,
        compression=sizes,
        cost=cost,
        slices=[] if "slice" in names else content.slices,
        surfaces=[] if "surface" in names else content.surfaces,
    )


MEASURES = (
    *("sharpness", "top_eigenvalues", "trace", "slice", "surface"),
    *("bytes", "multiply_adds", "latency", "batch", "csr", "memory"),
)


@pytest.mark.parametrize(
    "names",
    [*({name} for name in MEASURES), set(MEASURES) - {"batch", "csr"}],
    ids=lambda one: "+".join(sorted(one)),
)
def test_what_was_not_measured_is_said_in_its_place(content: Content, names: set[str]) -> None:
    page, short = without(content, names), ""
    text = " ".join(Page(render_html(page)).text.split())
    short = render_markdown(page)
    for name in names:
        assert f"no {name} <here>" in text
        assert f"no {name} &lt;here>" in short or name == "csr"
    for name in set(MEASURES) - names:
        assert f"no {name} " not in text + short
    said = {
        "sharpness": "SAM's weights and by",
        "bytes": "800 kB dense",
        "multiply_adds": "6.00 million",
        "latency": "At batch 1, the dense network takes",
        "batch": "At batch 256, the dense network takes",
        "memory": "a step's peak is 60 MiB, against 50 MiB with SGD",
    }
    for name, words in said.items():
        is_there = name not in names and not (name == "batch" and "latency" in names)
        assert (words in text) == (words in short) == is_there
    figures = Page(render_html(page)).tags.count("figure")
    assert figures == 13 - len(names & {"sharpness", "slice"}) - 2 * ("surface" in names)
    assert "None" not in text + short
    assert "{'" not in text + short


def test_a_network_whose_weights_are_not_all_counted_is_said_to_be_so(content: Content) -> None:
    assert content.compression
    many = {"dense": 6_000_000, "sparse": 3_000_000, "left_out": list("abcde")}
    page = replace(content, compression={**content.compression, "multiply_adds": many})
    text = " ".join(Page(render_html(page)).text.split())
    assert "but not weights that are used in other ways (a, b, c and 2 more)." in text


def test_a_surface_as_flat_as_a_table_is_drawn(content: Content) -> None:
    flat = [{**row, "loss": "1e-7"} for row in content.surfaces]
    page = Page(render_html(replace(content, surfaces=flat)))
    assert page.tags.count("figure") == 13


def test_one_seed_has_no_intervals(content: Content) -> None:
    summary = json.loads(json.dumps(content.summary))
    for of in summary["arms"].values():
        of["accuracy"] = summarize(of["accuracy"]["values"][:1])
    for compared in summary["comparisons"].values():
        unknown = ("ci95", "p_value", "bootstrap_ci95", "permutation_p_value", "holm_p_value")
        compared.update(dict.fromkeys(unknown))
        compared["equivalence"].update(p_value=None, ci90=None)
    one = replace(
        content,
        summary={**summary, "seeds": [0]},
        predictions={arm: found[:1] for arm, found in content.predictions.items()},
    )
    assert "one seed has none" in Page(render_html(one)).text
    assert "None" not in render_markdown(one)


def test_confusion_and_disagreement_by_hand(content: Content) -> None:
    labels = np.array([0, 1, 2])
    sgd = np.array([[0, 1, 1], [0, 2, 1]])
    sam = np.array([[0, 1, 2], [0, 1, 2]])
    assert confusion(labels, sgd, 3).tolist() == [[2, 0, 0], [0, 1, 1], [0, 2, 0]]
    both = replace(content, labels=labels, predictions={"sgd": sgd, "sam": sam})
    found = disagreements(both, "sgd", "sam", 5)
    assert found == [(2, 2, [1, 1], [2, 2]), (1, 1, [1, 2], [1, 1])]
    assert len(disagreements(both, "sgd", "sam", 1)) == 1


def test_provenance_is_read_from_journals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    events = [
        {
            "event": "start",
            "time": 1,
            "run": "0" * 32,
            "stage": "finetune_sam",
            "params": {},
            "tags": {
                "mlflow.source.git.commit": "123",
                "git.dirty": "false",
                "env.platform": "Linux aarch64",
                "env.cpus": "8",
                "env.torch": "2.13.0",
            },
            "launcher": {},
        },
        {
            "event": "tags",
            "time": 2,
            "child": None,
            "values": {"dvc.out.models/sam": "hash", "other": "x"},
        },
    ]
    path = STAGES["finetune_sam"].journal
    path.parent.mkdir()
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    found = read_provenance([STAGES["finetune_sam"], STAGES["prune"]])
    outputs = {"models/sam": "hash"}
    machine = "Linux aarch64, 8 cores, torch 2.13.0"
    assert found == [Provenance("finetune_sam", "0" * 32, "123", False, outputs, 2, machine)]
    assert read_rows(tmp_path / "none.csv") == []


@pytest.mark.parametrize("render", [render_html, render_markdown])
def test_the_report_says_which_base_optimizer_there_is(
    render: Callable[[Content], str], content: Content
) -> None:
    said = "The base optimizer is AdamW: the arms called SGD train with it alone"
    assert "base optimizer is" not in render(content)
    other = replace(content, summary={**content.summary, "base_optimizer": "AdamW"})
    assert said in render(other)


@pytest.mark.skipif(missing() is not None, reason=f"{missing()}")
def test_it_can_be_seen_in_a_browser_and_is_printed_on_five_pages(
    source: str, tmp_path: Path
) -> None:
    page, printed = tmp_path / "report.html", tmp_path / "report.pdf"
    page.write_text(source)
    with Browser() as browser:
        wrong, below = look(browser, page.as_uri())
        browser.print(printed)
    assert not wrong
    assert not below
    assert len(re.findall(rb"/Type /Page\b", printed.read_bytes())) <= 5
