"""ONNX operators in PyTorch: one table, built from three modules."""

from __future__ import annotations

from edgessl.distillation.integers.operators.arithmetic import ARITHMETIC
from edgessl.distillation.integers.operators.layers import LAYERS
from edgessl.distillation.integers.operators.node import Builder, Node, Operator
from edgessl.distillation.integers.operators.shapes import SHAPES
from edgessl.errors import ModelError

__all__ = ["OPERATORS", "Node", "Operator", "build_operator"]

OPERATORS: dict[str, Builder] = {**ARITHMETIC, **LAYERS, **SHAPES}
"""Operator → its builder. Another domain than ONNX's stands before a dot."""


def build_operator(node: Node) -> Operator:
    """What computes a node.

    Raises:
        ModelError: The table lacks the operator, or cannot follow the node's settings.
    """
    builder = OPERATORS.get(node.kind)
    if builder is None:
        raise ModelError(
            f"node '{node.name}' is {node.kind}, which training for integers cannot replay; choose "
            "a student without it, or add the operator to "
            "edgessl.distillation.integers.operators.OPERATORS"
        )
    return builder(node)
