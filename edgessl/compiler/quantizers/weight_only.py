"""Weights of 8 or 4 bits under floating-point activations, for engines that have it.

For models whose time goes into reading weights. No calibration is needed.

Sources: https://docs.openvino.ai, "LLM Weight Compression"; the operator MatMulNBits in
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from edgessl.compiler.quantizers import QuantizationJob
from edgessl.compiler.quantizers.nncf import call_nncf, import_nncf, openvino_names, read_openvino
from edgessl.compiler.quantizers.preparation import prepare_float, quiet
from edgessl.errors import ModelError, TargetError
from edgessl.optional import require

__all__ = ["WeightOnly"]

_BITS = {"w4": 4, "w8": 8}
_OPENVINO_GROUP = 32
_ONNXRUNTIME_BLOCK = 32


class WeightOnly:
    """OpenVINO by NNCF; onnxruntime by its MatMulNBits."""

    @staticmethod
    def quantize(job: QuantizationJob) -> tuple[Path, dict[str, str]]:
        """See `edgessl.compiler.quantizers.Quantizer`; ``.xml`` for OpenVINO, else ``.onnx``."""
        if job.precision not in _BITS:
            raise TargetError(
                f"the scheme weight-only has no precision '{job.precision}'; choose w8 or w4"
            )
        if job.engine == "openvino":
            return _openvino(job)
        if job.engine == "onnxruntime":
            return _onnxruntime(job)
        raise TargetError(
            f"{job.engine} has no weight-only {job.precision}; choose openvino or onnxruntime"
        )


def _openvino(job: QuantizationJob) -> tuple[Path, dict[str, str]]:
    openvino = require("openvino", extra="openvino")
    nncf = import_nncf()
    model = read_openvino(job.graph)
    modes, ignored = nncf.CompressWeightsMode, openvino_names(model, job)
    # Channels that a group does not divide stay at 8 bits.
    four = {"mode": modes.INT4_SYM, "group_size": _OPENVINO_GROUP, "ratio": 1.0}
    parameters = nncf.AdvancedCompressionParameters(
        group_size_fallback_mode=nncf.GroupSizeFallbackMode.IGNORE
    )
    compressed = call_nncf(
        job,
        nncf.compress_weights,
        model,
        **({"mode": modes.INT8_ASYM} if job.precision == "w8" else four),
        ignored_scope=nncf.IgnoredScope(names=ignored, validate=False) if ignored else None,
        **({} if job.precision == "w8" else {"advanced_parameters": parameters}),
    )
    if not _integer_weights(compressed):
        raise _nothing(job)
    out = job.folder / "quantized.xml"
    openvino.save_model(compressed, out, compress_to_fp16=False)
    return out, {"nncf": str(nncf.__version__)}


def _integer_weights(model: Any) -> int:
    kinds = ("i8", "u8", "i4", "u4")
    return sum(
        operation.get_type_name() == "Constant"
        and operation.get_element_type().get_type_name() in kinds
        and any(
            target.get_node().get_type_name() == "Convert"
            for target in operation.output(0).get_target_inputs()
        )
        for operation in model.get_ops()
    )


def _onnxruntime(job: QuantizationJob) -> tuple[Path, dict[str, str]]:
    onnx = require("onnx", extra="compile")
    runtime = require("onnxruntime", extra="compile")
    # MatMulNBits replaces a matrix product alone, not one that is fused with a sum.
    prepared = prepare_float(job.graph, job.folder, fuse=False)
    model = onnx.load(prepared.path)
    exclude = prepared.resolve(job.keep_float)
    # The module sets up the root logger when it is imported, and talks.
    with quiet():
        module = require("onnxruntime.quantization.matmul_nbits_quantizer", extra="compile")
        module.logger.setLevel(logging.ERROR)
        quantizer = module.MatMulNBitsQuantizer(
            model,
            bits=_BITS[job.precision],
            block_size=_ONNXRUNTIME_BLOCK,
            is_symmetric=True,
            nodes_to_exclude=exclude,
        )
        quantizer.process()
    result = quantizer.model.model
    if not any(node.op_type == "MatMulNBits" for node in result.graph.node):
        raise _nothing(job)
    result.producer_name, result.producer_version = "edgessl", ""
    out = job.folder / "quantized.onnx"
    onnx.save(result, out)
    return out, {"onnx": str(onnx.__version__), "onnxruntime": str(runtime.__version__)}


def _nothing(job: QuantizationJob) -> ModelError:
    return ModelError(
        f"{Path(job.graph.path).name}: {job.engine} compresses the weights of matrix products "
        f"to {job.precision}, and the graph has none with constant weights; choose int8"
    )
