"""How to measure, and when a difference is one."""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic
from pydantic import Field
from typing_extensions import Self

from edgessl.config import Options

__all__ = ["BenchmarkOptions", "GateOptions", "Metric", "ScenarioName", "ScenarioOptions"]

ScenarioName = Literal["SingleStream", "MultiStream", "Offline", "paced"]
Metric = Literal["p50", "p90", "size", "memory"]

_SAMPLES_PER_QUERY: dict[ScenarioName, int] = {
    "SingleStream": 1,
    "MultiStream": 8,
    "Offline": 32,
    "paced": 1,
}


class ScenarioOptions(Options):
    """What one query is and when the next one comes; names as in MLPerf Inference.

    Attributes:
        scenario: ``SingleStream``: the next query when the last one is answered.
            ``MultiStream``: the same, several samples a query. ``Offline``: throughput, large
            queries. ``paced``: a query every `period_ms`, as an application that follows a
            camera; clocks and caches cool down in between.
        samples_per_query: None takes 1, 8, 32 and 1; a graph with a fixed batch runs as often
            as that takes.
        period_ms: Of ``paced``.
    """

    scenario: ScenarioName = "SingleStream"
    samples_per_query: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    period_ms: Annotated[float, Field(gt=0, le=60_000)] = 50.0

    @property
    def query_size(self) -> int:
        """Samples of one query."""
        return self.samples_per_query or _SAMPLES_PER_QUERY[self.scenario]


class GateOptions(Options):
    """When a comparison fails.

    A ratio is the arm's figure over the base's. It fails where even the lower limit of its
    confidence interval exceeds `fail_above`, passes where the upper limit is under `pass_below`,
    and else decides nothing. After each look at the data, measuring stops if all is decided.

    Attributes:
        metrics: What is gated; empty reports only.
        fail_above: Largest ratio that is no deterioration.
        pass_below: A ratio under this is as good as equal.
        alpha: Probability of a false FAIL of the whole run, divided by looks, metrics and pairs.
        looks: Numbers of restarts after which the data is judged, increasing.
        max_control_ratio: Largest over smallest median of the control arm's restarts; beyond it
            the machine changed and the run is invalid.
    """

    metrics: tuple[Metric, ...] = ("p50", "p90", "size", "memory")
    fail_above: Annotated[float, Field(ge=1.0, le=100)] = 1.02
    pass_below: Annotated[float, Field(gt=1.0, le=100)] = 1.05
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.01
    looks: Annotated[tuple[Annotated[int, Field(ge=2, le=1000)], ...], Field(min_length=1)] = (
        6,
        12,
        24,
    )
    max_control_ratio: Annotated[float, Field(gt=1.0)] = 1.25

    @pydantic.model_validator(mode="after")
    def _ordered(self) -> Self:
        if list(self.looks) != sorted(set(self.looks)):
            raise ValueError("looks must increase, like 6, 12, 24")
        if self.fail_above >= self.pass_below:
            raise ValueError("fail_above must be less than pass_below")
        if len(set(self.metrics)) != len(self.metrics):
            raise ValueError("a metric is named twice")
        return self


class BenchmarkOptions(ScenarioOptions):
    """How to measure.

    Attributes:
        threads: Threads of every arm; None leaves a bundle its own setting and gives a model
            file all physical cores.
        affinity: Numbers of the CPUs that every arm is bound to; empty leaves it to the system.
        restarts: Fresh processes of each arm, where nothing is gated; a gate has its looks.
        blocks: Blocks of each arm and restart.
        block_seconds: Length of one block; a slow arm's are longer, so that 64 queries of each
            restart are timed, which a 90th percentile takes.
        warm_up_seconds: Least length of the warm-up, which ends when the medians of its halves
            agree, at the latest after six times as long.
        cold_starts: Fresh processes whose import, load and first inference are timed.
        sustained_seconds: Length of the pass that shows throttling; 0 leaves it out.
        energy_seconds: Length of the pass that reads power sensors, where there are any; 0 leaves
            it out.
        operators: Ask the engine for the time of each operator, in a pass of its own.
        start_temperature_c: Wait until the hottest sensor is below this, at most ten minutes; None
            does not wait.
        timeout_s: Longest that an arm may take to load, or over a block beyond the block's length.
        seed: Of the order of blocks and of synthetic inputs.
        gate: When a comparison fails.
    """

    threads: Annotated[int, Field(ge=0, le=1024)] | None = None
    affinity: tuple[Annotated[int, Field(ge=0, le=4095)], ...] = ()
    restarts: Annotated[int, Field(ge=1, le=1000)] = 6
    blocks: Annotated[int, Field(ge=1, le=1000)] = 5
    block_seconds: Annotated[float, Field(gt=0, le=600)] = 0.1
    warm_up_seconds: Annotated[float, Field(gt=0, le=600)] = 0.5
    cold_starts: Annotated[int, Field(ge=1, le=1000)] = 10
    sustained_seconds: Annotated[float, Field(ge=0, le=86_400)] = 0.0
    energy_seconds: Annotated[float, Field(ge=0, le=3600)] = 0.0
    operators: bool = False
    start_temperature_c: Annotated[float, Field(ge=0, le=120)] | None = None
    timeout_s: Annotated[float, Field(gt=0, le=86_400)] = 300.0
    seed: Annotated[int, Field(ge=0)] = 0
    gate: GateOptions = GateOptions()
