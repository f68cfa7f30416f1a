"""Photographs in class folders: ``python -m studies.colour.run FOLDER PROJECT``.

FOLDER has ``train/<class>`` and ``test/<class>``. PROJECT is created as ``make new`` does, if it is
not there. All six stages run in it, and its report and networks stay there. Logistic regression on
the pixels of the same images is the baseline. Results go to ``results.json``; ``REPORT.md`` is
written from them.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import chdir
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from sklearn.linear_model import LogisticRegression

from sparse_sam.data import Split, load_test_data, load_training_data
from sparse_sam.errors import SparseSamError
from sparse_sam.files import read_json, write_json, write_text
from sparse_sam.new import new_project, requirement
from sparse_sam.tracking import layout
from studies.colour.report import HERE, REPORT, RESULTS, page

STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2)
"""C of the logistic regression: the best on the validation part is tested."""


def set_params(path: Path, changes: Mapping[str, Any], folder: Path) -> None:
    """Change a file of parameters; a mapping changes the keys that it has."""
    yaml = YAML(typ="safe", pure=True)
    params = yaml.load(path)
    for key, value in {**changes, "data.folder": str(folder)}.items():
        *parents, last = key.split(".")
        section = params
        for parent in parents:
            section = section[parent]
        section[last] = section[last] | value if isinstance(value, dict) else value
    yaml.dump(params, path)


def run_pipeline(project: Path) -> None:
    """Run every stage, with the library that runs here."""
    paths = (str(HERE.parents[1] / "src"), os.environ.get("PYTHONPATH", ""))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    subprocess.run([sys.executable, "-m", "dvc", "repro"], cwd=project, env=environment, check=True)


def regress() -> dict[str, Any]:
    """Logistic regression on standardised pixels, of the data set in the current folder."""
    training, test = load_training_data(layout.dataset), load_test_data(layout.dataset).test
    if training.validation is None:
        raise SparseSamError("data.validation_fraction is 0: there is nothing to choose C on")
    tried: dict[float, LogisticRegression] = {}
    for strength in STRENGTHS:
        tried[strength] = LogisticRegression(C=strength, max_iter=500).fit(*_flat(training.train))
    chosen = max(tried, key=lambda strength: tried[strength].score(*_flat(training.validation)))
    return {
        "accuracy": float(tried[chosen].score(*_flat(test))),
        "C": chosen,
        "tried": list(STRENGTHS),
    }


def _flat(split: Split) -> tuple[Any, Any]:
    return split.taken(slice(None)).flatten(1).numpy(), split.labels.numpy()


def main() -> int:
    """Run and write: 0, or 1 with what was wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument("folder", type=Path)
    parser.add_argument("project", type=Path)
    chosen = parser.parse_args()
    project = chosen.project.absolute()
    try:
        if not (project / "params.yaml").is_file():
            new_project(project, requirement())
        changes = YAML(typ="safe", pure=True).load(HERE / "params.yaml")
        set_params(project / "params.yaml", changes, chosen.folder.absolute())
        run_pipeline(project)
        with chdir(project):
            results = {
                "summary": read_json(layout.metrics("summary"), cure="Run it again."),
                "data": read_json(layout.metrics("download"), cure="Run it again."),
                "logistic_regression": regress(),
            }
    except (SparseSamError, OSError, subprocess.CalledProcessError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    write_json(RESULTS, json.loads(json.dumps(results)))
    write_text(REPORT, page(results))
    sys.stdout.write(f"{REPORT}\nThe project, with its report and networks: {project}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
