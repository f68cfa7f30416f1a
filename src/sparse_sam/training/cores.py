"""How many cores this process may use, on a laptop, in a container, under a scheduler."""

import os

from sparse_sam.errors import ConfigError


def available_cores() -> int:
    """How many cores there are for jobs side by side, at least 1.

    ``SPARSE_SAM_CORES`` says so if it is set. Otherwise it is what the system grants this process:
    its CPU affinity (``taskset``, Slurm) and its container's quota (``docker run --cpus``), which
    the plain count of cores ignores; and not more than ``OMP_NUM_THREADS``, where that is set.

    Raises:
        ConfigError: ``SPARSE_SAM_CORES`` is no whole number above 0.
    """
    named = os.environ.get("SPARSE_SAM_CORES")
    if named:
        if not (named.isascii() and named.isdecimal() and int(named) > 0):
            raise ConfigError(f"SPARSE_SAM_CORES = {named!r}: must be a whole number, at least 1")
        return int(named)
    from joblib import cpu_count

    granted: int = cpu_count()
    # OpenMP takes a list as well, "4,2": the first is that of the outermost level.
    limit = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if limit.isascii() and limit.isdecimal() and int(limit) > 0:
        granted = min(granted, int(limit))
    return max(granted, 1)
