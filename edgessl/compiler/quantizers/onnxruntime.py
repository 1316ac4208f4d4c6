"""INT8 for onnxruntime: static QDQ.

Source: https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgessl.compiler.quantizers import QuantizationJob
from edgessl.compiler.quantizers.preparation import (
    check_quantized,
    prepare_float,
    quiet,
    sort_nodes,
)
from edgessl.compiler.quantizers.release import release_nodes
from edgessl.compiler.ranges import Method, Ranges, cached_ranges
from edgessl.errors import TargetError
from edgessl.optional import require

__all__ = ["OnnxRuntimeQdq", "emit_qdq", "tensors_data", "toolchain"]


_INFINITY = 1e30

# Between the matrix products of a transformer (LayerNorm, Softmax, GELU, residual sums) integers
# cost 17 dB on vit_tiny and gain no time; the products themselves have kernels with float outputs.
_PRODUCTS = ["Gemm", "MatMul"]
_ATTENTION: dict[str, Any] = {
    "operators": ["Conv", "ConvTranspose", *_PRODUCTS],
    "options": {"OpTypesToExcludeOutputQuantization": _PRODUCTS},
}


class OnnxRuntimeQdq:
    """Activations per tensor, weights signed per channel.

    The API's default (scheme s8s8) is slower than float on x86: there the fast instructions
    multiply unsigned by signed.
    """

    @staticmethod
    def quantize(job: QuantizationJob) -> tuple[Path, dict[str, str]]:
        """See `edgessl.compiler.quantizers.Quantizer`; gives an ``.onnx``."""
        if job.precision != "int8":
            raise TargetError(
                f"the scheme {job.scheme} has no precision '{job.precision}'; choose int8"
            )
        quantization = require("onnxruntime.quantization", extra="compile")
        types = quantization.QuantType
        prepared = prepare_float(job.graph, job.folder)
        kept = prepared.resolve(job.keep_float)
        out = job.folder / "quantized.onnx"
        emit_qdq(
            prepared.path,
            out,
            cached_ranges(prepared.path, job.samples),
            method=job.method,
            activation=types.QUInt8 if job.scheme == "u8s8" else types.QInt8,
            weight=types.QInt8,
            per_channel=job.per_channel,
            reduce_range=job.reduce_range,
            exclude=kept,
            **(_ATTENTION if job.graph.attention else {}),
        )
        if kept:
            onnx = require("onnx", extra="compile")
            model = onnx.load(out)
            release_nodes(onnx.load(prepared.path).graph, model, kept)
            onnx.save(model, out)
        return out, toolchain()


def toolchain() -> dict[str, str]:
    """Versions of what writes QDQ graphs."""
    packages = ("onnx", "onnxruntime")
    return {name: str(require(name, extra="compile").__version__) for name in packages}


def emit_qdq(
    source: Path,
    out: Path,
    ranges: Ranges,
    *,
    method: Method,
    activation: Any,
    weight: Any,
    per_channel: bool,
    reduce_range: bool,
    exclude: list[str],
    operators: list[str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> None:
    """Write a QDQ graph with onnxruntime's placement and our ranges.

    Args:
        source: The prepared float ``.onnx``.
        out: Where the integer ``.onnx`` goes.
        ranges: Of all tensors of ``source``.
        method: How a range is chosen.
        activation: ``QuantType`` of activations.
        weight: ``QuantType`` of weights.
        per_channel: One weight scale per output channel.
        reduce_range: Weights keep to 7 bits.
        exclude: Names of nodes that stay in floating point.
        operators: Types of operators to quantize; None takes all that onnxruntime knows.
        options: Further ``extra_options`` of onnxruntime's quantizer.

    Raises:
        ModelError: No node of the graph can be quantized.
    """
    onnx = require("onnx", extra="compile")
    quantizing = require("onnxruntime.quantization.qdq_quantizer", extra="compile")
    registry = require("onnxruntime.quantization.registry", extra="compile")
    model = onnx.shape_inference.infer_shapes(onnx.load(source))
    # Without this mark the quantizer infers shapes again, through files.
    onnx.helper.set_model_props(model, {"onnx.infer": "onnxruntime.quant"})
    known = operators or sorted({*registry.QLinearOpsRegistry, *registry.QDQRegistry})
    levels = {"QInt16": 65536, "QUInt16": 65536}.get(activation.name, 256)
    with quiet():
        quantizer = quantizing.QDQQuantizer(
            model,
            per_channel,
            reduce_range,
            weight,
            activation,
            tensors_data(model, ranges, method, levels=levels),
            [],
            [*exclude, *_odd_biases(model.graph), *_endless(onnx, model.graph)],
            known,
            dict(options or {}),
        )
        quantizer.quantize_model()
    result = quantizer.model.model
    sort_nodes(result.graph)
    check_quantized(result, what="int8")
    del result.metadata_props[:]
    result.producer_name, result.producer_version = "edgessl", ""
    onnx.save(result, out)


def _odd_biases(graph: Any) -> list[str]:
    """Matrix products whose bias is not one number per column; the quantizer gets them wrong."""
    dims = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    odd = []
    for node in graph.node:
        if node.op_type == "Gemm" and node.input[2:] and node.input[2] in dims:
            weight = dims.get(node.input[1], (0, 0))
            transposed = any(a.name == "transB" and a.i for a in node.attribute)
            if dims[node.input[2]] != (weight[0 if transposed else 1],):
                odd.append(node.name)
    return odd


def _endless(onnx: Any, graph: Any) -> list[str]:
    """Nodes with a constant that stands for infinity, as masks have: no integers hold it."""
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    endless = set()
    for tensor in graph.initializer:
        if tensor.data_type in floats:
            values = onnx.numpy_helper.to_array(tensor).astype(np.float64)
            if values.size and not np.abs(values).max() < _INFINITY:
                endless.add(tensor.name)
    return [node.name for node in graph.node if endless.intersection(node.input)]


def tensors_data(model: Any, ranges: Ranges, method: Method, *, levels: int) -> Any:
    """Our ranges as onnxruntime's calibration would hand them to its quantizer."""
    onnx = require("onnx", extra="compile")
    calibrate = require("onnxruntime.quantization.calibrate", extra="compile")
    graph = model.graph
    half = {
        value.name
        for value in [*graph.input, *graph.output, *graph.value_info]
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
    }
    halves = {value.name for value in graph.input}
    halves |= {n.output[0] for n in graph.node if n.op_type in ("HardSigmoid", "Sigmoid")}
    data = {}
    for name in ranges.histograms:
        dtype = np.float16 if name in half else np.float32
        limits = np.finfo(dtype)
        low, high = ranges.range_of(name, method, levels=levels, symmetric=False)
        if name in halves:
            # Pixels of mean 0.5, and sigmoid(0), would lie halfway between two integers, where
            # engines that divide by the scale and those that multiply by its inverse round apart.
            low, high = (end * (1.0 + 1.0 / (2 * (levels - 1))) for end in (low, high))
        data[name] = calibrate.TensorData(
            lowest=np.array(max(low, limits.min), dtype),
            highest=np.array(min(high, limits.max), dtype),
        )
    return calibrate.TensorsData(calibrate.CalibrationMethod.MinMax, data)
