"""Figures of latency: distribution, drift, and what a faster arm costs in fidelity."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgessl.benchmarking.recording import Recording
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
from edgessl.benchmarking.result import ArmResult, BenchmarkResult

__all__ = ["distribution", "drift", "fidelity", "pareto_front"]

_POINTS = 400
_LONG_TAIL = 4.0


def distribution(result: BenchmarkResult, recording: Recording) -> Chart:
    """Empirical distribution functions of all queries."""
    key, title = "distribution", "Latency distribution"
    times = _times(result, recording)
    traces = []
    for index, values in times.items():
        shares, quantiles = _distribution(values)
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": label(result.arms[index].name),
                "x": quantiles.tolist(),
                "y": (shares * 100).tolist(),
                "line": {"color": arm_color(index), "width": 2.2, "dash": arm_dash(index)},
                "customdata": [label(result.arms[index].name)] * len(shares),
                "hovertemplate": (
                    "<b>%{customdata}</b><br>%{y:.1f} % of queries take "
                    "%{x:.4g} ms or less<extra></extra>"
                ),
                "meta": {"arm": index},
            }
        )
    if not traces:
        return missing(key, title, "the recording holds no queries of these arms")
    joined = np.concatenate(list(times.values()))
    logarithmic = bool(joined.min() > 0 and joined.max() / joined.min() > _LONG_TAIL)
    return Chart(
        key=key,
        title=title,
        caption=(
            f"Share of the {joined.size:,} timed queries that were answered within a time. "
            "Steeper is steadier; further left is faster."
        ),
        traces=traces,
        layout={
            "xaxis": axis(
                f"latency of one query in ms{' (logarithmic)' if logarithmic else ''}",
                type="log" if logarithmic else "linear",
                **({"dtick": "D2"} if logarithmic else {}),
            ),
            "yaxis": axis("queries in %", range=[0, 101], tickvals=[0, 25, 50, 75, 90, 100]),
        },
        height=380,
    )


def _distribution(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Shares and quantiles: evenly spaced, and closer together in the tail."""
    even = np.linspace(0, 1, min(_POINTS, values.size))
    tail = 1 - np.geomspace(0.02, 1 / values.size, 40) if values.size > 50 else np.zeros(0)
    shares = np.unique(np.concatenate([even, tail]))
    return shares, np.quantile(values, shares)


def drift(result: BenchmarkResult) -> Chart:
    """Medians of blocks in the order in which they were measured."""
    key, title = "drift", "Medians over time"
    traces: list[Trace] = []
    for index, arm in enumerate(result.arms):
        places, ratios, facts = [], [], []
        for restart, blocks in enumerate(arm.block_p50_ms):
            for number, median in enumerate(blocks):
                places.append(restart + (number + 0.5) / len(blocks))
                known = median is not None and arm.latency_p50_ms > 0
                ratios.append((median / arm.latency_p50_ms - 1) * 100 if known and median else None)
                facts.append([label(arm.name), median, restart + 1, number + 1])
            # A gap: the next restart's processes are others.
            places.append(restart + 1.0)
            ratios.append(None)
            facts.append([label(arm.name), None, restart + 1, 0])
        if any(ratio is not None for ratio in ratios):
            traces.append(_drift_trace(index, arm, places, ratios, facts))
    if not traces:
        return missing(key, title, "no block counts; the protocol below says why they were dropped")
    control = result.harness.control_p50_ms
    if control:
        centre = float(np.median(control))
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": "control arm",
                "x": [restart + 0.5 for restart in range(len(control))],
                "y": [(value / centre - 1) * 100 for value in control],
                "customdata": [[value, n + 1] for n, value in enumerate(control)],
                "line": {"color": "@muted", "width": 1.5, "dash": "dot"},
                "marker": {"color": "@muted", "size": 6, "symbol": "line-ew-open"},
                "hovertemplate": (
                    "<b>control arm</b><br>%{customdata[0]:.4g} ms, restart %{customdata[1]}, "
                    "%{y:+.1f} %<extra></extra>"
                ),
            }
        )
    count = max(len(arm.block_p50_ms) for arm in result.arms)
    return Chart(
        key=key,
        title=title,
        caption=(
            "Median of each block against the arm's own median. Arms took turns, so what moves all "
            "of them, and the control arm (dotted, one point per restart), is the machine."
        ),
        traces=traces,
        layout={
            "xaxis": axis(
                "restart (fresh processes of all arms)",
                tickvals=[restart + 0.5 for restart in range(count)],
                ticktext=[str(restart + 1) for restart in range(count)],
                range=[0, count],
                showgrid=False,
            ),
            "yaxis": axis("against the arm's median in %", zeroline=True),
            "shapes": [
                {
                    "type": "line",
                    "x0": restart,
                    "x1": restart,
                    "yref": "paper",
                    "y0": 0,
                    "y1": 1,
                    "line": {"color": "@grid", "width": 1},
                }
                for restart in range(1, count)
            ],
        },
    )


