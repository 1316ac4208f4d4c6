"""What each layer of a graph computes and moves; runs in a compile worker."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from edgessl.compiler.rewrites.topology import Topology, infer_shapes
from edgessl.compiler.workload import node_operations
from edgessl.config import Options
from edgessl.optional import require

__all__ = ["LayerWork", "count_layers"]


class LayerWork(Options):
    """Counts of one layer.

    Attributes:
        node: ONNX name.
        operations: Of its products, 2 for a multiplication with its addition; 0 where unknown.
        weights: Elements of its constants.
        activations: Elements of its other inputs and its outputs; 0 where unknown.
    """

    node: str
    operations: float
    weights: float
    activations: float


def count_layers(float_graph: Path, names: Sequence[str]) -> list[LayerWork]:
    """Count some nodes of a graph, in their order."""
    onnx = require("onnx", extra="compile")
    topology = Topology(infer_shapes(onnx.load(float_graph)))
    nodes = {node.name: node for node in topology.graph.node}
    found = []
    for name in names:
        node = nodes[name]
        read = [tensor for tensor in node.input if tensor]
        moved = [t for t in (*read, *node.output) if t and t not in topology.constants]
        found.append(
            LayerWork(
                node=name,
                operations=float(node_operations(topology, node) or 0),
                weights=float(sum(_elements(topology, t) for t in read if t in topology.constants)),
                activations=float(sum(_elements(topology, t) for t in moved)),
            )
        )
    return found


def _elements(topology: Topology, name: str) -> int:
    shape = topology.shapes.get(name)
    return 0 if shape is None or min(shape, default=0) < 0 else math.prod(shape)
