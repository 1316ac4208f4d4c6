"""Open a batch that was fixed at one, so that a graph takes many samples per call again.

Quantizers place integers by fixed shapes, as they will when the graph is compiled; training takes
batches. So the batch is fixed first and opened last: constants that hold the batch's 1 (the target
of a Reshape, a token beside each sample's own) are given an open size.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgessl.compiler.rewrites.parity import run_plainly
from edgessl.compiler.rewrites.topology import (
    Array,
    Topology,
    attribute,
    fresh_name,
    subgraphs,
)
from edgessl.errors import ModelError
from edgessl.optional import require

__all__ = ["BATCH", "open_batch"]

BATCH = "batch"
_STANDARD = ("", "ai.onnx")
# Of these a constant beside a batched tensor must have the batch too.
_JOINING = ("Concat",)


def open_batch(model: Any, inputs: tuple[str, ...]) -> Any:
    """Give a graph for one sample an open batch.

    Args:
        model: An ``onnx.ModelProto`` with fixed shapes; changed in place.
        inputs: Inputs whose first dimension is the batch.

    Returns:
        The model, its tensors described anew.

    Raises:
        ModelError: A node holds the batch in a way that is not known; it is named.
    """
    fixed = Topology(model)
    described = _run_once(model, fixed)
    for value in model.graph.input:
        if value.name in inputs:
            value.type.tensor_type.shape.dim[0].dim_param = BATCH
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    axes: dict[str, int] = {name: 0 for name in inputs}
    nodes: list[Any] = []
    for node in model.graph.node:
        nodes += _opened(model, node, fixed, axes)
        nodes.append(node)
        _trace(node, fixed, axes)
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    _drop_unread(model)
    ends = {value.name: value for value in model.graph.output}
    for name, kind in described.items():
        value = ends[name] if name in ends else model.graph.value_info.add(name=name)
        _describe(value, kind, fixed.shapes[name], axes.get(name))
    return model


def _run_once(model: Any, fixed: Topology) -> dict[str, int]:
    """Note the shape of every tensor, and give its element type.

    Inference knows no shapes behind operators of onnxruntime's own, which 16-bit pairs are.
    """
    onnx = require("onnx", extra="compile")
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    names = [name for node in model.graph.node for name in node.output if name]
    del whole.graph.value_info[:]
    del whole.graph.output[:]
    whole.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    feeds = {
        value.name: np.zeros(
            fixed.shapes[value.name] or (),
            onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type),
        )
        for value in model.graph.input
    }
    found = run_plainly(whole.SerializeToString(), feeds)
    fixed.shapes.update({name: array.shape for name, array in found.items()})
    return {n: onnx.helper.np_dtype_to_tensor_dtype(array.dtype) for n, array in found.items()}


def _opened(model: Any, node: Any, fixed: Topology, axes: dict[str, int]) -> list[Any]:
    """Change what a node says about the batch; new nodes that must stand before it."""
    if any(True for _ in subgraphs(node)) and any(name in axes for name in node.input):
        raise _unknown(node, "has a body")
    if node.op_type == "Reshape" and node.input[0] in axes:
        _open_reshape(model, node, fixed, axes)
    elif node.op_type in _JOINING:
        return _repeat_constants(model, node, fixed, axes)
    return []


def _open_reshape(model: Any, node: Any, fixed: Topology, axes: dict[str, int]) -> None:
    """The batch is the largest unit that moves: what comes before it stays before it."""
    target, before = fixed.value(node.input[1]), fixed.shapes.get(node.input[0])
    after = fixed.shapes.get(node.output[0])
    if target is None or before is None or after is None:
        raise _unknown(node, "takes a computed shape")
    at = _place_of(int(np.prod(before[: axes[node.input[0]]], dtype=np.int64)), after)
    if at is None:
        raise _unknown(node, f"mixes the batch into {list(after)}")
    sizes = np.array(after, np.int64)
    sizes[at] = -1
    name = fresh_name(fixed, f"{node.name}/open_shape")
    onnx = require("onnx", extra="compile")
    model.graph.initializer.append(onnx.numpy_helper.from_array(sizes, name))
    node.input[1] = name
    axes[node.output[0]] = at


def _place_of(leading: int, shape: tuple[int, ...]) -> int | None:
    """The first axis before which ``leading`` elements stand."""
    product = 1
    for axis, size in enumerate(shape):
        if product == leading:
            return axis
        product *= size
    return None


def _repeat_constants(model: Any, node: Any, fixed: Topology, axes: dict[str, int]) -> list[Any]:
    """A token that was folded into a constant goes to each sample of the batch."""
    batched = [name for name in node.input if name in axes]
    others = [index for index, name in enumerate(node.input) if name not in axes]
    if not batched or not others:
        return []
    onnx = require("onnx", extra="compile")
    at = axes[batched[0]]
    made: list[Any] = []

    def constant(stem: str, values: Any) -> str:
        name = fresh_name(fixed, f"{node.name}/{stem}")
        array = np.asarray(values, np.int64)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        return name

    def add(kind: str, operands: list[str], **attributes: Any) -> str:
        name = fresh_name(fixed, f"{node.name}/{kind.lower()}")
        made.append(onnx.helper.make_node(kind, operands, [name], name=name, **attributes))
        return name

    whole = add("Shape", [batched[0]])
    batch = add("Gather", [whole, constant("axis", [at])], axis=0)
    for index in others:
        shape = fixed.shapes.get(node.input[index])
        if shape is None or shape[at] != 1:
            raise _unknown(node, f"joins a constant of shape {shape}")
        parts = [batch]
        if at > 0:
            parts.insert(0, constant("leading", [1] * at))
        if at < len(shape) - 1:
            parts.append(constant("trailing", [1] * (len(shape) - at - 1)))
        sizes = add("Concat", parts, axis=0) if len(parts) > 1 else parts[0]
        node.input[index] = add("Expand", [node.input[index], sizes])
    return made


def _trace(node: Any, fixed: Topology, axes: dict[str, int]) -> None:
    """Note where the batch is in what a node gives."""
    sources = [name for name in node.input if name in axes]
    if not sources or node.output[0] in axes:
        return
    kind = node.op_type if node.domain in _STANDARD else ""
    axis = axes[sources[0]]
    rank = len(fixed.shapes.get(sources[0]) or ())
    if kind in ("Shape", "Size"):
        raise _unknown(node, "computes with the batch")
    if kind == "Transpose":
        axis = list(attribute(node, "perm", list(range(rank))[::-1])).index(axis)
    elif kind == "Squeeze":
        axis -= _before(_numbers(node, fixed, "axes"), rank, axis)
    elif kind == "Unsqueeze":
        added = _numbers(node, fixed, "axes")
        total = rank + len(added)
        taken = {int(a) % total for a in added}
        axis = [k for k in range(total) if k not in taken][axis]
    elif kind == "Gather" and node.input[0] in axes:
        along = int(attribute(node, "axis", 0)) % rank
        indices = fixed.shapes.get(node.input[1])
        if along == axis or indices is None:
            raise _unknown(node, "gathers along the batch")
        axis += len(indices) - 1 if along < axis else 0
    elif kind == "Flatten":
        axis = 0
    elif kind.startswith("Reduce") and not attribute(node, "keepdims", 1):
        axis -= _before(_numbers(node, fixed, "axes"), rank, axis)
    elif kind in ("ArgMax", "ArgMin") and not attribute(node, "keepdims", 1):
        axis -= _before(np.array([attribute(node, "axis", 0)]), rank, axis)
    else:
        # Broadcasting aligns the last axes.
        after = len(fixed.shapes.get(node.output[0]) or ())
        axis = (
            max(axis - rank + after for axis, rank in _ends(sources, fixed, axes))
            if after
            else axis
        )
    for name in node.output:
        if name and (fixed.shapes.get(name) is None or len(fixed.shapes[name] or ()) > axis):
            axes[name] = axis


def _ends(sources: list[str], fixed: Topology, axes: dict[str, int]) -> list[tuple[int, int]]:
    return [(axes[name], len(fixed.shapes.get(name) or ())) for name in sources]


def _numbers(node: Any, fixed: Topology, name: str) -> Array:
    """An operand that was an attribute in older opsets."""
    given = attribute(node, name, None)
    if given is not None:
        return np.asarray(given)
    value = fixed.value(node.input[1]) if len(node.input) > 1 and node.input[1] else None
    if value is None:
        raise _unknown(node, f"takes computed {name}")
    return value.reshape(-1)


def _before(removed: Array, rank: int, axis: int) -> int:
    return len({int(a) % rank for a in removed if int(a) % rank < axis})


def _drop_unread(model: Any) -> None:
    read = {name for node in model.graph.node for name in node.input}
    read |= {value.name for value in model.graph.output}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def _describe(value: Any, kind: int, shape: tuple[int, ...] | None, axis: int | None) -> None:
    tensor = value.type.tensor_type
    tensor.elem_type = kind
    tensor.ClearField("shape")
    tensor.shape.SetInParent()
    for index, size in enumerate(shape or ()):
        dim = tensor.shape.dim.add()
        if index != axis:
            dim.dim_value = size
        elif size == 1:
            dim.dim_param = BATCH


def _unknown(node: Any, why: str) -> ModelError:
    return ModelError(
        f"node '{node.name}' ({node.op_type}) {why}, so its batch cannot be opened to train; "
        "choose another backbone"
    )
