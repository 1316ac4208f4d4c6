"""Read a QDQ graph, and the float graph that it was made from, into what the replay needs.

A pair of QuantizeLinear and DequantizeLinear around an activation becomes one `Quantize`; a
DequantizeLinear behind an integer initializer becomes a `Weight`, a `Bias` or a constant. All
other nodes stay as they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgessl.distillation.integers.constants import is_trained
from edgessl.distillation.integers.operators import Node
from edgessl.distillation.integers.quantized_graph import (
    Array,
    Bias,
    Constant,
    Quantize,
    QuantizedGraph,
    Range,
    Weight,
)
from edgessl.errors import ModelError
from edgessl.optional import require

__all__ = [
    "Bias",
    "Constant",
    "Quantize",
    "QuantizedGraph",
    "Range",
    "Weight",
    "read_graph",
    "read_node",
]

_QUANTIZE, _DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
_MICROSOFT = "com.microsoft."
# What may stand between a weight and the layer that it belongs to.
_FOLDING = ("Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
_DTYPES = ("int8", "uint8", "int16", "uint16")
# Tensors that the quantizers rename where they are an output of the graph.
_RENAMED = ("_QuantizeInput", "/float")
# What these give is among what they get, so that a range which holds one holds the other.
_PICKING = frozenset(
    {"DepthToSpace", "Expand", "Flatten", "Gather", "GlobalMaxPool", "Identity", "MaxPool"}
    | {"ReduceMax", "Relu", "Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile"}
    | {"Transpose", "Unsqueeze"}
)
_FIXED = frozenset({"HardSigmoid", "Sigmoid", "Softmax", "Tanh"})


def read_graph(float_model: Path, model: Path) -> QuantizedGraph:
    """Read both files.

    Args:
        float_model: The float ``.onnx`` that the quantizer started from.
        model: The QDQ ``.onnx``; its nodes have the same names.

    Raises:
        ModelError: The graph cannot be replayed.
    """
    onnx = require("onnx", extra="compile")
    return _Reader(onnx, onnx.load(float_model), onnx.load(model), model.name).read()


class _Reader:
    def __init__(self, onnx: Any, reference: Any, model: Any, file: str) -> None:
        self._onnx, self._file = onnx, file
        self._values = _initializers(onnx, model.graph)
        self._floats = _initializers(onnx, reference.graph)
        self._original = {name: node for node in reference.graph.node for name in node.output}
        self._reference_nodes = {node.name: node for node in reference.graph.node}
        opset = max(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
        self._nodes = [read_node(onnx, node, opset) for node in model.graph.node]
        self._producers = {name: node for node in self._nodes for name in node.outputs}
        self._readers: dict[str, list[tuple[Node, int]]] = {}
        for node in self._nodes:
            for index, name in enumerate(node.inputs):
                self._readers.setdefault(name, []).append((node, index))
        inputs = [v.name for v in model.graph.input if v.name not in self._values]
        outputs = [v.name for v in model.graph.output]
        if len(inputs) != 1 or not outputs:
            raise ModelError(
                f"{file} has {len(inputs)} inputs and {len(outputs)} outputs; training for "
                "integers takes one input, and its first output for the embedding"
            )
        self.graph = QuantizedGraph(inputs[0], outputs[0])
        self._range_of: dict[tuple[str, str], int] = {}
        # Tensor → range that its values are known to lie on.
        self._lies_on: dict[str, int] = {}
        self._bound: set[int] = set()
        self._quantized: dict[tuple[str, int], str] = {}
        self._static: set[str] = set()

    def read(self) -> QuantizedGraph:
        dequantized: list[Node] = []
        for node in self._nodes:
            if node.kind.removeprefix(_MICROSOFT) == _QUANTIZE:
                self._quantize(node)
            elif node.kind.removeprefix(_MICROSOFT) == _DEQUANTIZE:
                if node.inputs[0] in self._values:
                    dequantized.append(node)
                else:
                    self._dequantize(node)
            elif node.kind == "Constant":
                self._values[node.outputs[0]] = _constant(node)
            else:
                self._keep(node)
        for node in dequantized:
            if self._values[node.inputs[0]].dtype != np.int32:
                self._weight(node, node.inputs[0], integers=True)
        for node in dequantized:
            if self._values[node.inputs[0]].dtype == np.int32:
                self._bias(node)
        self._keep_floats()
        graph = self.graph
        graph.output = graph.resolve(graph.output)
        graph.symmetric = bool(graph.ranges) and all(
            r.dtype.kind == "i" and r.zero_point == 0 for r in graph.ranges
        )
        if not graph.ranges and not graph.weights:
            raise ModelError(
                f"{self._file} has no integers to train for; give a graph that a quantizer made"
            )
        return graph

    def _keep(self, node: Node) -> None:
        graph = self.graph
        inputs = tuple(graph.resolve(name) for name in node.inputs)
        graph.steps.append(
            Node(node.name, node.kind, node.opset, inputs, node.outputs, node.attributes)
        )
        where = self._lies_on.get(inputs[0]) if inputs and node.kind in _PICKING else None
        if where is not None:
            self._lies_on.update(dict.fromkeys(node.outputs, where))

    def _quantize(self, node: Node) -> None:
        source = node.inputs[0]
        if source in self._values:
            self._weight(node, source, integers=False)
            return
        graph = self.graph
        number = self._range(node)
        tensor = graph.resolve(source)
        known = self._quantized.get((tensor, number))
        if self._lies_on.get(tensor) == number:
            known = tensor
        if known is not None:
            graph.same[node.outputs[0]] = known
            return
        clip = self._limit(number, source)
        graph.steps.append(Quantize(tensor, node.outputs[0], number, clip))
        self._lies_on[node.outputs[0]] = number
        self._quantized[tensor, number] = node.outputs[0]

    def _dequantize(self, node: Node) -> None:
        source = self.graph.resolve(node.inputs[0])
        if source in self._static:
            self.graph.same[node.outputs[0]] = source
            return
        number = self._range(node)
        if self._lies_on.get(source) != number:
            raise ModelError(
                f"node '{node.name}' gives integers another scale than they were made with; "
                "quantize the model again"
            )
        self.graph.same[node.outputs[0]] = source

    def _range(self, node: Node) -> int:
        names = (node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else "")
        if names in self._range_of:
            return self._range_of[names]
        scale, zero = self._values.get(names[0]), self._values.get(names[1])
        if scale is None or zero is None or scale.size != 1 or zero.dtype.name not in _DTYPES:
            raise ModelError(
                f"node '{node.name}' has no constant scale and 8- or 16-bit zero point for its "
                "tensor; training for integers takes static ranges per tensor"
            )
        made = Range(*names, zero.dtype, float(scale.reshape(())), int(zero.reshape(())))
        for number, other in enumerate(self.graph.ranges):
            if (other.scale_name, other.zero_point_name) == names:
                return number
        self.graph.ranges.append(made)
        self._range_of[names] = len(self.graph.ranges) - 1
        return len(self.graph.ranges) - 1

    def _limit(self, number: int, tensor: str) -> tuple[float, float] | None:
        """Learn from the float graph what values a tensor can take."""
        for ending in _RENAMED:
            tensor = tensor.removesuffix(ending) if tensor not in self._original else tensor
        made, found = self._original.get(tensor), self.graph.ranges[number]
        kind = made.op_type if made is not None else ""
        limits = self._limits(made) if kind in ("Relu", "Clip") else (-np.inf, np.inf)
        # The range of what comes in is the pixels', and sits half a step off their rounding ties.
        found.fixed = found.fixed or kind in _FIXED or tensor == self.graph.input
        here = next((self._producers[n] for n in _names(tensor) if n in self._producers), None)
        removed = here is None or here.kind != kind
        if removed and limits != (-np.inf, np.inf):
            # The range is all that is left of the operator, whatever else lies on it.
            found.low, found.high = limits
            self._bound.add(number)
            return limits
        if number not in self._bound:
            found.low, found.high = min(found.low, limits[0]), max(found.high, limits[1])
        return None

    def _limits(self, node: Any) -> tuple[float, float]:
        if node.op_type == "Relu":
            return 0.0, np.inf
        given = [self._floats.get(name) for name in node.input[1:]] + [None, None]
        attributes = {a.name: a.f for a in node.attribute}
        low = attributes.get("min", -np.inf) if given[0] is None else float(given[0].item())
        high = attributes.get("max", np.inf) if given[1] is None else float(given[1].item())
        return low, high

    def _weight(self, node: Node, stored: str, *, integers: bool) -> None:
        value, zero_name = self._values[stored], (*node.inputs, "")[2]
        scale = self._values[node.inputs[1]].astype(np.float32)
        zero = self._values.get(zero_name)
        dtype = value.dtype if integers else (np.dtype("u1") if zero is None else zero.dtype)
        if dtype.name not in _DTYPES or node.attributes.get("block_size", 0):
            raise node.refuse(f"{dtype.name} weights" if dtype.name not in _DTYPES else "blocks")
        axis = node.attributes.get("axis", 1) % max(value.ndim, 1) if scale.size > 1 else None
        zeros = np.zeros_like(scale) if zero is None else zero.astype(np.float32)
        output = node.outputs[0]
        self._static.add(output)
        readers = self._readers_of(output)
        source = stored if not integers else self._source(stored, readers)
        shape = [1] * value.ndim
        if axis is not None:
            shape[axis] = -1
        s, z = (array.reshape(-1).reshape(shape) for array in (scale, zeros))
        # Of a scalar NumPy's arithmetic makes a number that is no array.
        dequantized = np.asarray((value.astype(np.float32) - z) * s) if integers else value
        floats = self._floats.get(source, dequantized)
        if floats.shape != value.shape or floats.dtype != np.float32:
            floats = dequantized
        if not is_trained(readers, floats):
            if not integers:
                info = np.iinfo(dtype)
                whole = np.clip(np.rint(value / s) + z, info.min, info.max)
                dequantized = np.asarray((whole - z) * s, np.float32)
            self.graph.constants.append(Constant(output, dequantized, floats, trained=False))
            return
        self.graph.weights.append(
            Weight(
                source,
                stored,
                node.inputs[1],
                zero_name,
                axis,
                dtype,
                floats,
                value if integers else None,
                scale.reshape(-1),
                zeros.reshape(-1),
                output,
            )
        )

    def _bias(self, node: Node) -> None:
        stored, graph = node.inputs[0], self.graph
        value = self._values[stored]
        scale = self._values[node.inputs[1]].astype(np.float32).reshape(-1)
        readers = self._readers_of(node.outputs[0])
        dequantized = (value.astype(np.float32) * scale).astype(np.float32)
        source = self._source(stored, readers)
        floats = self._floats.get(source, dequantized)
        floats = floats if floats.shape == value.shape else dequantized
        reader, index = readers[0]
        number = self._lies_on.get(graph.resolve(reader.inputs[0]))
        weights = [k for k, w in enumerate(graph.weights) if w.output == reader.inputs[1:2][0]]
        if index != 2 or number is None or not weights or value.ndim != 1:
            graph.constants.append(Constant(node.outputs[0], dequantized, floats, trained=False))
            return
        graph.biases.append(
            Bias(
                source,
                stored,
                node.inputs[1],
                number,
                weights[0],
                floats,
                value,
                scale,
                node.outputs[0],
            )
        )

    def _readers_of(self, tensor: str) -> list[tuple[Node, int]]:
        """Who reads a tensor, through pairs that follow."""
        found = []
        for node, index in self._readers.get(tensor, []):
            if node.kind.removeprefix(_MICROSOFT) in (_QUANTIZE, _DEQUANTIZE, *_FOLDING):
                found += self._readers_of(node.outputs[0])
            else:
                found.append((node, index))
        return found

    def _source(self, stored: str, readers: list[tuple[Node, int]]) -> str:
        """Name of the float values of an integer initializer."""
        plain = stored.removesuffix("_quantized")
        if plain in self._floats:
            return plain
        for node, index in readers:
            other = self._reference_nodes.get(node.name)
            if other is not None and index < len(other.input):
                return str(other.input[index])
        return plain

    def _keep_floats(self) -> None:
        graph = self.graph
        made = {w.output for w in graph.weights} | {b.output for b in graph.biases}
        made |= {c.name for c in graph.constants}
        reading: dict[str, list[tuple[Node, int]]] = {}
        for step in graph.steps:
            if isinstance(step, Node):
                for index, name in enumerate(step.inputs):
                    if name in self._values and name not in made:
                        known = reading.setdefault(name, [])
                        folded = step.kind in _FOLDING and index == 0
                        known += self._readers_of(step.outputs[0]) if folded else [(step, index)]
        for name, readers in reading.items():
            value = self._values[name]
            trained = is_trained(readers, value) and name in self._floats
            graph.constants.append(Constant(name, value, value, trained))


def _names(tensor: str) -> list[str]:
    return [tensor, *(tensor + ending for ending in _RENAMED)]


def _initializers(onnx: Any, graph: Any) -> dict[str, Array]:
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}


def read_node(onnx: Any, node: Any, opset: int) -> Node:
    """A node of ONNX as the operators take it.

    Args:
        onnx: The package.
        node: The ``onnx.NodeProto``.
        opset: Version of ONNX's operator set.
    """
    attributes = {}
    for attribute in node.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        if isinstance(value, bytes):
            value = value.decode()
        elif isinstance(value, onnx.TensorProto):
            value = onnx.numpy_helper.to_array(value)
        elif not isinstance(value, (int, float)):
            value = tuple(value) if isinstance(value, (list, tuple)) else value
        attributes[attribute.name] = value
    standard = node.domain in ("", "ai.onnx")
    kind = node.op_type if standard else f"{node.domain}.{node.op_type}"
    return Node(node.name, kind, opset, tuple(node.input), tuple(node.output), attributes)


def _constant(node: Node) -> Array:
    for name, dtype in (("value_float", "f4"), ("value_floats", "f4"), ("value_int", "i8")):
        if name in node.attributes:
            return np.array(node.attributes[name], dtype)
    if "value_ints" in node.attributes:
        return np.array(node.attributes["value_ints"], np.int64)
    if "value" not in node.attributes:
        raise node.refuse("a constant that is no tensor")
    return np.asarray(node.attributes["value"])
