"""An export's manifest says what an export could say, or nothing is registered from it."""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparse_sam.errors import ExportError
from sparse_sam.export.channels import Narrowed
from sparse_sam.export.manifest import (
    DENSE,
    FILES,
    MANIFEST,
    ONNX,
    SPARSE,
    Verified,
    load_manifest,
    make_manifest,
    write_card,
)
from sparse_sam.files.atomic import write_json
from sparse_sam.networks.build import build_model
from sparse_sam.training.checkpoint import Checkpoint
from sparse_sam.training.origin import Origin

ORIGIN = Origin("mlpnet", (1, 4, 4), tuple("012"), (0.13,), (0.31,), "0123abcd", "sam", 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export as its manifest sees it: files of any content, verified."""
    folder = tmp_path_factory.mktemp("export")
    for name in (DENSE, SPARSE, ONNX):
        (folder / name).write_text(name)
    model = build_model("mlpnet", ORIGIN.image_shape, 3)
    verified = {name: Verified(0.9, 1e-6, 0) for name in FILES if (folder / name).exists()}
    narrowed = Narrowed(model, {"1": 3}, {"3": "because"})
    identity = {"path": "models/sam/seed-4.safetensors", "sha256": "0" * 64}
    checkpoint = Checkpoint.of(model, ORIGIN)
    content = make_manifest(checkpoint, 100, "digits", narrowed, folder, verified, identity)
    write_card(folder, content, "# A card")
    write_json(folder / MANIFEST, content)
    (folder / "sound").write_text((folder / MANIFEST).read_text())
    return folder


def write(folder: Path, content: Any) -> None:
    (folder / MANIFEST).write_text(json.dumps(content))


def sound(folder: Path) -> Any:
    return json.loads((folder / "sound").read_text())


def test_what_is_made_is_loaded(folder: Path) -> None:
    write(folder, sound(folder))
    assert load_manifest(folder) == sound(folder)
    assert sound(folder)["files"][ONNX]["ties"] == 0


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("version", 1),
        ("origin.arm", "../x"),
        ("origin.image_shape", [1, 4]),
        ("origin.classes", "cat"),
        ("origin.model", "a b"),
        ("checkpoint.path", ["x"]),
        ("sparsity", "0.9"),
        ("sparsity", 2.0),
        ("channels_removed.1", -1),
        ("channels_kept.3", 7),
        ("test.accuracy", True),
        ("test.images", 0),
        ("card.sha256", "0"),
        ("files.model.onnx", {}),
        ("files.../../x", {}),
        ("more", 1),
    ],
)
def test_a_field_that_cannot_be_is_named(folder: Path, place: str, value: Any) -> None:
    content = sound(folder)
    first, _, rest = place.partition(".")
    if rest:
        content[first][rest] = value
    else:
        content[first] = value
    write(folder, content)
    with pytest.raises(ExportError) as raised:
        load_manifest(folder)
    assert str(raised.value).startswith(f"{folder / MANIFEST} is damaged ({first}")
    assert str(raised.value).endswith("Run `make export`.")


def test_a_card_that_was_changed_is_refused(folder: Path) -> None:
    write(folder, sound(folder))
    card = folder / "model_card.md"
    card.write_text("# A better card")
    try:
        with pytest.raises(ExportError, match=r"model_card\.md has changed since it was verified"):
            load_manifest(folder)
    finally:
        card.write_text("# A card")


def test_a_file_elsewhere_is_not_read(folder: Path) -> None:
    secret = folder.parent / "secret"
    secret.write_text("secret")
    content = sound(folder)
    digest = hashlib.sha256(b"secret").hexdigest()
    content["files"]["../secret"] = {**content["files"][ONNX], "sha256": digest}
    write(folder, content)
    with pytest.raises(ExportError, match=r"is damaged \(files: "):
        load_manifest(folder)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=5,
)


@given(data=st.data())
def test_whatever_a_manifest_says_it_is_read_or_refused(data: st.DataObject, folder: Path) -> None:
    content = part = sound(folder)
    for _ in range(data.draw(st.integers(0, 2))):
        inner = [value for value in part.values() if isinstance(value, dict)]
        part = data.draw(st.sampled_from(inner)) if inner else part
    part[data.draw(st.sampled_from([*part, "extra"]))] = data.draw(VALUES)
    write(folder, content)
    modules, said = set(sys.modules), ""
    try:
        assert load_manifest(folder)["origin"]["arm"] == content["origin"]["arm"]
    except ExportError as error:
        said = str(error)
    assert not said or (said.startswith(str(folder)) and said.isprintable())
    assert set(sys.modules) == modules
