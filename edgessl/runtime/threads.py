"""How many threads an engine may use on this machine."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["physical_cores", "resolve_threads"]

_CGROUP_LIMIT = Path("/sys/fs/cgroup/cpu.max")


def physical_cores() -> int:
    """Physical cores that this process may use: of the machine, its affinity and its cgroup.

    Two threads on one core share its vector units, so inference gains nothing from the second.
    """
    import psutil  # here, because importing it takes longer than asking it

    logical = psutil.cpu_count(logical=True) or 1
    physical = psutil.cpu_count(logical=False) or logical
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else logical
    return max(1, min(physical, allowed, _cgroup_cores(logical)))


def resolve_threads(threads: int) -> int:
    """The thread count that an engine is told: 0 stands for all physical cores."""
    return threads or physical_cores()


def _cgroup_cores(otherwise: int) -> int:
    """Whole cores of the CPU quota; a container may have fewer than the machine shows."""
    try:
        quota, period = _CGROUP_LIMIT.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return otherwise
    return otherwise if quota == "max" else max(1, int(quota) // int(period))
