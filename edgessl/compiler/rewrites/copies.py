"""Remove nodes that copy: Identity, Dropout, casts, transpositions and shapes that cancel."""

from __future__ import annotations

from typing import Any

from edgessl.compiler.rewrites.topology import (
    Topology,
    attribute,
    bypass,
    infer_shapes,
    names_read,
)
from edgessl.optional import require

__all__ = ["remove_copies"]


def remove_copies(model: Any) -> Any | None:
    """Remove what can go without a change of any output."""
    onnx = require("onnx", extra="compile")
    model = infer_shapes(model)
    changed = False
    topology = Topology(model)
    for node in list(model.graph.node):
        merged = _merge_transposes(onnx, node, topology)
        removed = _copies(node, topology) and bypass(model, node.output[0])
        if merged or removed:
            changed = True
            topology = Topology(model)
    changed = _remove_unread(model) or changed
    return model if changed else None


def _copies(node: Any, topology: Topology) -> bool:
    """Whether the first output equals the first input, and no other output is read."""
    if node.domain not in ("", "ai.onnx") or any(topology.uses[n] for n in node.output[1:]):
        return False
    if node.op_type == "Identity":
        return True
    if node.op_type == "Dropout":
        training = topology.value(node.input[2]) if len(node.input) > 2 and node.input[2] else 0
        return training is not None and not bool(training)
    if node.op_type == "Cast":
        to = attribute(node, "to", 0)
        return bool(topology.types.get(node.input[0]) == to)
    if node.op_type == "Transpose":
        order = _order(node)
        return order is not None and order == sorted(order)
    if node.op_type in ("Reshape", "Expand"):
        before = topology.shapes.get(node.input[0])
        return before is not None and before == topology.shapes.get(node.output[0])
    return False


def _merge_transposes(onnx: Any, node: Any, topology: Topology) -> bool:
    """Have the second of two transpositions read what the first one reads."""
    if node.op_type != "Transpose":
        return False
    first = topology.producer.get(node.input[0])
    if first is None or first.op_type != "Transpose" or not topology.alone(node.input[0]):
        return False
    inner, outer = _order(first), _order(node)
    if inner is None or outer is None:
        return False
    merged = [inner[axis] for axis in outer]
    node.input[0] = first.input[0]
    del node.attribute[:]
    node.attribute.append(onnx.helper.make_attribute("perm", merged))
    return True


def _order(node: Any) -> list[int] | None:
    order = attribute(node, "perm", None)
    return None if order is None else [int(axis) for axis in order]


def _remove_unread(model: Any) -> bool:
    """Remove nodes that nothing reads, from the end on."""
    removed = False
    uses = Topology(model).uses
    for node in reversed(list(model.graph.node)):
        if not any(uses[name] for name in node.output):
            uses.subtract(names_read(node))
            model.graph.node.remove(node)
            removed = True
    return removed
