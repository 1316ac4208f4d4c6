"""The figure of the gate: every ratio, its interval, and the margins that decide."""

from __future__ import annotations

from edgessl.benchmarking.report.chart import Chart, Trace, axis, label, missing, short_label
from edgessl.benchmarking.report.words import METRICS, change, interval
from edgessl.benchmarking.result import BenchmarkResult, Comparison, MetricRatio

__all__ = ["ratios"]

_WIDEST = 50.0
"""Per cent; what lies further out is drawn at the edge, or the margins could not be seen."""
_LEAST_VIEW = 8.0
_COLORS = {
    "PASS": "@pass",
    "FAIL": "@fail",
    "INCONCLUSIVE": "@inconclusive",
    "INVALID": "@invalid",
    None: "@muted",
}


def ratios(result: BenchmarkResult) -> Chart:
    """A row per comparison and metric, the first at the top."""
    key, title = "ratios", "Ratios and the gate"
    numbers = {arm.name: index for index, arm in enumerate(result.arms)}
    rows = [(c, m, m.ratio) for c in result.comparisons for m in c.metrics if m.ratio is not None]
    if not rows:
        reason = "no ratio could be taken" if result.comparisons else "no two arms were compared"
        return missing(key, title, f"{reason}; name a base with --against")
    rows.reverse()
    several = len(result.comparisons) > 1
    traces = [
        _trace(comparison, metric, ratio, place, arm=numbers.get(comparison.arm))
        for place, (comparison, metric, ratio) in enumerate(rows)
    ]
    gate = result.protocol.gate
    return Chart(
        key=key,
        title=title,
        caption=(
            f"Change of an arm against its base, with its {result.comparisons[0].confidence:.2%} "
            f"interval. An interval wholly right of {change(gate.fail_above)} fails, one that ends "
            f"left of {change(gate.pass_below)} passes. Triangles at the edge lie further out."
        ),
        traces=traces,
        layout={
            "xaxis": axis("change in % (less is better)", zeroline=True, range=_view(rows)),
            "yaxis": {
                "tickvals": list(range(len(rows))),
                "ticktext": [
                    METRICS[m.metric] + (f"<br>{short_label(_names(c))}" if several else "")
                    for c, m, _ in rows
                ],
                "range": [-0.6, len(rows) - 0.4],
                "showgrid": False,
            },
            "shapes": [
                _margin(gate.fail_above, "@fail", "dash"),
                _margin(gate.pass_below, "@pass", "dot"),
            ],
            "annotations": [
                _margin_name(gate.fail_above, "fail above", "right", "@fail"),
                _margin_name(gate.pass_below, "pass below", "left", "@pass"),
            ],
            "margin": {"t": 30},
        },
        height=120 + (44 if several else 34) * len(rows),
    )


def _trace(
    comparison: Comparison, metric: MetricRatio, ratio: float, place: int, *, arm: int | None
) -> Trace:
    percent = (ratio - 1) * 100
    shown = min(max(percent, -_WIDEST), _WIDEST)
    color = _COLORS[metric.verdict]
    trace: Trace = {
        "type": "scatter",
        "mode": "markers+text",
        "name": label(_names(comparison)),
        "x": [shown],
        "y": [place],
        "marker": {"size": 11, "color": color},
        "customdata": [
            [
                METRICS[metric.metric],
                label(_names(comparison)),
                change(ratio),
                interval(metric),
                metric.verdict or "not gated",
                metric.restarts,
            ]
        ],
        "hovertemplate": (
            "<b>%{customdata[0]}</b> %{customdata[2]}<br>%{customdata[1]}<br>"
            "interval %{customdata[3]}, %{customdata[5]} restarts<br>"
            "%{customdata[4]}<extra></extra>"
        ),
        "meta": {"arm": arm},
    }
    if shown != percent:
        right = percent > 0
        trace["marker"]["symbol"] = "triangle-right" if right else "triangle-left"
        trace["text"] = [change(ratio)]
        trace["textposition"] = "middle left" if right else "middle right"
        return trace
    low = ratio if metric.ratio_low is None else metric.ratio_low
    # An interval without an upper limit reaches out of the figure.
    high = ratio + _WIDEST / 50 if metric.ratio_high is None else metric.ratio_high
    trace["error_x"] = {
        "type": "data",
        "symmetric": False,
        "array": [max(0.0, high - ratio) * 100],
        "arrayminus": [max(0.0, ratio - low) * 100],
        "thickness": 2,
        "width": 6,
        "color": color,
    }
    return trace


def _view(rows: list[tuple[Comparison, MetricRatio, float]]) -> list[float]:
    """From the least to the largest limit in per cent, with a little room."""
    ends = [-_LEAST_VIEW, _LEAST_VIEW]
    for _, metric, ratio in rows:
        limits = (ratio, metric.ratio_low, metric.ratio_high)
        ends += [(limit - 1) * 100 for limit in limits if limit is not None]
    low, high = max(min(ends), -_WIDEST), min(max(ends), _WIDEST)
    room = 0.06 * (high - low)
    return [low - room, high + room]


def _names(comparison: Comparison) -> str:
    return f"{comparison.arm} ÷ {comparison.against}"


def _margin(ratio: float, color: str, dash: str) -> Trace:
    place = (ratio - 1) * 100
    line = {"color": color, "width": 1.5, "dash": dash}
    ends = {"x0": place, "x1": place, "y0": 0, "y1": 1}
    return {"type": "line", "yref": "paper", "line": line, **ends}


def _margin_name(ratio: float, text: str, anchor: str, color: str) -> Trace:
    return {
        "x": (ratio - 1) * 100,
        "y": 1,
        "yref": "paper",
        "yanchor": "bottom",
        "xanchor": anchor,
        "text": text,
        "showarrow": False,
        "font": {"color": color, "size": 12},
    }
