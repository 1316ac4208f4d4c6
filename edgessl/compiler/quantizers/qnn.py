"""A8W8 and A16W8 for Qualcomm's Hexagon NPU, in the form that onnxruntime's QNN provider takes.

Source: https://onnxruntime.ai/docs/execution-providers/QNN-ExecutionProvider.html, "Running a
model with QNN EP's HTP backend".
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgessl.compiler.quantizers import QuantizationJob
from edgessl.compiler.quantizers.bias_correction import correct_biases
from edgessl.compiler.quantizers.headroom import RangesWithHeadroom, bounded_tensors
from edgessl.compiler.quantizers.onnxruntime import emit_qdq, toolchain
from edgessl.compiler.quantizers.preparation import (
    FloatGraph,
    prepare_float,
    quiet,
    trace_names,
)
from edgessl.compiler.quantizers.rounding import round_weights
from edgessl.compiler.ranges import Ranges, cached_ranges
from edgessl.errors import TargetError
from edgessl.optional import require

__all__ = ["Qnn"]

_ACTIVATIONS = {"int8": "QUInt8", "a16w8": "QUInt16"}


class Qnn:
    """Unsigned activations of 8 or 16 bits, unsigned weights of 8 bits.

    With signed weights the NPU's compiler refuses LayerNormalization. MatMul never has a scale
    per channel: the NPU has none. Weights are rounded so that their errors cancel in what a layer
    computes, and biases take the rest: with 16-bit activations, the weights' rounding is most of
    the error.
    """

    @staticmethod
    def quantize(job: QuantizationJob) -> tuple[Path, dict[str, str]]:
        """See `edgessl.compiler.quantizers.Quantizer`; gives an ``.onnx``."""
        if job.precision not in _ACTIVATIONS:
            raise TargetError(
                f"the scheme qnn has no precision '{job.precision}'; "
                f"choose {' or '.join(sorted(_ACTIVATIONS))}"
            )
        onnx = require("onnx", extra="compile")
        quantization = require("onnxruntime.quantization", extra="compile")
        qnn = require("onnxruntime.quantization.execution_providers.qnn", extra="compile")
        types = quantization.QuantType
        activation = getattr(types, _ACTIVATIONS[job.precision])
        prepared = prepare_float(job.graph, job.folder)
        source = job.folder / "fused.onnx"
        with quiet():
            fused = qnn.qnn_preprocess_model(prepared.path, source, fuse_layernorm=True)
        source = source if fused else prepared.path
        model = onnx.load(source)
        del model.metadata_props[:]
        onnx.save(model, source)
        exclude = _resolve(onnx, prepared, model, job.keep_float)
        config = qnn.get_qnn_qdq_config(
            model,
            None,
            activation_type=activation,
            weight_type=types.QUInt8,
            per_channel=job.per_channel,
            nodes_to_exclude=exclude,
        )
        ranges = _ranges(job, prepared, model, source)
        if job.precision == "a16w8":
            ranges = RangesWithHeadroom(ranges.histograms, bounded_tensors(model))
        out = job.folder / "quantized.onnx"
        emit_qdq(
            source,
            out,
            ranges,
            method=job.method,
            activation=activation,
            weight=types.QUInt8,
            per_channel=job.per_channel,
            reduce_range=False,
            exclude=exclude,
            operators=sorted(config.op_types_to_quantize),
            options=config.extra_options,
        )
        if not job.rough:
            round_weights(out, source, job.samples)
            correct_biases(out, source, job.samples)
        return out, toolchain()


def _ranges(job: QuantizationJob, prepared: FloatGraph, model: Any, source: Path) -> Ranges:
    """The ranges that all targets share, or those of the fused graph where it has new tensors."""
    ranges = cached_ranges(prepared.path, job.samples)
    before = {name for node in _load(prepared.path).graph.node for name in node.output}
    after = {name for node in model.graph.node for name in node.output}
    return ranges if after <= before else cached_ranges(source, job.samples)


def _resolve(onnx: Any, prepared: FloatGraph, model: Any, names: tuple[str, ...]) -> list[str]:
    here = {node.name for node in model.graph.node}
    fused = trace_names(_load(prepared.path).graph, model.graph)
    resolved = (name if name in here else fused.get(name) for name in prepared.resolve(names))
    return sorted({name for name in resolved if name is not None})


def _load(path: Path) -> Any:
    return require("onnx", extra="compile").load(path)
