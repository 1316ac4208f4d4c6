"""What a benchmark returns: its schema, version 2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from edgessl.benchmarking.environment import Environment
from edgessl.benchmarking.options import GateOptions, Metric, ScenarioOptions
from edgessl.bundle.manifest import OptionValue, Workload
from edgessl.config import Options
from edgessl.runtime.profiling import OperatorTime, Phases

__all__ = [
    "SCHEMA_VERSION",
    "ArmResult",
    "Artifact",
    "BenchmarkResult",
    "ColdStart",
    "Comparison",
    "Harness",
    "InputSource",
    "MetricRatio",
    "OperatorTime",
    "Phases",
    "ProtocolFacts",
    "Reading",
    "SampleFile",
    "Spread",
    "Verdict",
    "Workload",
]

SCHEMA_VERSION = 2

InputSource = Literal["canaries", "shared", "synthetic"]
"""An arm's own real inputs; those of another arm of the same run; seeded noise."""

Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE", "INVALID"]
"""``INVALID``: the machine changed while it was measured, so nothing is said about the arms."""


class Reading(Options):
    """A figure that not every machine can give.

    Attributes:
        value: None if it could not be read.
        source: Where it was read, ``"RAPL package-0"``; None if it was not.
        reason: Why it was not read; None if it was.
    """

    value: float | None = None
    source: str | None = None
    reason: str | None = None


class Spread(Options):
    """A figure that was taken several times."""

    median: float
    minimum: float
    maximum: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        return cls(median=float(np.median(values)), minimum=min(values), maximum=max(values))


class Artifact(Options):
    """The file that an arm runs.

    Attributes:
        file: Its name, without folders.
        sha256: Of its bytes, in hexadecimal.
    """

    file: str
    sha256: str
    size_bytes: int


class ColdStart(Options):
    """From nothing to the first answer, over fresh processes; milliseconds.

    Attributes:
        import_ms: Start of the process until the engine is imported.
        load_ms: Opening the artifact.
        first_inference_ms: The first query.
    """

    processes: int
    import_ms: Spread
    load_ms: Spread
    first_inference_ms: Spread


class ArmResult(Options):
    """One arm's figures; latencies are of one query, in milliseconds, over all restarts.

    Attributes:
        provider: Execution provider, plugin or device within the engine.
        versions: Package → version of what computes.
        options: Engine options, as set.
        samples_per_run: Batch size of one engine call.
        samples_per_query: Samples of one query.
        input: Where the inputs came from.
        input_bytes: Size of one query's inputs.
        runs: Queries that were timed and not dropped.
        latency_p99_ms: None with fewer than 662 queries, which this percentile takes.
        latency_deviation_ms: Standard deviation.
        throughput_per_s: Samples per second: samples_per_query / mean; when paced, what would be
            possible.
        block_p50_ms: Median of each block, by restart; None for a block that was dropped.
        peak_memory_bytes: Median over restarts of the process's largest resident memory; None
            where the system does not say.
        peak_memory_by_restart: The same, one by one.
        no_steady_state: The medians had not settled within 1 % when the warm-up's time was over,
            in more than half of the restarts.
        late: Queries of the paced scenario that began late because the one before took longer
            than the period.
        fidelity: Mean cosine to the float model, from the bundle; None for other arms.
        outputs_finite: False if any output was NaN or infinite.
        phases: None if the engine cannot tell.
        sustained: Last minute's median over the first's; above 1 the device throttles.
        energy_j: Joules per sample.
        workload: None if nobody said.
        roofline: Share of what the machine could do at best: the time that peak arithmetic or
            memory bandwidth allows, over the time taken.
        operators: The slowest first; empty if they were not asked for.
        operators_reason: Why there are none; None if there are.
    """

    name: str
    artifact: Artifact | None
    engine: str
    provider: str
    precision: str
    versions: dict[str, str]
    options: dict[str, OptionValue]
    threads: int
    samples_per_run: int
    samples_per_query: int
    input: InputSource
    input_bytes: int
    runs: int
    latency_p50_ms: float
    latency_p90_ms: float
    latency_p99_ms: float | None
    latency_min_ms: float
    latency_mean_ms: float
    latency_deviation_ms: float
    throughput_per_s: float
    block_p50_ms: tuple[tuple[float | None, ...], ...]
    cold_start: ColdStart
    size_bytes: int | None
    peak_memory_bytes: int | None
    peak_memory_by_restart: tuple[int | None, ...]
    warm_up_runs: int
    no_steady_state: bool
    late: int
    fidelity: float | None
    outputs_finite: bool
    phases: Phases | None
    sustained: Reading
    energy_j: Reading
    gpu_memory_bytes: Reading
    workload: Workload | None
    roofline: Reading
    operators: tuple[OperatorTime, ...] = ()
    operators_reason: str | None = None

    def restart_p50_ms(self) -> tuple[float | None, ...]:
        """Median over the blocks' medians of each restart; None if all were dropped."""
        kept = [[p50 for p50 in blocks if p50 is not None] for blocks in self.block_p50_ms]
        return tuple(float(np.median(blocks)) if blocks else None for blocks in kept)


