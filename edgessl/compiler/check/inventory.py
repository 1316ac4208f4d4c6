"""What a prepared graph holds: nodes with types and shapes, sizes, and what is odd about it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgessl.compiler.rewrites.as_strided import is_as_strided
from edgessl.compiler.rewrites.topology import Topology, infer_shapes, names_read, nodes_of
from edgessl.compiler.shapes import dynamic_inputs
from edgessl.optional import require
from edgessl.targets import Target

__all__ = ["Inventory", "label", "shape_problems"]

# Names of ONNX element types as precisions are called.
TYPE_NAMES = {1: "fp32", 10: "fp16", 11: "fp64", 16: "bf16", 2: "uint8", 3: "int8", 6: "int32"}
TYPE_NAMES |= {7: "int64", 8: "string", 9: "bool"}
# From these on protobuf needs external data, and engines their own limits.
_MIB = 1024 * 1024


def label(node: Any) -> str:
    """Operator, with its domain where that is not ai.onnx."""
    return f"{node.domain}:{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type


class Inventory:
    """A loaded graph and its index.

    Attributes:
        model: The ``onnx.ModelProto``, shapes inferred.
        nodes: Nodes of the main graph.
        topology: Its index.
    """

    def __init__(self, path: Path) -> None:
        self.model = infer_shapes(require("onnx", extra="compile").load(path))
        self.nodes = list(self.model.graph.node)
        self.topology = Topology(self.model)

    @property
    def dynamic(self) -> dict[str, tuple[int | str, ...]]:
        """Inputs with a dimension that is not fixed."""
        return dynamic_inputs(self.model)

    def types(self, node: Any) -> set[str]:
        """Element types that a node reads and makes, as far as they are known."""
        known = {self.topology.types.get(name, 0) for name in [*node.input, *node.output] if name}
        return {TYPE_NAMES.get(kind, f"type {kind}") for kind in known if kind}

    def shape(self, name: str) -> tuple[int, ...] | None:
        """A tensor's shape; None where it is not fixed."""
        return self.topology.shapes.get(name)

    def rank(self, node: Any) -> int:
        """Most dimensions of any tensor that a node reads or makes."""
        shapes = [self.topology.shapes.get(name) for name in [*node.input, *node.output]]
        return max((len(shape) for shape in shapes if shape is not None), default=0)

    def weights_bytes(self) -> int:
        """Size of all initializers, those of bodies included."""
        total = sum(_tensor_bytes(t.dims, t.data_type) for t in self.model.graph.initializer)
        for node in nodes_of(self.model.graph):
            for item in node.attribute:
                for body in [item.g, *item.graphs]:
                    total += sum(_tensor_bytes(t.dims, t.data_type) for t in body.initializer)
                if item.HasField("t"):
                    total += _tensor_bytes(item.t.dims, item.t.data_type)
        return int(total)

    def activations_bytes(self) -> int | None:
        """Most that inputs and results take at once, if each is freed after its last reader."""
        topology = self.topology
        last: dict[str, int] = {name: len(self.nodes) for name in topology.outputs}
        for index, node in enumerate(self.nodes):
            for name in names_read(node):
                last[name] = max(last.get(name, 0), index)
        live = {value.name: self._size(value.name) for value in self.model.graph.input}
        peak = sum(live.values())
        for index, node in enumerate(self.nodes):
            for name in node.output:
                if name and topology.shapes.get(name) is None:
                    return None
                live[name] = self._size(name)
            peak = max(peak, sum(live.values()))
            live = {name: size for name, size in live.items() if last.get(name, -1) > index}
        return None if self.dynamic else int(peak)

    def _size(self, name: str) -> float:
        shape = self.topology.shapes.get(name)
        return 0.0 if shape is None else _tensor_bytes(shape, self.topology.types.get(name, 1))

    def partitions(self, placed_on: Mapping[str, str]) -> int:
        """Connected parts of the graph whose nodes one unit runs.

        Args:
            placed_on: Node name → unit.
        """
        parts: dict[str, str] = {}

        def root(name: str) -> str:
            while parts.setdefault(name, name) != name:
                name = parts[name]
            return name

        for node in self.nodes:
            root(node.name)
            for name in node.input:
                before = self.topology.producer.get(name)
                if before is not None and placed_on[before.name] == placed_on[node.name]:
                    parts[root(node.name)] = root(before.name)
        return len({root(node.name) for node in self.nodes})


def shape_problems(inventory: Inventory, target: Target) -> tuple[str, ...]:
    """What is wrong with a graph on a target whichever engine runs it."""
    found = []
    if target.shapes.static:
        for name, shape in inventory.dynamic.items():
            text = "x".join(map(str, shape))
            hint = "x".join(str(s) if isinstance(s, int) else "N" for s in shape)
            found.append(
                f"input '{name}' is {text} and {target.name} needs static shapes; fix it with "
                f"--shape {name}={hint}"
            )
        inside = [
            node.name
            for node in inventory.nodes
            if not inventory.dynamic and any(n and inventory.shape(n) is None for n in node.output)
        ]
        if inside:
            found.append(
                f"{len(inside)} nodes have results whose size depends on the data or is unknown, "
                f"the first is {inside[0]}; {target.name} needs static shapes"
            )
    double = [node.name for node in inventory.nodes if "fp64" in inventory.types(node)]
    if double:
        found.append(
            f"{len(double)} nodes compute in float64, the first is {double[0]}; accelerators have "
            "no float64, export the model in float32"
        )
    if target.family == "npu-qualcomm":
        found += [
            f"{node.name} ({node.op_type}) gathers single elements by a table (torch's "
            "as_strided), on which Qualcomm's provider aborts; export the model without it"
            for node in inventory.nodes
            if is_as_strided(node, inventory.topology)
        ]
    found += _memory_problems(inventory, target)
    return tuple(found)


def _memory_problems(inventory: Inventory, target: Target) -> list[str]:
    fact = target.hardware.get("memory_bytes")
    if fact is None or not isinstance(fact.value, (int, float)):
        return []
    needed = inventory.weights_bytes() + (inventory.activations_bytes() or 0)
    if needed <= fact.value:
        return []
    return [
        f"weights and activations take {needed / _MIB:.0f} MiB in the model's own types, "
        f"{target.name} has {fact.value / _MIB:.0f} MiB; take a smaller model or input"
    ]


def _tensor_bytes(shape: Any, kind: int) -> float:
    onnx = require("onnx", extra="compile")
    try:
        size = int(onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize)
    except (KeyError, ValueError):
        size = 4
    return float(np.prod([float(n) for n in shape]) * size)
