"""onnxruntime on a CPU: the engine itself opens the graph and says where each node is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgessl.compiler.check.inventory import Inventory, label
from edgessl.compiler.check.report import EngineReport, NodeReport
from edgessl.compiler.check.request import CheckRequest
from edgessl.compiler.rewrites.topology import subgraphs
from edgessl.optional import require
from edgessl.runtime.engines.onnxruntime import error_types, one_line

__all__ = ["INTEGER_OPERATORS", "OnnxRuntimeCheck"]

# Where quantizers put integers; what lies between these follows them.
INTEGER_OPERATORS = frozenset(
    {
        "Add",
        "AveragePool",
        "Concat",
        "Conv",
        "ConvTranspose",
        "Gemm",
        "GlobalAveragePool",
        "MatMul",
        "MaxPool",
        "Mul",
    }
)
_PROVIDERS = ["CPUExecutionProvider"]


class OnnxRuntimeCheck:
    """Opens a session without its own rewrites, so that each node is still itself."""

    @staticmethod
    def check(request: CheckRequest) -> EngineReport:
        """See `edgessl.compiler.check.request.Checker`."""
        ort = require("onnxruntime", extra="compile")
        inventory = Inventory(Path(request.graph.path))
        problems: tuple[str, ...] = ()
        refused: dict[str, str] = {}
        try:
            session = ort.InferenceSession(request.graph.path, _options(ort), providers=_PROVIDERS)
            placed = {
                node.name: part.ep_name.removesuffix("ExecutionProvider")
                for part in session.get_provider_graph_assignment_info()
                for node in part.get_nodes()
            }
        except error_types(ort) as error:
            placed = {}
            refused = _refused(ort, inventory)
            problems = () if refused else (one_line(error),)
        nodes = tuple(_node(node, placed, refused, request) for node in inventory.nodes)
        return EngineReport(
            engine=request.engine,
            device="CPU",
            runs=not refused and not problems,
            asked=True,
            evidence=f"onnxruntime {ort.__version__}: node assignment of an opened session",
            nodes=nodes,
            partitions=inventory.partitions({node.name: node.placed_on for node in nodes}),
            problems=problems,
        )


def _options(ort: Any) -> Any:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return options


def _node(
    node: Any, placed: dict[str, str], refused: dict[str, str], request: CheckRequest
) -> NodeReport:
    problem = refused.get(node.name, "")
    # Constants are folded before nodes are assigned; where nothing is refused they run nowhere.
    where = "" if problem else placed.get(node.name, "CPU")
    integer = node.op_type in INTEGER_OPERATORS and not node.domain
    precisions = tuple(p for p in request.precisions if p == "fp32" or integer)
    return NodeReport(
        name=node.name,
        op_type=label(node),
        placed_on=where,
        precisions=() if problem else precisions,
        fallback=bool(problem),
        problem=problem,
    )


def _refused(ort: Any, inventory: Inventory) -> dict[str, str]:
    """The nodes that do not open alone: the engine's own error stops at the first."""
    onnx = require("onnx", extra="compile")
    found = {}
    for node in inventory.nodes:
        if any(True for _ in subgraphs(node)):
            continue
        alone = _alone(onnx, node, inventory)
        try:
            ort.InferenceSession(alone, _options(ort), providers=_PROVIDERS)
        except error_types(ort) as error:
            found[node.name] = one_line(error)
    return found


def _alone(onnx: Any, node: Any, inventory: Inventory) -> bytes:
    topology, helper = inventory.topology, onnx.helper
    names = list(dict.fromkeys(name for name in node.input if name))
    constants = [topology.constants[name] for name in names if name in topology.constants]
    inputs = [
        helper.make_tensor_value_info(
            name, topology.types.get(name) or 1, topology.shapes.get(name)
        )
        for name in names
        if name not in topology.constants
    ]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    graph = helper.make_graph([node], "alone", inputs, outputs, constants)
    opsets = list(inventory.model.opset_import)
    model = helper.make_model(graph, opset_imports=opsets, ir_version=inventory.model.ir_version)
    serialized: bytes = model.SerializeToString()
    return serialized
