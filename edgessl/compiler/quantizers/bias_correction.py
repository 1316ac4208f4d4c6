"""Take the mean error of each quantized layer out of its bias.

Rounding weights shifts the mean of a layer's outputs, channel by channel, and later layers
multiply the shift. Layers are corrected in the order in which they compute, each after those
before it: bias ← bias + E[float output] - E[quantized output].

Source: arXiv:1906.04721, section 4.2 ("empirical bias correction")
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgessl.compiler.samples import Samples
from edgessl.optional import require

__all__ = ["correct_biases"]

_CALLS = 16
_LAYERS = ("Conv", "ConvTranspose", "Gemm")
_LIMITS = np.iinfo(np.int32)


class _Layer(NamedTuple):
    """A quantized layer with an integer bias.

    Attributes:
        position: Of its node in the integer graph.
        output: Name of its output, the same in both graphs.
        bias: Name of its integer bias.
        scale: Scale of the bias, ``(1,)`` or ``(channels,)``.
    """

    position: int
    output: str
    bias: str
    scale: NDArray[np.float64]


def correct_biases(
    quantized: Path, original: Path, samples: Samples, *, calls: int = _CALLS
) -> int:
    """Correct the biases of a QDQ model in its file.

    Args:
        quantized: The QDQ ``.onnx``, whose layers have int32 biases behind DequantizeLinear.
        original: The float ``.onnx`` that it was made from; its tensors have the same names.
        samples: Calibration inputs.
        calls: Engine calls over which means are taken.

    Returns:
        How many layers were corrected.
    """
    onnx = require("onnx", extra="compile")
    model, reference = onnx.load(quantized), onnx.load(original)
    produced = {name for node in reference.graph.node for name in node.output}
    layers = [layer for layer in _layers(onnx, model) if layer.output in produced]
    feeds = [samples.feeds(call) for call in range(min(calls, samples.calls))]
    if not layers:
        return 0
    wanted = _means(onnx, reference, [layer.output for layer in layers], feeds)
    for layer in layers:
        # What follows the layer is left out, which halves the time.
        part = onnx.ModelProto()
        part.CopyFrom(model)
        del part.graph.node[layer.position + 1 :]
        found = _means(onnx, part, [layer.output], feeds)[layer.output]
        _shift(onnx, model, layer, wanted[layer.output] - found)
    onnx.save(model, quantized)
    return len(layers)


def _layers(onnx: Any, model: Any) -> list[_Layer]:
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    dequantized = {
        node.output[0]: node for node in model.graph.node if node.op_type == "DequantizeLinear"
    }
    uses: dict[str, int] = {}
    for node in model.graph.node:
        for name in node.input:
            uses[name] = uses.get(name, 0) + 1
    layers = []
    for position, node in enumerate(model.graph.node):
        if node.op_type not in _LAYERS or len(node.input) < 3:
            continue
        source = dequantized.get(node.input[2])
        bias = constants.get(source.input[0]) if source is not None else None
        if source is None or bias is None or bias.data_type != onnx.TensorProto.INT32:
            continue
        # A bias that two layers share has no mean error of its own.
        if uses[node.input[2]] > 1 or uses[bias.name] > 1:
            continue
        scale = onnx.numpy_helper.to_array(constants[source.input[1]]).astype(np.float64)
        layers.append(_Layer(position, node.output[0], bias.name, scale.reshape(-1)))
    return layers


def _shift(onnx: Any, model: Any, layer: _Layer, difference: NDArray[np.float64]) -> None:
    tensor = next(t for t in model.graph.initializer if t.name == layer.bias)
    bias = onnx.numpy_helper.to_array(tensor).astype(np.float64)
    moved = np.rint(bias + difference.reshape(bias.shape) / layer.scale)
    moved = np.clip(moved, _LIMITS.min, _LIMITS.max).astype(np.int32)
    tensor.CopyFrom(onnx.numpy_helper.from_array(moved, layer.bias))


def _means(
    onnx: Any, model: Any, names: list[str], feeds: list[dict[str, Any]]
) -> dict[str, NDArray[np.float64]]:
    """Mean of each tensor per channel (axis 1)."""
    run = _session(onnx, model, names)
    totals: dict[str, NDArray[np.float64]] = {}
    for feed in feeds:
        for name, value in zip(names, run(feed), strict=True):
            axes = tuple(axis for axis in range(value.ndim) if axis != 1)
            mean = value.mean(axis=axes, dtype=np.float64)
            totals[name] = totals.get(name, 0.0) + mean
    return {name: total / len(feeds) for name, total in totals.items()}


def _session(
    onnx: Any, model: Any, names: list[str]
) -> Callable[[dict[str, Any]], list[NDArray[Any]]]:
    """Run a graph up to some tensors, unfused, so that each is what its node computes."""
    ort = require("onnxruntime", extra="compile")
    del model.graph.output[:]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    settings = ort.SessionOptions()
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.log_severity_level = 3
    settings.intra_op_num_threads = 1
    session = ort.InferenceSession(
        model.SerializeToString(), sess_options=settings, providers=["CPUExecutionProvider"]
    )

    def run(feed: dict[str, Any]) -> list[NDArray[Any]]:
        values: list[NDArray[Any]] = session.run(names, feed)
        return values

    return run
