"""Who makes and who reads each tensor of a graph, and what is known about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgessl.optional import require

__all__ = [
    "Topology",
    "attribute",
    "bypass",
    "fresh_name",
    "infer_shapes",
    "name_nodes",
    "names_read",
    "nodes_of",
    "opset_of",
    "rename_inputs",
    "subgraphs",
]

Array = NDArray[Any]


def subgraphs(node: Any) -> Iterator[Any]:
    """The bodies of a control-flow node."""
    for item in node.attribute:
        if item.HasField("g"):
            yield item.g
        yield from item.graphs


def nodes_of(graph: Any) -> Iterator[Any]:
    """All nodes of a graph or function, those of bodies included."""
    for node in graph.node:
        yield node
        for body in subgraphs(node):
            yield from nodes_of(body)


def opset_of(model: Any) -> int:
    """Version of the ai.onnx operators; 0 if the model names none."""
    versions = [int(o.version) for o in model.opset_import if o.domain in ("", "ai.onnx")]
    return max(versions, default=0)


def name_nodes(model: Any) -> None:
    """Give each node of the main graph a name of its own; ``Conv#7`` is the eighth node."""
    taken = Counter(node.name for node in model.graph.node)
    for index, node in enumerate(model.graph.node):
        if not node.name or taken[node.name] > 1:
            taken[node.name] -= 1
            name = node.name or node.op_type
            # Uniqueness holds unless a file has such names already, so look.
            while (name := f"{name}#{index}") in taken:
                pass
            node.name = name
            taken[name] += 1


def infer_shapes(model: Any) -> Any:
    """Fill in shapes that follow from the inputs; the same model where inference fails."""
    onnx = require("onnx", extra="compile")
    try:
        return onnx.shape_inference.infer_shapes(model, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError):
        return model


def attribute(node: Any, name: str, default: Any) -> Any:
    """Value of an attribute; ``default`` where the node has none."""
    onnx = require("onnx", extra="compile")
    for item in node.attribute:
        if item.name == name:
            return onnx.helper.get_attribute_value(item)
    return default


class Topology:
    """An index of one graph; it goes stale when the graph changes.

    Attributes:
        constants: Initializers by name.
        producer: Tensor → the node of the main graph that makes it.
        consumers: Tensor → the nodes of the main graph that read it.
        uses: Tensor → how often it is read, in bodies and as an output of the graph too.
        shapes: Tensor → shape; None where a dimension is not fixed or nothing is known.
        types: Tensor → ONNX element type.
    """

    def __init__(self, model: Any) -> None:
        graph = model.graph
        self.graph = graph
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.producer = {name: node for node in graph.node for name in node.output if name}
        self.outputs = {value.name for value in graph.output}
        self.consumers: dict[str, list[Any]] = {}
        self.uses: Counter[str] = Counter(value.name for value in graph.output)
        for node in graph.node:
            for name in node.input:
                self.consumers.setdefault(name, []).append(node)
            for name in names_read(node):
                self.uses[name] += 1
        self.shapes: dict[str, tuple[int, ...] | None] = {}
        self.types: dict[str, int] = {}
        for value in [*graph.input, *graph.value_info, *graph.output]:
            tensor = value.type.tensor_type
            self.types[value.name] = tensor.elem_type
            self.shapes[value.name] = _static(tensor) if tensor.HasField("shape") else None
        for initializer in graph.initializer:
            self.types[initializer.name] = initializer.data_type
            self.shapes[initializer.name] = tuple(initializer.dims)

    def value(self, name: str) -> Array | None:
        """An initializer's values; None if the tensor is no initializer."""
        onnx = require("onnx", extra="compile")
        tensor = self.constants.get(name)
        return None if tensor is None else np.asarray(onnx.numpy_helper.to_array(tensor))

    def alone(self, name: str) -> bool:
        """True if a tensor is read once, and not as an output of the graph."""
        return self.uses[name] == 1 and name not in self.outputs


def fresh_name(topology: Topology, stem: str) -> str:
    """A tensor name that the graph does not have yet."""
    taken = {*topology.constants, *topology.producer, *topology.shapes, *topology.uses}
    name, number = stem, 0
    while name in taken:
        number += 1
        name = f"{stem}_{number}"
    topology.uses[name] += 0
    return name


def rename_inputs(graph: Any, names: Mapping[str, str]) -> None:
    """Have all nodes read other tensors, bodies included."""
    for node in nodes_of(graph):
        for index, name in enumerate(node.input):
            if name in names:
                node.input[index] = names[name]


def bypass(model: Any, target: str) -> bool:
    """Remove the node that makes ``target`` by copying its first input.

    Returns:
        False, with nothing changed, where the graph's interface needs the copy.
    """
    graph, topology = model.graph, Topology(model)
    node = topology.producer[target]
    source = str(node.input[0])
    if target in topology.outputs:
        producer = topology.producer.get(source)
        if producer is None or source in topology.outputs:
            return False
        index = list(producer.output).index(source)
        producer.output[index] = target
        rename_inputs(graph, {source: target})
    else:
        rename_inputs(graph, {target: source})
        _rename_body_outputs(graph, {target: source})
    graph.node.remove(node)
    return True


def _rename_body_outputs(graph: Any, names: Mapping[str, str]) -> None:
    for node in nodes_of(graph):
        for body in subgraphs(node):
            for value in body.output:
                value.name = names.get(value.name, value.name)


def names_read(node: Any) -> Iterator[str]:
    """Tensors that a node reads, those that its bodies read included."""
    yield from (name for name in node.input if name)
    for body in subgraphs(node):
        for value in body.output:
            yield value.name
        for inner in body.node:
            yield from names_read(inner)


def _static(tensor: Any) -> tuple[int, ...] | None:
    dims = tensor.shape.dim
    if all(dim.HasField("dim_value") for dim in dims):
        return tuple(int(dim.dim_value) for dim in dims)
    return None
