"""Have OpenVINO round where a quantized graph says so.

The CPU plugin computes a convolution and the residual sum behind it as one, and drops the
quantize-dequantize pair between them: a tenth to a quarter of the sum's integers come out one off.
A Clip to bounds that no activation reaches keeps the two apart.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgessl.compiler.rewrites.topology import Topology, fresh_name
from edgessl.optional import require

__all__ = ["keep_sums_apart"]

_BOUND = np.float32(1e30)
_PAIR = ("QuantizeLinear", "DequantizeLinear")
_SUMS = ("Add", "Sub", "Sum")


def keep_sums_apart(source: Path, out: Path) -> int:
    """Put a Clip on every branch that comes from a quantized layer into a sum.

    Args:
        source: A QDQ ``.onnx`` with the batch fixed.
        out: Where the result goes.

    Returns:
        How many there are.
    """
    onnx = require("onnx", extra="compile")
    model = onnx.load(source)
    topology = Topology(model)
    bounds = [fresh_name(topology, name) for name in ("least", "greatest")]
    nodes, count = list[Any](), 0
    for node in model.graph.node:
        if node.op_type in _SUMS:
            for index, name in enumerate(node.input):
                if not _is_pair(name, topology):
                    continue
                clipped = fresh_name(topology, f"{node.name}/apart_{index}")
                made = onnx.helper.make_node("Clip", [name, *bounds], [clipped], name=clipped)
                node.input[index] = clipped
                nodes.append(made)
                count += 1
        nodes.append(node)
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    if count:
        for name, value in zip(bounds, (-_BOUND, _BOUND), strict=True):
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    onnx.save(model, out)
    return count


def _is_pair(name: str, topology: Topology) -> bool:
    """True for what a pair gives behind a node of the graph."""
    for kind in reversed(_PAIR):
        node = topology.producer.get(name)
        if node is None or node.op_type != kind:
            return False
        name = str(node.input[0])
    return name in topology.producer
