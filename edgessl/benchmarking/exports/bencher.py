"""Bencher Metric Format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgessl.benchmarking.result import ArmResult, BenchmarkResult
from edgessl.errors import printable
from edgessl.files import write_json

__all__ = ["to_bencher", "write_bencher"]

_NS_PER_MS = 1e6


def write_bencher(result: BenchmarkResult, path: str | Path) -> None:
    """Write what ``bencher run --adapter json --file`` takes.

    Raises:
        OutputError: The folder cannot be written or the disk is full.
    """
    write_json(Path(path), to_bencher(result))


def to_bencher(result: BenchmarkResult) -> dict[str, dict[str, dict[str, float]]]:
    """Arm → measure → value, with the extremes over restarts where each has its own figure.

    ``latency`` (nanoseconds), ``throughput`` (samples per second) and ``file-size`` (bytes) are
    measures that Bencher has; ``latency-p90`` (nanoseconds) and ``peak-memory`` (bytes) it makes
    when they first come.

    Source: https://bencher.dev/docs/reference/bencher-metric-format
    """
    return {printable(arm.name): _measures(arm) for arm in result.arms}


def _measures(arm: ArmResult) -> dict[str, dict[str, float]]:
    p50 = {"value": _NS_PER_MS * arm.latency_p50_ms}
    medians = [median for median in arm.restart_p50_ms() if median is not None]
    measures: dict[str, dict[str, float]] = {
        "latency": {**p50, **_extremes([_NS_PER_MS * m for m in medians])},
        "latency-p90": {"value": _NS_PER_MS * arm.latency_p90_ms},
        "throughput": {"value": arm.throughput_per_s},
    }
    if arm.size_bytes is not None:
        measures["file-size"] = {"value": float(arm.size_bytes)}
    if arm.peak_memory_bytes is not None:
        peaks = [float(peak) for peak in arm.peak_memory_by_restart if peak is not None]
        measures["peak-memory"] = {"value": float(arm.peak_memory_bytes), **_extremes(peaks)}
    return measures


def _extremes(values: list[float]) -> dict[str, Any]:
    return {"lower_value": min(values), "upper_value": max(values)} if values else {}
