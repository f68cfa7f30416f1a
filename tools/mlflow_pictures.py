"""Take the pictures of docs/tracking.md: ``python -m tools.mlflow_pictures``.

Runs the pipeline five times in a clone of what is committed, with five values of ρ, registers a
network, starts ``make ui``, and photographs what MLflow shows. About ten minutes on two cores.
Needs chromium.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tools.browser import Browser

IMAGES = Path("docs/images")
RHOS = (0.02, 0.05, 0.1, 0.2, 0.5)
COMMITTED: dict[tuple[str, ...], Any] = {
    ("model", "name"): "lenet-300-100",
    ("prune", "sparsity"): 0.9,
    ("finetune", "training", "epochs"): 10,
}
"""What is committed in the clone, beside the parameters of this repository."""
WITHOUT_ASSISTANT = """
localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true");
localStorage.setItem("mlflow.assistant.panelOpen_v1", "false");
"""
HIDDEN = ("MLFLOW_", "DVC_", "SPARSE_SAM_")


class Clone:
    """A clone of this repository, in which commands run as a user's do."""

    def __init__(self, path: Path) -> None:
        self.path = path
        subprocess.run(["git", "clone", "--quiet", Path.cwd(), path], check=True)
        kept = {name: of for name, of in os.environ.items() if not name.startswith(HIDDEN)}
        # The interpreter may know another clone's library.
        bin_folder = Path(sys.executable).parent
        self.environment = kept | {
            "PYTHONPATH": f"{path / 'src'}:{path}",
            "PATH": f"{bin_folder}:{os.environ['PATH']}",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
        }

    def run(self, *command: str) -> None:
        """Run a command there, to its end."""
        subprocess.run(command, cwd=self.path, env=self.environment, check=True)

    def set(self, values: dict[tuple[str, ...], Any]) -> None:
        """Change ``params.yaml``."""
        yaml, file = YAML(), self.path / "params.yaml"
        params = yaml.load(file)
        for (*sections, key), value in values.items():
            place = params
            for section in sections:
                place = place[section]
            place[key] = value
        yaml.dump(params, file)

    def commit(self, why: str) -> None:
        """Commit everything that git keeps."""
        who = ("-c", "user.name=screenshots", "-c", "user.email=screenshots@example.org")
        self.run("git", *who, "commit", "--quiet", "--all", "--message", why)

    @contextmanager
    def ui(self) -> Iterator[str]:
        """``make ui``, and the address that it prints."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        server = subprocess.Popen(
            ["make", "-o", ".venv/.ready", "ui", f"PORT={port}"],
            cwd=self.path,
            env=self.environment,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            lines = iter(server.stdout or ())
            yield next(line for line in lines if line.startswith("MLflow: ")).split()[1]
        finally:
            os.killpg(server.pid, signal.SIGINT)
            server.wait()


class Pictures:
    """What is photographed of a server.

    Args:
        browser: what shows it.
        listed: the address that ``make ui`` printed.
    """

    def __init__(self, browser: Browser, listed: str) -> None:
        self.browser, self.listed = browser, listed
        self.base, self.experiment = listed.partition("/#")[0], listed.split("/")[5]

    def runs(self) -> None:
        """The list of runs, as a user sees it first."""
        self._open(self.listed, (1900, 530), "Run Name", "SAM minus SGD", "ρ 0.5")
        self._picture("mlflow-runs")

    def compare(self) -> None:
        """All runs compared: the parameter that differs, and what came of it."""
        runs = self._found("tags.`sparse_sam.kind` = 'pipeline'")
        address = f"{self.base}/#/compare-runs?runs={_list(runs)}&experiments={self._experiments}"
        self._open(f"{address}&workflowType=machine_learning", (1900, 1560), "Show diff only")
        for place in (0, 1):  # parameters, metrics: show what differs
            self.browser.ask(f"document.querySelectorAll('[role=switch]')[{place}].click()")
        self.browser.wait("document.querySelector('.js-plotly-plot .main-svg') !== null")
        self._picture("mlflow-compare")

    def version(self, name: str) -> None:
        """A registered version, with what it says of itself."""
        address = f"{self.base}/#/models/{name}/versions/1?workflowType=machine_learning"
        self._open(address, (1500, 1000), "test images")
        self._picture("mlflow-version")

    def _open(self, address: str, size: tuple[int, int], *shown: str) -> None:
        """Open a page, and wait until it shows these texts."""
        width, height = size
        self.browser.open("about:blank", width)  # else a new fragment alone loads nothing
        self.browser.open(address, width, height=height)
        self.browser.wait(_says(*shown))

    def _picture(self, name: str) -> None:
        time.sleep(2)  # all fades in
        self.browser.picture(IMAGES / f"{name}.png")

    @property
    def _experiments(self) -> str:
        return _list([self.experiment])

    def _found(self, query: str) -> list[str]:
        """The ids of the runs that a query finds, newest first."""
        request = urllib.request.Request(  # noqa: S310 - http, ours
            f"{self.base}/api/2.0/mlflow/runs/search",
            json.dumps({"experiment_ids": [self.experiment], "filter": query}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as answer:  # noqa: S310
            return [run["info"]["run_id"] for run in json.load(answer)["runs"]]


def _list(values: list[str]) -> str:
    return "[" + ",".join(f"%22{value}%22" for value in values) + "]"


def _says(*texts: str) -> str:
    """In JavaScript: whether the page shows these."""
    return " && ".join(f"document.body.innerText.includes({json.dumps(text)})" for text in texts)


def main() -> None:
    """Run, register, photograph."""
    os.nice(10)  # other work goes first
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        clone = Clone(Path(folder) / "sparse-sam")
        clone.set(COMMITTED)
        clone.commit("a small experiment")
        for rho in RHOS:
            clone.set({("finetune", "sam", "rho"): rho})
            clone.run("dvc", "repro", "--quiet")
        clone.run(sys.executable, "-m", "sparse_sam.tracking.publish")
        clone.commit("its results")
        release = ("-m", "sparse_sam.tracking.release", "--register", "--base", "HEAD")
        clone.run(sys.executable, *release)
        with clone.ui() as listed, Browser() as browser:
            browser.before_pages(WITHOUT_ASSISTANT)
            pictures = Pictures(browser, listed)
            pictures.runs()
            pictures.compare()
            pictures.version("sparse-sam")


if __name__ == "__main__":
    main()
