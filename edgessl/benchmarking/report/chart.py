"""A figure of the page, as Plotly reads it from JSON."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgessl.errors import printable

__all__ = [
    "Chart",
    "Trace",
    "arm_color",
    "arm_dash",
    "arm_symbol",
    "axis",
    "label",
    "missing",
    "short_label",
]

Trace = dict[str, Any]
"""A trace of Plotly. Colours are names of the style sheet, ``"@arm-0"``; the script puts in those
of the light or the dark theme. ``meta.arm`` is the arm's number, by which it is shown or hidden."""

_COLORS = 8
_DASHES = ("solid", "dash", "dot", "dashdot")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star")


@dataclass(frozen=True)
class Chart:
    """One figure.

    Attributes:
        key: Its name in the page.
        title: What it shows.
        caption: How to read it.
        traces: Empty if there is no data.
        layout: Axes and shapes; the script adds fonts and colours of the theme.
        height: In CSS pixels.
        missing: Why there is no data; None if there is.
        arm: Number of the arm that the whole figure belongs to; None if it shows several.
    """

    key: str
    title: str
    caption: str
    traces: Sequence[Trace] = ()
    layout: Mapping[str, Any] = field(default_factory=dict)
    height: int = 340
    missing: str | None = None
    arm: int | None = None

    def figure(self) -> dict[str, Any]:
        """What the script draws."""
        return {"data": list(self.traces), "layout": {**self.layout, "height": self.height}}


def missing(key: str, title: str, reason: str) -> Chart:
    """A figure for which there is no data."""
    return Chart(key=key, title=title, caption="", missing=reason)


def label(text: str) -> str:
    """A name for Plotly, which reads tags and entities in texts."""
    return html.escape(printable(text), quote=False)


def short_label(text: str, longest: int = 34) -> str:
    """A name for an axis: one of more characters than `longest` loses its middle."""
    line = printable(text)
    if len(line) > longest:
        end = longest // 2
        line = f"{line[: longest - end - 1]}…{line[-end:]}"
    return html.escape(line, quote=False)


def arm_color(index: int) -> str:
    """Name of the arm's colour."""
    return f"@arm-{index % _COLORS}"


def arm_dash(index: int) -> str:
    """How the arm's lines are drawn: arms of the same colour differ in it."""
    return _DASHES[index // _COLORS % len(_DASHES)]


def arm_symbol(index: int) -> str:
    """The arm's mark: not by its colour alone is it known."""
    return _SYMBOLS[index % len(_SYMBOLS)]


def axis(title: str, **more: Any) -> dict[str, Any]:
    """An axis with its unit."""
    return {"title": {"text": title}, **more}
