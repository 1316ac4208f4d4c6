"""The verdict and its figures in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edgessl.benchmarking.options import GateOptions, Metric
from edgessl.benchmarking.result import BenchmarkResult, Comparison, MetricRatio, Reading, Spread

__all__ = [
    "METRICS",
    "Headline",
    "aligned",
    "change",
    "headline",
    "interval",
    "megabytes",
    "milliseconds",
    "number",
    "reading",
    "spread",
]

METRICS: dict[Metric, str] = {
    "p50": "median latency",
    "p90": "90th percentile of latency",
    "size": "artifact size",
    "memory": "peak memory",
}
_NONE = "–"
_LONGEST_SENTENCES = 6


@dataclass(frozen=True)
class Headline:
    """What a reader must see first.

    Attributes:
        tone: ``"pass"``, ``"fail"``, ``"inconclusive"``, ``"invalid"`` or ``"none"``.
        verdict: One word.
        title: What it means.
        sentences: Why, one comparison each.
    """

    tone: str
    verdict: str
    title: str
    sentences: tuple[str, ...]


def headline(result: BenchmarkResult) -> Headline:
    """The verdict of a run."""
    gate = result.protocol.gate
    if result.verdict is None:
        return Headline(
            tone="none",
            verdict="NOT GATED",
            title="Measured; nothing was judged.",
            sentences=_limited([_ungated(c) for c in result.comparisons]),
        )
    titles = {
        "PASS": "No arm is worse than its base.",
        "FAIL": "An arm is worse than its base.",
        "INCONCLUSIVE": "The data does not decide; measure longer or on a quieter machine.",
        "INVALID": "The measurement is invalid; it says nothing about the arms.",
    }
    deciding_first = sorted(result.comparisons, key=lambda c: c.verdict != result.verdict)
    sentences = [s for c in deciding_first for s in _sentences(c, gate)]
    if result.verdict == "INVALID":
        sentences = [*(f"{p}." for p in result.harness.problems), *sentences]
    return Headline(
        tone=result.verdict.lower(),
        verdict=result.verdict,
        title=titles[result.verdict],
        sentences=_limited(sentences),
    )


def _sentences(comparison: Comparison, gate: GateOptions) -> Iterator[str]:
    """The metrics that decide: those with the comparison's own verdict."""
    if comparison.verdict is None:
        return
    deciding = [m for m in comparison.metrics if m.verdict == comparison.verdict]
    if comparison.verdict == "INVALID":
        # Figures of an invalid run would be read as if they meant something.
        deciding = [m for m in deciding if m.ratio is None]
        if not deciding:
            return
    parts = ", ".join(_deciding(metric) for metric in deciding) or "nothing could be compared"
    limits = {
        "PASS": f"; all surely under {change(gate.pass_below)}",
        "FAIL": f"; {change(gate.fail_above)} is allowed",
    }
    limit = limits.get(comparison.verdict, "")
    yield f"{comparison.arm} against {comparison.against}: {parts}{limit}."


def _deciding(metric: MetricRatio) -> str:
    """A metric's part in its comparison's verdict."""
    name = METRICS[metric.metric]
    if metric.ratio is None:
        return f"{name} was not compared ({metric.reason or 'no reason given'})"
    if metric.verdict == "PASS":
        return f"{name} {change(metric.ratio)}"
    if metric.verdict == "FAIL":
        return f"{name} {change(metric.ratio)} (at least {change(metric.ratio_low)})"
    return f"{name} {change(metric.ratio)} (interval {interval(metric)})"


def _ungated(comparison: Comparison) -> str:
    metric = comparison.metric("p50")
    against = f"{comparison.arm} against {comparison.against}"
    if metric.ratio is None:
        return f"{against}: {METRICS['p50']} was not compared: {metric.reason}."
    return f"{against}: {METRICS['p50']} {change(metric.ratio)} (interval {interval(metric)})."


def _limited(sentences: list[str]) -> tuple[str, ...]:
    kept = sentences[:_LONGEST_SENTENCES]
    if len(sentences) > len(kept):
        kept.append(f"And {len(sentences) - len(kept)} more in the table below.")
    return tuple(kept)


def change(ratio: float | None) -> str:
    """A ratio as a change: 1.1 is ``"+10.0 %"``."""
    if ratio is None:
        return "unbounded"
    if ratio >= 10:
        return f"×{number(ratio)}"
    percent = round((ratio - 1) * 100, 1)
    sign = "+" if percent > 0 else "−" if percent < 0 else "±"
    return f"{sign}{abs(percent):.1f} %"


def interval(metric: MetricRatio) -> str:
    """Both limits as changes."""
    if metric.ratio_low is None and metric.ratio_high is None:
        return _NONE
    return f"{change(metric.ratio_low)} … {change(metric.ratio_high)}"


def number(value: float | None, digits: int = 4) -> str:
    """A figure with so many significant digits and without an exponent where it can be read."""
    if value is None:
        return _NONE
    if value and not 1e-4 <= abs(value) < 1e7:
        return f"{value:.{digits - 1}e}"
    text = f"{value:.{digits}g}"
    return f"{float(text):.0f}" if "e" in text else text


def aligned(value: float | None, digits: int = 4) -> str:
    """A figure of a column: so many significant digits, zeros included."""
    if value is None or not 1e-4 <= abs(value) < 10**digits:
        return number(value)
    return f"{value:#.{digits}g}".rstrip(".")


def milliseconds(value: float | None) -> str:
    """With its unit."""
    return _NONE if value is None else f"{number(value)} ms"


def megabytes(size_bytes: float | None) -> str:
    """With its unit; a megabyte is 10⁶ bytes."""
    return _NONE if size_bytes is None else f"{number(size_bytes / 1e6)} MB"


def spread(values: Spread) -> str:
    """Median, and what it lies between."""
    return f"{number(values.median)} ms ({number(values.minimum)} … {number(values.maximum)})"


def reading(value: Reading, unit: str = "") -> str:
    """The figure with its source, or why there is none."""
    if value.value is None:
        return f"not read: {value.reason or 'no reason given'}"
    source = f", {value.source}" if value.source else ""
    return f"{number(value.value)}{unit and ' ' + unit}{source}"
