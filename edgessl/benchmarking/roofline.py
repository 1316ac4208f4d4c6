"""How near an inference comes to what the hardware could do at best."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from edgessl.benchmarking.result import Reading, Workload
from edgessl.errors import TargetError, UnavailableError
from edgessl.targets.loader import load_target

__all__ = ["Peaks", "measure_peaks", "roofline", "target_peaks"]

_TIMEOUT_S = 120.0
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_PEAK_FACTS = {
    "int8": ("peak_int8_tops", "TOPS in int8"),
    "fp16": ("peak_fp16_tflops", "TFLOPS in fp16"),
}


@dataclass(frozen=True)
class Peaks:
    """What a machine can do at best.

    Attributes:
        flops_per_s: Operations a second; a multiplication with its addition is two.
        bytes_per_s: Of memory; None where it is not known, and then does not limit.
        source: Who says so.
    """

    flops_per_s: float
    bytes_per_s: float | None
    source: str


def target_peaks(target: str, precision: str) -> Peaks | None:
    """Published figures of a target, for dense weights.

    Args:
        target: Name of a target that comes with edgessl.
        precision: As in `edgessl.bundle.manifest.Manifest`.

    Returns:
        None where there is no figure for this precision. A deep-learning accelerator has none:
        only sparse figures of all its cores together are published.
    """
    if precision not in _PEAK_FACTS:
        return None
    try:
        description = load_target(target)
    except TargetError:
        return None  # a bundle names the target of whoever compiled it, which need not be known
    if description.nvidia is not None and description.nvidia.dla_core is not None:
        return None
    name, unit = _PEAK_FACTS[precision]

    def figure(fact: str) -> float | None:
        found = description.hardware.get(fact)
        return float(found.value) if found and isinstance(found.value, int | float) else None

    tera, giga_bytes = figure(name), figure("memory_bandwidth_gb_s")
    if tera is None:
        return None
    memory = "" if giga_bytes is None else f" and {giga_bytes:g} GB/s"
    return Peaks(
        flops_per_s=tera * 1e12,
        bytes_per_s=None if giga_bytes is None else giga_bytes * 1e9,
        source=f"published for {target}: {tera:g} {unit}{memory}",
    )


def measure_peaks(threads: int, affinity: Sequence[int] = ()) -> Peaks:
    """Measure this CPU with numpy, in a process of its own; takes about two seconds.

    Args:
        threads: Threads that compute.
        affinity: CPUs that they are bound to; empty leaves it to the system.

    Raises:
        UnavailableError: The process fails.
    """
    variables = {name: str(threads) for name in _THREAD_VARIABLES}
    arguments = [str(threads), ",".join(str(cpu) for cpu in affinity)]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "edgessl.benchmarking.peak", *arguments],
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=True,
        )
        found = json.loads(done.stdout)
        flops, bandwidth = float(found["flops_per_s"]), float(found["bytes_per_s"])
    except (OSError, subprocess.SubprocessError, ValueError, KeyError) as error:
        raise UnavailableError(
            f"this CPU's peak cannot be measured with {threads} threads ({error}); check the "
            "number of threads and the CPUs that they are bound to"
        ) from error
    return Peaks(
        flops_per_s=flops,
        bytes_per_s=bandwidth,
        source=(
            f"measured with {threads} thread{'s' if threads > 1 else ''}: {flops / 1e9:.3g} "
            f"GFLOP/s in float32 and {bandwidth / 1e9:.3g} GB/s; integers may exceed 1"
        ),
    )


def roofline(workload: Workload, seconds: float, peaks: Peaks) -> Reading:
    """Least time that the hardware needs, over the time taken.

    ``max(flops / peak flops, bytes / peak bandwidth) / seconds``

    Args:
        workload: Of one run.
        seconds: Of one run.
        peaks: Of the hardware.

    Source: Williams, Waterman, Patterson: Roofline, CACM 52(4), 2009.
    """
    if not seconds > 0:
        return Reading(reason="no time was measured")
    arithmetic = workload.flops / peaks.flops_per_s
    memory = 0.0 if peaks.bytes_per_s is None else workload.bytes / peaks.bytes_per_s
    limit = "memory" if memory > arithmetic else "arithmetic"
    share = max(arithmetic, memory) / seconds
    return Reading(value=share, source=f"{limit}; {peaks.source}")
