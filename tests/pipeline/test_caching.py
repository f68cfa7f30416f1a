"""What is trained again and what is not: counted from journals, and compared with fresh clones."""

import ast
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.pipeline.conftest import LATER, ROOT, SMALL, STAGES, Clone
from tests.pipeline.results import differing, written

pytestmark = [pytest.mark.pipeline, pytest.mark.timeout(1800)]
short, at_length = pytest.mark.slow, pytest.mark.faults
"""`make test-slow` runs what shows each promise once; `make test-faults` all of it."""

TRAINING = ("train_dense", "finetune_sgd", "finetune_sam")
Seeds = set[tuple[str, int]]


def repro(clone: Clone, **env: str) -> tuple[set[str], Seeds]:
    """Run ``dvc repro``: the stages that ran, and the arms and seeds that were trained.

    Counted from the journals, not from what the stages say.
    """
    done = clone.run("dvc", "repro", timeout=900, **LATER, **env)
    ran = {stage for stage in STAGES if f"Running stage '{stage}'" in done.stdout}
    trained: Seeds = set()
    for stage in ran & set(TRAINING):
        new, taken = trainings(clone, stage)
        trained |= new
        said = f"{stage}: {len(new)} of {len(new | taken)} trainings run, {len(taken)} taken"
        assert said in done.stdout
    return ran, trained


def trainings(clone: Clone, stage: str) -> tuple[Seeds, Seeds]:
    """What a stage's journal says was trained, and what was taken, with the run that made it."""
    lines = (clone.path / "runs" / f"{stage}.jsonl").read_text().splitlines()
    params = [event["params"] for event in map(json.loads, lines) if event["event"] == "child"]
    taken = {(one["arm"], one["seed"]) for one in params if one.get("taken_from")}
    return {(one["arm"], one["seed"]) for one in params} - taken, taken


def arms(*names: str, seeds: tuple[int, ...]) -> Seeds:
    return {(name, seed) for name in names for seed in seeds}


ALL = ("dense", "sgd", "sgd_2x", "sam")


def fresh(clone: Clone, make_clone: Callable[..., Clone], *more: str) -> Clone:
    """A clone without store and cache that has the files of another, and has run."""
    other = make_clone("fresh")
    for name in ("params.yaml", "src", "stages", *more):
        source, place = clone.path / name, other.path / name
        if source.is_dir():
            shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(source, place)
        else:
            shutil.copy(source, place)
    _, trained = repro(other)
    assert trained
    return other


@short
def test_a_seed_more_costs_what_is_new_and_gives_what_a_fresh_clone_does(
    clone: Clone, make_clone: Callable[..., Clone]
) -> None:
    before = written(clone.path)
    clone.set(seeds=[0, 1, 2])
    ran, trained = repro(clone)
    assert ran == set(STAGES) - {"download"}
    assert trained == arms(*ALL, seeds=(2,))
    assert differing(written(clone.path), written(fresh(clone, make_clone).path)) == set()
    # Back to two, another order, one alone: nothing is trained.
    for seeds in ([0, 1], [1, 0], [1]):
        clone.set(seeds=seeds)
        assert repro(clone)[1] == set()
        if seeds == [0, 1]:
            assert differing(written(clone.path), before) == set()
    clone.set(seeds=[0, 1])
    repro(clone)


@at_length
def test_another_rho_trains_sam_and_going_back_nothing(
    clone: Clone, make_clone: Callable[..., Clone]
) -> None:
    before = written(clone.path)
    clone.set(finetune__sam__rho=0.1)
    ran, trained = repro(clone)
    assert (ran, trained) == ({"finetune_sam", "evaluate"}, arms("sam", seeds=(0, 1)))
    assert differing(written(clone.path), written(fresh(clone, make_clone).path)) == set()
    clone.set(finetune__sam__rho=0.05)
    assert repro(clone)[1] == set()
    assert differing(written(clone.path), before) == set()
    # DVC's own memory gone, the store's is left.
    shutil.rmtree(clone.path / ".dvc" / "cache")
    ran, trained = repro(clone)
    clone.run("dvc", "repro", "--force", **LATER)
    assert trained == set()
    assert all(not trainings(clone, stage)[0] for stage in TRAINING)
    assert differing(written(clone.path), before) == set()


