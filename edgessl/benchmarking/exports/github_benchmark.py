"""What github-action-benchmark reads with ``tool: customSmallerIsBetter``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edgessl.benchmarking.result import ArmResult, BenchmarkResult
from edgessl.errors import printable
from edgessl.files import write_json

__all__ = ["to_github_benchmark", "write_github_benchmark"]


def write_github_benchmark(result: BenchmarkResult, path: str | Path) -> None:
    """Write the file that ``output-file-path`` of the action names.

    Raises:
        OutputError: The folder cannot be written or the disk is full.
    """
    write_json(Path(path), to_github_benchmark(result))


def to_github_benchmark(result: BenchmarkResult) -> list[dict[str, Any]]:
    """One entry per arm and figure; the range is half of what lies between extreme restarts.

    Source: https://github.com/benchmark-action/github-action-benchmark, examples of custom
    benchmarks.
    """
    return [entry for arm in result.arms for entry in _entries(arm, result)]


def _entries(arm: ArmResult, result: BenchmarkResult) -> Iterator[dict[str, Any]]:
    name = printable(arm.name)
    extra = "\n".join(
        (
            f"engine: {printable(arm.engine)} {printable(arm.provider)}",
            f"precision: {printable(arm.precision)}",
            f"threads: {arm.threads}",
            f"scenario: {result.protocol.scenario.scenario}",
            f"queries: {arm.runs}",
            f"environment: {result.env_hash}",
        )
    )
    medians = [median for median in arm.restart_p50_ms() if median is not None]
    yield (
        {"name": f"{name} p50", "unit": "ms", "value": arm.latency_p50_ms}
        | _range(medians)
        | {"extra": extra}
    )
    yield {"name": f"{name} p90", "unit": "ms", "value": arm.latency_p90_ms, "extra": extra}
    if arm.size_bytes is not None:
        value = arm.size_bytes / 1e6
        yield {"name": f"{name} size", "unit": "MB", "value": value, "extra": extra}
    if arm.peak_memory_bytes is not None:
        peaks = [peak / 1e6 for peak in arm.peak_memory_by_restart if peak is not None]
        value = arm.peak_memory_bytes / 1e6
        yield (
            {"name": f"{name} peak memory", "unit": "MB", "value": value}
            | _range(peaks)
            | {"extra": extra}
        )


def _range(values: Sequence[float]) -> dict[str, str]:
    return {"range": f"± {(max(values) - min(values)) / 2:.4g}"} if len(values) > 1 else {}
