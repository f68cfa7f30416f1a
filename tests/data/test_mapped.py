"""Pixels on disk: what is written is there, nothing is left behind, and a choice copies nothing."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sparse_sam.data.chosen import Chosen
from sparse_sam.data.mapped import mapped

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 3, 5, 4), np.uint8)


def test_what_is_written_is_read_and_no_file_is_seen(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "there"
    seen: list[bool] = []

    def content() -> Iterator[NDArray[np.uint8]]:
        for piece in PIXELS:
            seen.append(any(folder.iterdir()))
            yield piece

    found = mapped(content(), folder)
    np.testing.assert_array_equal(found.reshape(PIXELS.shape), PIXELS)
    assert not any(folder.iterdir())
    assert not any(seen)
    assert mapped([], folder).size == 0
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 1


FULL = """
import resource, signal, sys
from pathlib import Path
from sparse_sam.data.mapped import mapped

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
try:
    mapped((bytes(2**19) for _ in range(10)), Path(sys.argv[1]))
except OSError as error:
    print(error.filename)
"""


def test_a_disk_that_takes_no_more_is_an_error_and_no_signal(tmp_path: Path) -> None:
    """A page of a mapped file that has no room would end the process."""
    command = [sys.executable, "-c", FULL, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "the images, in a temporary file\n"
    assert not any(tmp_path.iterdir())


@given(
    first=st.lists(st.integers(0, 39), max_size=40),
    then=st.lists(st.integers(0, 10**6), max_size=10),
    rows=st.slices(10),
)
def test_a_choice_of_a_choice_is_that_of_numpy(
    first: list[int], then: list[int], rows: slice
) -> None:
    places = np.array(first, np.int64)
    again = np.array([one % len(first) for one in then] if first else [], np.int64)
    chosen = Chosen.of(Chosen.of(PIXELS, places), again)
    expected = PIXELS[places][again]
    assert chosen.images is PIXELS
    assert (chosen.shape, chosen.dtype, len(chosen)) == (expected.shape, np.uint8, len(again))
    np.testing.assert_array_equal(chosen, expected)
    np.testing.assert_array_equal(chosen[rows], expected[rows])
    with pytest.raises(ValueError, match="copied"):
        np.asarray(chosen, copy=False)
