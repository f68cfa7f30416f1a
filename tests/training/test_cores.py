"""How many cores there are, where the plain count of the machine's cores lies."""

import os
import subprocess
import sys
from pathlib import Path

import joblib
import pytest

from sparse_sam.errors import ConfigError
from sparse_sam.training.cores import available_cores

SOURCE = str(Path(__file__).resolve().parents[2] / "src")
COUNT = "from sparse_sam.training.cores import available_cores; print(available_cores())"


def counted(*before: str, **environment: str) -> int:
    """As a new process counts, started by the words ``before``."""
    own = {k: v for k, v in os.environ.items() if k not in {"OMP_NUM_THREADS", "SPARSE_SAM_CORES"}}
    done = subprocess.run(
        [*before, sys.executable, "-c", COUNT],
        env={**own, "PYTHONPATH": SOURCE, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


def test_it_is_what_the_system_grants() -> None:
    assert counted() == joblib.cpu_count()


@pytest.mark.skipif(not Path("/usr/bin/taskset").exists(), reason="needs taskset")
def test_a_process_that_is_bound_to_one_core_has_one() -> None:
    assert counted("taskset", "-c", str(min(os.sched_getaffinity(0)))) == 1


def test_a_containers_quota_counts(tmp_path: Path) -> None:
    """A real control group of this machine, of one core's time; needs to be allowed to make one."""
    group = Path("/sys/fs/cgroup/cpu/sparse-sam-test")
    quota, period = (Path("/sys/fs/cgroup/cpu") / f"cpu.cfs_{n}_us" for n in ("quota", "period"))
    try:
        group.mkdir()
    except OSError:
        pytest.skip("no control group can be made here")
    try:
        (group / quota.name).write_text(period.read_text())
        # A container sees its own group in the place of the machine's, so this one is put there.
        script = tmp_path / "in_container"
        script.write_text(
            f"#!/bin/sh\nmount --bind {group} {group.parent}\n"
            f'echo $$ >{group.parent}/tasks\nexec "$@"\n'
        )
        script.chmod(0o755)
        try:
            assert counted("unshare", "--mount", str(script)) == 1
        except (subprocess.CalledProcessError, FileNotFoundError):
            pytest.skip("no mounts of its own can be given to a process here")
    finally:
        group.rmdir()


@pytest.mark.parametrize(
    ("variable", "cores"),
    [("1", 1), ("1,4", 1), (" 1 ", 1), ("4096", None), ("", None), ("many", None), ("0", None)],
)
def test_omp_num_threads_is_an_upper_limit_if_it_is_a_number(
    monkeypatch: pytest.MonkeyPatch, variable: str, cores: int | None
) -> None:
    monkeypatch.delenv("SPARSE_SAM_CORES", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", variable)
    assert available_cores() == (cores or joblib.cpu_count())


def test_the_variable_of_ones_own_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("SPARSE_SAM_CORES", "64")
    assert available_cores() == 64


@pytest.mark.parametrize("value", ["0", "-2", "two", "1.5", "²"])
def test_a_count_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("SPARSE_SAM_CORES", value)
    with pytest.raises(ConfigError, match="SPARSE_SAM_CORES"):
        available_cores()
