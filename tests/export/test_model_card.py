"""A model card says what is known, and calls unknown what is not."""

import json
from dataclasses import replace
from typing import Any

import pytest
from ruamel.yaml import YAML

from sparse_sam.data.dataset import DataInfo
from sparse_sam.export.manifest import DENSE, ONNX, SPARSE
from sparse_sam.export.model_card import Background, interval, model_card
from sparse_sam.training.origin import Origin

ORIGIN = Origin("mlpnet", (1, 4, 4), ("cat", "a|b", "c"), (0.13,), (0.31,), "0123abcd", "sam", 4)
DATA = DataInfo(
    source="photos:load",
    fingerprint="0123abcd",
    image_shape=(1, 4, 4),
    classes=ORIGIN.classes,
    mean=ORIGIN.mean,
    std=ORIGIN.std,
    counts={"train": [3, 4, 5], "test": [30, 30, 40]},
    files={},
)


def manifest(**changes: Any) -> dict[str, Any]:
    file = {
        "raw": 1234567,
        "compressed": 4321,
        "sha256": "a" * 64,
        "accuracy": 0.9427999999999999,
        "largest_difference": 1.234e-6,
        "ties": 0,
    }
    return {
        "version": 4,
        "origin": json.loads(json.dumps(ORIGIN.content())),
        "checkpoint": {},
        "sparsity": 0.7499999999,
        "channels_removed": {"1": 3},
        "channels_kept": {},
        "test": {"images": 10_000, "accuracy": 0.9427999999999999, "source": DATA.source},
        "files": dict.fromkeys((DENSE, SPARSE, ONNX), file),
        **changes,
    }


def front_matter(card: str) -> Any:
    first, header, _ = card.split("---\n", 2)
    assert not first
    return YAML(typ="safe").load(header)


def test_what_is_not_known_is_called_so() -> None:
    card = model_card(manifest(), Background(DATA))
    assert "Not stated by the project that made it." in card
    assert "Over several seeds: not recorded" in card
    assert "Not recorded: no run of these networks was found." in card
    assert "license" not in front_matter(card)
    assert "mnist" not in card.lower()


def test_it_says_what_is_known() -> None:
    known = Background(
        data=DATA,
        arm="SAM",
        recipes={
            "train_dense": {"train_dense.epochs": 10},
            "prune": {"prune.sparsity": 0.75},
            "finetune_sam": {"prune.sparsity": 0.75, "finetune.sam.rho": 0.05},
        },
        commit="commit `abc`",
        over_seeds={"mean": 0.949, "ci95": [0.94, 0.958], "values": [0.94, 0.95, 0.957]},
        verdict="SAM − SGD at equal compute: +0.10 points.",
        licence="Apache-2.0",
        licence_from="pyproject.toml",
    )
    card = model_card(manifest(), known)
    assert "# mlpnet, 75.00 % sparse, SAM, seed 4\n" in card
    assert "**94.28 % of 10,000 test images (95 % interval 93.8" in card
    assert "SAM, over 3 seeds: 94.90 % on average (95 % interval 94.00–95.80 %)." in card
    assert known.verdict in card
    assert card.count("| prune.sparsity | 0.75 |") == 1  # a later stage repeats it
    assert "| finetune.sam.rho | 0.05 |" in card
    assert "a\\|b" in card
    assert "uint8 (N, 1, 4, 4)" in card
    assert "states, in pyproject.toml: Apache-2.0." in card
    assert "0.9427999" not in card
    header = front_matter(card)
    assert header["license"] == "apache-2.0"
    assert header["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.9428


@pytest.mark.parametrize(
    "licence", ["Ask Ann: ann@example.org", "MIT OR Apache-2.0", "Proprietary"]
)
def test_a_licence_that_the_hub_does_not_know_is_another(licence: str) -> None:
    known = Background(DATA, licence=licence, licence_from="LICENSE")
    header = front_matter(model_card(manifest(), known))
    assert (header["license"], header["license_name"]) == ("other", licence)


def test_nobodys_text_is_markup() -> None:
    evil = "<script>`[x](http://evil)\n# a\\|b"
    text = r"\<script\>\`\[x\](http\://evil) \# a\\\|b"
    data = replace(DATA, source=evil)
    recipes = {"prune": {"model.name": evil}}
    known = Background(data, recipes=recipes, verdict=evil, licence=evil, licence_from=evil)
    origin = replace(ORIGIN, classes=(evil.replace("\n", " "), "a", "b"))
    card = model_card(manifest(origin=json.loads(json.dumps(origin.content()))), known)
    body = card.split("---\n", 2)[2]
    assert body.count(text) == body.count("script") == 7
    assert front_matter(card)["license"] == "other"


def test_an_interval_that_no_accuracy_can_have_is_left_out() -> None:
    over = {"mean": 0.9, "ci95": [-2.5, 4.3], "values": [0.5, 1.3]}
    card = model_card(manifest(), Background(DATA, over_seeds=over))
    assert "over 2 seeds: 90.00 % on average.\n" in card


@pytest.mark.parametrize(("right", "images"), [(50, 100), (10, 10), (0, 10), (942, 1000)])
def test_the_interval_is_wilsons(right: int, images: int) -> None:
    share, z = right / images, 1.959964
    centre = (share + z**2 / (2 * images)) / (1 + z**2 / images)
    half = z / (1 + z**2 / images) * (share * (1 - share) / images + (z / 2 / images) ** 2) ** 0.5
    expected = centre - half, centre + half
    assert interval(share, images) == pytest.approx(expected, abs=1e-6)
