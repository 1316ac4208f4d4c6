"""Simplification by onnxslim: fusions, common subexpressions, dead code."""

from __future__ import annotations

from typing import Any

from edgessl.optional import require

__all__ = ["simplify"]


def simplify(model: Any) -> Any | None:
    """Give onnxslim's result if it has fewer nodes."""
    before = len(model.graph.node)
    slim = require("onnxslim", extra="compile").slim(model)
    return slim if len(slim.graph.node) < before else None
