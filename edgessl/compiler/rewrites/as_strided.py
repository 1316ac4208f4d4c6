"""The Gather that torch's exporter makes of ``as_strided``, as Reshape, Slice and Transpose.

The dynamo exporter flattens the tensor and gathers with a constant table of positions, one per
element. Qualcomm's provider aborts on it; elsewhere it is a slow copy. Where the table is an
arithmetic grid, offset + Σ stride_k · i_k, with strides that nest, it is a view.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgessl.compiler.rewrites.topology import (
    Array,
    Topology,
    attribute,
    bypass,
    fresh_name,
    infer_shapes,
)
from edgessl.optional import require

__all__ = ["grid_of", "is_as_strided", "rewrite_as_strided"]


def rewrite_as_strided(model: Any) -> Any | None:
    """Replace each such Gather whose table is a grid of nested strides."""
    onnx = require("onnx", extra="compile")
    model = infer_shapes(model)
    changed = False
    topology = Topology(model)
    for node in list(model.graph.node):
        if not is_as_strided(node, topology):
            continue
        view = _View(onnx, node, topology)
        if not view.build():
            continue
        at = list(model.graph.node).index(node)
        nodes = [*model.graph.node[:at], *view.nodes, *model.graph.node[at + 1 :]]
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        model.graph.initializer.extend(view.constants)
        changed = True
        topology = Topology(model)
        flat = topology.producer[node.input[0]]
        if not topology.uses[flat.output[0]]:
            model.graph.node.remove(flat)
        bypass(model, view.nodes[-1].output[0])
        topology = Topology(model)
    return model if changed else None


def is_as_strided(node: Any, topology: Topology) -> bool:
    """Whether a node gathers single elements, by a constant table, from a flattened tensor."""
    if node.op_type != "Gather" or attribute(node, "axis", 0) != 0:
        return False
    flat = topology.producer.get(node.input[0])
    return (
        flat is not None
        and flat.op_type in ("Reshape", "Flatten")
        and len(topology.shapes.get(node.input[0]) or ()) == 1
        and node.input[1] in topology.constants
    )


def grid_of(table: Array) -> tuple[int, tuple[int, ...]] | None:
    """Offset and strides of a table of positions, ``(n_1, …, n_k)``; None if it is no grid."""
    offset = int(table.reshape(-1)[0])
    strides = []
    for axis, size in enumerate(table.shape):
        first = [0] * table.ndim
        first[axis] = 1
        strides.append(int(table[tuple(first)]) - offset if size > 1 else 0)
    grid = np.full(table.shape, offset, dtype=np.int64)
    for axis, (size, stride) in enumerate(zip(table.shape, strides, strict=True)):
        steps = np.arange(size, dtype=np.int64) * stride
        grid += steps.reshape([-1 if k == axis else 1 for k in range(table.ndim)])
    if min(strides, default=0) < 0 or not np.array_equal(grid, table):
        return None
    return offset, tuple(strides)


class _View:
    """The nodes that make a view; ``build`` says whether there is one."""

    def __init__(self, onnx: Any, node: Any, topology: Topology) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._onnx = onnx
        self._node = node
        self._topology = topology
        flat = topology.producer[node.input[0]]
        self._tensor = str(flat.input[0])
        self._shape = topology.shapes.get(self._tensor) or ()

    def build(self) -> bool:
        """Fill in the nodes."""
        table = self._topology.value(self._node.input[1])
        flat = self._topology.shapes[self._node.input[0]]
        if table is None or flat is None or table.size == 0:
            return False
        count = flat[0]
        table = np.where(table < 0, table + count, table).astype(np.int64)
        grid = grid_of(table)
        if grid is None or not self._take(grid, table.shape, count):
            return False
        self._add("Identity", [], output=self._node.output[0])
        self.nodes[-1].name = self._node.name
        return True

    def _take(self, grid: tuple[int, tuple[int, ...]], shape: tuple[int, ...], count: int) -> bool:
        offset, strides = grid
        axes = [k for k in range(len(shape)) if shape[k] > 1 and strides[k] > 0]
        axes.sort(key=lambda k: -strides[k])
        lead: list[int] = []
        length = count
        for axis in axes:
            stride, size = strides[axis], shape[axis]
            rows, start = length // stride, offset // stride
            if length % stride or start + size > rows:
                return False
            offset %= stride
            if size != rows:
                self._reshape([*lead, rows, stride])
                self._slice(len(lead), start, start + size)
            lead.append(size)
            length = stride
        if length > 1:
            self._reshape([*lead, length])
            self._slice(len(lead), offset, offset + 1)
        order = sorted(range(len(axes)), key=lambda position: axes[position])
        if order != list(range(len(axes))):
            self._reshape(lead)
            self._add("Transpose", [], perm=order)
            self._shape = tuple(lead[k] for k in order)
        self._reshape([size if strides[k] else 1 for k, size in enumerate(shape)])
        if self._shape != shape:
            self._add("Expand", [self._constant(shape)])
            self._shape = shape
        return True

    def _reshape(self, shape: list[int]) -> None:
        if self._shape != tuple(shape):
            self._add("Reshape", [self._constant(shape)])
            self._shape = tuple(shape)

    def _slice(self, axis: int, start: int, stop: int) -> None:
        ends = [self._constant([value]) for value in (start, stop, axis)]
        self._add("Slice", ends)
        sizes = list(self._shape)
        sizes[axis] = stop - start
        self._shape = tuple(sizes)

    def _constant(self, values: Any) -> str:
        name = fresh_name(self._topology, f"{self._node.output[0]}/table")
        array = np.asarray(values, dtype=np.int64)
        self.constants.append(self._onnx.numpy_helper.from_array(array, name))
        return name

    def _add(self, kind: str, operands: list[str], output: str = "", **attributes: Any) -> None:
        output = output or fresh_name(self._topology, f"{self._node.output[0]}/view")
        inputs = [self._tensor, *operands]
        self.nodes.append(
            self._onnx.helper.make_node(kind, inputs, [output], name=output, **attributes)
        )
        self._tensor = output
