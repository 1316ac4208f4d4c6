"""Give an ONNX graph the types that TensorRT is to compute in: float16, and float32 where needed.

A strongly typed network computes in the types of its tensors. onnxruntime's float16 converter
(MIT) puts the casts; around Q/DQ nodes more is needed, because there the input's type must be the
scale's, and a cast between DequantizeLinear and its convolution would keep TensorRT from running it
in integers. So scales become float16 too, which QuantizeLinear takes from opset 19 on, and weights
become what float16 holds of *their integers*, so that the integers stay the same.

Source: https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html, version 19.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgessl.compiler.samples import Samples
from edgessl.optional import require
from edgessl.runtime.session import Array
from edgessl.runtime.tensorrt.recipe import LayerPrecision, Remainder

__all__ = [
    "MATRIX_OPERATORS",
    "drop_unused",
    "expected_precisions",
    "name_nodes",
    "overflowing",
    "quantized_nodes",
    "sort_nodes",
    "to_float16",
]

MATRIX_OPERATORS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_QUANTIZE, _DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
_LARGEST = 65504.0
# Calibration does not see every input: activations may become so many times larger.
_HEADROOM = 4.0
_SMALLEST_NORMAL = 2.0**-14
# A channel whose weights are so much smaller than the tensor's largest adds nothing.
_DEAD_CHANNEL = 1e-4
_SEEN_CALLS = 8
_FLOAT16_SCALES_OPSET = 19
_FLOAT, _FLOAT16 = 1, 10


def name_nodes(model: Any) -> None:
    """Give every node a name of its own, from its operator and position."""
    taken: set[str] = set()
    for index, node in enumerate(model.graph.node):
        if not node.name or node.name in taken:
            name = f"{node.op_type}_{index}"
            while name in taken:
                name += "_"
            node.name = name
        taken.add(node.name)


def quantized_nodes(model: Any) -> set[str]:
    """Names of the convolutions and products of which DequantizeLinear nodes feed both sides."""
    outputs = {n.output[0] for n in model.graph.node if n.op_type == _DEQUANTIZE}
    return {
        node.name
        for node in model.graph.node
        if node.op_type in MATRIX_OPERATORS and all(name in outputs for name in node.input[:2])
    }


def overflowing(model: Any, samples: Samples) -> set[str]:
    """Names of the nodes that take or give values which float16 does not hold.

    Args:
        model: A graph in float32 whose nodes have names.
        samples: A few of them run through onnxruntime, with every tensor as an output.
    """
    largest = _largest_values(model, samples)
    for initializer in model.graph.initializer:
        if initializer.data_type == _FLOAT:
            values = require("onnx.numpy_helper", extra="compile").to_array(initializer)
            # Weights do not grow, and infinite ones (masks) stay infinite.
            finite = np.abs(values[np.isfinite(values)])
            largest[initializer.name] = float(finite.max(initial=0.0)) / _HEADROOM
    limit = _LARGEST / _HEADROOM
    return {
        node.name
        for node in model.graph.node
        if node.op_type not in (_QUANTIZE, _DEQUANTIZE)
        and any(largest.get(name, 0.0) > limit for name in (*node.input, *node.output))
    }


def _largest_values(model: Any, samples: Samples) -> dict[str, float]:
    onnx = require("onnx", extra="compile")
    ort = require("onnxruntime", extra="compile")
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    present = {output.name for output in watched.graph.output}
    names = [name for node in watched.graph.node for name in node.output if name]
    watched.graph.output.extend(
        onnx.ValueInfoProto(name=name) for name in names if name not in present
    )
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(
        watched.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    floats = [o.name for o in session.get_outputs() if o.type == "tensor(float)"]
    largest: dict[str, float] = {}
    for call in range(min(_SEEN_CALLS, samples.calls)):
        feeds = samples.feeds(call)
        for name, value in zip(floats, session.run(floats, dict(feeds)), strict=True):
            bound = float(np.max(np.abs(value), initial=0.0))
            largest[name] = max(largest.get(name, 0.0), bound)
        for name, value in feeds.items():
            if value.dtype == np.float32:
                bound = float(np.max(np.abs(value), initial=0.0))
                largest[name] = max(largest.get(name, 0.0), bound)
    return largest


def to_float16(model: Any, *, keep_float32: Iterable[str]) -> tuple[Any, set[str]]:
    """Convert a float32 graph, with or without Q/DQ nodes; inputs and outputs stay float32.

    Args:
        model: The graph; its nodes have names.
        keep_float32: Nodes that stay in float32.

    Returns:
        The converted graph, sorted; and the names of all nodes that stayed in float32.
    """
    onnx = require("onnx", extra="compile")
    float16 = require("onnxruntime.transformers.float16", extra="compile")
    kept = set(keep_float32)
    if any(node.op_type in (_QUANTIZE, _DEQUANTIZE) for node in model.graph.node):
        if _opset(model) < _FLOAT16_SCALES_OPSET:
            names = [node.name for node in model.graph.node]
            model = onnx.version_converter.convert_version(model, _FLOAT16_SCALES_OPSET)
            if [node.name for node in model.graph.node] != names:
                name_nodes(model)
        kept |= _prepare_scales(model, kept)
    outputs = {output.name for output in model.graph.output}
    own = {node.name for node in model.graph.node}
    converted = float16.convert_float_to_float16(
        model, keep_io_types=True, node_block_list=sorted(kept)
    )
    blocked = set(float16.DEFAULT_OP_BLOCK_LIST)
    kept |= {node.name for node in converted.graph.node if node.op_type in blocked}
    _drop_cast_pairs(converted, outputs, own)
    sort_nodes(converted)
    return converted, kept & {node.name for node in converted.graph.node}


def _opset(model: Any) -> int:
    return next(int(o.version) for o in model.opset_import if o.domain in ("", "ai.onnx"))


def _prepare_scales(model: Any, kept: set[str]) -> set[str]:
    """Round scales to float16 and weights with them; returns nodes that stay in float32.

    A scale below the smallest normal float16 would lose its digits, so such nodes and what they
    feed stay in float32, and with a convolution all that feeds it: a cast between would keep it
    from running in integers.
    """
    arrays = require("onnx.numpy_helper", extra="compile")
    values = {i.name: i for i in model.graph.initializer}
    groups = _groups(model)
    rounded: dict[str, Array | None] = {}
    for group in groups:
        weight = values.get(group.nodes[0].input[0])
        known = None if weight is None else arrays.to_array(weight)
        scale = arrays.to_array(values[group.nodes[0].input[1]])
        rounded[group.name] = _round_scale(scale, known, group.nodes[0])
    stays = {g.name for g in groups if rounded[g.name] is None or g.feeds & kept}
    while True:
        fed = {name for g in groups if g.name in stays for name in g.feeds}
        more = {g.name for g in groups if g.feeds & fed} - stays
        if not more:
            break
        stays |= more
    for group in groups:
        _retype(model, group, values, None if group.name in stays else rounded[group.name])
    drop_unused(model)
    members = {node.name for g in groups if g.name in stays for node in g.nodes}
    return members | {name for g in groups if g.name in stays for name in g.feeds}


@dataclass(frozen=True)
class _Group:
    """One QuantizeLinear and the DequantizeLinear nodes after it; or one of these alone.

    Attributes:
        name: Of the first node.
        nodes: In order; they share scale and type.
        feeds: Names of the nodes that compute on the dequantized tensor.
    """

    name: str
    nodes: list[Any]
    feeds: set[str]


def _groups(model: Any) -> list[_Group]:
    users: dict[str, list[Any]] = {}
    for node in model.graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    made = {node.output[0] for node in model.graph.node if node.op_type == _QUANTIZE}
    groups = []
    for node in model.graph.node:
        alone = node.op_type == _DEQUANTIZE and node.input[0] not in made
        if node.op_type != _QUANTIZE and not alone:
            continue
        after = [] if alone else users.get(node.output[0], [])
        nodes = [node, *(n for n in after if n.op_type == _DEQUANTIZE)]
        ends = [n for n in nodes if n.op_type == _DEQUANTIZE]
        fed = [user for end in ends for user in users.get(end.output[0], [])]
        feeds = {user.name for user in fed if user.op_type != _QUANTIZE}
        groups.append(_Group(node.name, nodes, feeds))
    return groups


def _retype(model: Any, group: _Group, values: Mapping[str, Any], rounded: Array | None) -> None:
    """Give every node a scale of its own: the converter retypes an initializer for all its users.

    Args:
        model: The graph.
        group: What shares a scale.
        values: Initializers by name.
        rounded: The scale as float16 holds it; None to stay in float32.
    """
    arrays = require("onnx.numpy_helper", extra="compile")
    first = group.nodes[0]
    scale, weight = arrays.to_array(values[first.input[1]]), values.get(first.input[0])
    for node in group.nodes:
        wanted = scale if rounded is None else rounded
        copy = arrays.from_array(wanted.astype(np.float32), f"{node.name}_scale_typed")
        model.graph.initializer.append(copy)
        node.input[1] = copy.name
    if weight is not None and first.op_type == _QUANTIZE and rounded is not None:
        exact = _weights_of_integers(arrays.to_array(weight), scale, rounded, first)
        copy = arrays.from_array(exact, f"{first.name}_weight_typed")
        model.graph.initializer.append(copy)
        first.input[0] = copy.name


def _round_scale(scale: Array, weight: Array | None, node: Any) -> Array | None:
    """The scale as float16 holds it; None if it does not hold it well."""
    rounded = scale.astype(np.float16).astype(np.float32)
    small = scale < _SMALLEST_NORMAL
    if not small.any():
        return rounded
    if weight is None or weight.dtype != np.float32 or scale.ndim == 0:
        return None
    axis = _axis(node, weight.ndim)
    bounds = np.abs(weight).max(axis=tuple(a for a in range(weight.ndim) if a != axis))
    dead = bounds <= _DEAD_CHANNEL * float(bounds.max(initial=0.0))
    if bool((small & ~dead).any()):
        return None
    return np.where(small, np.float32(_SMALLEST_NORMAL), rounded)


def _weights_of_integers(weight: Array, scale: Array, rounded: Array, node: Any) -> Array:
    """Float weights whose integers under the rounded scale are those under the original one."""
    if scale.ndim == 0 or scale.size == 1:
        old, new = scale.reshape(()), rounded.reshape(())
    else:
        shape = [1] * weight.ndim
        shape[_axis(node, weight.ndim)] = -1
        old, new = scale.reshape(shape), rounded.reshape(shape)
    raised = new > old * np.float32(2.0)  # a dead channel, whose scale was raised
    integers = np.clip(np.rint(weight / np.where(raised, new, old)), -128, 127)
    return np.asarray(integers * new, dtype=np.float32)


def _axis(node: Any, rank: int) -> int:
    axis = next((int(a.i) for a in node.attribute if a.name == "axis"), 1)
    return axis % rank


def drop_unused(model: Any) -> None:
    """Take out initializers that nothing reads."""
    used = _read_names(model)
    left = [i for i in model.graph.initializer if i.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(left)


def _drop_cast_pairs(model: Any, outputs: set[str], own: set[str]) -> None:
    """Take out float32 → float16 → float32 after a node that stays in float32.

    The value in between may be larger than float16 holds, which is why it stays in float32.

    Args:
        model: What the converter gave.
        outputs: Of the graph.
        own: Nodes that the graph had before: their casts to float16 may be of booleans or integers.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    renamed: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type != "Cast" or _cast_to(node) != _FLOAT:
            continue
        before = makers.get(node.input[0])
        if before is None or before.op_type != "Cast" or before.name in own:
            continue
        if _cast_to(before) == _FLOAT16 and node.output[0] in outputs:
            node.input[0], node.op_type = before.input[0], "Identity"
            del node.attribute[:]
        elif _cast_to(before) == _FLOAT16:
            renamed[node.output[0]] = before.input[0]
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name in renamed:
                node.input[index] = renamed[name]
    _drop_dead_casts(model, outputs)


