"""What MLflow shows of the experiment itself: its description, and the list of runs with columns.

Both are tags of the experiment. A description that a person has written stays.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import get_args

from sparse_sam.errors import RefusedError
from sparse_sam.evaluation import ANSWER, ARM_NAMES, DIFFERENCE, OUTCOME, SUBJECT, Outcome
from sparse_sam.files import as_markdown
from sparse_sam.tracking.mlflow_store import NOTE, Tracker, as_tracking_error
from sparse_sam.tracking.ui import RUNS_VIEW, runs_path

PIPELINE_RUNS = "tags.`sparse_sam.kind` = 'pipeline'"
"""MLflow's query for them."""
OURS = "Written after each run; take this line away to keep words of your own."
"""The last line of a description that may be replaced."""
_LATEST = "sparse_sam.latest"
_MOST_COUNTED = 1000
_COLUMNS = {
    "params.`finetune.sam.rho`": 115,
    f"tags.`{OUTCOME}`": 95,
    f"tags.`{DIFFERENCE}`": 310,
    f"tags.`{SUBJECT}`": 340,
    "metrics.`seconds.sam`": 105,
    "metrics.`seconds.sgd_2x`": 130,
    f"tags.`{ANSWER}`": 380,
    "metrics.`test_accuracy.sam`": 130,
    "metrics.`test_accuracy.sgd_2x`": 150,
}
"""By their names in MLflow: how wide they are."""


def present(tracker: Tracker, experiment: str, run: str, time: int) -> None:
    """Describe the experiment by its latest pipeline run; one that is older changes nothing.

    An experiment that others own may forbid it: the run is sent all the same.

    Args:
        tracker: the MLflow store.
        experiment: its id.
        run: the id of the pipeline run, which has its tags.
        time: when the pipeline began, in milliseconds since 1970.

    Raises:
        TrackingError: MLflow is not reached.
    """
    with suppress(RefusedError), as_tracking_error(tracker.shown):
        tags = tracker.client.get_experiment(experiment).tags
        written = tags.get(NOTE, "").strip()
        if int(tags.get(_LATEST, "0")) > time or (written and not written.endswith(OURS)):
            return
        runs = tracker.client.search_runs([experiment], PIPELINE_RUNS, max_results=_MOST_COUNTED)
        counts = counted(one.data.tags.get(OUTCOME) for one in runs)
        latest = tracker.client.get_run(run)
        description = _description(experiment, run, latest.info.run_name, latest.data.tags)
        said = {
            NOTE: f"{counts} {description}",
            RUNS_VIEW: json.dumps(_view()),
            _LATEST: str(time),
        }
        for key, value in said.items():
            tracker.client.set_experiment_tag(experiment, key, value)


def counted(outcomes: Iterable[str | None]) -> str:
    """How many runs found what: the latest alone might be the odd one out."""
    found = Counter(outcomes)
    known, total = get_args(Outcome), found.total()
    said = [f"{outcome} in {found[outcome]}" for outcome in known]
    if others := total - sum(found[outcome] for outcome in known):
        said.append(f"not told in {others}")  # that failed, or are of an earlier version
    return f"{total} run{'s' if total > 1 else ''}: SAM {', '.join(said)}."


def _description(experiment: str, run: str, name: str, tags: Mapping[str, str]) -> str:
    what, answer = (as_markdown(tags.get(name, "")) for name in (SUBJECT, ANSWER))
    sgd, twice, sam = (ARM_NAMES[arm] for arm in ("sgd", "sgd_2x", "sam"))
    return f"""\
Latest run: {as_markdown(name)}, {what}. {answer}

[That run](#/experiments/{experiment}/runs/{run}) · \
[All runs, with these columns](#{runs_path(experiment, viewed=True)})

| column | what it says |
|---|---|
| run name | the parameters that differ from the committed ones |
| `{OUTCOME}` | how SAM does against SGD: `{"`, `".join(get_args(Outcome))}`; `{ANSWER}` says it \
in a sentence |
| `{SUBJECT}` | the network, the data set, how sparse, and how many seeds |
| `{DIFFERENCE}` | test accuracy of {sam} minus {twice} in percentage points, the mean over the \
seeds, which are paired; its 95 % confidence interval; p of the paired t-test after Holm's \
correction. Empty where no two took as many gradients. As numbers: \
`sam_vs_sgd_2x.points`, `.low`, `.high`, `.p`; at equal epochs: `sam_vs_sgd.…` |
| `test_accuracy.…` | the share of test images that are right, the mean over the seeds |
| `seconds.…` | what training took, per seed |

**What is compared.** A run trains a dense network for every seed, prunes it, and finetunes each \
pruned network in three ways: {sgd}, {twice} and {sam}. A step of SAM takes two gradients, so SGD \
gets twice the epochs too. (Where `finetune.training.base_optimizer` names another optimizer, it \
stands in SGD's place.)

{OURS}"""


def _view() -> dict[str, object]:
    """The list of runs as MLflow's own "share" would save it."""
    return {
        "searchFilter": PIPELINE_RUNS,
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": list(_COLUMNS),
        "columnOrder": list(_COLUMNS),
        "columnWidths": _COLUMNS,
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "runsVisibilityMap": {},
        "runsHiddenMode": "FIRST_10_RUNS",
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": False,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
        "autoRefreshEnabled": True,
    }