@short
def test_a_teacher_counts_where_there_is_one(clone: Clone) -> None:
    """Without, another dense network that is pruned to the same is none; with one, it is."""
    before = written(clone.path)
    tuned = arms("sgd", "sgd_2x", "sam", seeds=(0, 1))
    clone.set(finetune__distillation__weight=0.5)
    ran, trained = repro(clone)
    assert (ran, trained) == ({"finetune_sgd", "finetune_sam", "evaluate"}, tuned)
    changed = differing(written(clone.path), before)
    assert {f"models/{arm}/seed-0.safetensors" for arm in ("sgd", "sgd_2x", "sam")} <= changed
    # A temperature that is not used makes nothing new.
    clone.set(finetune__distillation__weight=0.0, finetune__distillation__temperature=9.0)
    assert repro(clone)[1] == set()
    clone.set(finetune__distillation__temperature=4.0)
    assert repro(clone)[1] == set()
    assert differing(written(clone.path), before) == set()


def restyled(text: str) -> str:
    """A file of Python with other docstrings, comments and blank lines; the same code."""
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            document = node.body[0]
            assert document.end_lineno
            indent = lines[document.lineno - 1][: document.col_offset]
            lines[document.lineno - 1] = f'{indent}"""Said otherwise."""  # and remarked'
            for line in range(document.lineno, document.end_lineno):
                lines[line] = ""
    return "\n".join(line or "\n# a remark" for line in lines) + "\n# end\n"


@short
def test_comments_docstrings_and_layout_train_nothing(clone: Clone) -> None:
    before = written(clone.path)
    originals = {}
    for path in sorted((clone.path / "src").rglob("*.py")):
        originals[path] = path.read_text()
        # A remark would break a string over several lines; those of the report are all there are.
        if '"""' not in re.sub(r'^\s*"""(.|\n)*?"""', "", originals[path], flags=re.MULTILINE):
            path.write_text(restyled(originals[path]))
    changed = sum(path.read_text() != text for path, text in originals.items())
    assert changed > 0.9 * len(originals)
    narrow = [sys.executable, "-m", "ruff", "format", "--line-length", "60", "-q", "src"]
    subprocess.run(narrow, cwd=clone.path, check=True)
    assert all(
        path.read_text() != text for path, text in originals.items() if text.count("\n") > 12
    )
    assert repro(clone) == (set(), set())
    assert differing(written(clone.path), before) == set()
    # And the same code does the same: trained anew without a store, to the byte.
    empty = {"SPARSE_SAM_STORE": str(clone.path.parent / "empty")}
    shutil.rmtree(clone.path / "runs")  # or what lies here would be put into the empty store
    clone.run("dvc", "repro", "--force", **LATER, **empty)
    assert all(not trainings(clone, stage)[1] for stage in TRAINING)
    assert differing(written(clone.path), before) == set()
    for path, text in originals.items():
        path.write_text(text)


@pytest.mark.parametrize(
    ("file", "old", "new", "trains"),
    [
        pytest.param(
            *("sam/optimizer.py", "rho: float = 0.05", "rho: float = 0.051", ("sam",)), marks=short
        ),
        pytest.param(
            *("sam/gsam.py", "class GSAM", "ANOTHER = 1\n\n\nclass GSAM", ()), marks=at_length
        ),
        pytest.param(
            *("networks/mlpnet.py", "nn.Linear(20, num", "nn.Linear(int(20), num", ALL),
            marks=at_length,
        ),
        pytest.param(*("networks/lenet.py", "300)", "301)", ()), marks=at_length),
        pytest.param(
            *("training/loop.py", "EVALUATION_BATCH = 250", "EVALUATION_BATCH = 125", ALL),
            marks=at_length,
        ),
        pytest.param(
            *("training/with_sgd.py", "lr=recipe.lr", "lr=1.0 * recipe.lr", ALL),
            marks=at_length,
        ),
        pytest.param(
            *("training/with_adamw.py", "lr=recipe.lr", "lr=1.0 * recipe.lr", ()),
            marks=at_length,
        ),
        pytest.param(
            *("evaluation/statistics.py", "(1 + confidence) / 2", "(1.0 + confidence) / 2", ()),
            marks=at_length,
        ),
    ],
)
def test_changed_code_trains_what_runs_it(
    clone: Clone, file: str, old: str, new: str, trains: tuple[str, ...]
) -> None:
    path = clone.path / "src" / "sparse_sam" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    try:
        assert repro(clone)[1] == arms(*trains, seeds=(0, 1))
    finally:
        path.write_text(text)
    assert repro(clone)[1] == set()


