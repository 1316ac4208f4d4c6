"""Raise an old opset: quantizers and several engines begin at 13."""

from __future__ import annotations

from typing import Any

from edgessl.compiler.rewrites.topology import opset_of
from edgessl.optional import require

__all__ = ["MIN_OPSET", "raise_opset"]

# DequantizeLinear per channel, and the shape operators' inputs in place of attributes.
MIN_OPSET = 13


def raise_opset(model: Any) -> Any | None:
    """Convert to opset 13 with onnx's version converter."""
    if opset_of(model) >= MIN_OPSET:
        return None
    onnx = require("onnx", extra="compile")
    return onnx.version_converter.convert_version(model, MIN_OPSET)
