"""What a benchmark returns: its schema, version 1, and the table for a person."""

from __future__ import annotations

from typing import Literal

from edgessl.benchmarking.environment import Environment
from edgessl.config import Options

__all__ = ["ArmResult", "BenchmarkResult", "Comparison", "InputSource", "ProtocolFacts"]

InputSource = Literal["canaries", "shared", "synthetic"]
"""An arm's own real inputs; those of another arm of the same run; seeded noise."""


class ArmResult(Options):
    """One arm's figures; latencies are of one run, in milliseconds.

    Attributes:
        samples_per_run: Batch size of a run.
        runs: Runs that were timed, over all blocks.
        throughput_per_s: Samples per second, back to back: samples_per_run / mean.
        peak_memory_bytes: Largest resident memory of the arm's own process.
        no_steady_state: True if the medians had not settled when the warm-up's time was over.
        block_p50_ms: Median of each block, in order of the rounds.
        input: Where the inputs came from.
        outputs_finite: False if any output was NaN or infinite.
    """

    name: str
    engine: str
    precision: str
    versions: dict[str, str]
    threads: int
    size_bytes: int | None
    samples_per_run: int
    load_ms: float
    peak_memory_bytes: int | None
    warm_up_runs: int
    warm_up_s: float
    no_steady_state: bool
    runs: int
    latency_p50_ms: float
    latency_p90_ms: float
    latency_min_ms: float
    latency_mean_ms: float
    throughput_per_s: float
    block_p50_ms: tuple[float, ...]
    input: InputSource
    outputs_finite: bool


class Comparison(Options):
    """One arm's latency over another's: below 1 is faster.

    Attributes:
        ratio: Geometric mean over rounds of the ratio of block medians.
        ratio_low: Lower limit of its confidence interval.
        ratio_high: Upper limit; None if there was only one round.
        min_cosine: Least cosine between both arms' first outputs on equal inputs; None if
            their inputs or outputs differ in kind, or one holds NaN or infinity.
    """

    arm: str
    against: str
    ratio: float
    ratio_low: float
    ratio_high: float | None
    confidence: float
    rounds: int
    min_cosine: float | None


class ProtocolFacts(Options):
    """How it was measured: SingleStream, one run after the other, arms in turns."""

    scenario: Literal["SingleStream"] = "SingleStream"
    rounds: int
    block_seconds: float
    seed: int


class BenchmarkResult(Options):
    """Everything that was measured, with what is needed to judge it."""

    schema_version: Literal[1] = 1
    created_utc: str
    environment: Environment
    protocol: ProtocolFacts
    arms: tuple[ArmResult, ...]
    comparisons: tuple[Comparison, ...]
    remarks: tuple[str, ...] = ()

    def arm(self, name: str) -> ArmResult:
        """The arm of that name."""
        return next(arm for arm in self.arms if arm.name == name)
