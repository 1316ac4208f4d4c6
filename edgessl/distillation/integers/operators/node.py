"""What an operator's builder gets to know of its node."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from edgessl.errors import ModelError

__all__ = ["Builder", "Node", "Operator", "integers"]


@dataclass(frozen=True)
class Node:
    """A node of an ONNX graph.

    Attributes:
        name: Its name.
        kind: Operator; one of another domain than ONNX's as ``"com.microsoft.Gelu"``.
        opset: Version of the operator set of ONNX that the graph imports.
        inputs: Names of its inputs; an empty name is an input that is left out.
        outputs: Names of its outputs.
        attributes: Name → value: an int, float, str, a tuple of them, or a NumPy array.
    """

    name: str
    kind: str
    opset: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def refuse(self, what: str) -> ModelError:
        """The error of a node that stands in the table with other settings."""
        return ModelError(
            f"node '{self.name}' ({self.kind}) has {what}, which training for integers cannot "
            "replay; choose another student, or train it in floating point"
        )


Operator = Callable[..., Any]
"""Tensors in (None for one that is left out), a tensor or a sequence of tensors out."""

Builder = Callable[[Node], Operator]
"""Reads a node's attributes once and gives what computes it."""


def integers(values: Tensor | tuple[int, ...] | None) -> list[int] | None:
    """An input or attribute that lists axes, sizes or pads, as Python's integers."""
    if values is None:
        return None
    if isinstance(values, Tensor):
        return [int(v) for v in values.reshape(-1).tolist()]
    return [int(v) for v in values]