def _drop_dead_casts(model: Any, outputs: set[str]) -> None:
    """Also repeated ones: of a tensor that several float32 nodes read, each got the same cast."""
    while True:
        used = _read_names(model) | outputs
        left = {
            (n.input[0], n.output[0]) if n.op_type == "Cast" else index: n
            for index, n in enumerate(model.graph.node)
            if n.op_type != "Cast" or n.output[0] in used
        }
        if len(left) == len(model.graph.node):
            return
        nodes = [_copied(node) for node in left.values()]
        del model.graph.node[:]
        model.graph.node.extend(nodes)


def _cast_to(node: Any) -> int:
    return next((int(a.i) for a in node.attribute if a.name == "to"), 0)


def _copied(node: Any) -> Any:
    """A node that outlives the list it stood in."""
    copy = type(node)()
    copy.CopyFrom(node)
    return copy


def sort_nodes(model: Any) -> None:
    """Put every node after those that feed it; the converter appends its casts at the end."""
    waiting = [_copied(node) for node in model.graph.node]
    made = {name for node in waiting for name in node.output}
    ready: set[str] = {""}
    ordered: list[Any] = []
    while waiting:
        later = []
        for node in waiting:
            if all(name in ready or name not in made for name in _needs(node)):
                ordered.append(node)
                ready.update(node.output)
            else:
                later.append(node)
        if len(later) == len(waiting):
            break  # a cycle: onnx's checker names it
        waiting = later
    del model.graph.node[:]
    model.graph.node.extend([*ordered, *waiting])


def _read_names(model: Any) -> set[str]:
    """What nodes read, also inside branches and loops, and what the graph gives."""
    used = {name for node in model.graph.node for name in _needs(node)}
    return used | {output.name for output in model.graph.output}


def _needs(node: Any) -> list[str]:
    """Inputs, also those that subgraphs take from outside."""
    names = list(node.input)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            inner = {name for child in graph.node for name in child.output}
            for child in graph.node:
                names += [name for name in _needs(child) if name not in inner]
            names += [o.name for o in graph.output if o.name not in inner]
    return names


def expected_precisions(
    model: Any, *, remainder: Remainder, float32_nodes: set[str]
) -> dict[str, LayerPrecision]:
    """Convolution or matrix product → what it must compute in."""
    integer = quantized_nodes(model)
    precisions: dict[str, LayerPrecision] = {}
    for node in model.graph.node:
        if node.op_type in MATRIX_OPERATORS:
            real: Remainder = "fp32" if node.name in float32_nodes else remainder
            precisions[node.name] = "int8" if node.name in integer else real
    return precisions
