"""Which constant of a graph is a parameter, and which only arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgessl.distillation.integers.operators import Node

__all__ = ["is_trained", "on_host"]

# Inputs that are parameters whatever their values; not the statistics of a batch normalization.
_PARAMETERS: dict[str, tuple[int, ...]] = {
    "BatchNormalization": (1, 2),
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Gemm": (0, 1, 2),
    "GroupNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "MatMul": (0, 1),
    "PRelu": (1,),
}
# Here a constant may be a bias, a scale, a position embedding or a token; or a mask.
_PERHAPS = frozenset({"Add", "Concat", "Div", "Expand", "Gather", "Mul", "Sub", "Tile"})
_MASK = 1e4

# Inputs that are read as numbers of Python, so that they stay off the accelerator.
_SETTINGS: dict[str, tuple[int, ...]] = {
    "Clip": (1, 2),
    "Pad": (1, 2, 3),
    "Range": (0, 1, 2),
    "Resize": (1, 2, 3),
}


def is_trained(readers: Sequence[tuple[Node, int]], value: NDArray[Any]) -> bool:
    """True if a constant is a parameter.

    A mask has two values, one of which may stand for minus infinity; a scale such as 1/sqrt(d)
    has one element. A parameter that is all zeros or ones has not been trained yet.

    Args:
        readers: Nodes that read it, and at which input.
        value: Its value.
    """
    if value.dtype != np.float32 or not value.size:
        return False
    if any(index in _PARAMETERS.get(node.kind, ()) for node, index in readers):
        return True
    if not any(node.kind in _PERHAPS for node, _ in readers) or value.size == 1:
        return False
    return bool(np.abs(value).max() < _MASK) and np.unique(value).size != 2


def on_host(readers: Sequence[tuple[Node, int]], value: NDArray[Any]) -> bool:
    """True if a constant belongs on the CPU: sizes and settings, and numbers by themselves.

    Args:
        readers: Nodes that read it, and at which input.
        value: Its value.
    """
    if value.dtype.kind in "iu" or value.ndim == 0:
        return True
    return all(index in _SETTINGS.get(node.kind, ()) for node, index in readers)
