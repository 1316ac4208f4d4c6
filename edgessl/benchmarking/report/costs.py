"""Figures of what else an arm costs: operators, starting, memory; and the trend over runs."""

from __future__ import annotations

from collections.abc import Sequence

from edgessl.benchmarking.history import Entry
from edgessl.benchmarking.report.chart import (
    Chart,
    Trace,
    arm_color,
    arm_dash,
    arm_symbol,
    axis,
    label,
    missing,
    short_label,
)
from edgessl.benchmarking.report.words import megabytes, milliseconds
from edgessl.benchmarking.result import ArmResult, BenchmarkResult

__all__ = ["cold_start", "memory", "operators", "size", "trend"]

_SHOWN_OPERATORS = 25
_PHASES = (
    ("import_ms", "importing the engine", 0.35),
    ("load_ms", "loading the artifact", 0.65),
    ("first_inference_ms", "first query", 1.0),
)
_LEAST_RUNS = 2


def operators(result: BenchmarkResult) -> list[Chart]:
    """Bars of the slowest operators, a figure for each arm."""
    return [_operators(index, arm) for index, arm in enumerate(result.arms)]


def _operators(index: int, arm: ArmResult) -> Chart:
    key = f"operators-{index}"
    if not arm.operators:
        reason = arm.operators_reason or "they were not asked for; --operators"
        return Chart(key=key, title=arm.name, caption="", missing=reason, arm=index)
    total = sum(operator.time_ms for operator in arm.operators)
    shown, rest = arm.operators[:_SHOWN_OPERATORS], arm.operators[_SHOWN_OPERATORS:]
    bars = [(o.name, o.kind, o.device, o.time_ms) for o in shown]
    if rest:
        bars.append((f"{len(rest)} others", "together", "", sum(o.time_ms for o in rest)))
    colors = [arm_color(index)] * len(shown) + ["@muted"] * bool(rest)
    bars.reverse()
    colors.reverse()
    share = [time / total * 100 if total else 0.0 for *_, time in bars]
    # Names may repeat, so places are numbers.
    places = list(range(len(bars)))
    return Chart(
        key=key,
        title=arm.name,
        caption=(
            f"{len(arm.operators)} operators take {milliseconds(total)} together in one call of "
            f"the engine; a query takes {milliseconds(arm.latency_p50_ms)}{_calls(arm)}."
        ),
        traces=[
            {
                "type": "bar",
                "orientation": "h",
                "name": label(arm.name),
                "x": [time for *_, time in bars],
                "y": places,
                "text": [f"{percent:.0f} %" for percent in share],
                "textposition": "outside",
                "cliponaxis": False,
                "marker": {"color": colors},
                "customdata": [
                    [label(name), label(kind), label(device), percent]
                    for (name, kind, device, _), percent in zip(bars, share, strict=True)
                ],
                "hovertemplate": (
                    "<b>%{customdata[0]}</b><br>%{customdata[1]} %{customdata[2]}<br>"
                    "%{x:.4g} ms, %{customdata[3]:.1f} %<extra></extra>"
                ),
                "meta": {"arm": index},
            }
        ],
        layout={
            # Room for the shares beside the bars.
            "xaxis": axis(
                "median time in ms",
                range=[0, 1.2 * max(time for *_, time in bars)],
                nticks=5,
                tickangle=0,
            ),
            "yaxis": {
                "tickvals": places,
                "ticktext": [_operator_label(name, kind) for name, kind, *_ in bars],
                "tickfont": {"size": 11},
                "range": [-0.6, len(bars) - 0.4],
                "showgrid": False,
            },
            "bargap": 0.25,
        },
        height=100 + 21 * max(3, len(bars)),
        arm=index,
    )


def _operator_label(name: str, kind: str) -> str:
    return f"{short_label(name, 22)} · {short_label(kind, 13)}"


