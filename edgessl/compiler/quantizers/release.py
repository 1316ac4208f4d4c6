"""Take the integers of some nodes out of a QDQ graph."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from edgessl.compiler.rewrites.topology import names_read
from edgessl.optional import require

__all__ = ["release_nodes"]


def release_nodes(plain: Any, model: Any, names: Collection[str]) -> None:
    """Have some nodes read the floats that they would else read through integers.

    onnxruntime's quantizer leaves the weights of a node that it is to exclude alone, but a tensor
    that another node needs in integers is rounded for all who read it.

    Args:
        plain: The ``onnx.GraphProto`` before quantization; nodes and tensors have the same names.
        model: The ``onnx.ModelProto`` after; it is changed.
        names: Nodes.
    """
    onnx = require("onnx", extra="compile")
    graph = model.graph
    weights = {tensor.name: tensor for tensor in plain.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    activations = {name: node for node in plain.node for name in node.output}
    twins = {node.name: node for node in plain.node}
    here = {node.name for node in graph.node}
    nodes: list[Any] = []
    for node in graph.node:
        for index, name in enumerate(twins[node.name].input if node.name in names else ()):
            maker = makers.get(node.input[index])
            if maker is None or maker.op_type != "DequantizeLinear":
                continue
            fresh = f"{name}/float/{node.name}/{index}"
            if name in weights:
                # The name itself may be that of the weights behind their integers.
                tensor = onnx.TensorProto()
                tensor.CopyFrom(weights[name])
                tensor.name = fresh
                graph.initializer.append(tensor)
                node.input[index] = fresh
            elif maker.input[0] in makers:
                node.input[index] = makers[maker.input[0]].input[0]
                activation = activations.get(name)
                if activation is not None and activation.name not in here:
                    # A ReLU that the integers before it did by where they end.
                    copy = type(node).FromString(activation.SerializeToString())
                    copy.name, copy.input[0], copy.output[0] = fresh, node.input[index], fresh
                    node.input[index] = fresh
                    nodes.append(copy)
        nodes.append(node)
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    _drop_unread(graph)


def _drop_unread(graph: Any) -> None:
    """Pairs and their parameters that nobody reads any more."""
    kept = {value.name for value in graph.output}
    while True:
        read = kept.union(name for node in graph.node for name in names_read(node))
        idle = [
            node
            for node in graph.node
            if node.op_type in ("QuantizeLinear", "DequantizeLinear")
            and not read.intersection(node.output)
        ]
        if not idle:
            break
        for node in idle:
            graph.node.remove(node)
    stale = [t for t in graph.initializer if t.name not in read and _is_of_a_pair(t)]
    for tensor in stale:
        graph.initializer.remove(tensor)


def _is_of_a_pair(tensor: Any) -> bool:
    return str(tensor.name).endswith(("_scale", "_zero_point", "_quantized"))
