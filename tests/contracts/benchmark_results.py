"""A made-up benchmark result and its samples, for what reads them: exporters, pages, verdicts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgessl.benchmarking.environment import Environment
from edgessl.benchmarking.options import GateOptions, Metric, ScenarioOptions
from edgessl.benchmarking.recording import ArmRecording, Recording, Restart
from edgessl.benchmarking.result import (
    ArmResult,
    Artifact,
    BenchmarkResult,
    ColdStart,
    Comparison,
    Harness,
    MetricRatio,
    OperatorTime,
    ProtocolFacts,
    Reading,
    Spread,
    Verdict,
    Workload,
)

__all__ = ["environment", "recording", "result"]

_RESTARTS, _BLOCKS, _RUNS = 6, 5, 40


def environment(**changes: object) -> Environment:
    """A quiet machine."""
    facts = Environment(
        cpu="Some CPU",
        cpu_features=("avx2",),
        cores_physical=4,
        cores_logical=8,
        cores_usable=4,
        memory_bytes=16 << 30,
        system="Linux 6.1 x86_64",
        governor="performance",
        affinity=(0, 1, 2, 3),
        virtual=False,
        load_average=0.1,
        temperatures_c={"package": 41.0},
        throttle_events=0,
        steal_percent=0.0,
        python="3.11.7",
        packages={"numpy": "2.3.0", "onnxruntime": "1.31.1"},
    )
    return facts.model_copy(update=changes)


def recording(milliseconds: Sequence[float] = (1.1, 1.0), *, seed: int = 0) -> Recording:
    """Arms ``head.edge``, ``base.edge``, … with log-normal times around these medians."""
    rng = np.random.default_rng(seed)
    return Recording(
        arms={
            name: ArmRecording(
                restarts=[
                    Restart(
                        blocks=[m * np.exp(rng.normal(0, 0.02, _RUNS)) for _ in range(_BLOCKS)],
                        peak_memory_bytes=100_000_000 + index,
                    )
                    for index in range(_RESTARTS)
                ],
                size_bytes=6_000_000,
            )
            for name, m in zip(_names(len(milliseconds)), milliseconds, strict=True)
        }
    )


def result(
    milliseconds: Sequence[float] = (1.1, 1.0), *, verdict: Verdict | None = "FAIL", seed: int = 0
) -> BenchmarkResult:
    """The result that belongs to `recording`; the last arm is the base of all others."""
    arms = [
        _arm(name, arm, index)
        for index, (name, arm) in enumerate(recording(milliseconds, seed=seed).arms.items())
    ]
    return BenchmarkResult(
        edgessl_version="0.1.0",
        created_utc="2026-11-21T12:00:00+00:00",
        environment=environment(),
        env_hash="0" * 64,
        protocol=ProtocolFacts(
            scenario=ScenarioOptions(),
            seed=seed,
            restarts=_RESTARTS,
            blocks=_BLOCKS,
            block_seconds=0.2,
            orders=(((0, 1, 2),) * _BLOCKS,) * _RESTARTS,
            affinity=(),
            inputs_sha256="1" * 64,
            gate=GateOptions(),
        ),
        harness=Harness(
            null_p50_us=0.4,
            null_p90_us=0.6,
            control="control-1",
            control_p50_ms=(1.5,) * _RESTARTS,
            control_ratio=1.01,
        ),
        arms=tuple(arms),
        comparisons=tuple(_comparison(arm, arms[-1], verdict) for arm in arms[:-1]),
        verdict=verdict,
        remarks=("arms use different numbers of threads",),
    )


def _names(count: int) -> list[str]:
    heads = ["head.edge", *(f"head-{i}.edge" for i in range(2, count))]
    return [*heads[: count - 1], "base.edge"]


def _arm(name: str, recorded: ArmRecording, index: int) -> ArmResult:
    times = recorded.times_ms()
    p50, p90, p99 = np.quantile(times, [0.5, 0.9, 0.99]).tolist()
    one = Spread.of([float(p50)])
    return ArmResult(
        name=name,
        artifact=Artifact(file=name, sha256=str(index) * 64, size_bytes=6_000_000),
        engine="onnxruntime",
        provider="CPUExecutionProvider",
        precision="int8",
        versions={"onnxruntime": "1.31.1"},
        options={"threads": 1},
        threads=1,
        samples_per_run=1,
        samples_per_query=1,
        input="canaries",
        input_bytes=602_112,
        runs=times.size,
        latency_p50_ms=p50,
        latency_p90_ms=p90,
        latency_p99_ms=p99,
        latency_min_ms=float(times.min()),
        latency_mean_ms=float(times.mean()),
        latency_deviation_ms=float(times.std(ddof=1)),
        throughput_per_s=1e3 / float(times.mean()),
        block_p50_ms=tuple(tuple(float(np.median(b)) for b in r.blocks) for r in recorded.restarts),
        cold_start=ColdStart(processes=10, import_ms=one, load_ms=one, first_inference_ms=one),
        size_bytes=recorded.size_bytes,
        peak_memory_bytes=100_000_000,
        peak_memory_by_restart=tuple(r.peak_memory_bytes for r in recorded.restarts),
        warm_up_runs=600,
        no_steady_state=False,
        late=0,
        fidelity=0.998 - 0.01 * index,
        outputs_finite=True,
        phases=None,
        sustained=Reading(reason="not asked for; --sustained 300"),
        energy_j=Reading(value=0.012, source="RAPL package-0"),
        gpu_memory_bytes=Reading(reason="onnxruntime runs on the CPU"),
        workload=Workload(flops=1.2e8, bytes=7e6),
        roofline=Reading(value=0.31, source="measured peak of this CPU in float32"),
        operators=(
            OperatorTime(name="conv_1", kind="Conv", time_ms=0.4, device="CPU"),
            OperatorTime(name="fc", kind="Gemm", time_ms=0.1, device="CPU"),
        ),
    )


def _comparison(arm: ArmResult, base: ArmResult, verdict: Verdict | None) -> Comparison:
    ratio = arm.latency_p50_ms / base.latency_p50_ms

    def metric(name: Metric, value: float, found: Verdict | None) -> MetricRatio:
        return MetricRatio(
            metric=name,
            ratio=value,
            ratio_low=value * 0.99,
            ratio_high=value * 1.01,
            restarts=_RESTARTS,
            verdict=found,
        )

    rest: Verdict | None = None if verdict is None else "PASS"
    return Comparison(
        arm=arm.name,
        against=base.name,
        metrics=(
            metric("p50", ratio, verdict),
            metric("p90", ratio, verdict),
            metric("size", 1.0, rest),
            metric("memory", 1.0, rest),
        ),
        confidence=0.9989,
        min_cosine=0.99995,
        verdict=verdict,
    )
