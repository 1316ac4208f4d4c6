"""Where TensorRT wants quantize-dequantize pairs.

Pairs stand before the inputs of layers with weights, before pooling that follows them, and on
the branch of a residual addition that no convolution is fused with. A layer stays in floating
point where its integer kernel is missing or slower: matrix-vector products, matrices with fewer
than 16 rows or columns, convolutions with few channels. Products of two activations stay in
floating point too, so that attention keeps its fused kernel.

Sources: https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/
work-quantized-types.html ("Q/DQ Placement Recommendations"); the channel rules as in NVIDIA
Model Optimizer, ``modelopt/onnx/quantization/graph_utils.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["Placement", "place", "place_everywhere"]

_LEAST_MATRIX_DIM = 16
_LEAST_CHANNELS = 16
_CHANNEL_MULTIPLE = 8
_LEAST_GROUPED_KERNEL = 3
_POOLING = frozenset({"AveragePool", "GlobalAveragePool", "MaxPool"})
# TensorRT fuses these behind a convolution.
_FUSED = frozenset({"Clip", "HardSigmoid", "LeakyRelu", "Relu", "Sigmoid", "Tanh"})


@dataclass
class Placement:
    """Where pairs go.

    Attributes:
        inputs: Node → indices of its activation inputs.
        weights: Node → axis of its weight (input 1) along which scales differ; None for one scale.
        outputs: Graph outputs.
    """

    inputs: dict[str, list[int]] = field(default_factory=dict)
    weights: dict[str, int | None] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)


def place(onnx: Any, graph: Any, keep_float: frozenset[str]) -> Placement:
    """Pairs for a GPU.

    Args:
        onnx: The package.
        graph: ``onnx.GraphProto`` with shapes.
        keep_float: Names of nodes that stay in floating point.
    """
    view = _View(onnx, graph)
    placement = Placement()
    for node in graph.node:
        if node.name not in keep_float and view.weighted(node) and not view.slow(node):
            placement.inputs[node.name] = [0]
            placement.weights[node.name] = view.weight_axis(node)
    for node in graph.node:
        if node.name in keep_float:
            continue
        if node.op_type == "Add" and (residual := view.residual(node, placement)) is not None:
            placement.inputs[node.name] = [residual]
        elif node.op_type in _POOLING and view.follows(node.input[0], placement):
            placement.inputs[node.name] = [0]
    return placement


def place_everywhere(onnx: Any, graph: Any, keep_float: frozenset[str]) -> Placement:
    """Pairs for the deep-learning accelerator: one for every floating-point tensor.

    An accelerator's layer is integer as a whole; a tensor without a scale takes it to 16 bits.
    """
    view = _View(onnx, graph)
    placement = Placement()
    kept = set()
    for node in graph.node:
        if node.name in keep_float:
            kept.update(node.output)
            continue
        indices = [k for k, name in enumerate(node.input) if view.is_activation(name)]
        if indices:
            placement.inputs[node.name] = indices
        if view.weighted(node):
            placement.weights[node.name] = view.weight_axis(node)
    placement.outputs = [
        output.name
        for output in graph.output
        if view.is_activation(output.name)
        and output.name in view.producers
        and output.name not in kept
    ]
    return placement


class _View:
    """A graph's facts by name."""

    def __init__(self, onnx: Any, graph: Any) -> None:
        floats = onnx.TensorProto.FLOAT
        self.producers = {name: node for node in graph.node for name in node.output}
        self.consumers: dict[str, list[Any]] = {}
        for node in graph.node:
            for name in node.input:
                self.consumers.setdefault(name, []).append(node)
        self.weights = {
            tensor.name: tuple(tensor.dims)
            for tensor in graph.initializer
            if tensor.data_type == floats
        }
        self.constants = {tensor.name for tensor in graph.initializer}
        self.constants |= {
            name for node in graph.node if node.op_type == "Constant" for name in node.output
        }
        self.inputs = {value.name for value in graph.input}
        self.outputs = {value.name for value in graph.output}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._floats = set()
        for value in [*graph.input, *graph.value_info, *graph.output]:
            tensor = value.type.tensor_type
            if tensor.elem_type == floats:
                self._floats.add(value.name)
            if tensor.HasField("shape"):
                # A dimension that is not fixed is 0.
                self.shapes[value.name] = tuple(dim.dim_value for dim in tensor.shape.dim)
        self._depths: dict[str, int] = {}
        for node in graph.node:
            depth = 1 + max((self._depths.get(name, 0) for name in node.input), default=0)
            self._depths.update({name: depth for name in node.output})

    def is_activation(self, name: str) -> bool:
        """True for a float32 tensor that is computed or fed."""
        return name in self._floats and name not in self.constants

    def weighted(self, node: Any) -> bool:
        """True for a layer with a constant weight and a computed input."""
        kinds = ("Conv", "ConvTranspose", "Gemm", "MatMul")
        if node.op_type not in kinds or not self.is_activation(node.input[0]):
            return False
        return len(self.weights.get(node.input[1], ())) >= 2

    def weight_axis(self, node: Any) -> int | None:
        """The axis of the output channels."""
        rank = len(self.weights[node.input[1]])
        if node.op_type == "Conv":
            return 0
        if node.op_type == "ConvTranspose":
            # The axis holds the channels of one group, which several groups share.
            return 1 if _attribute(node, "group", 1) == 1 else None
        if node.op_type == "Gemm":
            return 0 if _attribute(node, "transB", 0) else 1
        return rank - 1

    def slow(self, node: Any) -> bool:
        """True for a layer that integers do not make faster."""
        shape = self.weights[node.input[1]]
        if node.op_type in ("Conv", "ConvTranspose"):
            return self._few_channels(node, shape)
        columns = shape[0] if _attribute(node, "transB", 0) else shape[-1]
        inner = shape[1] if _attribute(node, "transB", 0) else shape[-2]
        data = self.shapes.get(node.input[0], (0,))
        rows = 1
        for dim in data[1:] if _attribute(node, "transA", 0) else data[:-1]:
            rows *= dim
        return rows == 1 or min(columns, inner) < _LEAST_MATRIX_DIM

    def _few_channels(self, node: Any, shape: tuple[int, ...]) -> bool:
        outputs, inputs, kernel = shape[0], shape[1], shape[2:]
        grouped = _attribute(node, "group", 1) > 1
        if node.op_type == "ConvTranspose":
            outputs, inputs = inputs, outputs
        if min(outputs, inputs) >= _LEAST_CHANNELS:
            return False
        if grouped:
            channels = shape[0] if node.op_type == "Conv" else shape[1]
            small = min(kernel, default=1) < _LEAST_GROUPED_KERNEL
            return channels % _CHANNEL_MULTIPLE != 0 or small
        first = node.input[0] in self.inputs
        aligned = outputs % _CHANNEL_MULTIPLE == 0 or inputs % _CHANNEL_MULTIPLE == 0
        wide = first or max(outputs, inputs) >= _LEAST_CHANNELS
        return not (aligned and wide and len(set(kernel)) == 1)

    def residual(self, node: Any, placement: Placement) -> int | None:
        """Index of the input of an addition that is not fused with a quantized convolution."""
        if not all(self.is_activation(name) for name in node.input):
            return None
        if len({self.shapes.get(name) for name in node.input}) != 1:
            return None
        fused = [k for k, name in enumerate(node.input) if self._fuses(name, placement)]
        if not fused:
            return None
        # Of two convolutions the later one is fused, on what the earlier one left.
        deepest = max(fused, key=lambda k: (self._depths.get(node.input[k], 0), k))
        return 1 - deepest

    def _fuses(self, tensor: str, placement: Placement) -> bool:
        producer = self.producers.get(tensor)
        if producer is None or producer.op_type not in ("Conv", "ConvTranspose"):
            return False
        alone = len(self.consumers[tensor]) == 1 and tensor not in self.outputs
        return alone and producer.name in placement.weights

    def follows(self, tensor: str, placement: Placement) -> bool:
        """True if a tensor comes from a quantized convolution, through what is fused with it."""
        producer = self.producers.get(tensor)
        while producer is not None:
            if producer.op_type in ("Conv", "ConvTranspose"):
                return producer.name in placement.weights
            if producer.op_type == "Add":
                return producer.name in placement.inputs
            if producer.op_type not in _FUSED:
                return False
            producer = self.producers.get(producer.input[0])
        return False


def _attribute(node: Any, name: str, default: int) -> int:
    return next((int(item.i) for item in node.attribute if item.name == name), default)
