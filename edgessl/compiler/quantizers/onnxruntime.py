"""INT8 for onnxruntime: static QDQ.

Source: https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgessl.compiler.graph_info import GraphInfo
from edgessl.compiler.quantizers import QuantizationJob
from edgessl.compiler.samples import Samples
from edgessl.optional import require

__all__ = ["OnnxRuntimeQdq"]

# Per-channel DequantizeLinear exists from opset 13 on.
_MIN_OPSET = 13


class OnnxRuntimeQdq:
    """Activations per tensor, weights signed per channel, ranges by minimum and maximum.

    The API's default (scheme s8s8) is slower than float on x86: there the fast instructions
    multiply unsigned by signed. Minimum and maximum are reduced sample by sample; the histogram
    methods keep every activation of every sample in memory.
    """

    @staticmethod
    def quantize(job: QuantizationJob) -> tuple[Path, dict[str, str]]:
        """See `edgessl.compiler.quantizers.Quantizer`; gives an ``.onnx``."""
        onnx = require("onnx", extra="compile")
        quantization = require("onnxruntime.quantization", extra="compile")
        shape_inference = require("onnxruntime.quantization.shape_inference", extra="compile")
        types = quantization.QuantType
        inferred, out = job.folder / "inferred.onnx", job.folder / "quantized.onnx"
        source = _raise_opset(onnx, job.graph, job.folder / "raised.onnx")
        # Shapes are fixed except in sequence models; symbolic inference needs sympy for no gain.
        shape_inference.quant_pre_process(source, inferred, skip_symbolic_shape=True)
        quantization.quantize_static(
            inferred,
            out,
            _Reader(job.samples),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=types.QUInt8 if job.scheme == "u8s8" else types.QInt8,
            weight_type=types.QInt8,
            per_channel=job.per_channel,
            reduce_range=job.reduce_range,
            calibrate_method=quantization.CalibrationMethod.MinMax,
        )
        runtime = require("onnxruntime", extra="compile")
        return out, {"onnx": str(onnx.__version__), "onnxruntime": str(runtime.__version__)}


def _raise_opset(onnx: Any, graph: GraphInfo, out: Path) -> Path:
    if graph.opset >= _MIN_OPSET:
        return Path(graph.path)
    model = onnx.load(graph.path)
    onnx.save(onnx.version_converter.convert_version(model, _MIN_OPSET), out)
    return out


class _Reader:
    """Feeds the samples one call at a time, as onnxruntime's calibrators ask for them."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples
        self._calls = iter(range(samples.calls))

    def get_next(self) -> dict[str, Any] | None:
        """The next call's feeds; None at the end."""
        call = next(self._calls, None)
        return None if call is None else self._samples.feeds(call)