class MetricRatio(Options):
    """One metric of an arm over that of its base.

    Attributes:
        ratio: Below 1 is better; None if it could not be taken.
        ratio_low: Lower limit of the interval, the ratio itself for a size.
        ratio_high: Upper limit; None if it is unbounded.
        restarts: Pairs of processes behind it.
        verdict: None if the metric is not gated.
        reason: Why it could not be taken; None if it could.
    """

    metric: Metric
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    restarts: int
    verdict: Verdict | None
    reason: str | None = None


class Comparison(Options):
    """An arm against a base.

    Attributes:
        metrics: p50, p90, size and memory, gated or not.
        confidence: Of every interval.
        min_cosine: Least cosine between both arms' first outputs on equal inputs; None if
            their inputs or outputs differ in kind, or one holds NaN or infinity.
        problem: Why the comparison cannot pass whatever the metrics say; None if nothing is wrong.
        verdict: The worst of the gated metrics and of the problem; None if nothing is gated.
    """

    arm: str
    against: str
    metrics: tuple[MetricRatio, ...]
    confidence: float
    min_cosine: float | None
    problem: str | None = None
    verdict: Verdict | None

    def metric(self, name: Metric) -> MetricRatio:
        """That metric's ratio."""
        return next(m for m in self.metrics if m.metric == name)


class ProtocolFacts(Options):
    """How it was measured.

    Attributes:
        restarts: Of each arm, as far as it came.
        orders: Arms by number, the control arm last, as they took turns: restart, round, place.
        affinity: CPUs that the arms were bound to; empty if they were not.
        transfers: What a timed run contains.
        dropped: Blocks that do not count, with the reason each.
    """

    scenario: ScenarioOptions
    seed: int
    restarts: int
    blocks: int
    block_seconds: float
    orders: tuple[tuple[tuple[int, ...], ...], ...]
    affinity: tuple[int, ...]
    transfers: str = "inputs and outputs in host memory, copies included"
    inputs_sha256: str
    gate: GateOptions
    dropped: tuple[str, ...] = ()


class Harness(Options):
    """What the measurement itself costs, and whether the machine held still.

    Attributes:
        null_p50_us: Median of an arm that does nothing, in microseconds; None if the run ended
            before it was measured.
        null_p90_us: Its 90th percentile.
        control: Name of the control arm, which never changes between versions of edgessl.
        control_p50_ms: Its median in each restart.
        control_ratio: Largest over smallest of these.
        problems: Why the run is invalid; empty if it is not.
    """

    null_p50_us: float | None
    null_p90_us: float | None
    control: str
    control_p50_ms: tuple[float, ...]
    control_ratio: float
    problems: tuple[str, ...] = ()


class SampleFile(Options):
    """The file beside the result with every timed query.

    Attributes:
        file: Its name; it lies in the result's folder.
        sha256: Of its bytes.
        queries: How many it holds.
    """

    file: str
    sha256: str
    queries: int


class BenchmarkResult(Options):
    """Everything that was measured, with what is needed to judge it.

    Attributes:
        env_hash: Of the fields of the environment that must agree before two results may be
            compared.
        verdict: The worst of all comparisons; None if nothing was gated.
        failure: Why the run ended early; None if it is complete.
        samples: None if the samples were not written.
    """

    schema_version: Literal[2] = 2
    edgessl_version: str
    created_utc: str
    environment: Environment
    env_hash: str
    protocol: ProtocolFacts
    harness: Harness
    arms: tuple[ArmResult, ...]
    comparisons: tuple[Comparison, ...]
    verdict: Verdict | None
    failure: str | None = None
    remarks: tuple[str, ...] = ()
    samples: SampleFile | None = None

    def arm(self, name: str) -> ArmResult:
        """The arm of that name."""
        return next(arm for arm in self.arms if arm.name == name)
