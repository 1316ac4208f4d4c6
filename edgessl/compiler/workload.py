"""Count the operations and the unavoidable memory traffic of an ONNX graph.

Everything but `workload_of` runs in a compile worker.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgessl.bundle.manifest import Workload
from edgessl.compiler.process import Worker, WorkerFailure, memory_limit
from edgessl.compiler.rewrites.topology import Topology, attribute, nodes_of, subgraphs
from edgessl.errors import ModelError
from edgessl.optional import require

__all__ = ["count_workload", "node_operations", "workload_of"]

_TIMEOUT_S = 300.0
_STANDARD = ("", "ai.onnx")

Shape = tuple[int, ...]


class _Uncountable(Exception):
    """A product whose size does not follow from the graph."""


def workload_of(path: Path) -> Workload | None:
    """Count what one run of a model file computes; an open batch counts as one sample.

    Args:
        path: The ``.onnx`` file. It is read in a process of its own.

    Returns:
        None if it is no valid model, or if its operations do not follow from its input shapes.

    Raises:
        UnavailableError: ``onnx`` is not installed.
    """
    with (
        tempfile.TemporaryDirectory(prefix="edgessl-") as folder,
        Worker(Path(folder), timeout_s=_TIMEOUT_S, memory_bytes=memory_limit()) as worker,
    ):
        try:
            found = worker.request("count_workload", model=str(Path(path).absolute()))
        except (ModelError, WorkerFailure):
            return None
    return None if found is None else Workload.model_validate(found)


def count_workload(model: Any) -> Workload | None:
    """Count operations and bytes of one run.

    Operations are those of products: convolutions, matrix products, recurrent layers, attention,
    and ``Einsum`` of two tensors; 2 for a multiplication with its addition, padding included.
    Additions of biases, activations, normalization and pooling are not counted.

    Bytes are the compulsory traffic: each weight once, as it is stored (of a table that is only
    looked up, the rows that are taken), and the graph's inputs and outputs.

    Args:
        model: An ``onnx.ModelProto`` with fixed input shapes, after shape inference.

    Returns:
        None where a product's shapes are not known, where one stands in a branch or a loop, and
        for operators that are not ONNX's own, of which nobody says what they compute.

    Source: Williams, Waterman, Patterson: Roofline, CACM 52(4), 2009 (compulsory traffic).
    """
    topology = Topology(model)
    graph = model.graph
    try:
        flops = sum(_flops(topology, node) for node in graph.node)
        weights = _weight_bytes(topology)
        ends = {value.name for value in [*graph.input, *graph.output]}
        # Up to IR 3 initializers are listed as inputs too.
        ends -= set(topology.constants)
        total = weights + sum(_bytes(topology, name) for name in ends)
        return Workload(flops=float(flops), bytes=float(total), weight_bytes=float(weights))
    except (_Uncountable, IndexError, KeyError, OverflowError, ValueError):
        # Besides what cannot be known: shapes of a damaged graph, of any rank, sign and size.
        return None


def node_operations(topology: Topology, node: Any) -> int | None:
    """Operations of one node's products, counted as `count_workload` does; None if unknown."""
    try:
        return _flops(topology, node)
    except (_Uncountable, IndexError, KeyError, OverflowError, ValueError):
        return None


def _flops(topology: Topology, node: Any) -> int:
    if node.domain not in _STANDARD:
        raise _Uncountable
    for body in subgraphs(node):
        if any(n.op_type in _PRODUCTS or n.domain not in _STANDARD for n in nodes_of(body)):
            raise _Uncountable  # how often it runs is not known
    products = _PRODUCTS.get(node.op_type)
    return 0 if products is None else 2 * products(topology, node)


def _convolution(weight: int) -> Callable[[Topology, Any], int]:
    """Each output takes the inputs of its group, kernel by kernel; W: (M, C / group, *kernel)."""

    def products(topology: Topology, node: Any) -> int:
        kernel = _shape(topology, node.input[weight])[1:]
        return math.prod(_shape(topology, node.output[0])) * math.prod(kernel)

    return products


def _transposed_convolution(topology: Topology, node: Any) -> int:
    """Each input goes to the outputs of its group; W: (C, M / group, *kernel)."""
    kernel = _shape(topology, node.input[1])[1:]
    return math.prod(_shape(topology, node.input[0])) * math.prod(kernel)


