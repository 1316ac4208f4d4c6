"""Put trained values back into the QDQ graph that they came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from edgessl.distillation.integers.quantized_graph import QuantizedGraph
from edgessl.distillation.integers.weights import WeightGrid
from edgessl.files import atomic_path
from edgessl.optional import require

__all__ = ["Integers", "write_graph"]


@dataclass(frozen=True)
class _WeightNames:
    stored: str
    scale: str
    zero_point: str
    whole: bool


@dataclass(frozen=True)
class Integers:
    """Names of the initializers of a graph that training changes.

    Attributes:
        weights: In the order of the graph's weights.
        biases: Integers and scale, in the order of the graph's biases.
        ranges: Scale and zero point, in the order of the graph's ranges.
    """

    weights: tuple[_WeightNames, ...]
    biases: tuple[tuple[str, str], ...]
    ranges: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, graph: QuantizedGraph) -> Integers:
        """Take them from a graph."""
        return cls(
            tuple(
                _WeightNames(w.stored, w.scale_name, w.zero_point_name, w.integers is not None)
                for w in graph.weights
            ),
            tuple((b.stored, b.scale_name) for b in graph.biases),
            tuple((r.scale_name, r.zero_point_name) for r in graph.ranges),
        )

    def collect_weights(
        self, values: dict[str, Tensor], weights: Sequence[Tensor], grids: Sequence[WeightGrid]
    ) -> None:
        """Add integers (floats where the graph has those), scales and zero points by name."""
        for names, weight, grid in zip(self.weights, weights, grids, strict=True):
            values[names.stored] = grid.integers(weight) if names.whole else weight
            values[names.scale] = grid.scale
            if grid.zero_point is not None:
                values[names.zero_point] = grid.zero_point

    def collect_biases(
        self, values: dict[str, Tensor], integers: Sequence[Tensor], scales: Sequence[Tensor]
    ) -> None:
        """Likewise of biases."""
        for names, whole, scale in zip(self.biases, integers, scales, strict=True):
            values[names[0]] = whole
            # One for all channels where the weights have one scale.
            values[names[1]] = scale

    def collect_ranges(
        self, values: dict[str, Tensor], scales: Tensor, zero_points: Tensor
    ) -> None:
        """Likewise of ranges."""
        pairs = zip(self.ranges, scales.unbind(), zero_points.unbind(), strict=True)
        for (scale_name, zero_name), scale, zero in pairs:
            values[scale_name], values[zero_name] = scale, zero


def write_graph(template: bytes, values: Mapping[str, Tensor], out: Path) -> None:
    """Write a graph with other values in its initializers.

    Args:
        template: The graph, serialized. What is not in ``values`` stays as it is.
        values: Name of an initializer → its values, in any shape with as many elements (or one
            repeated) and any dtype.
        out: Where the ``.onnx`` goes.

    Raises:
        OutputError: The file cannot be written.
    """
    onnx = require("onnx", extra="compile")
    model = onnx.ModelProto.FromString(template)
    for tensor in model.graph.initializer:
        if tensor.name in values:
            _replace(onnx, tensor, values[tensor.name].detach().cpu().double().numpy())
    onnx.checker.check_model(model)
    with atomic_path(out) as path:
        onnx.save(model, path)


def _replace(onnx: Any, tensor: Any, value: Any) -> None:
    old = onnx.numpy_helper.to_array(tensor)
    flat = value.reshape(-1)[: old.size] if value.size > old.size else value
    new = np.ascontiguousarray(flat).reshape(old.shape).astype(old.dtype)
    # An equal one keeps its very bytes.
    if not np.array_equal(old, new):
        tensor.CopyFrom(onnx.numpy_helper.from_array(new, tensor.name))
