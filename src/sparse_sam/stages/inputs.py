"""Hash the code that each stage runs, and what it reads from outside, into ``inputs/``.

DVC runs this every time, and a stage only if its file of hashes is another: so a comment retrains
nothing, a changed image does, and nobody lists files in ``dvc.yaml``.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparse_sam.stages.runner import command, explained

if TYPE_CHECKING:
    from sparse_sam.config import Params


def main() -> None:
    """Write a file for every stage."""
    argparse.ArgumentParser(prog=command("inputs"), description=__doc__).parse_args()
    from sparse_sam.config import load_params
    from sparse_sam.files import Contents, write_json
    from sparse_sam.redaction import guard_output
    from sparse_sam.tracking import STAGES, layout, open_store, repository_root, state_folder

    guard_output()
    with explained():
        params = load_params(layout.params)
        store = open_store(repository_root())
        _keep_restored(store)
        contents = Contents(state_folder(repository_root()) / "contents.json")
        for stage in STAGES:
            write_json(layout.inputs(stage), made_by(stage, params, contents))
        contents.remember()


def _keep_restored(store: Any) -> None:
    """Let what DVC restored be taken from the store; what fails of it costs a training, no more."""
    from sparse_sam.errors import DataError
    from sparse_sam.tracking import keep_restored

    try:
        keep_restored(Path(), store)
    except (DataError, OSError) as error:
        sys.stderr.write(f"warning: what lies here was not put into the store: {error}\n")


def check_unchanged(stage: str, params: "Params") -> None:
    """Raise SparseSamError if a stage would be recorded as made by what did not make it.

    DVC hashes parameters when a stage has ended, and code when ``dvc repro`` began: what somebody
    edits meanwhile would stand in ``dvc.lock`` beside results of what was there before.
    """
    from sparse_sam.config import load_params
    from sparse_sam.errors import SparseSamError
    from sparse_sam.files import Contents, read_json
    from sparse_sam.tracking import STAGES, layout, repository_root, state_folder

    again = "It is not recorded as done; run it again: what was trained is in the store."
    own = STAGES[stage].params
    if load_params(layout.params).flat(own) != params.flat(own):
        raise SparseSamError(f"{layout.params} was changed while {stage} ran. {again}")
    contents = Contents(state_folder(repository_root()) / "contents.json")
    said = read_json(layout.inputs(stage), "Run `dvc repro inputs`.")
    if said != made_by(stage, params, contents):
        hint = ""
        if stage == "download" and params.data.folder:
            hint = " A source that downloads must do so outside data.folder (docs/data.md)."
        raise SparseSamError(
            f"{layout.inputs(stage)} does not say what {stage} is made by now: code, or a file "
            f"that it reads, was changed since `dvc repro` began. {again}{hint}"
        )


def made_by(stage: str, params: "Params", contents: Any) -> dict[str, Any]:
    """What a stage's numbers depend on beside parameters and the outputs of other stages."""
    from importlib.metadata import version

    from sparse_sam.errors import ConfigError
    from sparse_sam.files import MISSING, code_of

    code = code_of([f"sparse_sam.stages.{stage}", *_chosen(stage, params)])
    if stage == "download":
        outside = dict(_data(params))
        for name, path in outside.items():
            _check_apart(name, path)
        return {"code": code, "files": {name: contents.of(path) for name, path in outside.items()}}
    files = {name: contents.of(Path(name)) for name in params.model.files}
    if stage == "train_dense" and params.model.checkpoint:
        given = _given(params)
        files |= {f"model.checkpoint, seed {seed}": contents.of(path) for seed, path in given}
    for name, found in files.items():
        if found == MISSING:
            raise ConfigError(
                f"params.yaml: model.files: {name!r} is neither a file nor a folder, seen from the "
                "repository's root; remove it from the list, or put it there"
            )
    # The public version: builds for other processors are called alike.
    return {"code": code, "files": files, "torch": version("torch").partition("+")[0]}


def _chosen(stage: str, params: "Params") -> tuple[str, ...]:
    """Where the code begins that parameters choose for a stage."""
    from sparse_sam.files import chosen_places
    from sparse_sam.training import Dense, Finetuning

    model = params.model.network
    start = "given" if params.model.checkpoint else ""
    dense = Dense("", model, params.train_dense, 0, start=start).code()
    arms = {
        arm: Finetuning("", model, params.prune, arm, params.finetune, 0).code()
        for arm in ("sgd", "sam")
    }
    chosen = {
        "download": chosen_places(params.data),
        "train_dense": dense,
        "prune": [*chosen_places(params.model), *chosen_places(params.prune)],
        "finetune_sgd": arms["sgd"],
        "finetune_sam": arms["sam"],
        "evaluate": [*arms["sgd"], *arms["sam"]],
    }
    return tuple(chosen[stage])


def _given(params: "Params") -> Iterator[tuple[int, Path]]:
    """The files that dense networks are taken over from."""
    from sparse_sam.training import given_path

    for seed in params.seeds:
        yield seed, given_path(params.model.checkpoint or "", seed)


def _data(params: "Params") -> Iterator[tuple[str, Path]]:
    """The files outside that the data set is read from."""
    from sparse_sam.data import SOURCES, outer_path

    if params.data.folder:
        yield "data.folder", outer_path(params.data.folder)
    # The official files have checksums, wherever they come from; a source of one's own may not.
    mirror = params.data.mirror
    if mirror and params.data.source not in SOURCES and outer_path(mirror).exists():
        yield "data.mirror", outer_path(mirror)


def _check_apart(name: str, path: Path) -> None:
    """Raise ConfigError if a path of the parameters holds what the pipeline writes.

    Then what a stage reads is changed by it, and it would never be recorded as done.
    """
    from sparse_sam.data import repository
    from sparse_sam.errors import ConfigError
    from sparse_sam.tracking import STAGES, layout

    for stage, row in STAGES.items():
        for written in (*map(Path, row.outputs), row.journal, layout.inputs(stage)):
            if (repository() / written).resolve().is_relative_to(path.resolve()):
                raise ConfigError(
                    f"params.yaml: {name} names {path}, which holds {written}, and this the stage "
                    f"{stage} writes: it would seem changed at every run. Allowed: a path with "
                    "nothing which the pipeline writes. Move the images into a folder of their "
                    f"own, as data/pictures, and set {name} to it."
                )


if __name__ == "__main__":
    main()
