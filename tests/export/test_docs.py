"""The export from one's own training loop, as docs/export.md shows it, runs as it stands."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from tests.pages import examples, page_of

PAGE = page_of("export.md")
EXAMPLES = examples(PAGE)


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The page's own module, in a folder to work in; other tests have a ``lab`` of their own."""
    (module,) = re.findall(r"```python\n(# lab/pruned.py\n.*?)```", PAGE, flags=re.DOTALL)
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "pruned.py").write_text(module, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in [one for one in sys.modules if one.split(".")[0] == "lab"]:
        del sys.modules[name]


@pytest.mark.usefixtures("lab")
def test_a_network_from_a_loop_of_ones_own_is_exported_and_read_back() -> None:
    images = np.random.default_rng(0).integers(0, 256, (32, 1, 28, 28), dtype=np.uint8)
    names: dict[str, Any] = {"images": images, "labels": np.arange(32) % 4}
    for name in ("your own loop", "read back"):
        exec(compile(EXAMPLES[name], f"docs/export.md, {name}", "exec"), names)  # noqa: S102
    assert names["checkpoint"].masks.sparsity == pytest.approx(0.9, abs=1e-3)
    trained, dense = names["model"], names["dense"]
    with torch.no_grad():
        assert torch.equal(trained(names["inputs"]), dense(names["inputs"]))
    assert not any("parametrizations" in key for key in trained.state_dict())
    # Any runtime takes the raw pixels, without this library.
    session = onnxruntime.InferenceSession("my-export/model.onnx")
    (label,) = session.run(["label"], {"pixels": images})
    assert label.tolist() == dense(names["inputs"]).argmax(1).tolist()
    sizes = {path.name: path.stat().st_size for path in Path("my-export").iterdir()}
    assert sizes["sparse.safetensors"] < 0.5 * sizes["dense.safetensors"]
