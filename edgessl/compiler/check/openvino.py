"""OpenVINO: its converter names the nodes that it does not know, a plugin those it does not run.

A plugin answers for its own device only. Where that device is not in this machine, the CPU plugin
answers in its place, and the report says so; for Intel's NPU a short table of its limits comes on
top. Source of the table: https://docs.openvino.ai/2025/openvino-workflow/running-inference/
inference-devices-and-modes/npu-device.html and the operators' definitions, read in November 2026.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgessl.compiler.check.inventory import Inventory, label
from edgessl.compiler.check.onnxruntime import INTEGER_OPERATORS
from edgessl.compiler.check.report import EngineReport, NodeReport
from edgessl.compiler.check.request import CheckRequest
from edgessl.optional import require

__all__ = ["OpenVINOCheck"]

_UNKNOWN = "ONNXFrameworkNode"
# The NPU takes graphs of fixed shapes; these give results whose size depends on the data.
_DATA_DEPENDENT = frozenset({"Compress", "NonMaxSuppression", "NonZero", "Unique"})
# Not stated in the documentation; seen to be refused by the NPU's compiler in public reports.
_UNCERTAIN_ON_NPU = frozenset({"If", "Loop", "Scan", "SequenceAt", "SequenceConstruct"})


class OpenVINOCheck:
    """Converts as far as possible, then asks the plugin."""

    @staticmethod
    def check(request: CheckRequest) -> EngineReport:
        """See `edgessl.compiler.check.request.Checker`."""
        openvino = require("openvino", extra="openvino")
        inventory = Inventory(Path(request.graph.path))
        device = str(request.target.engine_options.get("openvino", {}).get("device", "CPU"))
        core = openvino.Core()
        present = [name.partition(".")[0] for name in core.available_devices]
        asked = device if device in present else "CPU"
        refused, problems = _refused(openvino, core, inventory, request.graph.path, asked)
        if device == "NPU":
            for node in inventory.nodes:
                reason = _npu_reason(node.op_type)
                if reason:
                    refused.setdefault(node.name, reason)
        nodes = tuple(_node(node, refused, device, inventory, request) for node in inventory.nodes)
        evidence = f"OpenVINO {openvino.__version__}: converter and query_model of the {asked}"
        if asked != device:
            evidence += f"; this machine has no {device}, which may refuse more"
        if device == "NPU":
            evidence += "; table of the NPU's limits (docs.openvino.ai, November 2026)"
        return EngineReport(
            engine=request.engine,
            device=device,
            runs=not any(node.fallback for node in nodes) and not problems,
            asked=asked == device,
            evidence=evidence,
            nodes=nodes,
            partitions=inventory.partitions({node.name: node.placed_on for node in nodes}),
            problems=problems,
        )


def _refused(
    openvino: Any, core: Any, inventory: Inventory, path: str, device: str
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Node name → why it is not taken; and what is wrong with the whole graph."""
    names = {output: node.name for node in inventory.nodes for output in node.output}
    names |= {node.name: node.name for node in inventory.nodes}
    try:
        model = core.read_model(path)
    except RuntimeError as error:
        return _unconverted(openvino, path, names, _line(error))
    taken = core.query_model(model, device)
    found, problems = {}, []
    for operation in model.get_ops():
        name = operation.get_friendly_name()
        if name in taken:
            continue
        reason = f"{operation.get_type_name()} is not taken by OpenVINO's {device} plugin"
        node = names.get(name) or _owner(operation, names)
        if node is None:
            problems.append(f"{name}: {reason}")
        else:
            found[node] = reason
    return found, tuple(problems)


def _owner(operation: Any, names: dict[str, str]) -> str | None:
    """The ONNX node behind an operation that OpenVINO made of a part of it."""
    waiting, seen = [operation], 0
    while waiting and seen < 100:
        current = waiting.pop(0)
        seen += 1
        for output in current.outputs():
            for reader in output.get_target_inputs():
                name = names.get(reader.get_node().get_friendly_name())
                if name is not None:
                    return name
                waiting.append(reader.get_node())
    return None


def _unconverted(
    openvino: Any, path: str, names: dict[str, str], reason: str
) -> tuple[dict[str, str], tuple[str, ...]]:
    frontend = openvino.frontend.FrontEndManager().load_by_framework("onnx")
    try:
        partly = frontend.convert_partially(frontend.load(path))
    except RuntimeError as error:
        return {}, (_line(error),)
    found = {}
    for operation in partly.get_ops():
        if operation.get_type_name() == _UNKNOWN:
            node = names.get(operation.get_friendly_name())
            if node is not None:
                found[node] = "OpenVINO's converter does not take it"
    return found, () if found else (reason,)


def _npu_reason(op_type: str) -> str:
    if op_type in _DATA_DEPENDENT:
        return "the size of its result depends on the data, and the NPU takes static shapes only"
    if op_type in _UNCERTAIN_ON_NPU:
        return "control flow and sequences are reported not to compile for the NPU (uncertain)"
    return ""


def _node(
    node: Any, refused: dict[str, str], device: str, inventory: Inventory, request: CheckRequest
) -> NodeReport:
    problem = refused.get(node.name, "")
    integer = node.op_type in INTEGER_OPERATORS and not node.domain
    precisions = tuple(p for p in request.precisions if p in ("fp32", "bf16", "fp16") or integer)
    if not problem and device == "NPU" and "fp64" in inventory.types(node):
        problem = "float64 becomes fp16 on the NPU; export the model in float32"
    return NodeReport(
        name=node.name,
        op_type=label(node),
        placed_on="" if node.name in refused else device,
        precisions=() if node.name in refused else precisions,
        fallback=node.name in refused,
        problem=problem,
    )


def _line(error: Exception) -> str:
    """The converter's reason, without the places in its source that stand before it."""
    text = " ".join(str(error).split())
    for start in ("Summary:", "Model wasn't fully converted."):
        if start in text:
            return text[text.index(start) :][:200]
    return text[-200:]
