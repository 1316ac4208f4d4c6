"""INT8 for OpenVINO by NNCF.

Source: https://docs.openvino.ai, "Basic Quantization Flow".
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from edgessl.compiler.graph_info import GraphInfo
from edgessl.compiler.quantizers import QuantizationJob
from edgessl.compiler.quantizers.preparation import prepare_float
from edgessl.compiler.ranges import Method
from edgessl.errors import ModelError, TargetError
from edgessl.optional import require

__all__ = ["Nncf", "call_nncf", "import_nncf", "openvino_names", "read_openvino"]

# How far SmoothQuant moves the spread of activations into the weights of a matrix product.
_SMOOTH_QUANT_ALPHA = 0.95


class Nncf:
    """Symmetric activations (preset performance) for CNNs, mixed for transformers.

    Biases are corrected for the mean error of their layer; transformers get SmoothQuant. NNCF
    places the integers and scales weights per output channel.
    """

    @staticmethod
    def quantize(job: QuantizationJob) -> tuple[Path, dict[str, str]]:
        """See `edgessl.compiler.quantizers.Quantizer`; gives an ``.xml``."""
        if job.precision != "int8":
            raise TargetError(
                f"the scheme nncf has no precision '{job.precision}'; choose int8, or the scheme "
                "weight-only for w8 and w4"
            )
        openvino = require("openvino", extra="openvino")
        nncf = import_nncf()
        attention = job.graph.attention
        presets, fixes = nncf.QuantizationPreset, nncf.OverflowFix
        model = read_openvino(job.graph)
        ignored = openvino_names(model, job)
        arguments = {
            "preset": presets.MIXED if attention else presets.PERFORMANCE,
            "model_type": nncf.ModelType.TRANSFORMER if attention else None,
            "subset_size": job.samples.calls,
            "fast_bias_correction": True,
            "ignored_scope": nncf.IgnoredScope(names=ignored, validate=False) if ignored else None,
            "advanced_parameters": nncf.AdvancedQuantizationParameters(
                overflow_fix=fixes.ENABLE if job.reduce_range else fixes.DISABLE,
                smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(
                    matmul=_SMOOTH_QUANT_ALPHA if attention else -1
                ),
                **_estimators(nncf, job.method),
            ),
        }
        samples = nncf.Dataset(range(job.samples.calls), job.samples.feeds)
        quantized = call_nncf(job, nncf.quantize, model, samples, **arguments)
        out = job.folder / "quantized.xml"
        openvino.save_model(quantized, out, compress_to_fp16=False)
        return out, {"nncf": str(nncf.__version__)}


def import_nncf() -> Any:
    """The package, silent and without its reports of usage to a server."""
    # Read when the package is imported.
    os.environ.setdefault("NNCF_CI", "1")
    nncf = require("nncf", extra="compile")
    logging.getLogger("nncf").setLevel(logging.ERROR)
    return nncf


def read_openvino(graph: GraphInfo) -> Any:
    """The ``openvino.Model`` of a graph.

    Raises:
        ModelError: OpenVINO cannot read it.
    """
    openvino = require("openvino", extra="openvino")
    try:
        return openvino.Core().read_model(graph.path)
    except RuntimeError as error:
        # The last line says which operators; those before say where in OpenVINO's sources.
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ModelError(
            f"{Path(graph.path).name}: OpenVINO cannot read the graph ({lines[-1][:160]}); "
            "choose a candidate of onnxruntime"
        ) from error


def call_nncf(job: QuantizationJob, function: Any, *arguments: Any, **options: Any) -> Any:
    """Call a function of NNCF.

    Raises:
        ModelError: It does not manage the graph.
    """
    try:
        return function(*arguments, **options)
    except Exception as error:  # NNCF raises its own classes and OpenVINO's RuntimeError
        # The text holds numbers that differ between runs, and the reason goes into the bundle.
        raise ModelError(
            f"{Path(job.graph.path).name}: NNCF fails on the graph ({type(error).__name__}); "
            "choose a candidate of onnxruntime, or bf16 or fp32"
        ) from error


def openvino_names(model: Any, job: QuantizationJob) -> list[str]:
    """Names of OpenVINO's operations that nodes of the ONNX graph became.

    A node may become several operations. They lie between the tensors that it reads and the one
    that it computes; tensors keep their names.

    Args:
        model: The ``openvino.Model`` of the job's graph.
        job: Says which nodes stay in floating point.
    """
    if not job.keep_float:
        return []
    onnx = require("onnx", extra="compile")
    prepared = prepare_float(job.graph, job.folder)
    resolved = set(prepared.resolve(job.keep_float))
    graph = onnx.load(prepared.path).graph
    producers = {
        name: output.get_node()
        for operation in model.get_ordered_ops()
        for output in operation.outputs()
        for name in output.get_names()
    }
    found: set[str] = set()
    for node in graph.node:
        if node.name not in resolved:
            continue
        sources = {producers[n].get_friendly_name() for n in node.input if n in producers}
        pending = [producers[name] for name in node.output if name in producers]
        while pending:
            operation = pending.pop()
            name = operation.get_friendly_name()
            if name in found or name in sources or operation.get_type_name() == "Constant":
                continue
            found.add(name)
            pending += [value.get_source_output().get_node() for value in operation.inputs()]
    return sorted(found)


def _estimators(nncf: Any, method: Method) -> dict[str, Any]:
    """NNCF collects its own statistics; its default stands for minimum and maximum."""
    if method == "minmax":
        return {}
    if method == "entropy":
        raise TargetError("nncf has no 'entropy' ranges; choose minmax, percentile or mse")
    estimation = require("nncf.quantization.range_estimator", extra="compile")
    known = estimation.RangeEstimatorParametersSet
    chosen = {"percentile": known.MEAN_QUANTILE, "mse": known.HISTOGRAM}[method]
    return {"activations_range_estimator_params": chosen}
