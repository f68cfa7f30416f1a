"""What a person sees: on a real terminal, in a pipe, in CI, with and without colour."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sparse_sam.terminal import Activity, activity, in_words
from tests.watching import environment, watched

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = """
import sys, time
from sparse_sam.redaction import guard_output
from sparse_sam.terminal import activity, display
guard_output()
with display("[3/6] prune"):
    with activity("pruning", 4, "networks") as doing:
        for number in range(4):
            doing.now(f"pruning, seed {number + 1} of 4")
            time.sleep(0.6)
            doing.advance()
            if number == 2:
                sys.stderr.write("warning: hunter2-hunter2 is " + 70 * "long " + "\\n")
                sys.stdout.write("prune: a line of the result\\n")
    with activity("telling MLflow", brief=True):
        time.sleep(0.2)
"""
COMMAND = [sys.executable, "-c", SCRIPT]
ESCAPE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def piped(**env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        COMMAND, env=environment(env), capture_output=True, encoding="utf-8", check=True
    )


def test_in_a_pipe_there_are_a_few_plain_lines() -> None:
    done = piped()
    assert re.sub(r"in \d+ s", "in 3 s", done.stdout).splitlines() == [
        "[3/6] prune: pruning, 4 networks",
        "prune: a line of the result",
        "[3/6] prune: done in 3 s",
    ]
    assert done.stderr.startswith("warning: ")
    assert not set("\r\x1b") & set(done.stdout + done.stderr)


def test_colour_can_be_forced_into_a_pipe_and_nothing_else_is() -> None:
    done = piped(FORCE_COLOR="1")
    assert done.stdout.startswith("\x1b[1;36m[3/6] prune:\x1b[0m pruning, 4 networks\n")
    assert done.stderr.startswith("\x1b[1;33mwarning:\x1b[0m ")
    assert "\r" not in done.stdout + done.stderr
    assert piped(FORCE_COLOR="1", NO_COLOR="1").stdout.startswith("[3/6] prune: ")


def test_on_a_terminal_one_line_says_what_is_done_how_far_and_how_long() -> None:
    code, said = watched(COMMAND, ROOT, {"PASSWORD": "hunter2-hunter2"})
    assert code == 0
    assert "\x1b[1;36m[3/6] prune\x1b[0m  " in said
    drawn = [line.rstrip() for line in re.split(r"[\r\n]+", ESCAPE.sub("", said))]
    drawn = [line for line in drawn if line]
    for seed in range(1, 5):
        assert any(f"[3/6] prune  pruning, seed {seed} of 4" in line for line in drawn)
    assert any("2 of 4 networks, about 1 s left" in line for line in drawn)
    assert not any("left" in line for line in drawn if " 0 of 4 " in line)
    assert any(line == "[3/6] prune  telling MLflow" for line in drawn)
    # What else is written stands by itself, whole, without secrets; only the end stays.
    (warned,) = [line for line in drawn if line.startswith("warning:")]
    assert warned == f"warning: *** is {70 * 'long '}".rstrip()
    assert "prune: a line of the result" in drawn
    assert re.fullmatch(r"\[3/6\] prune  done in \d s", drawn[-1])
    assert said.endswith("\n")


@pytest.mark.parametrize("variable", ["NO_COLOR", "CI"])
def test_without_colour_there_is_none(variable: str) -> None:
    _, said = watched(COMMAND, ROOT, {variable: "1"})
    assert not re.search(r"\x1b\[[0-9;]*m", said)
    if variable == "CI":
        assert not set("\r\x1b") & set(said)


def test_a_dumb_terminal_gets_plain_lines() -> None:
    _, said = watched(COMMAND, ROOT, {"TERM": "dumb"})
    assert not set("\r\x1b") & set(said)
    assert "[3/6] prune: pruning, 4 networks\n" in said


@pytest.mark.parametrize("columns", [20, 60])
def test_a_narrow_terminal_cuts_the_line_and_never_wraps_it(columns: int) -> None:
    _, said = watched(COMMAND, ROOT, {"NO_COLOR": "1"}, columns)
    drawn = re.split(r"[\r\n]+", ESCAPE.sub("", said))
    lines = [line for line in drawn if line.startswith("[3/6]") and "done" not in line]
    assert lines
    assert max(map(len, lines)) <= columns


def test_nobody_who_reads_ends_no_work() -> None:
    script = SCRIPT + "\nopen('done', 'w').close()"
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", script.replace("'done'", repr("/dev/null"))],
        env=environment({}),
        stdout=writer,
        stderr=subprocess.DEVNULL,
    )
    os.close(writer)
    os.close(reader)
    assert process.wait(60) in {0, 120}  # 120: Python could not flush when it had ended


def test_a_closed_output_ends_no_command() -> None:
    for closed in (">&-", "2>&-", ">&- 2>&-"):
        shell = ["sh", "-c", f'"$0" "$@" {closed}', *COMMAND]
        subprocess.run(shell, env=environment({}), check=True)


def test_what_an_encoding_lacks_is_replaced() -> None:
    script = (
        "import sys; from sparse_sam.redaction import guard_output; guard_output()\n"
        "sys.stdout.write('\u22120.33 points\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment({"PYTHONIOENCODING": "ascii"}),
        capture_output=True,
        check=True,
    )
    assert done.stdout.splitlines() == [b"?0.33 points"]


def test_the_time_that_is_left_is_the_pace_so_far() -> None:
    doing = Activity("training", 40, "epochs")
    assert doing.left is None  # nothing is done yet
    doing._began -= 30
    doing.advance(10)
    assert doing.left == pytest.approx(90, abs=0.5)  # 10 took 30 s, and 30 are left
    assert doing.progress == "10 of 40 epochs, about 90 s left"
    doing._updated -= 5
    doing._began -= 5
    assert doing.left == pytest.approx(85, abs=0.5)  # it counts down
    doing._updated -= 100
    doing._began -= 100
    assert doing.left is None  # overdue: nobody knows
    doing.advance(30)
    assert doing.left is None
    assert doing.progress == "40 of 40 epochs"


def test_preparation_and_what_was_done_before_say_nothing_of_the_pace() -> None:
    doing = Activity("training", 100, "epochs")
    doing._began -= 1000
    doing.begin()
    doing.advance(60, given=True)
    assert doing.left is None
    doing._began -= 20
    doing.begin()  # once
    doing.advance(10)
    assert doing.left == pytest.approx(60, abs=0.5)  # 10 took 20 s, and 30 are left


def test_so_short_a_time_says_nothing_yet() -> None:
    doing = Activity("training", 40, "epochs")
    doing.advance(10)
    assert doing.left is None


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (14.4, "14 s"), (99, "99 s"), (100, "2 min"), (7800, "2 h 10 min")],
)
def test_times_are_said_as_people_say_them(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "0 B of 9.9 MB"),
        (500, "500 B of 9.9 MB"),
        (1_234_567, "1.2 MB of 9.9 MB"),
        (999_949, "999.9 kB of 9.9 MB"),
        (999_999, "1.0 MB of 9.9 MB"),
    ],
)
def test_bytes_are_said_in_powers_of_a_thousand(count: int, said: str) -> None:
    doing = Activity("downloading", 9_900_000, "B")
    doing.advance(count)
    assert doing.count == said


def test_outside_of_a_display_a_pipe_hears_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with activity("reading", 3, "images") as doing:
        doing.advance()
    assert capfd.readouterr() == ("", "")


def commands_of_make() -> list[list[str]]:
    """``make help`` of this repository, group by group: a heading, then its lines."""
    done = subprocess.run(
        ["make", "--silent", "help"], cwd=ROOT, capture_output=True, encoding="utf-8", check=True
    )
    return [group.splitlines() for group in done.stdout.strip("\n").split("\n\n")]


def test_every_documented_target_is_in_one_group_of_make_help() -> None:
    groups = commands_of_make()
    assert [group[0] for group in groups] == [
        *("Start here", "Results", "Tracking", "Share and ship", "Sweeps", "Studies", "Develop")
    ]
    listed = [line.split()[1] for group in groups for line in group[1:]]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert sorted(listed) == sorted(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))
    # What the pages tell people to type is there.
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "studies/README.md"]:
        named = re.findall(r"`make ([a-z-]+)\b", page.read_text(encoding="utf-8"))
        assert set(named) <= {*listed, "setup-sweep"}, page.name


def test_make_help_is_aligned_and_fits_eighty_columns() -> None:
    lines = [line for group in commands_of_make() for line in group[1:]]
    assert max(map(len, lines)) <= 80
    starts = {re.match(r"  make \S+ +", line).end() for line in lines}  # type: ignore[union-attr]
    assert len(starts) == 1
