"""The picture of a sensitivity report: one row per layer, the most harmful first."""

from __future__ import annotations

from pathlib import Path

from edgessl.compiler.layer_losses import SensitivityReport, loss_of
from edgessl.optional import require

__all__ = ["draw_layers"]

_ROWS = 40
"""Layers with a row of their own; the others are summed in one."""
_LONGEST_NAME = 52
_ROW_INCHES, _MARGIN_INCHES, _WIDTH_INCHES = 0.3, 1.5, 11.0
_ALONE, _REMOVED = "#c8553d", "#1f6fb4"


def draw_layers(report: SensitivityReport, path: Path) -> None:
    """Write a PNG, 1100 pixels wide and 30 high per row.

    Args:
        report: What to show.
        path: The file.

    Raises:
        UnavailableError: matplotlib is not installed.
    """
    require("matplotlib", extra="report").use("Agg")
    pyplot = require("matplotlib.pyplot", extra="report")
    rows = _rows(report)
    height = _MARGIN_INCHES + _ROW_INCHES * len(rows)
    figure, axes = pyplot.subplots(figsize=(_WIDTH_INCHES, height), dpi=100, layout="constrained")
    try:
        places = range(len(rows))
        axes.barh(
            [place - 0.2 for place in places],
            [alone for _, alone, _ in rows],
            height=0.38,
            color=_ALONE,
            label="lost with only this layer in integers",
        )
        axes.barh(
            [place + 0.2 for place in places],
            [removed for _, _, removed in rows],
            height=0.38,
            color=_REMOVED,
            label="won back with only this layer in float",
        )
        axes.set_yticks(list(places), [_escaped(name) for name, _, _ in rows], fontsize=8)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.axvline(0.0, color="#333", linewidth=0.8)
        figures = "1 - cosine" if report.encoder else "noise / power of the outputs"
        axes.set_xlabel(f"{figures}, mean over {report.samples} held-out samples")
        figure.suptitle(_title(report), fontsize=10, x=0.01, ha="left")
        axes.grid(True, axis="x", color="#e5e5e5")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside lower right", ncols=2, frameon=False, fontsize=8)
        figure.savefig(path, format="png")
    finally:
        pyplot.close(figure)


def _rows(report: SensitivityReport) -> list[tuple[str, float, float]]:
    """Name, loss alone and loss won back; what has no row of its own is summed in the last.

    What many small layers win back one by one is not what they win back together, and its sum
    would dwarf all bars.
    """
    rows = [
        (
            f"{_shortened(layer.node)}  ({layer.operator})",
            loss_of(layer.alone, encoder=report.encoder),
            report.removed(layer),
        )
        for layer in report.layers
    ]
    shown, rest = rows[:_ROWS], rows[_ROWS:]
    if len(rest) < 2:
        return rows
    lost = sum(alone for _, alone, _ in rest)
    return [*shown, (f"{len(rest)} other layers together", lost, 0.0)]


def _shortened(name: str) -> str:
    """Names of exporters differ at both ends, so the middle goes."""
    if len(name) <= _LONGEST_NAME:
        return name
    half = (_LONGEST_NAME - 1) // 2
    return f"{name[:half]}…{name[-half:]}"


def _escaped(name: str) -> str:
    """A dollar would begin a formula."""
    return name.replace("$", r"\$")


def _title(report: SensitivityReport) -> str:
    whole = report.all_quantized
    ratio = "exact" if whole.sqnr_db is None else f"{whole.sqnr_db:.1f} dB"
    together = f"1 - cosine {whole.cosine_loss:.4f}, centred {whole.centred_cosine_loss:.4f}"
    return _escaped(
        f"{_shortened(report.model)} for {report.target}: {report.precision} ({report.scheme})\n"
        f"all {len(report.layers)} layers in integers: {together}, {ratio}"
    )
