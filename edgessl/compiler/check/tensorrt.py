"""TensorRT: no engine can be built or asked off the device, so a table of its parser answers.

The table is ``tensorrt.toml`` beside this file, with source and date; the restrictions that one
can see in a graph are functions here. On a ``-dla`` target `edgessl.compiler.check.dla` says what
the DLA takes, and the GPU runs the rest.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from edgessl.compiler.check.dla import MAX_LOADABLES, dla_reason
from edgessl.compiler.check.inventory import Inventory, label
from edgessl.compiler.check.onnxruntime import INTEGER_OPERATORS
from edgessl.compiler.check.report import EngineReport, NodeReport
from edgessl.compiler.check.request import CheckRequest
from edgessl.compiler.rewrites.topology import attribute, nodes_of, opset_of, subgraphs
from edgessl.config import read_toml

__all__ = ["TensorRTCheck", "operator_types"]

_FLOATS = ("fp32", "fp16", "bf16")
_RESIZE_COORDINATES = {
    "align_corners",
    "asymmetric",
    "half_pixel",
    "pytorch_half_pixel",
    "tf_half_pixel_for_nn",
}


@lru_cache(maxsize=1)
def _table() -> dict[str, Any]:
    return read_toml(Path(__file__).with_suffix(".toml"))


@lru_cache(maxsize=1)
def operator_types() -> dict[str, tuple[str, ...]]:
    """Operator that the parser takes → element types that it may compute in."""
    return {
        name: tuple(group["types"])
        for group in _table()["group"]
        for name in group["operators"].split()
    }


class TensorRTCheck:
    """Looks each node up."""

    @staticmethod
    def check(request: CheckRequest) -> EngineReport:
        """See `edgessl.compiler.check.request.Checker`."""
        inventory = Inventory(Path(request.graph.path))
        nvidia = request.target.nvidia
        dla = nvidia is not None and nvidia.dla_core is not None
        nodes = tuple(_node(node, inventory, request, dla=dla) for node in inventory.nodes)
        partitions = inventory.partitions({node.name: node.placed_on for node in nodes})
        problems = _problems(inventory, request)
        loadables = _loadables(inventory, nodes) if dla else 0
        remarks = []
        if loadables > MAX_LOADABLES:
            remarks.append(
                f"the DLA would run {loadables} separate parts, but holds {MAX_LOADABLES} at once; "
                "more of them go to the GPU"
            )
        table = _table()
        evidence = f"table of {table['source']}, read {table['read']}; not asked: no device here"
        if dla:
            evidence += "; DLA: docs.nvidia.com, DLA Supported Layers and Restrictions"
        return EngineReport(
            engine=request.engine,
            device="DLA" if dla else "GPU",
            runs=all(node.placed_on for node in nodes) and not problems,
            asked=False,
            evidence=evidence,
            nodes=nodes,
            partitions=partitions,
            problems=tuple(problems),
            remarks=tuple(remarks),
        )


def _problems(inventory: Inventory, request: CheckRequest) -> list[str]:
    table, opset = _table(), opset_of(inventory.model)
    problems = []
    if not table["min_opset"] <= opset <= table["max_opset"]:
        problems.append(
            f"opset {opset}; TensorRT {table['version']} takes {table['min_opset']} to "
            f"{table['max_opset']}, so export the model with opset 18"
        )
    return problems


def _node(node: Any, inventory: Inventory, request: CheckRequest, *, dla: bool) -> NodeReport:
    refused = _refused(node, inventory)
    types = operator_types().get(node.op_type, ())
    precisions = tuple(
        p
        for p in request.precisions
        if (p in types if p in _FLOATS else node.op_type in INTEGER_OPERATORS)
    )
    where, problem = ("", refused) if refused else ("GPU", "")
    if not refused and dla:
        problem = dla_reason(node, inventory)
        where = "GPU" if problem else "DLA"
    if not problem and "fp64" in inventory.types(node):
        problem = "TensorRT casts float64 down to float32"
    rank, most = inventory.rank(node), request.target.shapes.max_rank
    if where == "DLA" and most is not None and rank > most:
        where, problem = "GPU", f"has a tensor of {rank} dimensions, the DLA takes {most}"
    return NodeReport(
        name=node.name,
        op_type=label(node),
        placed_on=where,
        precisions=precisions if where else (),
        fallback=where != ("DLA" if dla else "GPU"),
        problem=problem,
    )


def _refused(node: Any, inventory: Inventory) -> str:
    """Why the parser does not take a node; empty if it does."""
    if node.domain not in ("", "ai.onnx"):
        return f"{node.domain} is not a domain of TensorRT's parser; it needs a plugin"
    types = operator_types().get(node.op_type)
    if types is None:
        return f"TensorRT's parser has no {node.op_type}"
    for body in subgraphs(node):
        for inner in nodes_of(body):
            if inner.domain not in ("", "ai.onnx") or inner.op_type not in operator_types():
                return f"TensorRT's parser has no {label(inner)}, which its body holds"
    kinds = [inventory.topology.types.get(name, 0) for name in node.input[:1]]
    if kinds and node.op_type not in ("Cast", "CastLike", "DequantizeLinear", "QuantizeLinear"):
        wrong = {6: "int32", 7: "int64", 9: "bool", 8: "string"}.get(kinds[0])
        if wrong is not None and wrong not in types:
            return f"computes in {wrong}; TensorRT has {node.op_type} in {', '.join(types)} only"
    return _restriction(node, inventory)


def _restriction(node: Any, inventory: Inventory) -> str:
    kind = node.op_type
    if kind in ("AveragePool", "LpPool", "MaxPool"):
        if any(size != 1 for size in attribute(node, "dilations", [])):
            return "pooling with dilations is not supported"
        if len(attribute(node, "kernel_shape", [0, 0])) not in (2, 3):
            return "pooling of 2 or 3 dimensions only"
    if kind in ("MaxPool", "LayerNormalization") and any(node.output[1:]):
        return "only the first output is supported"
    if kind == "Resize":
        return _resize(node)
    axes = node.input[1] if kind.startswith("Reduce") and len(node.input) > 1 else ""
    if axes and axes not in inventory.topology.constants:
        return "axes must be a constant"
    if kind == "GridSample" and len(inventory.shape(node.input[0]) or [0] * 4) != 4:
        return "input of 4 dimensions only"
    if kind in ("LSTM", "GRU", "RNN") and attribute(node, "layout", 0):
        return "layout must be 0"
    if kind == "ScatterND" and attribute(node, "reduction", b"none") != b"none":
        return "reduction must be none"
    if kind == "TopK" and not attribute(node, "sorted", 1):
        return "sorted must be 1"
    if kind in ("QuantizeLinear", "DequantizeLinear") and len(node.input) > 2:
        zero = inventory.topology.value(node.input[2])
        if zero is not None and zero.any():
            return "the zero point must be 0"
    return ""


def _resize(node: Any) -> str:
    if attribute(node, "mode", b"nearest") not in (b"nearest", b"linear"):
        return "modes nearest and linear only"
    place = attribute(node, "coordinate_transformation_mode", b"half_pixel").decode()
    if place not in _RESIZE_COORDINATES:
        return f"coordinate transformation '{place}' is not supported"
    return "antialiasing is not supported" if attribute(node, "antialias", 0) else ""


def _loadables(inventory: Inventory, nodes: tuple[NodeReport, ...]) -> int:
    """Parts that the DLA runs; each node elsewhere counts as a part of its own name."""
    placed = {n.name: n.placed_on if n.placed_on == "DLA" else n.name for n in nodes}
    return inventory.partitions(placed) - sum(n.placed_on != "DLA" for n in nodes)
