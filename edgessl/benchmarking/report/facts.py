"""What the page says in tables and lists."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edgessl.benchmarking.report.words import (
    METRICS,
    aligned,
    change,
    interval,
    megabytes,
    milliseconds,
    number,
    reading,
    spread,
)
from edgessl.benchmarking.result import ArmResult, BenchmarkResult

__all__ = [
    "ArmRow",
    "ComparisonRow",
    "Facts",
    "arm_facts",
    "arm_rows",
    "comparison_rows",
    "environment_facts",
    "protocol_facts",
]

Facts = tuple[tuple[str, str], ...]
"""Names and values, in order."""

_NONE = "–"


@dataclass(frozen=True)
class ArmRow:
    """An arm in the table of all."""

    name: str
    engine: str
    how: str
    cells: tuple[str, ...]


@dataclass(frozen=True)
class ComparisonRow:
    """A metric of a comparison; `arm` and `cosine` only where a comparison begins."""

    arm: str
    against: str
    rows: int
    metric: str
    change: str
    ratio: str
    interval: str
    restarts: str
    verdict: str
    reason: str
    cosine: str


def arm_rows(result: BenchmarkResult) -> list[ArmRow]:
    """Cells: p50, p90, p99 in ms, samples per second, peak memory and size in MB, fidelity."""
    return [
        ArmRow(
            name=arm.name,
            engine=arm.engine,
            how=f"{arm.provider}, {arm.precision}, {_count(arm.threads, 'thread')}",
            cells=(
                aligned(arm.latency_p50_ms),
                aligned(arm.latency_p90_ms),
                aligned(arm.latency_p99_ms),
                aligned(arm.throughput_per_s),
                aligned(None if arm.peak_memory_bytes is None else arm.peak_memory_bytes / 1e6, 3),
                aligned(None if arm.size_bytes is None else arm.size_bytes / 1e6, 3),
                _NONE if arm.fidelity is None else f"{arm.fidelity:.4f}",
            ),
        )
        for arm in result.arms
    ]


def comparison_rows(result: BenchmarkResult) -> list[ComparisonRow]:
    """One row per comparison and metric."""
    rows = []
    for comparison in result.comparisons:
        cosine = comparison.min_cosine
        for place, metric in enumerate(comparison.metrics):
            rows.append(
                ComparisonRow(
                    arm=comparison.arm,
                    against=comparison.against,
                    rows=0 if place else len(comparison.metrics),
                    metric=METRICS[metric.metric],
                    change=_NONE if metric.ratio is None else change(metric.ratio),
                    ratio=_NONE if metric.ratio is None else f"{metric.ratio:.3f}",
                    interval=interval(metric),
                    restarts=str(metric.restarts),
                    verdict=metric.verdict or "not gated",
                    reason=metric.reason or "",
                    cosine="not compared" if cosine is None else f"{cosine:.5f}",
                )
            )
    return rows


def arm_facts(arm: ArmResult) -> Facts:
    """Everything about an arm that the table of all has no room for."""
    artifact = arm.artifact
    facts: list[tuple[str, str]] = [
        ("engine", f"{arm.engine} on {arm.provider}, {arm.precision}"),
        ("versions", _pairs(arm.versions.items())),
        ("options", _pairs(arm.options.items())),
        ("artifact", f"{artifact.file}, {megabytes(artifact.size_bytes)}" if artifact else "none"),
        ("SHA-256", artifact.sha256 if artifact else _NONE),
        ("inputs", f"{arm.input}, {arm.input_bytes:,} bytes a query"),
        (
            "batch",
            f"{_count(arm.samples_per_run, 'sample')} per engine call, "
            f"{_count(arm.samples_per_query, 'sample')} per query",
        ),
        ("timed queries", f"{arm.runs:,}, after {arm.warm_up_runs:,} of warm-up"),
        (
            "latency",
            f"least {milliseconds(arm.latency_min_ms)}, mean {milliseconds(arm.latency_mean_ms)}, "
            f"standard deviation {milliseconds(arm.latency_deviation_ms)}",
        ),
        (
            "99th percentile",
            milliseconds(arm.latency_p99_ms)
            if arm.latency_p99_ms is not None
            else "not told: takes 662 queries",
        ),
        ("steady state", "not reached in most restarts" if arm.no_steady_state else "reached"),
        ("outputs", "finite" if arm.outputs_finite else "NaN or infinity among them"),
        ("import", spread(arm.cold_start.import_ms)),
        ("load", spread(arm.cold_start.load_ms)),
        ("first query", spread(arm.cold_start.first_inference_ms)),
        ("phases", _phases(arm)),
        ("sustained", reading(arm.sustained)),
        ("energy", reading(arm.energy_j, "J per sample")),
        ("GPU memory", _bytes_reading(arm)),
        ("workload", _workload(arm)),
        ("share of the peak", reading(arm.roofline)),
    ]
    if arm.late:
        facts.append(("late queries", f"{arm.late:,} began after their time"))
    return tuple(facts)


def _phases(arm: ArmResult) -> str:
    phases = arm.phases
    if phases is None:
        return "not told by this engine"
    return (
        f"{milliseconds(phases.host_to_device_ms)} to the device, "
        f"{milliseconds(phases.compute_ms)} computing, "
        f"{milliseconds(phases.device_to_host_ms)} back"
    )


def _bytes_reading(arm: ArmResult) -> str:
    found = arm.gpu_memory_bytes
    if found.value is None:
        return reading(found)
    return f"{megabytes(found.value)}{f', {found.source}' if found.source else ''}"


def _workload(arm: ArmResult) -> str:
    if arm.workload is None:
        return "not counted"
    flops = number(arm.workload.flops / 1e9)
    return f"{flops} GFLOP and {megabytes(arm.workload.bytes)} moved per run"


def environment_facts(result: BenchmarkResult) -> Facts:
    """The machine and the software; what it does not say is left out."""
    e = result.environment
    cores = f"{e.cores_physical or '?'} physical, {e.cores_logical or '?'} logical"
    clocks = None if e.jetson_clocks is None else "pinned" if e.jetson_clocks else "not pinned"
    virtual = None if e.virtual is None else "yes; neighbours add noise" if e.virtual else "no"
    facts: list[tuple[str, str | None]] = [
        ("board", e.module),
        ("CPU", e.cpu),
        ("cores", f"{cores}, {e.cores_usable} usable here"),
        ("CPU quota", None if e.cgroup_cpus is None else f"{number(e.cgroup_cpus)} CPUs"),
        ("affinity", _list(e.affinity)),
        ("governor", e.governor or "not told"),
        ("memory", f"{e.memory_bytes / 2**30:.1f} GiB"),
        ("GPU", e.gpu),
        ("GPU driver", e.driver),
        ("L4T", e.jetpack),
        ("power mode", e.nvpmodel),
        ("Jetson clocks", clocks),
        ("system", e.system),
        ("virtual machine", virtual),
        ("load before", None if e.load_average is None else number(e.load_average, 3)),
        ("temperatures before", ", ".join(f"{k} {v:.0f} °C" for k, v in e.temperatures_c.items())),
        ("throttle events", None if e.throttle_events is None else str(e.throttle_events)),
        ("stolen CPU time", None if e.steal_percent is None else f"{e.steal_percent:.2f} %"),
        ("Python", e.python),
        ("packages", _pairs(e.packages.items())),
        ("CPU features", ", ".join(e.cpu_features)),
        ("environment hash", result.env_hash),
    ]
    return tuple((name, value) for name, value in facts if value)


def protocol_facts(result: BenchmarkResult) -> Facts:
    """How it was measured, and what the measurement itself costs."""
    p, h = result.protocol, result.harness
    gate = p.gate
    scenario = f"{p.scenario.scenario}, {_count(p.scenario.query_size, 'sample')} per query"
    if p.scenario.scenario == "paced":
        scenario += f", one every {number(p.scenario.period_ms)} ms"
    return (
        ("scenario", scenario),
        ("restarts", f"{p.restarts} of fresh processes, arms in random order"),
        ("blocks", f"{p.blocks} per arm and restart, in turns, {p.block_seconds:g} s each"),
        ("seed", str(p.seed)),
        ("affinity", _list(p.affinity) or "left to the system"),
        ("transfers", p.transfers),
        ("inputs", f"SHA-256 {p.inputs_sha256}"),
        (
            "gate",
            f"{', '.join(gate.metrics) or 'nothing'}; fails above {change(gate.fail_above)}, "
            f"passes below {change(gate.pass_below)}; α = {gate.alpha:g} over looks at "
            f"{_list(gate.looks)} restarts",
        ),
        (
            "harness",
            f"{number(h.null_p50_us)} µs median, {number(h.null_p90_us)} µs 90th percentile, "
            "measured with an arm that does nothing",
        ),
        (
            "control arm",
            f"{h.control}: largest over smallest restart {number(h.control_ratio)}, "
            f"{number(gate.max_control_ratio)} is allowed",
        ),
        ("samples", result.samples.file if result.samples else "not written"),
        ("edgessl", result.edgessl_version),
    )


def _pairs(items: Iterable[tuple[str, object]]) -> str:
    return ", ".join(f"{name} {value}" for name, value in sorted(items)) or _NONE


def _list(values: Iterable[object]) -> str:
    return ", ".join(str(value) for value in values)


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