SOURCE = '''"""Images in class folders."""
from pathlib import Path

import numpy as np
from PIL import Image

from sparse_sam.data import DataParams, RawData


def folders(params: DataParams) -> RawData:
    images, labels = [], []
    for label, folder in enumerate(sorted(Path(params.folder).iterdir())):
        for file in sorted(folder.iterdir()):
            images.append(np.asarray(Image.open(file).convert("L")))
            labels.append(label)
    images, labels = np.stack(images), np.array(labels, dtype=np.int64)
    test = np.arange(len(labels)) % 4 == 0
    return RawData("folders", images[~test], labels[~test], images[test], labels[test])
'''
NETWORK = '''"""A network that begins with weights of its own."""
import torch
from safetensors.torch import load_file
from torch import nn

from own_parts import activation


def net(image_shape, num_classes):
    first = nn.Linear(image_shape[1] * image_shape[2], 12)
    first.load_state_dict(load_file("begin.safetensors"))
    return nn.Sequential(nn.Flatten(), first, activation(), nn.Linear(12, num_classes))
'''
PARTS = "from torch import nn\n\n\ndef activation():\n    return nn.ReLU()\n"
OWN = ("images", "own_source.py", "own_network.py", "own_parts.py", "begin.safetensors")


def make_weights(path: Path, seed: int) -> None:
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(12, 64, generator=generator) / 8
    save_file({"weight": weight, "bias": torch.zeros(12)}, path)


