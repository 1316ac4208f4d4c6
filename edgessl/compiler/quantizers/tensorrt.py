"""INT8 as TensorRT wants it: symmetric QDQ around the inputs of the layers that gain from it.

The graph stays in float32; the weights stay float initializers behind a quantize-dequantize pair,
because TensorRT folds the pair itself.

Source: https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/
work-quantized-types.html ("Explicit Quantization", "Q/DQ Placement Recommendations").
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgessl.compiler.quantizers import QuantizationJob
from edgessl.compiler.quantizers.placement import Placement, place, place_everywhere
from edgessl.compiler.quantizers.preparation import check_quantized, prepare_float
from edgessl.compiler.ranges import Ranges, cached_ranges
from edgessl.errors import ModelError, TargetError
from edgessl.optional import require

__all__ = ["TensorRT", "activation_scales"]

# The least integer has no opposite and stays unused.
_LEVELS, _GREATEST = 256, 127
_FLOAT = "/float"


class TensorRT:
    """Zero points of 0, activations per tensor, weights per output channel, float biases.

    The scheme ``tensorrt`` leaves a layer in floating point where integers gain nothing; for
    the deep-learning accelerator (``tensorrt-dla``) every tensor has a scale.
    """

    @staticmethod
    def quantize(job: QuantizationJob) -> tuple[Path, dict[str, str]]:
        """See `edgessl.compiler.quantizers.Quantizer`; gives an ``.onnx``."""
        if job.precision != "int8":
            raise TargetError(
                f"the scheme {job.scheme} has no precision '{job.precision}'; choose int8"
            )
        onnx = require("onnx", extra="compile")
        prepared = prepare_float(job.graph, job.folder)
        ranges = cached_ranges(prepared.path, job.samples)
        model = onnx.shape_inference.infer_shapes(onnx.load(prepared.path))
        _check(onnx, model)
        keep_float = frozenset(prepared.resolve(job.keep_float))
        placer = place_everywhere if job.scheme == "tensorrt-dla" else place
        placement = placer(onnx, model.graph, keep_float)
        _Emitter(onnx, model.graph, ranges, job).apply(placement)
        check_quantized(model, what="int8 for TensorRT")
        onnx.checker.check_model(model)
        out = job.folder / "quantized.onnx"
        onnx.save(model, out)
        runtime = require("onnxruntime", extra="compile")
        return out, {"onnx": str(onnx.__version__), "onnxruntime": str(runtime.__version__)}


def activation_scales(model: Any) -> dict[str, float]:
    """Scale of every tensor that a graph of this module quantizes, weights left out.

    The accelerator of releases before 10.16 takes scales beside a graph without pairs.

    Args:
        model: The ``onnx.ModelProto``.
    """
    onnx = require("onnx", extra="compile")
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    scales = {}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] not in values:
            name = node.input[0].removesuffix(_FLOAT)
            scales[name] = float(onnx.numpy_helper.to_array(values[node.input[1]]))
    return scales


def _check(onnx: Any, model: Any) -> None:
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx"):
            raise ModelError(
                f"node '{node.name}' is {node.domain}.{node.op_type}, which TensorRT does not "
                "know; export the model with operators of ONNX"
            )
    half = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    for tensor in model.graph.initializer:
        if tensor.data_type in half:
            raise ModelError(
                f"weight '{tensor.name}' is 16-bit floating point; integers for TensorRT start "
                "from a float32 model, so export it in float32"
            )


class _Emitter:
    """Adds the pairs of a placement to a graph, in place."""

    def __init__(self, onnx: Any, graph: Any, ranges: Ranges, job: QuantizationJob) -> None:
        self._onnx, self._graph, self._ranges = onnx, graph, ranges
        self._method, self._per_channel = job.method, job.per_channel
        self._weights = {tensor.name: tensor for tensor in graph.initializer}
        self._values: dict[str, NDArray[Any]] = {}

    def apply(self, placement: Placement) -> None:
        """Write each pair before the node that reads it; TensorRT shares none."""
        nodes: list[Any] = []
        for node in self._graph.node:
            for index in placement.inputs.get(node.name, ()):
                where = f"{node.name}/input_{index}"
                pair = self._pair(node.input[index], where, self._activation(node.input[index]))
                node.input[index] = pair[1].output[0]
                nodes += pair
            if node.name in placement.weights:
                axis = placement.weights[node.name] if self._per_channel else None
                scale = self._weight_scale(node.input[1], axis, node.name)
                pair = self._pair(node.input[1], f"{node.name}/weight", scale, axis)
                node.input[1] = pair[1].output[0]
                nodes += pair
            nodes.append(node)
        for name in placement.outputs:
            self._rename(nodes, name, name + _FLOAT)
            pair = self._pair(name + _FLOAT, f"{name}/output", self._activation(name))
            pair[1].output[0] = name
            nodes += pair
        copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
        del self._graph.node[:]
        self._graph.node.extend(copies)

    def _pair(self, tensor: str, where: str, scale: str, axis: int | None = None) -> list[Any]:
        attributes = {} if axis is None else {"axis": axis}
        zero = self._constant(f"{scale}/zero_point", np.zeros_like(self._values[scale], np.int8))
        make = self._onnx.helper.make_node
        integers, floats = f"{where}/quantized", f"{where}/dequantized"
        return [
            make("QuantizeLinear", [tensor, scale, zero], [integers], f"{where}/Q", **attributes),
            make(
                "DequantizeLinear", [integers, scale, zero], [floats], f"{where}/DQ", **attributes
            ),
        ]

    def _activation(self, tensor: str) -> str:
        _, high = self._ranges.range_of(tensor, self._method, levels=_LEVELS, symmetric=True)
        return self._constant(f"{tensor}/scale", _scales(np.array(high)))

    def _weight_scale(self, weight: str, axis: int | None, node: str) -> str:
        values = np.abs(self._onnx.numpy_helper.to_array(self._weights[weight]))
        others = None if axis is None else tuple(k for k in range(values.ndim) if k != axis)
        return self._constant(f"{node}/weight/scale", _scales(values.max(axis=others)))

    def _constant(self, name: str, value: NDArray[Any]) -> str:
        if name not in self._values:
            self._values[name] = value
            self._graph.initializer.append(self._onnx.numpy_helper.from_array(value, name))
        return name

    @staticmethod
    def _rename(nodes: list[Any], old: str, new: str) -> None:
        for node in nodes:
            for names in (node.input, node.output):
                for index, name in enumerate(names):
                    if name == old:
                        names[index] = new


def _scales(greatest: NDArray[Any]) -> NDArray[np.float32]:
    """Of what is all zero any scale will do."""
    scales = np.where(greatest > 0, greatest / _GREATEST, 1.0).astype(np.float32)
    positive: NDArray[np.float32] = np.maximum(scales, np.finfo(np.float32).tiny)
    return positive
