"""The property tests of everything that is read, at length: thousands of broken files."""

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
MUTATIONS = {
    "params.yaml": [
        "test_config.py::test_any_change_gives_params_or_a_config_error",
        "test_config.py::test_any_text_gives_params_or_a_config_error",
    ],
    "idx": [
        "data/test_idx.py::test_whatever_a_file_holds_it_is_read_or_refused",
        "data/test_idx.py::test_a_flipped_bit_never_changes_what_a_gzip_file_holds",
    ],
    "headers": [
        "test_trust.py::test_whatever_a_sealed_header_says_it_is_loaded_or_refused",
    ],
    "journals, stores and manifests": [
        "tracking/test_events.py::test_whatever_a_journal_says_it_is_read_or_refused",
        "export/test_manifest.py::test_whatever_a_manifest_says_it_is_read_or_refused",
        "sweep/test_store.py::test_whatever_a_cell_says_it_is_read_or_left_out",
    ],
    "checkpoints": [
        "training/test_checkpoint.py::test_a_changed_byte_is_refused",
        "files/test_tensorfile.py::test_a_file_with_any_byte_changed_is_refused",
    ],
}
AT_LEAST = 2000
LARGEST = 2 * 2**30

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1200)]


@pytest.mark.parametrize("what", MUTATIONS)
def test_thousands_of_mutations(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each works or gives the documented error; no hang, no memory, no file left behind."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    options = [
        "--hypothesis-profile=long",
        "--hypothesis-show-statistics",
        f"--basetemp={tmp_path}/t",
    ]
    done = subprocess.run(
        [*command, *options, *(f"tests/{test}" for test in MUTATIONS[what])],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=1000,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    generated = re.findall(r"during generate phase.*?- (\d+) passing", done.stdout, re.DOTALL)
    count = sum(map(int, generated))
    assert count >= AT_LEAST
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    assert peak < LARGEST
    strays = [path for path in tmp_path.rglob("*") if ".tmp" in path.name]
    assert not strays
    with capsys.disabled():
        print(f"\n{what}: {count} mutations, peak memory {peak / 2**20:.0f} MiB")  # noqa: T201
