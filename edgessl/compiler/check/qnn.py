"""Qualcomm NPUs: the provider's own partition of the quantized graph, for the exact chip.

The NPU runs integers, and the provider takes a node or not by its quantized types. So the graph is
quantized as the compiler will do it, with ranges of made-up inputs, which decide nothing about
what is taken; then the provider of x86-64 partitions it for the chip's architecture. It aborts on
some graphs, so this runs in a process of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgessl.compiler.check.inventory import Inventory, label
from edgessl.compiler.check.report import EngineReport, NodeReport
from edgessl.compiler.check.request import CheckRequest
from edgessl.compiler.quantizers import QUANTIZERS, QuantizationJob
from edgessl.compiler.samples import Samples
from edgessl.errors import ModelError, TargetError
from edgessl.optional import require
from edgessl.runtime.engines.onnxruntime import error_types, one_line
from edgessl.runtime.engines.qnn import PROVIDER, QnnOptions, session_options
from edgessl.targets import CandidateSpec
from edgessl.targets.qualcomm import find_soc

__all__ = ["QnnCheck"]

_BOUNDARY = ("QuantizeLinear", "DequantizeLinear")


class QnnCheck:
    """Quantizes for each candidate and asks the provider."""

    @staticmethod
    def check(request: CheckRequest) -> EngineReport:
        """See `edgessl.compiler.check.request.Checker`."""
        if request.target.qualcomm is None:
            raise TargetError(f"{request.target.name}: names no chip for qnn; add [qualcomm] soc")
        soc = find_soc(request.target.qualcomm.soc)
        qnn = require("onnxruntime_qnn", extra="qnn")
        inventory = Inventory(Path(request.graph.path))
        evidence = (
            f"onnxruntime-qnn {qnn.__version__}: partition of the quantized graph for "
            f"v{soc.htp_arch}"
        )
        options = QnnOptions.model_validate(
            {"htp_arch": soc.htp_arch, "soc_model": soc.soc_model, "emulate": True}
        )
        errors = error_types(require("onnxruntime", extra="qnn"))
        elsewhere: dict[str, dict[str, str]] = {}
        problems: list[str] = []
        if not inventory.dynamic:
            for candidate in request.candidates:
                try:
                    elsewhere[candidate.precision] = _elsewhere(request, candidate, options)
                except (ModelError, TargetError) as error:
                    problems.append(f"{candidate.precision}: {error}")
                except errors as error:
                    problems.append(f"{candidate.precision}: quantizing fails: {one_line(error)}")
        nodes = tuple(_node(node, elsewhere) for node in inventory.nodes)
        return EngineReport(
            engine=request.engine,
            device="NPU",
            runs=bool(elsewhere) and not any(node.fallback for node in nodes),
            asked=True,
            evidence=evidence,
            nodes=nodes if elsewhere else (),
            partitions=inventory.partitions({n.name: n.placed_on for n in nodes}),
            problems=tuple(problems) if not elsewhere else (),
            remarks=tuple(problems) if elsewhere else (),
        )


def _elsewhere(
    request: CheckRequest, candidate: CandidateSpec, options: QnnOptions
) -> dict[str, str]:
    """Nodes that the NPU does not take with a candidate's integers: name → operator."""
    ort = require("onnxruntime", extra="qnn")
    folder = Path(request.folder) / candidate.name
    folder.mkdir()
    if candidate.scheme is None:
        raise TargetError(f"{candidate.name}: the NPU computes in integers; name a scheme")
    job = QuantizationJob(
        graph=request.graph,
        samples=Samples(Path(request.samples)),
        folder=folder,
        scheme=candidate.scheme,
        precision=candidate.precision,
        remainder=candidate.remainder,
        per_channel=request.target.quantization.per_channel,
        reduce_range=False,
        method="minmax",
        keep_float=(),
        engine=candidate.engine,
        rough=True,
    )
    quantized, _ = QUANTIZERS.get(candidate.scheme).quantize(job)
    settings = session_options(options, fallback=True)
    # As a context the graph is compiled and not loaded into the emulator, which is faster.
    settings.add_session_config_entry("ep.context_enable", "1")
    settings.add_session_config_entry("ep.context_file_path", str(folder / "context.onnx"))
    try:
        session = ort.InferenceSession(str(quantized), sess_options=settings)
    except error_types(ort) as error:
        raise ModelError(f"the NPU's compiler fails: {one_line(error)}") from error
    found = {
        node.name: node.op_type
        for part in session.get_provider_graph_assignment_info()
        if part.ep_name != PROVIDER
        for node in part.get_nodes()
    }
    # Inputs and outputs are converted on the CPU at the edge of the graph; that is no fallback.
    return {name: kind for name, kind in found.items() if kind not in _BOUNDARY}


def _node(node: Any, elsewhere: dict[str, dict[str, str]]) -> NodeReport:
    taken = tuple(p for p, found in elsewhere.items() if not _is_there(node.name, found))
    refusing = tuple(p for p in elsewhere if p not in taken)
    problem = ""
    if refusing:
        problem = f"the NPU does not take it as {' nor as '.join(refusing)}"
    return NodeReport(
        name=node.name,
        op_type=label(node),
        placed_on="NPU" if taken else "CPU",
        precisions=taken,
        fallback=not taken,
        problem=problem,
    )


def _is_there(name: str, found: dict[str, str]) -> bool:
    """Whether a node, or a part that quantization or the provider's layout made of it, is there."""
    return name in found or any(
        other.startswith(f"{name}_") and other.removeprefix(f"{name}_").isalpha() for other in found
    )
