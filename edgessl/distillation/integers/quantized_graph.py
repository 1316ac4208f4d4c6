"""What a QDQ graph is to the replay: steps in order, ranges, weights, biases and constants."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgessl.distillation.integers.operators import Node

__all__ = ["Array", "Bias", "Constant", "Quantize", "QuantizedGraph", "Range", "Weight"]

Array = NDArray[Any]


@dataclass
class Range:
    """A range of activations; all tensors with the same scale initializer share it.

    Attributes:
        scale_name: Initializer of the scale.
        zero_point_name: Initializer of the zero point.
        dtype: Of the integers.
        scale: As the quantizer wrote it.
        zero_point: Likewise.
        low: Least value that the operators before it let through; -inf if they set none.
        high: Likewise the greatest.
        fixed: True if the operator itself fixes the range, as Softmax does.
    """

    scale_name: str
    zero_point_name: str
    dtype: np.dtype[Any]
    scale: float
    zero_point: int
    low: float = np.inf
    high: float = -np.inf
    fixed: bool = False


@dataclass(frozen=True)
class Weight:
    """A tensor of weights in integers.

    Attributes:
        source: Name of the float values, by which layers share them.
        stored: Initializer in the QDQ graph: the integers, or the floats where a quantizer
            leaves them to the engine.
        scale_name: Initializer of the scales.
        zero_point_name: Initializer of the zero points; empty where there is none.
        axis: Of the channels; None for one scale per tensor.
        dtype: Of the integers.
        floats: Values to start from.
        integers: As the quantizer wrote them; None where it stores floats.
        scale: ``(channels,)`` or ``(1,)`` float32.
        zero_point: Likewise.
        output: Tensor that the operators read.
    """

    source: str
    stored: str
    scale_name: str
    zero_point_name: str
    axis: int | None
    dtype: np.dtype[Any]
    floats: Array
    integers: Array | None
    scale: Array
    zero_point: Array
    output: str


@dataclass(frozen=True)
class Bias:
    """A bias in int32 whose scale is that of its layer's input times those of its weights.

    Attributes:
        source: Name of the float values.
        stored: Initializer of the integers.
        scale_name: Initializer of the scales.
        range: Index of the range of the layer's input.
        weight: Index of the layer's weight.
        floats: Values to start from, ``(channels,)``.
        integers: As the quantizer wrote them.
        scale: ``(channels,)`` or ``(1,)``.
        output: Tensor that the operators read.
    """

    source: str
    stored: str
    scale_name: str
    range: int
    weight: int
    floats: Array
    integers: Array
    scale: Array
    output: str


@dataclass(frozen=True)
class Constant:
    """A tensor that training leaves alone, or moves in floating point.

    Attributes:
        name: Tensor that the operators read.
        value: What it is; of a quantized one, its integers in floating point.
        floats: What it is in the float graph.
        trained: True for a parameter that stays in floating point.
    """

    name: str
    value: Array
    floats: Array
    trained: bool


@dataclass(frozen=True)
class Quantize:
    """Fake quantization of an activation.

    Attributes:
        input: Tensor before.
        output: Tensor after.
        range: Index of its range.
        clip: Limits of an activation function that the quantizer left to the range.
    """

    input: str
    output: str
    range: int
    clip: tuple[float, float] | None


@dataclass
class QuantizedGraph:
    """What `read_graph` gives; nodes in the order in which they compute."""

    input: str
    output: str
    steps: list[Node | Quantize] = field(default_factory=list)
    ranges: list[Range] = field(default_factory=list)
    weights: list[Weight] = field(default_factory=list)
    biases: list[Bias] = field(default_factory=list)
    constants: list[Constant] = field(default_factory=list)
    same: dict[str, str] = field(default_factory=dict)
    symmetric: bool = False

    def resolve(self, name: str) -> str:
        """The tensor that a name stands for, after pairs that change nothing."""
        while name in self.same:
            name = self.same[name]
        return name
