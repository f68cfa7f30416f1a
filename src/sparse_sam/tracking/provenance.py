"""What a run says of where it comes from: commit, versions, machine."""

import os
import platform
import subprocess
from collections.abc import Iterable

from sparse_sam.evaluation import Provenance
from sparse_sam.tracking.journal import read_events
from sparse_sam.tracking.stages import PipelineStage

_CODE = (
    *("*.py", "src", "params.yaml", "dvc.yaml", "pyproject.toml", "requirements.txt"),
    *(":!tests", ":!docs", ":!benchmarks"),
)
"""What makes results, in git's words: code of one's own may lie anywhere."""


def provenance() -> dict[str, str]:
    """Tags for a run: commit, whether the code differs from it, versions, machine, experiment."""
    from importlib.metadata import PackageNotFoundError, version

    tags = {
        "mlflow.source.git.commit": _git("rev-parse", "HEAD") or "unknown",
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
    if "DVC_EXP_NAME" in os.environ:
        tags["dvc.experiment"] = os.environ["DVC_EXP_NAME"]
    return tags


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


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
            if event["event"] == "tags"
            for name, value in event["values"].items()
            if name.startswith("dvc.out.")
        }
        tags = start["tags"]
        found.append(
            Provenance(
                stage=stage.name,
                run=start["run"],
                commit=tags.get("mlflow.source.git.commit", "unknown"),
                dirty=tags.get("git.dirty") == "true",
                outputs=outputs,
            )
        )
    return found
