"""A stage's own end of tracking: its journal, and the request that MLflow be told it.

MLflow lives in a process of its own (``sender``). Its import and its requests take place beside
the training and not in front of it, and a server that hangs or dies can do nothing to a stage but
be waited for, a little, at its end.
"""

import math
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sparse_sam.config import Params
from sparse_sam.errors import ConfigError
from sparse_sam.journal import Journal
from sparse_sam.pipelines import launcher, place, refusal, repository_root
from sparse_sam.sender import Request

_CODE = ("src", "stages", "params.yaml", "dvc.yaml", "pyproject.toml")
_PATIENCE_SECONDS = 30.0


def patience() -> float:
    """For how many seconds MLflow is waited for: ``SPARSE_SAM_PUBLISH_PATIENCE``, or 30.

    Raises:
        ConfigError: the variable is no finite number of at least 0.
    """
    text = os.environ.get("SPARSE_SAM_PUBLISH_PATIENCE") or str(_PATIENCE_SECONDS)
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ConfigError(
            f"SPARSE_SAM_PUBLISH_PATIENCE = {text!r}: must be a number of seconds, at least 0"
        )
    return seconds


class Publisher:
    """What makes MLflow know a growing journal. ``SPARSE_SAM_PUBLISH=later`` makes it idle."""

    def __init__(self, journal: Path, root: Path) -> None:
        self._journal = journal
        later = os.environ.get("SPARSE_SAM_PUBLISH") == "later"
        self._request = None if later else Request(journal, root)

    def leave(self, stopped: Callable[[], bool]) -> None:
        """Do not wait for a sender that gets through: a later stage does. Else as ``wait``."""
        if self._request is not None and not self._request.leave():
            self.wait(stopped)

    def wait(self, stopped: Callable[[], bool]) -> None:
        """Wait until MLflow knows the whole journal; when it cannot be told, say so and go on.

        Args:
            stopped: asked again and again; True ends the wait at once.
        """
        if self._request is None:
            return
        reason = self._request.wait(patience(), stopped)
        if refusal(self._journal):
            sys.stderr.write(
                f"warning: MLflow refuses this run ({reason}). The results are safe in files; "
                "`make publish EXPERIMENT=name` sends it to another experiment.\n"
            )
        elif reason:
            sys.stderr.write(
                f"warning: MLflow does not have this run yet ({reason}). "
                "The results are safe in files; `make publish` sends what is missing.\n"
            )


def open_journal(stage: str, params: Params, sections: Sequence[str]) -> tuple[Journal, Publisher]:
    """Begin a stage's journal, and sending it.

    Args:
        stage: the stage's name.
        params: all parameters: stages of equal parameters belong to one pipeline run.
        sections: the parameters, or sections of them, that the stage reads.
    """
    patience()  # a fault in it is said before the work, and not after
    root = repository_root()
    made_by = launcher()
    # `mlflow run` names its own run here; a stage that resumed it would collide with the others.
    os.environ.pop("MLFLOW_RUN_ID", None)
    values = params.model_dump(mode="json")
    tags = _provenance()
    with place(root, stage, values, Path.cwd(), made_by) as path:
        journal = Journal(
            path,
            stage=stage,
            params=select(params, sections),
            tags=tags,
            launcher=made_by,
        )
    return journal, Publisher(path, root)


def select(params: Params, sections: Sequence[str]) -> dict[str, Any]:
    """The parameters of some sections, flat, under dotted names."""
    return {
        key: value
        for key, value in flatten(params.model_dump(mode="json")).items()
        if any(key == section or key.startswith(f"{section}.") for section in sections)
    }


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested parameters under dotted names."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _provenance() -> dict[str, str]:
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
