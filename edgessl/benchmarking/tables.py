"""A benchmark's result as rows of text and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from edgessl.benchmarking.result import ArmResult, BenchmarkResult, Comparison

__all__ = ["ARM_HEADERS", "COMPARISON_HEADERS", "arm_rows", "comparison_rows", "to_markdown"]

ARM_HEADERS = (
    "arm",
    "precision",
    "threads",
    "p50 ms",
    "p90 ms",
    "min ms",
    "per s",
    "runs",
    "load ms",
    "peak MB",
    "file MB",
)
COMPARISON_HEADERS = ("arm", "against", "latency ratio", "95 % interval", "rounds", "min cosine")


def arm_rows(result: BenchmarkResult) -> list[list[str]]:
    """One row per arm under `ARM_HEADERS`."""
    return [_arm_row(arm) for arm in result.arms]


def comparison_rows(result: BenchmarkResult) -> list[list[str]]:
    """One row per comparison under `COMPARISON_HEADERS`."""
    return [_comparison_row(comparison) for comparison in result.comparisons]


def to_markdown(result: BenchmarkResult) -> str:
    """Tables, what they were measured on, and remarks."""
    e, p = result.environment, result.protocol
    packages = ", ".join(f"{name} {version}" for name, version in sorted(e.packages.items()))
    lines = [*_markdown_table(ARM_HEADERS, arm_rows(result)), ""]
    if result.comparisons:
        lines += [*_markdown_table(COMPARISON_HEADERS, comparison_rows(result)), ""]
    lines += [f"- {remark}" for remark in result.remarks]
    if result.remarks:
        lines.append("")
    lines.append(
        f"{p.scenario}, {p.rounds} rounds of {p.block_seconds:g} s per arm in turns, seed "
        f"{p.seed}; {e.cpu}, {e.cores_usable} cores, {e.system}, Python {e.python}; {packages}; "
        f"{result.created_utc}"
    )
    return "\n".join(lines) + "\n"


def _arm_row(arm: ArmResult) -> list[str]:
    return [
        arm.name,
        arm.precision,
        str(arm.threads),
        f"{arm.latency_p50_ms:.3g}",
        f"{arm.latency_p90_ms:.3g}",
        f"{arm.latency_min_ms:.3g}",
        f"{arm.throughput_per_s:.0f}",
        str(arm.runs),
        f"{arm.load_ms:.0f}",
        _megabytes(arm.peak_memory_bytes),
        _megabytes(arm.size_bytes),
    ]


def _comparison_row(c: Comparison) -> list[str]:
    high = "unknown" if c.ratio_high is None else f"{c.ratio_high:.3f}"
    cosine = "-" if c.min_cosine is None else f"{c.min_cosine:.5f}"
    interval = f"{c.ratio_low:.3f} to {high}"
    return [c.arm, c.against, f"{c.ratio:.3f}", interval, str(c.rounds), cosine]


def _megabytes(size_bytes: int | None) -> str:
    return "-" if size_bytes is None else f"{size_bytes / 1e6:.1f}"


def _markdown_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    marks = ["---"] * 2 + ["---:"] * (len(headers) - 2)
    return [f"| {' | '.join(cells)} |" for cells in (headers, marks, *rows)]
