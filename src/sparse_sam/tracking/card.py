"""What the model card of an export says beside the network: gathered from what the run left.

A recipe is that of the run whose networks lie there, as its journal says; not ``params.yaml``,
which may have been changed since. What is missing, or of other networks, is left out.
"""

import tomllib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from sparse_sam.data import DataInfo
from sparse_sam.errors import SparseSamError
from sparse_sam.evaluation import ARM_NAMES, Provenance
from sparse_sam.export import Background, check_belongs
from sparse_sam.files import dvc_hash, read_json
from sparse_sam.tracking.naming import CHANGE_NO_RESULT, in_effect
from sparse_sam.tracking.paths import layout
from sparse_sam.tracking.provenance import UNKNOWN, read_provenance
from sparse_sam.tracking.stages import MADE_BY, STAGES

_DENSE, _PRUNED = "dense", "pruned"
_LICENCES = ("LICENSE*", "LICENCE*", "COPYING*")
_HIDDEN = tuple(f"{name}." for name in (*CHANGE_NO_RESULT, "seeds", "device", "threads"))


def background(manifest: Mapping[str, Any], data: DataInfo) -> Background:
    """What is known of an exported network.

    Args:
        manifest: of the export.
        data: the data set.
    """
    arm = manifest["origin"]["arm"]
    runs = {one: _run(one) for one in (_DENSE, _PRUNED, arm)}
    licence, licence_from = project_licence(Path())
    over_seeds, verdict = _results(manifest)
    return Background(
        data=data,
        arm=ARM_NAMES[arm],
        recipes={MADE_BY[one]: _recipe(run) for one, run in runs.items()},
        commit=_commit(runs[arm]),
        over_seeds=over_seeds,
        verdict=verdict,
        licence=licence,
        licence_from=licence_from,
    )


def project_licence(root: Path) -> tuple[str | None, str | None]:
    """The licence that a project states, and in which of its files; None if it states none."""
    project: Any = {}
    with suppress(OSError, ValueError):
        project = tomllib.loads((root / "pyproject.toml").read_text("utf-8")).get("project", {})
    if not isinstance(project, dict):
        project = {}
    stated = project.get("license")
    if isinstance(stated, dict):
        stated = stated.get("text")
    if isinstance(stated, str) and (line := stated.strip().partition("\n")[0]):
        return line, "pyproject.toml"
    files = sorted(file.name for name in _LICENCES for file in root.glob(name) if file.is_file())
    if not files:
        return None, None
    text = (root / files[0]).read_text("utf-8", errors="replace").strip()
    return text.partition("\n")[0][:200] or "see that file", files[0]


def _run(arm: str) -> Provenance | None:
    """The run that made an arm's networks, if it made those that lie there."""
    folder = layout.models(arm)
    try:
        (found,) = read_provenance([STAGES[MADE_BY[arm]]])
        present = dvc_hash(folder)
    except (SparseSamError, OSError, ValueError):
        return None
    return found if found.outputs.get(folder.as_posix()) == present else None


def _recipe(run: Provenance | None) -> dict[str, Any] | None:
    if run is None:
        return None
    values = in_effect(run.params).items()
    return {key: value for key, value in values if not f"{key}.".startswith(_HIDDEN)}


def _commit(run: Provenance | None) -> str | None:
    if run is None or run.commit == UNKNOWN:
        return None
    return f"commit `{run.commit[:10]}`{' with changes' if run.dirty else ''}"


def _results(manifest: Mapping[str, Any]) -> tuple[Mapping[str, Any] | None, str | None]:
    """The arm's accuracy over the seeds and the comparison, if they are of these networks."""
    try:
        summary = read_json(layout.summary, cure="")
        evaluated = read_json(layout.metrics("evaluate"), cure="")
        check_belongs(manifest, evaluated, summary["seeds"])
        decides = summary["primary"]
        verdict = str(summary["comparisons"][decides]["verdict"])
        return evaluated[manifest["origin"]["arm"]]["test_accuracy"], verdict
    except (SparseSamError, OSError, KeyError, TypeError):
        return None, None
