"""Activation ranges: collected once for a graph, read by every quantizer."""

from __future__ import annotations

from edgessl.compiler.ranges.collection import cached_ranges, collect_ranges
from edgessl.compiler.ranges.histogram import Histogram, HistogramBuilder
from edgessl.compiler.ranges.selection import Method, choose_range
from edgessl.compiler.ranges.store import Ranges

__all__ = [
    "Histogram",
    "HistogramBuilder",
    "Method",
    "Ranges",
    "cached_ranges",
    "choose_range",
    "collect_ranges",
]
