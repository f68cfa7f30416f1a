"""The table on the terminal."""

import json
from typing import Any

import numpy as np
import pytest

from sparse_sam.evaluation.statistics import summarize
from sparse_sam.evaluation.summary import summarize_experiment
from sparse_sam.evaluation.table import accuracy_changes, comparison_table, described
from sparse_sam.training.arms import ARMS

THREE = {
    "dense": [0.96, 0.97, 0.98],
    "pruned": [0.5, 0.5, 0.5],
    "sgd": [0.95, 0.96, 0.97],
    "sgd_2x": [0.97, 0.97, 0.98],
    "sam": [0.96, 0.97, 0.9801],
}


def summary(accuracy: dict[str, list[float]], sam_evaluations: int = 300) -> dict[str, Any]:
    return summarize_experiment(
        dataset="mnist-sample",
        model="classifier",
        seeds=list(range(len(accuracy["sam"]))),
        accuracy={arm: summarize(values) for arm, values in accuracy.items()},
        correct={arm: np.ones((len(accuracy["sam"]), 100_000), dtype=bool) for arm in accuracy},
        margin=0.005,
        costs={
            arm: {
                "sparsity": 0.0 if arm == "dense" else 0.98765,
                "gradient_evaluations": sam_evaluations if arm == "sam" else 100 * index,
                "seconds": 1.26 * index,
            }
            for index, arm in enumerate(ARMS)
        },
    )


def tables(content: dict[str, Any]) -> str:
    """What is printed above the verdicts, which have tests of their own."""
    text, _, verdicts = comparison_table(content).rpartition("\n\n")
    said = [one["verdict"] for one in content["comparisons"].values()]
    assert verdicts.splitlines() == [content["answer"], *said]
    return text


def test_the_table_of_three_seeds() -> None:
    # Of 96, 97 and 98 %: t at two degrees of freedom is 4.3027, times 1 / sqrt(3): 2.48.
    # SAM - SGD at equal compute: -1, 0 and 0.01, mean -0.33, error 0.335, t = 0.985, and
    # P(|T| > t) = 1 - t / sqrt(t² + 2) = 0.428.
    lines = tables(summary(THREE)).splitlines()
    assert [" ".join(line.split()) for line in lines if "---" not in line] == [
        "classifier on mnist-sample, 3 seeds: mean with 95 % confidence interval",
        "",
        "arm test accuracy % sparsity gradient evaluations seconds a seed",
        "dense 97.00 ± 2.48 0.00% 0 0.0",
        "pruned 50.00 ± 0.00 98.77% 100 1.3",
        "SGD 96.00 ± 2.48 98.77% 200 2.5",
        "SGD (2× epochs) 97.33 ± 1.43 98.77% 300 3.8",
        "SAM 97.00 ± 2.50 98.77% 300 5.0",
        "",
        "paired difference points 95 % interval corrected p",
        "SAM − SGD +1.00 [+0.99, +1.02] < 0.001",
        "SAM − SGD (2× epochs) −0.33 [−1.77, +1.11] 0.428",
    ]
    assert {len(line) for line in lines[2:9]} == {len(lines[2])}  # columns that line up
    assert {len(line) for line in lines[10:]} == {len(lines[10])}


def test_one_seed_has_no_interval() -> None:
    lines = tables(summary({arm: values[:1] for arm, values in THREE.items()})).splitlines()
    assert lines[0] == "classifier on mnist-sample, 1 seed: mean with 95 % confidence interval"
    assert lines[4].split()[:2] == ["dense", "96.00"]
    assert "±" not in "\n".join(lines)
    assert lines[-1].split("  ")[0] == "SAM − SGD (2× epochs)"
    assert lines[-1].endswith("−1.00  one seed has none")


def test_no_difference_is_not_negative() -> None:
    same = {**THREE, "sam": [0.95, 0.96, 0.97 - 1e-12]}
    last = tables(summary({**same, "sgd_2x": same["sam"]})).splitlines()[-2:]
    assert "−0.00" not in last[0]
    assert last[1].split()[-4:] == ["+0.00", "[+0.00,", "+0.00]", "1.000"]


@pytest.mark.parametrize(
    ("p", "shown"),
    [
        (0.001, "0.001"),
        (0.00099, "< 0.001"),
        (1.0, "1.000"),
        (0.0499, "0.0499"),
        (0.049996, "0.049996"),
        (0.0501, "0.050"),
    ],
)
def test_small_p_values_are_not_rounded_to_0(p: float, shown: str) -> None:
    content = summary(THREE)
    content["comparisons"]["sam_vs_sgd"]["holm_p_value"] = p
    assert tables(content).splitlines()[-2].endswith(f"  {shown}")


def test_what_is_read_back_from_the_file_is_shown_alike() -> None:
    content = summary(THREE)
    assert tables(json.loads(json.dumps(content))) == tables(content)


def test_compute_is_called_equal_only_where_it_is() -> None:
    assert "equal compute" in comparison_table(summary(THREE))
    cheaper = comparison_table(summary(THREE, sam_evaluations=200))
    assert "equal compute" not in cheaper
    assert "SAM − SGD at 2× epochs" in cheaper


def test_the_table_says_which_base_optimizer_there_is() -> None:
    content = summary(THREE)
    assert "base optimizer" not in comparison_table(content)
    text = tables({**content, "base_optimizer": "AdamW"})
    assert text.startswith("classifier on mnist-sample, 3 seeds, base optimizer AdamW: mean with")
    assert "SGD" not in text
    assert text.count("AdamW") == 5


def test_a_change_since_an_earlier_result_is_a_column() -> None:
    before, now = summary(THREE), summary({**THREE, "sam": [0.95, 0.96, 0.9701]})
    # The mean of SAM is 1 point lower, by hand: (0.95 + 0.96 + 0.9701 − 0.96 − 0.97 − 0.9801) / 3.
    assert accuracy_changes(now, before)["sam"] == "−1.00"
    lines = [" ".join(line.split()) for line in comparison_table(now, before).splitlines()]
    assert lines[2] == "arm test accuracy % change sparsity gradient evaluations seconds a seed"
    assert "dense 97.00 ± 2.48 +0.00 0.00% 0 0.0" in lines
    assert "SAM 96.00 ± 2.50 −1.00 98.77% 300 5.0" in lines


def test_the_same_result_gives_no_column() -> None:
    now = summary(THREE)
    assert comparison_table(now, now) == comparison_table(now, None) == comparison_table(now)


def test_a_change_of_rounding_gives_no_column() -> None:
    before, now = summary(THREE), summary(THREE)
    now["arms"]["sam"]["accuracy"]["mean"] += 1e-16
    assert accuracy_changes(now, before) == {}


def test_names_are_text_on_a_terminal_and_in_markdown() -> None:
    evil = {**summary(THREE), "model": "a\x1b[2J|b", "dataset": "[x](http://evil)\n<script>"}
    assert comparison_table(evil).startswith("a [2J|b on [x](http://evil) <script>, 3 seeds")
    assert described(evil).startswith(
        r"a \[2J\|b on \[x\](http\://evil) \<script\>, 3 seeds" + "\n\n**"
    )


def test_an_arm_that_there_was_not_is_new() -> None:
    before = summary({**THREE, "sam": [0.97, 0.98, 0.99]})
    del before["arms"]["sgd_2x"]
    (line,) = [
        one for one in comparison_table(summary(THREE), before).splitlines() if "2× ep" in one
    ][:1]
    assert line.split()[6] == "new"