def make_images(folder: Path) -> None:
    """Digits of scikit-learn's, as files in class folders."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    for number, (image, label) in enumerate(zip(images[:400], labels[:400], strict=True)):
        place = folder / str(label) / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image.reshape(8, 8) * 15.9).astype(np.uint8)).save(place)


@pytest.fixture(scope="module")
def own(make_clone: Callable[..., Clone]) -> Clone:
    """A clone with data, source, network and first weights of its own, which has run."""
    data = {"source": "own_source:folders", "folder": "images"}
    params = {
        **{key: value for key, value in SMALL.items() if not key.startswith("data.")},
        **{f"data.{key}": value for key, value in data.items()},
        "model.name": "own_network:net",
        "model.files": ["begin.safetensors"],
    }
    clone = make_clone("own", params)
    write_own(clone)
    repro(clone)
    return clone


def write_own(clone: Clone) -> None:
    shutil.rmtree(clone.path / "images", ignore_errors=True)
    make_images(clone.path / "images")
    make_weights(clone.path / "begin.safetensors", 0)
    for name, text in (("source", SOURCE), ("network", NETWORK), ("parts", PARTS)):
        (clone.path / f"own_{name}.py").write_text(text)


def replace_image(clone: Clone) -> None:
    """The same size, and the times of before: its content alone is another."""
    path = clone.path / "images" / "3" / "3.png"
    about, before = path.stat(), path.read_bytes()
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    assert path.read_bytes() != before
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))


def rotate_labels(clone: Clone) -> None:
    """Every class folder gets the name of the next."""
    folder = clone.path / "images"
    for label in range(10):
        (folder / str(label)).rename(folder / f"old {label}")
    for label in range(10):
        (folder / f"old {label}").rename(folder / str((label + 1) % 10))


def substitute(file: str, old: str, new: str) -> Callable[[Clone], None]:
    def act(clone: Clone) -> None:
        path = clone.path / file
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    return act


EDITS: dict[str, tuple[Callable[[Clone], None], bool, tuple[str, ...]]] = {
    # what is done; whether the data set is read again; what is trained
    "an image": (replace_image, True, ALL),
    "labels": (rotate_labels, True, ALL),
    "a character of the source": (substitute("own_source.py", "% 4", "% 5"), True, ALL),
    "a comment of the source": (substitute("own_source.py", "class folders", "folders"), False, ()),
    "what the network imports": (substitute("own_parts.py", "ReLU", "Tanh"), False, ALL),
    "a character of the network": (substitute("own_network.py", "12", "24 // 2"), False, ALL),
    "its first weights": (lambda c: make_weights(c.path / "begin.safetensors", 1), False, ALL),
}


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(
            one, marks=short if one in {"an image", "what the network imports"} else at_length
        )
        for one in EDITS
    ],
)
def test_what_is_read_from_outside_counts_by_content(own: Clone, edit: str) -> None:
    act, reads, trains = EDITS[edit]
    before = written(own.path)
    act(own)
    ran, trained = repro(own)
    assert ("download" in ran) == reads
    assert trained == arms(*trains, seeds=(0, 1))
    assert bool(differing(written(own.path), before)) == bool(trains)
    write_own(own)
    assert repro(own)[1] == set()
    assert differing(written(own.path), before) == set()


def write_idx(folder: Path) -> None:
    """Digits of scikit-learn's, as the four files of MNIST's format."""
    from sklearn.datasets import load_digits

    digits, classes = load_digits(return_X_y=True)
    images, labels = digits.reshape(-1, 8, 8).astype(np.uint8), classes.astype(np.uint8)
    folder.mkdir()
    for part, chosen in (("train", slice(0, 400)), ("t10k", slice(400, 600))):
        for name, array in (("images-idx3", images[chosen]), ("labels-idx1", labels[chosen])):
            header = bytes([0, 0, 8, array.ndim])
            sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
            (folder / f"{part}-{name}-ubyte").write_bytes(header + sizes + array.tobytes())


@at_length
def test_rotated_labels_of_an_idx_folder(clone: Clone, tmp_path: Path) -> None:
    folder = tmp_path / "idx"
    write_idx(folder)
    clone.set_all({"data.source": "idx", "data.folder": str(folder)})
    assert repro(clone)[1] == arms(*ALL, seeds=(0, 1))
    assert repro(clone) == (set(), set())
    for path in folder.glob("*labels*"):
        content = bytearray(path.read_bytes())
        content[8:] = bytes((label + 1) % 10 for label in content[8:])
        path.write_bytes(content)
    ran, trained = repro(clone)
    assert "download" in ran
    assert trained == arms(*ALL, seeds=(0, 1))
    clone.run("git", "checkout", "-q", ".")
    repro(clone)


@at_length
def test_any_edits_in_any_order_give_what_a_fresh_clone_gives(
    own: Clone, make_clone: Callable[..., Clone]
) -> None:
    """Random edits of files, code and parameters, one after the other, some taken back."""
    dice = random.Random(int(os.environ.get("SPARSE_SAM_TEST_SEED", "0")))
    changes: list[Callable[[Clone], None]] = [
        replace_image,
        rotate_labels,
        write_own,
        lambda c: make_weights(c.path / "begin.safetensors", dice.randint(2, 3)),
        lambda c: (c.path / "own_parts.py").write_text(
            PARTS.replace("ReLU", dice.choice(["GELU", "ReLU", "Tanh"]))
        ),
        lambda c: c.set(finetune__sam__rho=dice.choice([0.02, 0.05, 0.2])),
        lambda c: c.set(seeds=dice.sample(range(4), 2)),
        lambda c: c.set(prune__sparsity=dice.choice([0.5, 0.8])),
        lambda c: c.set(finetune__training__lr=dice.choice([0.05, 0.1])),
        lambda c: c.set(finetune__sam__variant=dice.choice(["sam", "asam"])),
        lambda c: c.set(data__split_seed=dice.choice([0, 1])),
    ]
    for _ in range(int(os.environ.get("SPARSE_SAM_TEST_EDITS", "2"))):
        for _ in range(3):
            for change in dice.sample(changes, dice.randint(1, 3)):
                change(own)
            repro(own)
        other = fresh(own, make_clone, *OWN)
        assert differing(written(own.path), written(other.path)) == set()
    own.run("git", "checkout", "-q", "params.yaml")
    write_own(own)
    repro(own)


@short
def test_what_is_changed_while_a_stage_runs_is_not_recorded(clone: Clone) -> None:
    """DVC hashes parameters after a stage: results of the old ones would stand beside the new."""
    clone.set(train_dense__epochs=400)
    process = clone.start("dvc", "repro", "train_dense")
    deadline = time.monotonic() + 120
    running = clone.path / ".sparse-sam" / "resume"
    while not list(running.glob("*.safetensors")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    clone.set(train_dense__epochs=2, train_dense__lr=0.07)
    assert process.wait(240) != 0
    done = clone.run("dvc", "status", "train_dense")
    assert "up to date" not in done.stdout
    clone.run("git", "checkout", "-q", "params.yaml")
    assert repro(clone)[1] == set()


def when_it_trains(clone: Clone, *command: str) -> "subprocess.Popen[bytes]":
    """Start a command and wait until the first training of it was saved."""
    points = clone.path / ".sparse-sam" / "resume"
    shutil.rmtree(points, ignore_errors=True)
    process = clone.start(*command)
    deadline = time.monotonic() + 120
    while not list(points.glob("*.safetensors")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


SLOW = {"train_dense.epochs": 60, "finetune.training.epochs": 60, "seeds": [0, 1, 2, 3]}
WHILE: dict[str, tuple[str, Callable[[Clone], None]]] = {
    "a file of the network": (
        "train_dense",
        lambda c: make_weights(c.path / "begin.safetensors", 9),
    ),
    "the network": ("train_dense", substitute("own_parts.py", "ReLU", "Tanh")),
    "the pruned networks": ("finetune_sam", lambda c: replace_pruned(c)),  # noqa: PLW0108 - below
}


def replace_pruned(clone: Clone) -> None:
    """Networks of another sparsity lie there, as after `dvc checkout` of another commit."""
    for seed in range(4):
        path = clone.path / "models" / "pruned" / f"seed-{seed}.safetensors"
        path.unlink()
        shutil.copy(clone.path.parent / "other pruned" / path.name, path)


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(one, marks=short if one == "a file of the network" else at_length)
        for one in WHILE
    ],
)
def test_what_is_changed_and_put_back_while_it_is_trained_with_is_kept_by_nobody(
    own: Clone, edit: str
) -> None:
    stage, act = WHILE[edit]
    command = (sys.executable, "-m", f"stages.{stage}")
    own.set_all({**SLOW, "prune.sparsity": 0.9})
    own.run("dvc", "repro", "prune", **LATER)
    other = own.path.parent / "other pruned"
    shutil.rmtree(other, ignore_errors=True)
    shutil.copytree(own.path / "models" / "pruned", other)
    own.set_all({"prune.sparsity": 0.5})
    own.run("dvc", "repro", "prune", **LATER)
    before = {path: path.read_bytes() for path in (own.path / "models" / "pruned").iterdir()}
    empty = {"SPARSE_SAM_STORE": str(own.path.parent / f"store of {edit}")}
    own.env |= LATER | empty
    try:
        process = when_it_trains(own, *command)
        act(own)
        assert process.wait(240) != 0
        write_own(own)
        for path, content in before.items():
            path.unlink()
            path.write_bytes(content)
        own.run(*command)
        gone_on = own.hashes(f"models/{'sam' if stage == 'finetune_sam' else 'dense'}/*")
        shutil.rmtree(empty["SPARSE_SAM_STORE"])
        shutil.rmtree(own.path / ".sparse-sam" / "resume", ignore_errors=True)
        own.run(*command)
        anew = own.hashes(f"models/{'sam' if stage == 'finetune_sam' else 'dense'}/*")
        assert gone_on == anew
    finally:
        for name in (*LATER, *empty):
            own.env.pop(name)
        own.run("git", "checkout", "-q", "params.yaml")
        write_own(own)
        repro(own)


@short
def test_what_dvc_restored_is_not_trained_again(clone: Clone) -> None:
    """As after `dvc pull` in another clone: results in the workspace, nothing in the store."""
    before = written(clone.path)
    store = clone.path / ".sparse-sam" / "store"
    shutil.rmtree(store)
    shutil.rmtree(clone.path / ".dvc" / "cache" / "runs")  # what DVC ran here; nobody pulls that
    damaged = clone.path / "models" / "sam" / "seed-1.safetensors"
    content = damaged.read_bytes()
    damaged.unlink()
    damaged.write_bytes(content[:-1] + b"x")
    clone.run("python", "-m", "stages.inputs")
    damaged.write_bytes(content)
    clone.set(seeds=[0, 1, 2])
    assert repro(clone)[1] == arms(*ALL, seeds=(2,))
    shutil.rmtree(store)
    clone.run("git", "checkout", "-q", ".")
    repro(clone)
    assert differing(written(clone.path), before) == set()
    clone.run("dvc", "repro", "--force", **LATER)
    assert all(not trainings(clone, stage)[0] for stage in TRAINING)
    assert differing(written(clone.path), before) == set()


@short
def test_a_damaged_store_is_said_and_trained_again(clone: Clone) -> None:
    before = written(clone.path)
    blobs = sorted((clone.path / ".sparse-sam/store/blobs").rglob("*"))
    sizes = {path: path.stat().st_size for path in blobs if path.is_file()}
    assert len(sizes) >= 8
    for path in sizes:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    done = clone.run("dvc", "repro", "--force", **LATER)
    assert "its content has changed" in done.stderr
    assert "it is ignored, and its result is computed again" in done.stderr
    assert "Traceback" not in done.stderr
    assert differing(written(clone.path), before) == set()
    clone.run("dvc", "repro", "--force", **LATER)
    assert all(not trainings(clone, stage)[0] for stage in TRAINING)


@at_length
def test_two_clones_share_a_store_and_write_to_it_at_once(
    clone: Clone, make_clone: Callable[..., Clone], tmp_path: Path
) -> None:
    """At once the same is trained twice, which hurts nothing; later nothing is."""
    shared = {"SPARSE_SAM_STORE": str(tmp_path / "shared")}
    first, second = make_clone("first"), make_clone("second")
    for one in (first, second):
        one.env |= shared | LATER
    processes = [one.start("dvc", "repro") for one in (first, second)]
    assert [process.wait(600) for process in processes] == [0, 0]
    clone.run("git", "checkout", "-q", ".")
    repro(clone)
    expected = written(clone.path)
    for one in (first, second):
        assert differing(written(one.path), expected) == set()
    third = make_clone("third")
    assert repro(third, **shared)[1] == set()
    assert differing(written(third.path), expected) == set()


@at_length
def test_another_machines_results_come_from_a_remote_of_dvcs(
    clone: Clone, make_clone: Callable[..., Clone], tmp_path: Path
) -> None:
    there = {"SPARSE_SAM_STORE": "remote:team"}
    clones = [make_clone("mine"), make_clone("colleagues")]
    for one in clones:
        one.run("dvc", "remote", "add", "team", str(tmp_path / "team"))
    assert repro(clones[0], **there)[1] == arms(*ALL, seeds=(0, 1))
    assert repro(clones[1], **there)[1] == set()
    assert differing(written(clones[1].path), written(clones[0].path)) == set()
    done = make_clone("lost").run("dvc", "repro", fails=True, **LATER, **there)
    assert "this clone has no such remote (it has none)" in done.stderr
    assert "Traceback" not in done.stderr


@at_length
def test_what_nothing_names_is_shown_and_removed(clone: Clone) -> None:
    clone.run("git", "checkout", "-q", ".")
    repro(clone)
    clone.run("python", "-m", "sparse_sam.tracking.unused", "--remove")
    assert "names all of it" in clone.run("python", "-m", "sparse_sam.tracking.unused").stdout
    clone.set(finetune__sam__rho=0.3)
    repro(clone)
    # The committed results name theirs, and the workspace its own.
    assert "names all of it" in clone.run("python", "-m", "sparse_sam.tracking.unused").stdout
    clone.set(finetune__sam__rho=0.4)
    repro(clone)
    said = clone.run("python", "-m", "sparse_sam.tracking.unused").stdout
    assert said.count("training sam mlpnet seed") == 2
    assert "make gc REMOVE=yes" in said
    clone.run("python", "-m", "sparse_sam.tracking.unused", "--remove")
    clone.set(finetune__sam__rho=0.05)
    assert repro(clone)[1] == set()
    clone.set(finetune__sam__rho=0.3)
    clone.run("dvc", "repro", "--force", "-s", "finetune_sam", **LATER)
    assert trainings(clone, "finetune_sam")[0] == arms("sam", seeds=(0, 1))
    clone.run("git", "checkout", "-q", ".")
    repro(clone)


@at_length
def test_the_last_line_of_make_repro_counts(clone: Clone) -> None:
    """As `make repro` does it, without its set-up."""
    clone.set(seeds=[0, 1, 5])
    began = str(int(time.time()))
    repro(clone)
    done = clone.run("python", "-m", "sparse_sam.tracking.trainings", "--since", began)
    assert "4 of 12 trainings run, 8 taken from the store, 0 of stages that" in done.stdout
    clone.run("git", "checkout", "-q", ".")
    repro(clone)
    recipe = (ROOT / "Makefile").read_text()
    assert "python -m sparse_sam.tracking.trainings --since $$began" in recipe