def _drift_trace(
    index: int,
    arm: ArmResult,
    places: Sequence[float],
    ratios: Sequence[float | None],
    facts: Sequence[Sequence[object]],
) -> Trace:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": label(arm.name),
        "x": list(places),
        "y": list(ratios),
        "customdata": [list(fact) for fact in facts],
        "line": {"color": arm_color(index), "width": 1.3, "dash": arm_dash(index)},
        "marker": {"color": arm_color(index), "size": 6, "symbol": arm_symbol(index)},
        "hovertemplate": (
            "<b>%{customdata[0]}</b><br>%{customdata[1]:.4g} ms, restart %{customdata[2]}, block "
            "%{customdata[3]}, %{y:+.1f} %<extra></extra>"
        ),
        "meta": {"arm": index},
    }


def fidelity(result: BenchmarkResult) -> Chart:
    """Fidelity against latency, with the arms that no other beats in both."""
    key, title = "fidelity", "Fidelity against latency"
    known = [(i, a, a.fidelity) for i, a in enumerate(result.arms) if a.fidelity is not None]
    if not known:
        return missing(
            key,
            title,
            "no arm says its fidelity; bundles of edgessl compile do, model files do not",
        )
    front = pareto_front([(arm.latency_p50_ms, value) for _, arm, value in known])
    on_front = [known[place] for place in front]
    traces: list[Trace] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "Pareto front",
            "x": [arm.latency_p50_ms for _, arm, _ in on_front],
            "y": [value for *_, value in on_front],
            "line": {"color": "@muted", "width": 1.5, "dash": "dash", "shape": "hv"},
            "hoverinfo": "skip",
        }
    ]
    for place, (index, arm, value) in enumerate(known):
        best = place in front
        traces.append(
            {
                "type": "scatter",
                "mode": "markers+text",
                "name": label(arm.name),
                "x": [arm.latency_p50_ms],
                "y": [value],
                "text": [short_label(arm.name)],
                "textposition": "top center",
                "cliponaxis": False,
                "marker": {
                    "color": arm_color(index),
                    "size": 14,
                    "symbol": arm_symbol(index) if best else f"{arm_symbol(index)}-open",
                    "line": {"width": 2, "color": arm_color(index)},
                },
                "customdata": [[label(arm.name), "on the front" if best else "beaten by another"]],
                "hovertemplate": (
                    "<b>%{customdata[0]}</b><br>%{x:.4g} ms, cosine %{y:.5f}<br>"
                    "%{customdata[1]}<extra></extra>"
                ),
                "meta": {"arm": index},
            }
        )
    without = len(result.arms) - len(known)
    note = f" {without} of {len(result.arms)} arms do not say theirs." if without else ""
    return Chart(
        key=key,
        title=title,
        caption=(
            "Mean cosine to the float model, as each bundle says, against median latency. Filled "
            f"marks, joined by the dashed line, are beaten by no other in both.{note}"
        ),
        traces=traces,
        layout={
            "xaxis": axis("median latency in ms", rangemode="tozero"),
            "yaxis": axis(
                "mean cosine to the float model", tickformat=_ticks([value for *_, value in known])
            ),
            "margin": {"t": 28},
        },
    )


def _ticks(values: Sequence[float]) -> str:
    """A format with the decimals that tell these values apart."""
    finite = [value for value in values if math.isfinite(value)]
    spread = max(finite, default=0.0) - min(finite, default=0.0)
    decimals = 4 if spread <= 0 else min(9, max(3, 1 - math.floor(math.log10(spread))))
    return f".{decimals}~f"


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Numbers of the points that no other beats, from the fastest to the best.

    Args:
        points: Latency, of which less is better, and fidelity, of which more is.
    """
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    front: list[int] = []
    for index in order:
        if not front or points[index][1] > points[front[-1]][1]:
            front.append(index)
    return front


def _times(result: BenchmarkResult, recording: Recording) -> dict[int, NDArray[np.float64]]:
    found = {}
    for index, arm in enumerate(result.arms):
        recorded = recording.arms.get(arm.name)
        times = recorded.times_ms() if recorded is not None else np.zeros(0)
        if times.size:
            found[index] = times
    return found
