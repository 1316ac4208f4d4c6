"""Take the mean error of each quantized layer out of its bias.

Rounding weights shifts the mean of a layer's outputs, channel by channel, and later layers
multiply the shift. Layers are corrected in the order in which they compute, each after those
before it: bias ← bias + E[float output] - E[quantized output].

Source: arXiv:1906.04721, section 4.2 ("empirical bias correction")
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgessl.compiler.quantizers.segments import Segments, open_graph
from edgessl.compiler.samples import Samples
from edgessl.optional import require

__all__ = ["correct_biases"]

_CALLS = 16
_LAYERS = ("Conv", "ConvTranspose", "Gemm")
_LIMITS = np.iinfo(np.int32)


class _Layer(NamedTuple):
    """A quantized layer with an integer bias.

    Attributes:
        output: Name of what it computes. An activation that the quantizer put into the range of
            its output has given it its own name.
        bias: Name of its integer bias.
        scale: Scale of the bias, ``(1,)`` or ``(channels,)``.
    """

    output: str
    bias: str
    scale: NDArray[np.float64]


def correct_biases(
    quantized: Path, original: Path, samples: Samples, *, calls: int = _CALLS
) -> int:
    """Correct the biases of a QDQ model in its file.

    Args:
        quantized: The QDQ ``.onnx``, whose layers have int32 biases behind DequantizeLinear.
        original: The float ``.onnx`` that it was made from; its nodes have the same names.
        samples: Calibration inputs.
        calls: Engine calls over which means are taken.

    Returns:
        How many layers were corrected.
    """
    onnx = require("onnx", extra="compile")
    model, reference = onnx.load(quantized), onnx.load(original)
    outputs = {node.name: node.output[0] for node in reference.graph.node}
    found = _layers(onnx, model)
    layers = {name: layer for name, layer in found.items() if name in outputs}
    if not layers:
        return 0
    feeds = [samples.feeds(call) for call in range(min(calls, samples.calls))]
    run = open_graph(onnx, reference, [outputs[name] for name in layers])
    totals: dict[str, NDArray[np.float64]] = {}
    for feed in feeds:
        for tensor, value in run(feed).items():
            totals[tensor] = totals.get(tensor, 0.0) + _channel_means([value])
    wanted = {name: totals[outputs[name]] / len(feeds) for name in layers}

    segments = Segments(onnx, model, feeds)
    for name in segments.order(list(layers)):
        layer = layers[name]
        segments.run_to(name)
        given = _channel_means([values[layer.output] for values in segments.values])
        shift = _correct(onnx, model, layer, wanted[name] - given)
        for values in segments.values:
            value = values[layer.output]
            moved = value + shift.reshape(1, -1, *(1,) * (value.ndim - 2))
            values[layer.output] = moved.astype(value.dtype)
    onnx.save(model, quantized)
    return len(layers)


def _layers(onnx: Any, model: Any) -> dict[str, _Layer]:
    """Node name → layer."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    dequantized = {
        node.output[0]: node for node in model.graph.node if node.op_type == "DequantizeLinear"
    }
    uses: dict[str, int] = {}
    for node in model.graph.node:
        for name in node.input:
            uses[name] = uses.get(name, 0) + 1
    layers = {}
    for node in model.graph.node:
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
        layers[node.name] = _Layer(node.output[0], bias.name, scale.reshape(-1))
    return layers


def _correct(
    onnx: Any, model: Any, layer: _Layer, difference: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Move the bias; by how much it moved, in steps of its scale."""
    tensor = next(t for t in model.graph.initializer if t.name == layer.bias)
    bias = onnx.numpy_helper.to_array(tensor).astype(np.float64)
    steps = np.rint(difference.reshape(bias.shape) / layer.scale)
    moved = np.clip(bias + steps, _LIMITS.min, _LIMITS.max)
    tensor.CopyFrom(onnx.numpy_helper.from_array(moved.astype(np.int32), layer.bias))
    shift: NDArray[np.float64] = (moved - bias) * layer.scale
    return shift


def _channel_means(values: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
    """Mean over samples and places of each channel (axis 1)."""
    axes = tuple(axis for axis in range(values[0].ndim) if axis != 1)
    means = [value.mean(axis=axes, dtype=np.float64) for value in values]
    mean: NDArray[np.float64] = np.mean(means, axis=0)
    return mean
