"""Compute ahead whatever does not depend on an input."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgessl.compiler.rewrites.parity import run_plainly, runtime_errors
from edgessl.compiler.rewrites.topology import Array, Topology, attribute, infer_shapes, subgraphs
from edgessl.optional import require

__all__ = ["fold_constants"]

# Quantized weights and their scales stay together; what draws numbers draws them at run time.
_KEPT = frozenset(
    {
        "Bernoulli",
        "DequantizeLinear",
        "Multinomial",
        "QuantizeLinear",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    }
)
# A folded tensor goes into the file, so a small graph must not unfold into a huge one.
_MAX_BYTES = 1 << 20


def fold_constants(model: Any) -> Any | None:
    """Replace nodes of constant inputs, and Shape of a fixed shape, by initializers."""
    onnx = require("onnx", extra="compile")
    model = infer_shapes(model)
    topology = Topology(model)
    graph = model.graph
    kept, folded = [], 0
    for node in graph.node:
        values = _values(onnx, model, node, topology)
        if values is None:
            kept.append(node)
            continue
        folded += 1
        for name, value in values.items():
            tensor = onnx.numpy_helper.from_array(np.asarray(value, order="C"), name)
            topology.constants[name] = tensor
            topology.shapes[name] = value.shape
    if not folded:
        return None
    del graph.node[:]
    graph.node.extend(kept)
    _keep_used(graph, topology)
    return model


def _values(onnx: Any, model: Any, node: Any, topology: Topology) -> dict[str, Array] | None:
    """What a node gives, if that is known now."""
    if node.domain not in ("", "ai.onnx") or node.op_type in _KEPT:
        return None
    if any(name in topology.outputs for name in node.output) or any(True for _ in subgraphs(node)):
        return None
    if node.op_type == "Constant":
        return _literal(onnx, node)
    inputs = [name for name in node.input if name]
    if node.op_type in ("Shape", "Size"):
        return _size(node, topology.shapes.get(inputs[0]))
    if any(name not in topology.constants for name in inputs):
        return None
    if not _small(onnx, model, node, topology):
        return None
    return _evaluate(onnx, model, node, topology)


def _literal(onnx: Any, node: Any) -> dict[str, Array] | None:
    item = node.attribute[0]
    value = onnx.helper.get_attribute_value(item)
    if item.name == "value":
        return {node.output[0]: np.asarray(onnx.numpy_helper.to_array(value))}
    kinds = {"value_int": "int64", "value_ints": "int64"}
    kinds |= {"value_float": "float32", "value_floats": "float32"}
    if item.name not in kinds:
        return None
    return {node.output[0]: np.asarray(value, dtype=kinds[item.name])}


def _size(node: Any, shape: tuple[int, ...] | None) -> dict[str, Array] | None:
    if shape is None:
        return None
    if node.op_type == "Size":
        return {node.output[0]: np.asarray(int(np.prod(shape, dtype=np.int64)), np.int64)}
    part = shape[attribute(node, "start", 0) : attribute(node, "end", None)]
    return {node.output[0]: np.asarray(part, dtype=np.int64)}


def _small(onnx: Any, model: Any, node: Any, topology: Topology) -> bool:
    """Whether the results are known to be at most as large as the operands, or 1 MiB."""
    given = sum(_bytes(topology.shapes[name]) for name in node.input if name)
    results = []
    for value in infer_shapes(_alone(onnx, model, node, topology)).graph.output:
        dims = value.type.tensor_type.shape.dim
        known = value.type.tensor_type.HasField("shape")
        if not known or not all(dim.HasField("dim_value") for dim in dims):
            return False
        results.append(_bytes(tuple(dim.dim_value for dim in dims)))
    return all(size <= max(given, _MAX_BYTES) for size in results)


def _bytes(shape: tuple[int, ...] | None) -> float:
    return 8.0 * float(np.prod([float(size) for size in shape or ()]))


def _alone(onnx: Any, model: Any, node: Any, topology: Topology) -> Any:
    """A model of one node, its operands as initializers."""
    names = {name for name in node.input if name}
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    initializers = [topology.constants[name] for name in sorted(names)]
    graph = onnx.helper.make_graph([node], "constant", [], outputs, initializers)
    return onnx.helper.make_model(
        graph, opset_imports=list(model.opset_import), ir_version=model.ir_version
    )


def _evaluate(onnx: Any, model: Any, node: Any, topology: Topology) -> dict[str, Array] | None:
    alone = infer_shapes(_alone(onnx, model, node, topology))
    try:
        return run_plainly(alone.SerializeToString(), {})
    except runtime_errors():  # no kernel for it: then it stays a node
        return None


def _keep_used(graph: Any, topology: Topology) -> None:
    read = {name for node in graph.node for name in _reads(node)}
    read |= {value.name for value in graph.output}
    del graph.initializer[:]
    graph.initializer.extend(t for name, t in topology.constants.items() if name in read)
    described = [value for value in graph.value_info if value.name not in topology.constants]
    del graph.value_info[:]
    graph.value_info.extend(described)


def _reads(node: Any) -> set[str]:
    names = set(node.input)
    for body in subgraphs(node):
        names |= {value.name for value in body.output}
        for inner in body.node:
            names |= _reads(inner)
    return names
