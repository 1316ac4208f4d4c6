"""What a student may cost: ``5ms@TARGET``, ``1MB``, ``200MFLOPs``."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Literal, cast

from edgessl.config import Options
from edgessl.distillation.budget.figures import Figures
from edgessl.errors import UsageError

__all__ = ["Budget", "Percentile", "parse_budget", "target_of"]

Kind = Literal["flops", "size", "latency"]
Percentile = Literal["p50", "p90", "p99"]

_TIMES_MS = {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3}
_SIZES = {"b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_PREFIXES = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
# A multiplication with its addition is two operations, as `edgessl.compiler.workload` counts.
_OPERATIONS = {"flops": 1, "flop": 1, "macs": 2, "mac": 2}
_FORM = re.compile(
    r"(?:(?P<percentile>p\d+)=)?(?P<number>\d+(?:\.\d*)?|\.\d+)\s*(?P<unit>[^\W\d_]+)"
    r"(?:@(?P<target>\S+))?"
)
_EXAMPLES = "write it like 5ms@cpu-x86-64, p90=5ms@host, 1MB or 200MFLOPs"


class Budget(Options):
    """One upper limit.

    Attributes:
        text: As it was written.
        limit: Milliseconds, bytes or operations.
        percentile: Of a latency: over the timed queries.
        target: Where it holds; None takes that of another budget.
    """

    text: str
    kind: Kind
    limit: float
    percentile: Percentile = "p50"
    target: str | None = None

    def figure(self, figures: Figures) -> float | None:
        """What is limited, of a candidate; None if it was not looked at."""
        if self.kind == "flops":
            return figures.flops
        if self.kind == "size":
            return None if figures.size_bytes is None else float(figures.size_bytes)
        return None if figures.latency is None else figures.latency.at(self.percentile)

    def excess(self, figures: Figures) -> float | None:
        """The figure over the limit: above 1 it does not fit; None if it was not looked at."""
        figure = self.figure(figures)
        return None if figure is None else figure / self.limit

    def show(self, figure: float) -> str:
        """A figure of this kind with its unit."""
        if self.kind == "latency":
            return f"{self.percentile} {figure:.3f} ms"
        if self.kind == "size":
            return f"{figure / 1e6:.3f} MB"
        return f"{figure / 1e6:.1f} MFLOPs"


def parse_budget(text: str) -> Budget:
    """Read a budget.

    Latency: ``5ms@TARGET`` (the median; ``p90=5ms@TARGET``), in us, ms or s. Size of the compiled
    model's files: ``900kB``, ``1MB`` (10^6 bytes), ``1MiB`` (2^20). Operations of one sample:
    ``200MFLOPs`` or, half of them, ``100MMACs``.

    Raises:
        UsageError: No budget.
    """
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"'{text}' is no budget; {_EXAMPLES}")
    unit, number = match["unit"], float(match["number"])
    kind, factor = _unit(unit, text)
    limit = number * factor
    if not 0 < limit < math.inf:
        raise UsageError(f"'{text}' leaves room for nothing; {_EXAMPLES}")
    percentile = match["percentile"]
    if percentile is not None and (kind != "latency" or percentile not in ("p50", "p90", "p99")):
        raise UsageError(f"'{text}': only a latency has a percentile, p50, p90 or p99")
    return Budget(
        text=text.strip(),
        kind=kind,
        limit=limit,
        percentile=cast(Percentile, percentile or "p50"),
        target=match["target"],
    )


def target_of(budgets: Sequence[Budget], for_target: str | None = None) -> str:
    """The one target that all budgets, and `for_target` if it is given, are about.

    Raises:
        UsageError: No budget, two targets, or a latency of no target.
    """
    if not budgets:
        raise UsageError(f"no budget; {_EXAMPLES}")
    named = list(dict.fromkeys(b.target for b in budgets if b.target is not None))
    if for_target is not None and for_target not in named:
        named.append(for_target)
    if len(named) > 1:
        raise UsageError(
            f"budgets for {' and '.join(named)}: a student is chosen for one target; run once for "
            "each"
        )
    timed = next((b for b in budgets if b.kind == "latency"), None)
    if timed is not None and not named:
        raise UsageError(f"'{timed.text}': on what? write {timed.text}@TARGET; see edgessl targets")
    return named[0] if named else "host"


def _unit(unit: str, text: str) -> tuple[Kind, float]:
    lower = unit.lower()
    if lower in _TIMES_MS:
        return "latency", _TIMES_MS[lower]
    if lower in _SIZES:
        return "size", _SIZES[lower]
    for name, operations in _OPERATIONS.items():
        prefix = lower.removesuffix(name)
        if prefix != lower and prefix in _PREFIXES:
            return "flops", operations * _PREFIXES[prefix]
    raise UsageError(f"'{text}': unknown unit '{unit}'; {_EXAMPLES}")
