"""Memory that a process holds on an NVIDIA GPU."""

from __future__ import annotations

from pathlib import Path

from edgessl.benchmarking.probing import smi_rows
from edgessl.benchmarking.result import Reading
from edgessl.targets.host import detect

__all__ = ["gpu_memory"]

_MIB = 1 << 20


def gpu_memory(pid: int, root: Path = Path("/")) -> Reading:
    """Bytes that a process holds on all GPUs now, context included.

    Args:
        pid: The process.
        root: Where ``/proc`` and ``/etc`` are.

    Returns:
        A reading without a value where there is no such GPU, where GPU and CPU share their
        memory, or where nvidia-smi does not list the process.
    """
    host = detect(root)
    if host.jetson is not None or host.l4t is not None:
        return Reading(reason="CPU and GPU share their memory; see the peak memory of the process")
    rows = smi_rows("pid,used_memory", query="compute-apps")
    if rows is None:
        return Reading(reason="no NVIDIA GPU: nvidia-smi is not on the path, or it fails")
    own = [used for number, used in rows if number == str(pid)]
    if not own:
        return Reading(
            reason="nvidia-smi does not list the process: it uses no GPU, or a container hides it"
        )
    known = [int(used) for used in own if used is not None and used.isdecimal()]
    if not known:
        return Reading(reason="nvidia-smi does not know how much the process uses")
    return Reading(value=float(sum(known) * _MIB), source="nvidia-smi used_memory")
