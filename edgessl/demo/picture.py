"""The demo's picture: accuracy against latency, and where the accuracy comes from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgessl.optional import require

if TYPE_CHECKING:
    from edgessl.demo.demo import DemoReport

__all__ = ["draw"]

_COLOURS = {"PyTorch": "#8a8a8a", "onnxruntime": "#1f6fb4", "OpenVINO": "#c8553d"}


def draw(report: DemoReport, path: Path) -> None:
    """Write a PNG of 1400x560 pixels."""
    require("matplotlib", extra="report").use("Agg")
    pyplot = require("matplotlib.pyplot", extra="report")
    figure, (left, right) = pyplot.subplots(
        1, 2, figsize=(14, 5.6), dpi=100, width_ratios=[1, 1.15], layout="constrained"
    )
    try:
        _draw_scores(left, report)
        _draw_engines(right, report)
        figure.savefig(path, format="png")
    finally:
        pyplot.close(figure)


def _draw_scores(axes: Any, report: DemoReport) -> None:
    names = [score.name for score in report.scores]
    values = [100 * score.accuracy for score in report.scores]
    errors = [100 * score.deviation for score in report.scores]
    colours = ["#b5b5b5", "#b5b5b5", "#3a7d44", "#3a7d44", "#1f6fb4", "#c8553d"]
    axes.barh(names, values, xerr=errors, color=colours, error_kw={"ecolor": "#333", "capsize": 3})
    for row, (value, error) in enumerate(zip(values, errors, strict=True)):
        axes.text(value + error + 1, row, f"{value:.1f}", va="center", fontsize=10)
    axes.set_xlim(0, 112)
    axes.invert_yaxis()
    axes.set_xlabel("accuracy with 5 labels per class, %")
    axes.set_title("Handwritten digits, features learnt without labels", fontsize=11, loc="left")
    axes.spines[["top", "right"]].set_visible(False)


def _draw_engines(axes: Any, report: DemoReport) -> None:
    for row in report.engines:
        engine, precision = row.name.rsplit(" ", 1)
        axes.scatter(
            row.latency_p50_ms,
            100 * row.accuracy,
            s=120,
            color=_COLOURS[engine],
            marker="o" if precision == "fp32" else "D",
            label=f"{row.name}: {row.latency_p50_ms:.3f} ms, {row.size_bytes / 1e6:.2f} MB",
            zorder=3,
        )
    accuracies = [100 * row.accuracy for row in report.engines]
    middle, half = (max(accuracies) + min(accuracies)) / 2, max(accuracies) - min(accuracies)
    half = max(3.0, half)
    axes.set_ylim(middle - half, middle + half)
    axes.set_xscale("log")
    axes.set_xlabel(f"p50 latency at batch 1, {report.engines[0].threads} thread(s), ms (log)")
    axes.set_ylabel("accuracy with 5 labels per class, %")
    axes.set_title(f"The student in each engine, {report.cpu}", fontsize=11, loc="left")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.tick_params(axis="x", which="both", labelsize=8)
    axes.grid(True, which="both", color="#e5e5e5", zorder=0)
    axes.legend(loc="upper right", frameon=True, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