def _matrix_product(topology: Topology, node: Any) -> int:
    """A: (..., M, K); a vector is one row."""
    out, a = _shape(topology, node.output[0]), _shape(topology, node.input[0])
    return math.prod(out) * a[-1]


def _gemm(topology: Topology, node: Any) -> int:
    a = _shape(topology, node.input[0])
    inner = a[0] if attribute(node, "transA", 0) else a[1]
    return math.prod(_shape(topology, node.output[0])) * inner


def _recurrent(topology: Topology, node: Any) -> int:
    """Every step multiplies with W: (directions, gates H, I) and R: (directions, gates H, H)."""
    x, w, r = (_shape(topology, name) for name in node.input[:3])
    return x[0] * x[1] * (math.prod(w) + math.prod(r))


def _attention(topology: Topology, node: Any) -> int:
    """Q K^T and its product with V; Q: (B, heads, L, E) or (B, L, heads E)."""
    q, k, v = (_shape(topology, name) for name in node.input[:3])
    past = node.input[4] if len(node.input) > 4 else ""
    keys = k[-2] + (_shape(topology, past)[-2] if past else 0)
    heads = q[1] if len(q) == 4 else attribute(node, "q_num_heads", 0)
    value_heads = v[1] if len(v) == 4 else attribute(node, "kv_num_heads", 0)
    if not heads or not value_heads:
        raise _Uncountable
    size = q[-1] if len(q) == 4 else q[-1] // heads
    value_size = v[-1] if len(v) == 4 else v[-1] // value_heads
    return q[0] * heads * q[-2] * keys * (size + value_size)


def _einsum(topology: Topology, node: Any) -> int:
    equation = attribute(node, "equation", b"").decode().replace(" ", "")
    left, arrow, result = equation.partition("->")
    terms = left.split(",")
    if not arrow or "." in equation or len(terms) > 2:
        raise _Uncountable
    if not set(left) - {","} - set(result) or len(terms) < 2:
        return 0  # nothing is multiplied and added
    sizes: dict[str, int] = {}
    for term, name in zip(terms, node.input, strict=True):
        sizes.update(zip(term, _shape(topology, name), strict=True))
    return math.prod(sizes.values())


_PRODUCTS: dict[str, Callable[[Topology, Any], int]] = {
    "Attention": _attention,
    "Conv": _convolution(1),
    "ConvInteger": _convolution(1),
    "ConvTranspose": _transposed_convolution,
    "DeformConv": _convolution(1),
    "Einsum": _einsum,
    "GRU": _recurrent,
    "Gemm": _gemm,
    "LSTM": _recurrent,
    "MatMul": _matrix_product,
    "MatMulInteger": _matrix_product,
    "QLinearConv": _convolution(3),
    "QLinearMatMul": _matrix_product,
    "RNN": _recurrent,
}


def _weight_bytes(topology: Topology) -> int:
    total = sum(_bytes(topology, name) for name in topology.constants if topology.uses[name])
    for name in topology.constants:
        readers = topology.consumers.get(name, [])
        looked_up = all(n.op_type == "Gather" and n.input[0] == name for n in readers)
        if readers and looked_up and len(readers) == topology.uses[name]:
            taken = sum(_bytes(topology, node.output[0]) for node in readers)
            total -= max(0, _bytes(topology, name) - taken)
    return total + sum(_constant_bytes(node) for node in topology.graph.node)


def _constant_bytes(node: Any) -> int:
    """Of a ``Constant`` node that holds a tensor."""
    if node.op_type != "Constant":
        return 0
    return sum(
        math.prod(item.t.dims) * _bits(item.t.data_type) // 8
        for item in node.attribute
        if item.HasField("t")
    )


def _bytes(topology: Topology, name: str) -> int:
    return -(-math.prod(_shape(topology, name)) * _bits(topology.types[name]) // 8)


def _bits(element_type: int) -> int:
    """Of one element; types of less than a byte are packed."""
    onnx = require("onnx", extra="compile")
    name = onnx.TensorProto.DataType.Name(element_type)
    packed = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}
    if name in packed:
        return packed[name]
    return 8 * int(onnx.helper.tensor_dtype_to_np_dtype(element_type).itemsize)


def _shape(topology: Topology, name: str) -> Shape:
    shape = topology.shapes.get(name)
    if shape is None or min(shape, default=0) < 0:
        raise _Uncountable
    return shape
