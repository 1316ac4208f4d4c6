"""From raw data to an arm's figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgessl.benchmarking.arm import ArmFacts
from edgessl.benchmarking.protocol import ArmLog
from edgessl.benchmarking.result import (
    ArmResult,
    Artifact,
    ColdStart,
    OperatorTime,
    Reading,
    Spread,
    Verdict,
    Workload,
)
from edgessl.errors import UnavailableError
from edgessl.files import sha256_file
from edgessl.runtime.canaries import output_cosines

__all__ = [
    "Extras",
    "arm_result",
    "comparison_problem",
    "least_cosine",
    "remarks",
    "workload_of",
]

_P99_QUERIES = 662
"""Source: MLPerf Inference rules, early stopping: least queries for a 99th percentile."""


@dataclass(frozen=True)
class Extras:
    """What separate passes found out about an arm."""

    sustained: Reading
    energy_j: Reading
    roofline: Reading
    operators: tuple[OperatorTime, ...]
    operators_reason: str | None

    @classmethod
    def missing(cls, reason: str) -> Extras:
        """Nothing, and why."""
        nothing = Reading(reason=reason)
        return cls(nothing, nothing, nothing, (), reason)


def arm_result(log: ArmLog, extras: Extras) -> ArmResult:
    """An arm's figures over all restarts.

    Raises:
        UnavailableError: Every block was dropped.
    """
    facts, first = log.facts, log.first
    times = np.concatenate([b for r in log.restarts for b in r.blocks])
    if not times.size:
        raise UnavailableError(
            f"{log.spec.name}: the machine throttled or changed its clock in every block; let it "
            "cool down, or pin its clock"
        )
    mean = float(times.mean())
    peaks = [r.peak_memory_bytes for r in log.restarts]
    known = [peak for peak in peaks if peak is not None]
    return ArmResult(
        name=log.spec.name,
        artifact=_artifact(facts),
        engine=facts.engine,
        provider=facts.provider,
        precision=facts.precision,
        versions=facts.versions,
        options=facts.options,
        threads=log.spec.threads,
        samples_per_run=first.samples_per_run,
        samples_per_query=first.samples_per_query,
        input=first.input,
        input_bytes=first.input_bytes,
        runs=times.size,
        latency_p50_ms=float(np.quantile(times, 0.5)),
        latency_p90_ms=float(np.quantile(times, 0.9)),
        latency_p99_ms=float(np.quantile(times, 0.99)) if times.size >= _P99_QUERIES else None,
        latency_min_ms=float(times.min()),
        latency_mean_ms=mean,
        latency_deviation_ms=float(times.std(ddof=1)) if times.size > 1 else 0.0,
        throughput_per_s=1e3 * first.samples_per_query / mean,
        block_p50_ms=tuple(
            tuple(float(np.median(b)) if b.size else None for b in r.blocks) for r in log.restarts
        ),
        cold_start=ColdStart(
            processes=len(log.cold),
            import_ms=Spread.of([c.import_ms for c in log.cold]),
            load_ms=Spread.of([c.load_ms for c in log.cold]),
            first_inference_ms=Spread.of([c.first_inference_ms for c in log.cold]),
        ),
        size_bytes=facts.size_bytes,
        peak_memory_bytes=int(np.median(known)) if known else None,
        peak_memory_by_restart=tuple(peaks),
        warm_up_runs=log.warm_up_runs,
        no_steady_state=2 * log.unsettled > len(log.restarts),
        late=log.late,
        fidelity=facts.fidelity,
        outputs_finite=log.outputs_finite,
        workload=workload_of(log),
        sustained=extras.sustained,
        energy_j=extras.energy_j,
        gpu_memory_bytes=log.gpu_memory_bytes,
        roofline=extras.roofline,
        phases=log.phases,
        operators=extras.operators,
        operators_reason=extras.operators_reason,
    )


def workload_of(log: ArmLog) -> Workload | None:
    """What one run computes, from whoever knows."""
    return log.spec.workload or log.facts.workload


def least_cosine(a: ArmLog, b: ArmLog) -> float | None:
    """Over the first outputs on common inputs; other engines may call them differently."""
    if not (a.first.shares_input and b.first.shares_input):
        return None
    x, y = next(iter(a.outputs.values())), next(iter(b.outputs.values()))
    if x.shape != y.shape or x.ndim == 0 or not (a.outputs_finite and b.outputs_finite):
        return None
    return float(output_cosines(x, y).min(initial=1.0))


def comparison_problem(arm: ArmLog, base: ArmLog) -> tuple[str, Verdict] | None:
    """What forbids a PASS whatever the times are, and the verdict instead."""
    if not base.outputs_finite:
        return f"outputs of {base.spec.name}, the base, hold NaN or infinity", "INVALID"
    if not arm.outputs_finite:
        return f"outputs of {arm.spec.name} hold NaN or infinity", "FAIL"
    shapes = [next(iter(log.outputs.values())).shape for log in (arm, base)]
    if arm.first.shares_input and base.first.shares_input and shapes[0] != shapes[1]:
        found, wanted = ("x".join(map(str, shape)) for shape in shapes)
        return f"outputs have the shape {found}, those of the base {wanted}", "FAIL"
    return None


def remarks(results: Sequence[ArmResult]) -> list[str]:
    """What a person should know before trusting the figures."""
    found = [
        f"{r.name}: medians had not settled when the warm-up ended; something else is running here"
        for r in results
        if r.no_steady_state
    ]
    found += [f"{r.name}: outputs hold NaN or infinity" for r in results if not r.outputs_finite]
    found += [
        f"{r.name}: {r.late} paced queries began late; the period is shorter than the work"
        for r in results
        if r.late
    ]
    for label, values in (
        ("numbers of threads", {r.threads for r in results}),
        ("numbers of samples per query", {r.samples_per_query for r in results}),
        ("input sizes", {r.input_bytes for r in results}),
    ):
        if len(values) > 1:
            found.append(f"arms use different {label}")
    return found


def _artifact(facts: ArmFacts) -> Artifact | None:
    if facts.file is None:
        return None
    path = Path(facts.file)
    return Artifact(
        file=path.name, sha256=sha256_file(path), size_bytes=facts.size_bytes or path.stat().st_size
    )
