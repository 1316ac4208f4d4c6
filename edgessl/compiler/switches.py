"""A graph that holds both forms of every layer, in floating point and in integers.

A switch per layer chooses between them, so one session tries any set of layers without a build.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgessl.optional import require

__all__ = ["SwitchedGraph"]

# They only move values, so integers change nothing there.
_MOVERS = frozenset({"Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "Pad"})
_MOVERS |= {"Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose"}
_MOVERS |= {"Unsqueeze"}
# What computes shapes and constants has no integers to be without.
_SHAPES = frozenset({"Cast", "Constant", "ConstantOfShape", "Range", "Shape", "Size"})
# Engines compute these together with the layer before them.
_FUSED = frozenset({"Clip", "HardSigmoid", "HardSwish", "LeakyRelu", "Relu", "Sigmoid"})
_PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


class SwitchedGraph:
    """The float graph with a switch per layer that turns its integers on.

    With all switches on it computes what the integer graph computes, up to the rounding of
    integer kernels. A layer's integers are those of its inputs, its weights and, where it gives
    an output of the model, of that.

    Args:
        float_graph: The ``.onnx`` before quantization; its nodes have the same names.
        quantized: The ``.onnx`` after, with QuantizeLinear and DequantizeLinear.
        threads: Threads of the session; 0 leaves onnxruntime's default.

    Attributes:
        float_graph: The file before quantization.
        quantized: The file after.
        layers: Name and operator of each layer that has integers, in the order of the graph.
        left_float: Name and operator of each node that computes without integers.
        companions: Layer → activations behind it that are no nodes of the integer graph, because
            its integers end where they do; they stay in float with it.
    """

    def __init__(self, float_graph: Path, quantized: Path, *, threads: int = 0) -> None:
        onnx = require("onnx", extra="compile")
        self._onnx = onnx
        self.float_graph, self.quantized = float_graph, quantized
        self._plain, graph = onnx.load(float_graph), onnx.load(quantized).graph
        self._makers = {name: node for node in graph.node for name in node.output}
        self._integers = {tensor.name: tensor for tensor in graph.initializer}
        plain = self._plain.graph
        self._weights = {tensor.name: tensor for tensor in plain.initializer}
        self._outputs = {value.name for value in plain.output}
        self.layers: list[tuple[str, str]] = []
        self.left_float: list[tuple[str, str]] = []
        self.companions: dict[str, list[str]] = {}
        self._extend(plain, {node.name: node for node in graph.node})
        domains = {imported.domain for imported in self._plain.opset_import}
        missing = [i for i in onnx.load(quantized).opset_import if i.domain not in domains]
        self._plain.opset_import.extend(missing)
        self._session = self._open(threads)

    def run(self, feeds: Mapping[str, Any], on: Collection[int]) -> list[NDArray[Any]]:
        """Compute with the integers of some layers.

        Args:
            feeds: The model's inputs.
            on: Indices into `layers`.

        Returns:
            The floating-point outputs.
        """
        switches = {f"switch/{k}": np.array(k in on) for k in range(len(self.layers))}
        values = self._session.run(None, {**feeds, **switches})
        return [value for value in values if value.dtype.kind == "f"]

    def _open(self, threads: int) -> Any:
        onnxruntime = require("onnxruntime", extra="compile")
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        return onnxruntime.InferenceSession(
            self._plain.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def _extend(self, graph: Any, twins: dict[str, Any]) -> None:
        nodes, products, makers = [], set[str](), dict[str, str]()
        varying = {value.name for value in graph.input} - set(self._weights)
        for node in list(graph.node):
            twin = twins.get(node.name)
            integers = [] if twin is None or node.op_type in _MOVERS else self._integer(node, twin)
            nodes.append(self._switch(graph, node, integers) if integers else node)
            if integers:
                makers.update(dict.fromkeys(node.output, node.name))
            elif twin is None and node.input and node.input[0] in makers:
                self.companions.setdefault(makers[node.input[0]], []).append(node.name)
            if not varying.intersection(node.input):
                continue
            varying.update(node.output)
            if node.op_type in _PRODUCTS:
                products.update(node.output)
            fused = node.op_type in _FUSED and node.input[0] in products
            if not integers and not fused and node.op_type not in _MOVERS | _SHAPES:
                self.left_float.append((node.name, node.op_type))
        copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(copies)

    def _switch(self, graph: Any, node: Any, integers: list[Any]) -> Any:
        """A node that computes one form or the other, and spends no time on the one not chosen."""
        switch = f"switch/{len(self.layers)}"
        self.layers.append((node.name, node.op_type))
        boolean = self._onnx.TensorProto.BOOL
        graph.input.append(self._onnx.helper.make_tensor_value_info(switch, boolean, []))
        plain = type(node).FromString(node.SerializeToString())
        branches = {}
        for name, body in (("then_branch", integers), ("else_branch", [plain])):
            last = body[-1]
            last.output[:] = [
                f"{switch}/{name}/{k}" if o else "" for k, o in enumerate(last.output)
            ]
            outputs = [self._onnx.ValueInfoProto(name=output) for output in last.output if output]
            branches[name] = self._onnx.helper.make_graph(body, name, [], outputs)
        outputs = [output for output in node.output if output]
        return self._onnx.helper.make_node("If", [switch], outputs, node.name, **branches)

    def _integer(self, node: Any, twin: Any) -> list[Any]:
        """The node behind pairs, as its twin in the integer graph is; empty if that has none."""
        where = f"switch/{len(self.layers)}"
        body: list[Any] = []
        changed = type(node).FromString(node.SerializeToString())
        for index, name in enumerate(node.input):
            maker = self._makers.get(twin.input[index]) if index < len(twin.input) else None
            if maker is None or maker.op_type != "DequantizeLinear":
                continue
            place = f"{where}/{index}"
            if name in self._weights:
                value = self._onnx.numpy_helper.from_array(self._weight(maker), f"{place}/weight")
                self._plain.graph.initializer.append(value)
                changed.input[index] = value.name
            else:
                body += self._pair(name, maker, place)
                changed.input[index] = body[-1].output[0]
        if changed == node:
            return []
        return [*body, changed, *self._output_pair(changed, where)]

    def _output_pair(self, changed: Any, where: str) -> list[Any]:
        """What rounds an output of the model, if anything does."""
        outputs = [name for name in changed.output if name]
        maker = self._makers.get(outputs[0]) if len(outputs) == 1 else None
        if maker is None or outputs[0] not in self._outputs or maker.op_type != "DequantizeLinear":
            return []
        changed.output[:] = [f"{where}/raw"]
        return self._pair(changed.output[0], maker, f"{where}/out")

    def _pair(self, name: str, maker: Any, place: str) -> list[Any]:
        parameters: list[str] = []
        for source in maker.input[1:]:
            tensor = self._onnx.TensorProto()
            tensor.CopyFrom(self._integers[source])
            tensor.name = f"{place}/parameter_{len(parameters)}"
            self._plain.graph.initializer.append(tensor)
            parameters.append(tensor.name)
        integers, floats = f"{place}/quantized", f"{place}/dequantized"
        return [
            self._onnx.helper.make_node(kind, [source, *parameters], [result], domain=maker.domain)
            for kind, source, result in (
                ("QuantizeLinear", name, integers),
                ("DequantizeLinear", integers, floats),
            )
        ]

    def _weight(self, maker: Any) -> NDArray[Any]:
        """What a weight is after it went through integers."""
        array = self._onnx.numpy_helper.to_array
        scale = array(self._integers[maker.input[1]])
        zero = array(self._integers[maker.input[2]]) if maker.input[2:] else np.zeros(1, np.int8)
        axis = next((a.i for a in maker.attribute if a.name == "axis"), 1)
        source = maker.input[0]
        quantizer = self._makers.get(source)
        stored = array(self._integers[quantizer.input[0] if quantizer is not None else source])
        if scale.ndim == 1 and scale.size > 1:
            shape = [1] * stored.ndim
            shape[axis] = -1
            scale, zero = scale.reshape(shape), zero.reshape(shape)
        integers = stored.astype(np.float64)
        if quantizer is not None:
            limits = np.iinfo(zero.dtype)
            integers = np.clip(np.round(integers / scale) + zero, limits.min, limits.max)
        return np.asarray((integers - zero) * scale, scale.dtype)
