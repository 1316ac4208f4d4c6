"""What is known of a candidate: operations, size, latency."""

from __future__ import annotations

from typing import Protocol

from edgessl.config import Options
from edgessl.distillation.budget.families import Student

__all__ = ["Figures", "Latency", "Workbench"]


class Latency(Options):
    """Of one query of one sample, in milliseconds, over fresh processes.

    Attributes:
        p99_ms: None with too few queries.
        low_ms: Median of the fastest process.
        high_ms: Median of the slowest.
        restarts: Processes.
    """

    p50_ms: float
    p90_ms: float
    p99_ms: float | None
    low_ms: float
    high_ms: float
    restarts: int

    def at(self, percentile: str) -> float | None:
        """That percentile; None with too few queries."""
        return {"p50": self.p50_ms, "p90": self.p90_ms, "p99": self.p99_ms}[percentile]


class Figures(Options):
    """What a candidate costs, as far as it was looked at; None where it was not.

    Attributes:
        flops: Operations of one sample, two for a multiplication with its addition.
        size_bytes: Of the files that the engine opens, without canaries and manifest.
        build: How it was compiled, a name of the target's candidates.
    """

    flops: float | None = None
    size_bytes: int | None = None
    build: str | None = None
    latency: Latency | None = None


class Workbench(Protocol):
    """What the search asks; each answer may take minutes and is asked for once.

    An `edgessl.errors.ModelError` or `GateError` says that this one candidate cannot be built.
    """

    def flops(self, student: Student) -> float:
        """Export it and count."""

    def size(self, student: Student) -> tuple[int, str]:
        """Compile it: bytes, and how it was compiled."""

    def latency(self, student: Student, restarts: int) -> Latency:
        """Measure what was compiled, in so many fresh processes at least."""
