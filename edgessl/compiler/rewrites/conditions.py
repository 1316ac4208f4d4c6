"""Replace If by the branch that is always taken."""

from __future__ import annotations

from typing import Any

from edgessl.compiler.rewrites.topology import (
    Topology,
    attribute,
    nodes_of,
    rename_inputs,
    subgraphs,
)
from edgessl.optional import require

__all__ = ["inline_conditions"]


def inline_conditions(model: Any) -> Any | None:
    """Inline each If of the main graph whose condition is an initializer."""
    onnx = require("onnx", extra="compile")
    count = 0
    while (found := _constant_condition(model)) is not None:
        node, branch = found
        _inline(onnx, model.graph, node, branch, f"if{count}/")
        count += 1
    return model if count else None


def _constant_condition(model: Any) -> tuple[Any, Any] | None:
    topology = Topology(model)
    for node in model.graph.node:
        if node.op_type == "If" and node.domain in ("", "ai.onnx"):
            value = topology.value(node.input[0])
            if value is not None:
                taken = "then_branch" if bool(value.reshape(-1)[0]) else "else_branch"
                return node, attribute(node, taken, None)
    return None


def _inline(onnx: Any, graph: Any, node: Any, branch: Any, prefix: str) -> None:
    # Two branches may use one name for different tensors, so all of them get new ones.
    names = {name: prefix + name for inner in nodes_of(branch) for name in inner.output if name}
    names |= {tensor.name: prefix + tensor.name for tensor in _initializers(branch)}
    rename_inputs(branch, names)
    for inner in nodes_of(branch):
        for index, name in enumerate(inner.output):
            inner.output[index] = names.get(name, name)
        for body in subgraphs(inner):
            for value in [*body.output, *body.value_info]:
                value.name = names.get(value.name, value.name)
            for tensor in body.initializer:
                tensor.name = names[tensor.name]
    for tensor in branch.initializer:
        tensor.name = names[tensor.name]
    copies = [
        onnx.helper.make_node("Identity", [names.get(value.name, value.name)], [target])
        for value, target in zip(branch.output, node.output, strict=True)
        if target
    ]
    at = list(graph.node).index(node)
    nodes = [*graph.node[:at], *branch.node, *copies, *graph.node[at + 1 :]]
    graph.initializer.extend(branch.initializer)
    for value in branch.value_info:
        value.name = names.get(value.name, value.name)
        graph.value_info.append(value)
    # A copy, because emptying the graph empties the branch that the node holds.
    copied = [onnx.NodeProto.FromString(item.SerializeToString()) for item in nodes]
    del graph.node[:]
    graph.node.extend(copied)


def _initializers(graph: Any) -> list[Any]:
    found = list(graph.initializer)
    for node in graph.node:
        for body in subgraphs(node):
            found += _initializers(body)
    return found