def _calls(arm: ArmResult) -> str:
    calls = -(-arm.samples_per_query // arm.samples_per_run)
    return "" if calls == 1 else f" of {calls} calls"


def cold_start(result: BenchmarkResult) -> Chart:
    """From the start of a process to its first answer."""
    traces: list[Trace] = []
    for index, arm in enumerate(result.arms):
        for field, phase, opacity in _PHASES:
            found = getattr(arm.cold_start, field)
            traces.append(
                {
                    "type": "bar",
                    "orientation": "h",
                    "name": phase,
                    "x": [found.median],
                    "y": [label(arm.name)],
                    "marker": {
                        "color": arm_color(index),
                        "opacity": opacity,
                        "line": {"width": 1, "color": "@card"},
                    },
                    "customdata": [[label(arm.name), phase, found.minimum, found.maximum]],
                    "hovertemplate": (
                        "<b>%{customdata[0]}</b>, %{customdata[1]}<br>%{x:.4g} ms (from "
                        "%{customdata[2]:.4g} to %{customdata[3]:.4g})<extra></extra>"
                    ),
                    "meta": {"arm": index},
                }
            )
    processes = min(arm.cold_start.processes for arm in result.arms)
    return Chart(
        key="cold-start",
        title="Cold start",
        caption=(
            "Importing the engine (light), loading the artifact, and the first query (full "
            f"colour): medians over {processes} fresh processes."
        ),
        traces=traces,
        layout={
            "xaxis": axis("time since the process began in ms", rangemode="tozero"),
            "yaxis": _arm_axis(result.arms),
            "barmode": "stack",
            "bargap": 0.35,
        },
        height=_bars_height(result.arms),
    )


def memory(result: BenchmarkResult) -> Chart:
    """Largest resident memory of each process."""
    key, title = "memory", "Peak memory"
    traces: list[Trace] = []
    for index, arm in enumerate(result.arms):
        peaks = [peak for peak in arm.peak_memory_by_restart if peak is not None]
        if arm.peak_memory_bytes is None:
            continue
        shared = {"name": label(arm.name), "orientation": "h", "meta": {"arm": index}}
        traces.append(
            {
                **shared,
                "type": "bar",
                "x": [arm.peak_memory_bytes / 1e6],
                "y": [label(arm.name)],
                "text": [megabytes(arm.peak_memory_bytes)],
                "textposition": "inside",
                "insidetextanchor": "start",
                "insidetextfont": {"color": "@card"},
                "marker": {"color": arm_color(index)},
                "customdata": [[label(arm.name), len(peaks)]],
                "hovertemplate": (
                    "<b>%{customdata[0]}</b><br>%{x:.4g} MB, median of %{customdata[1]} "
                    "processes<extra></extra>"
                ),
            }
        )
        traces.append(
            {
                **shared,
                "type": "scatter",
                "mode": "markers",
                "x": [peak / 1e6 for peak in peaks],
                "y": [label(arm.name)] * len(peaks),
                "marker": {"color": "@text", "size": 6, "symbol": "line-ns-open"},
                "hovertemplate": "%{x:.5g} MB in one process<extra></extra>",
            }
        )
    if not traces:
        return missing(key, title, "this system does not tell a process's largest resident memory")
    return Chart(
        key=key,
        title=title,
        caption="Largest resident memory of the arm's process: median, and a mark per restart.",
        traces=traces,
        layout={
            "xaxis": axis("peak resident memory in MB", rangemode="tozero"),
            "yaxis": _arm_axis(result.arms),
            "bargap": 0.35,
        },
        height=_bars_height(result.arms),
    )


def size(result: BenchmarkResult) -> Chart:
    """Size of each artifact."""
    key, title = "size", "Artifact size"
    known = [(i, arm, arm.size_bytes) for i, arm in enumerate(result.arms) if arm.size_bytes]
    if not known:
        return missing(key, title, "no arm runs a file")
    return Chart(
        key=key,
        title=title,
        caption="Bytes of the artifact with all its parts; a MB is 10⁶ bytes.",
        traces=[
            {
                "type": "bar",
                "orientation": "h",
                "name": label(arm.name),
                "x": [size_bytes / 1e6],
                "y": [label(arm.name)],
                "text": [megabytes(size_bytes)],
                "textposition": "inside",
                "insidetextanchor": "start",
                "insidetextfont": {"color": "@card"},
                "marker": {"color": arm_color(index)},
                "customdata": [label(arm.name)],
                "hovertemplate": "<b>%{customdata}</b><br>%{x:.6g} MB<extra></extra>",
                "meta": {"arm": index},
            }
            for index, arm, size_bytes in known
        ],
        layout={
            "xaxis": axis("artifact size in MB", rangemode="tozero"),
            "yaxis": _arm_axis(result.arms),
            "bargap": 0.35,
        },
        height=_bars_height(result.arms),
    )


def trend(result: BenchmarkResult, history: Sequence[Entry]) -> Chart:
    """Median latency over earlier runs that measured arms of the same names."""
    key, title = "trend", "Trend"
    if not history:
        return missing(key, title, "no history was given; --history F.jsonl keeps one line per run")
    scenario = result.protocol.scenario.scenario
    alike = [entry for entry in history if entry.scenario == scenario]
    runs = sorted(alike, key=lambda entry: entry.created_utc)
    traces: list[Trace] = []
    for index, arm in enumerate(result.arms):
        points = [
            (entry, found) for entry in runs for found in entry.arms if found.name == arm.name
        ]
        if len(points) < _LEAST_RUNS:
            continue
        same = [entry.env_hash == result.env_hash for entry, _ in points]
        symbol = arm_symbol(index)
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": label(arm.name),
                "x": [entry.created_utc for entry, _ in points],
                "y": [found.p50_ms for _, found in points],
                "line": {"color": arm_color(index), "width": 1.5, "dash": arm_dash(index)},
                "marker": {
                    "color": arm_color(index),
                    "size": 8,
                    "symbol": [symbol if here else f"{symbol}-open" for here in same],
                },
                "customdata": [
                    [
                        label(arm.name),
                        label(entry.label or "no label"),
                        "this environment" if here else "another environment",
                        milliseconds(entry.control_p50_ms),
                    ]
                    for (entry, _), here in zip(points, same, strict=True)
                ],
                "hovertemplate": (
                    "<b>%{customdata[0]}</b> %{y:.4g} ms<br>%{x|%Y-%m-%d %H:%M}, "
                    "%{customdata[1]}<br>%{customdata[2]}, control arm %{customdata[3]}"
                    "<extra></extra>"
                ),
                "meta": {"arm": index},
            }
        )
    if not traces:
        return missing(
            key,
            title,
            f"of {len(history)} in the history, no two runs of {scenario} have an arm of a name "
            "as here",
        )
    return Chart(
        key=key,
        title=title,
        caption=(
            f"{len(runs)} runs of {scenario}. Filled marks come from an environment like this "
            "one, hollow ones from another. Machines drift from day to day, so a step here is a "
            "reason to measure both artifacts in one run, not a verdict."
        ),
        traces=traces,
        layout={
            "xaxis": axis("time of the run (UTC)", type="date"),
            "yaxis": axis("median latency in ms", rangemode="tozero"),
        },
    )


def _arm_axis(arms: Sequence[ArmResult]) -> Trace:
    """The first arm at the top."""
    return {
        "type": "category",
        "tickvals": [label(arm.name) for arm in arms],
        "ticktext": [short_label(arm.name) for arm in arms],
        "autorange": "reversed",
        "showgrid": False,
    }


def _bars_height(arms: Sequence[ArmResult]) -> int:
    return 96 + 34 * max(2, len(arms))
