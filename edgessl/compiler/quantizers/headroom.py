"""Room above what calibration saw, where there are bits to spare.

With 8 bits every step counts; with 16 a range of twice the size costs one bit of sixteen and
keeps an input that is brighter or louder than all calibration samples from being clipped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgessl.compiler.ranges import Method, Ranges

__all__ = ["RangesWithHeadroom", "bounded_tensors"]

_FACTOR = 2.0
# Their outputs cannot leave the range. A Clip may even be left out of the integer graph, because
# the range of its output clips as well.
_BOUNDED = frozenset({"Clip", "HardSigmoid", "Sigmoid", "Softmax", "Tanh"})


@dataclass(frozen=True)
class RangesWithHeadroom(Ranges):
    """Ranges with both ends twice as far from zero, except where the operator sets them.

    An end at zero stays: it is what makes a ReLU of a convolution's range.

    Attributes:
        bounded: Names of tensors whose ranges stay as they are.
    """

    bounded: frozenset[str] = frozenset()

    def range_of(
        self, tensor: str, method: Method, *, levels: int, symmetric: bool
    ) -> tuple[float, float]:
        """Low and high of one tensor."""
        low, high = super().range_of(tensor, method, levels=levels, symmetric=symmetric)
        if tensor in self.bounded:
            return low, high
        return min(low * _FACTOR, low), max(high * _FACTOR, high)


def bounded_tensors(model: Any) -> frozenset[str]:
    """Outputs of operators that set their own limits (``onnx.ModelProto``)."""
    return frozenset(
        name for node in model.graph.node if node.op_type in _BOUNDED for name in node.output
    )
