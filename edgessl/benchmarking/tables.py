"""A benchmark's result as rows of text, as one sentence and as Markdown."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence

from edgessl.benchmarking.options import GateOptions
from edgessl.benchmarking.result import ArmResult, BenchmarkResult, Comparison, MetricRatio
from edgessl.errors import printable

__all__ = [
    "ARM_HEADERS",
    "COMPARISON_HEADERS",
    "arm_rows",
    "comparison_rows",
    "interval",
    "ratio",
    "to_markdown",
    "verdict_line",
]

ARM_HEADERS = (
    "arm",
    "engine",
    "precision",
    "threads",
    "p50 ms",
    "p90 ms",
    "p99 ms",
    "per s",
    "runs",
    "cold start ms",
    "peak MB",
    "file MB",
)
COMPARISON_HEADERS = ("arm", "against", "metric", "ratio", "interval", "verdict", "min cosine")

_LONGEST_LIST = 3

# Left as they are: what does nothing in GitHub's Markdown, like an underscore inside a word.
_MARKDOWN = re.compile(
    r"""(?<![A-Za-z0-9])_ | _(?![A-Za-z0-9])
    | :(?=//|[a-z_+-]\w*:) | (?<=www)\.  # a link or an emoji
    | [^\w\s.,:;+\-/()=%'"]""",
    re.ASCII | re.VERBOSE,
)


def arm_rows(result: BenchmarkResult) -> list[list[str]]:
    """One row per arm under `ARM_HEADERS`; what is not known is empty."""
    return [_arm_row(arm) for arm in result.arms]


def comparison_rows(result: BenchmarkResult) -> list[list[str]]:
    """One row per comparison and metric under `COMPARISON_HEADERS`."""
    return [
        [
            comparison.arm,
            comparison.against,
            metric.metric,
            ratio(metric.ratio),
            interval(metric),
            _metric_verdict(comparison, metric),
            "" if comparison.min_cosine is None else f"{comparison.min_cosine:.5f}",
        ]
        for comparison in result.comparisons
        for metric in comparison.metrics
    ]


def verdict_line(result: BenchmarkResult) -> str:
    """The verdict, why, and what to do, as one line."""
    gate = result.protocol.gate
    if result.verdict is None:
        return "not gated: nothing was judged"
    if result.verdict == "INVALID":
        found = [c.problem for c in result.comparisons if c.problem is not None]
        problems = "; ".join([*result.harness.problems, *found])
        return f"INVALID: {problems}; nothing is said about the arms"
    reasons = [r for c in result.comparisons if c.verdict == result.verdict for r in _why(c, gate)]
    shown = "; ".join(reasons[:_LONGEST_LIST])
    more = len(reasons) - _LONGEST_LIST
    return f"{result.verdict}: {shown}" + (f"; and {more} more" if more > 0 else "")


def to_markdown(result: BenchmarkResult) -> str:
    """The verdict, tables, remarks and what it was measured on, in GitHub's Markdown.

    Names come from files and may hold anything: no character of theirs acts as Markdown or HTML.
    """
    title = result.verdict or "not gated"
    lines = [f"### edgessl benchmark: {title}", ""]
    if result.verdict is not None:
        lines += [_plain(verdict_line(result)), ""]
    if result.comparisons:
        levels = sorted({f"{100 * c.confidence:.4g} %" for c in result.comparisons})
        lines += [*_markdown_table(COMPARISON_HEADERS, comparison_rows(result)), ""]
        lines += [f"Ratios are arm over base, intervals cover {' or '.join(levels)}.", ""]
        reasons = [
            f"{c.arm} against {c.against}, {m.metric}: {m.reason}"
            for c in result.comparisons
            for m in c.metrics
            if m.reason is not None
        ]
        lines += _list(reasons)
    lines += [*_markdown_table(ARM_HEADERS, arm_rows(result)), ""]
    lines += _list(result.remarks)
    lines.append(_plain(_measured_on(result)))
    return "\n".join(lines) + "\n"


def ratio(value: float | None) -> str:
    """A ratio with the digits that matter; empty if it is not known."""
    if value is None:
        return ""
    return f"{value:.3f}" if 0.001 <= value < 100 else f"{value:.3g}"


def interval(metric: MetricRatio) -> str:
    """Both limits; empty if there are none."""
    if metric.ratio_low is None:
        return ""
    if metric.metric == "size":
        return "exact"
    if metric.ratio_high is None:
        return f"{ratio(metric.ratio_low)} or more"
    return f"{ratio(metric.ratio_low)} to {ratio(metric.ratio_high)}"


def _arm_row(arm: ArmResult) -> list[str]:
    cold = arm.cold_start
    cold_ms = cold.import_ms.median + cold.load_ms.median + cold.first_inference_ms.median
    return [
        arm.name,
        arm.engine,
        arm.precision,
        str(arm.threads),
        _figure(arm.latency_p50_ms),
        _figure(arm.latency_p90_ms),
        "" if arm.latency_p99_ms is None else _figure(arm.latency_p99_ms),
        _figure(arm.throughput_per_s),
        str(arm.runs),
        _figure(cold_ms),
        _megabytes(arm.peak_memory_bytes),
        _megabytes(arm.size_bytes),
    ]


def _metric_verdict(comparison: Comparison, metric: MetricRatio) -> str:
    if metric.verdict is None:
        return "not gated"
    return "INVALID" if comparison.verdict == "INVALID" else metric.verdict


def _why(comparison: Comparison, gate: GateOptions) -> Iterator[str]:
    """The metrics that decide a comparison, each with its figures."""
    arms = f"{comparison.arm} against {comparison.against}"
    if comparison.problem is not None:
        yield f"{arms}: {comparison.problem}"
    deciding = [m for m in comparison.metrics if m.verdict == comparison.verdict]
    if not deciding and comparison.problem is not None:
        return
    if not deciding:
        reasons = "; ".join(m.reason for m in comparison.metrics if m.reason is not None)
        yield f"{arms}: no gated metric could be taken ({reasons}); measure longer"
    elif comparison.verdict == "PASS":
        figures = ", ".join(f"{m.metric} {ratio(m.ratio)}" for m in deciding)
        yield f"{arms}: {figures}, surely under {gate.pass_below:g}"
    else:
        yield from (f"{arms}: {_reason(metric, gate)}" for metric in deciding)


def _reason(metric: MetricRatio, gate: GateOptions) -> str:
    if metric.ratio is None:
        return f"{metric.metric} could not be taken: {metric.reason}"
    figures = f"{metric.metric} ratio {ratio(metric.ratio)} ({interval(metric)})"
    if metric.verdict == "FAIL":
        return f"{figures}, surely above the {gate.fail_above:g} that --fail-above allows"
    return (
        f"{figures}, neither surely above {gate.fail_above:g} nor surely under "
        f"{gate.pass_below:g} after {metric.restarts} restarts; take a quieter machine or more "
        "--looks"
    )


def _measured_on(result: BenchmarkResult) -> str:
    e, p = result.environment, result.protocol
    packages = ", ".join(f"{name} {version}" for name, version in sorted(e.packages.items()))
    device = ", ".join(part for part in (e.module, e.cpu, e.gpu) if part)
    return (
        f"{p.scenario.scenario}, {p.restarts} restarts of {p.blocks} blocks of "
        f"{p.block_seconds:g} s in turns, seed {p.seed}; {device}, {e.cores_usable} cores, "
        f"{e.system}, governor {e.governor or 'unknown'}, Python {e.python}; {packages}; "
        f"{result.created_utc}"
    )


def _figure(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.4g}"


def _megabytes(size_bytes: int | None) -> str:
    if size_bytes is None:
        return ""
    return f"{size_bytes / 1e6:.1f}" if size_bytes >= 1e6 else f"{size_bytes / 1e6:.2g}"


def _list(sentences: Sequence[str]) -> list[str]:
    # A sentence may begin with a name, and a name with what begins a list.
    lines = [re.sub(r"^[-+=\d]", lambda mark: _entity(mark[0]), _plain(s)) for s in sentences]
    return [*(f"- {line}" for line in lines), ""] if lines else []


def _markdown_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    marks = ["---"] * 2 + ["---:"] * (len(headers) - 2)
    names = [header in ("arm", "against") for header in headers]
    cells = [
        [_code(c) if name else _plain(c) for c, name in zip(row, names, strict=True)]
        for row in rows
    ]
    return [f"| {' | '.join(row)} |" for row in (headers, marks, *cells)]


def _code(text: str) -> str:
    return f"<code>{_plain(text)}</code>"


def _plain(text: str) -> str:
    """Text of one line in which nothing is Markdown, HTML, a link or a mention."""
    return _MARKDOWN.sub(lambda found: _entity(found[0]), printable(text))


def _entity(character: str) -> str:
    if character == "@":
        # GitHub looks for mentions after it has decoded entities.
        return "&#64;&#8203;"
    if not character.isascii():
        return character
    named = html.escape(character, quote=False)
    return named if named != character else f"&#{ord(character)};"
