"""What a run says of where it comes from: commit, versions, machine."""

import getpass
import os
import platform
from collections.abc import Iterable, Mapping

from sparse_sam.evaluation import Provenance
from sparse_sam.files import git_says
from sparse_sam.tracking.journal import read_events
from sparse_sam.tracking.naming import CHANGED, changed_parameters
from sparse_sam.tracking.stages import PipelineStage

UNKNOWN = "unknown"
"""The commit, where there is none."""
_CODE = (
    *("*.py", "src", "params.yaml", "dvc.yaml", "pyproject.toml", "requirements.txt"),
    *(":!tests", ":!docs", ":!benchmarks"),
)
"""What makes results, in git's words: code of one's own may lie anywhere."""


def provenance() -> dict[str, str]:
    """Tags for a run: commit, whether the code differs from it, versions, machine, experiment."""
    from importlib.metadata import PackageNotFoundError, version

    tags = {
        "mlflow.source.git.commit": _git("rev-parse", "HEAD") or UNKNOWN,
        "git.dirty": str(bool(_git("status", "--porcelain", "--", *_CODE))).lower(),
        "env.python": platform.python_version(),
        "env.platform": f"{platform.system()} {platform.machine()}",
        "env.cpus": str(os.cpu_count()),
    }
    for package in ("torch", "torchvision", "numpy", "scikit-learn", "dvc", "mlflow"):
        try:
            tags[f"env.{package}"] = version(package)
        except PackageNotFoundError:
            continue
    if (changed := changed_parameters()) is not None:
        tags[CHANGED] = changed
    if "DVC_EXP_NAME" in os.environ:
        tags["dvc.experiment"] = os.environ["DVC_EXP_NAME"]
    return tags


def source_tags(script: str) -> dict[str, str]:
    """What MLflow shows as a run's source and user."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's number without a name
        user = "unknown"
    return {
        "mlflow.source.name": script,
        "mlflow.source.type": "LOCAL",
        "mlflow.user": user,
    }


def _git(*arguments: str) -> str:
    return (git_says(*arguments) or "").strip()


def _machine(tags: Mapping[str, str]) -> str:
    known = (tags.get("env.platform"), f"{tags['env.cpus']} cores" if "env.cpus" in tags else None)
    torch = f"torch {tags['env.torch']}" if "env.torch" in tags else None
    return ", ".join(one for one in (*known, torch) if one)


def read_provenance(stages: Iterable[PipelineStage]) -> list[Provenance]:
    """What the journals of the stages' runs say of themselves, by stage."""
    found = []
    for stage in stages:
        path = stage.journal
        if not path.is_file():
            continue
        events = read_events(path)
        if not events:
            continue
        start = events[0]
        outputs = {
            name.removeprefix("dvc.out."): value
            for event in events
            if event["event"] == "tags" and event.get("child") is None
            for name, value in event["values"].items()
            if name.startswith("dvc.out.")
        }
        tags = start["tags"]
        found.append(
            Provenance(
                stage=stage.name,
                run=start["run"],
                commit=tags.get("mlflow.source.git.commit", UNKNOWN),
                dirty=tags.get("git.dirty") == "true",
                outputs=outputs,
                ended=events[-1]["time"],
                machine=_machine(tags),
                params=start["params"],
            )
        )
    return found
