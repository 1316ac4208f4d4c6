"""Take the mean error of each quantized layer out of its bias.

Rounding weights shifts the mean of a layer's outputs, channel by channel, and later layers
multiply the shift. Layers are corrected in the order in which they compute, each after those
before it: bias ← bias + E[float output] - E[quantized output].

Source: arXiv:1906.04721, section 4.2 ("empirical bias correction")
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgessl.compiler.quantizers.layers import open_graph
from edgessl.compiler.samples import Samples
from edgessl.optional import require

__all__ = ["correct_biases"]

_CALLS = 16
_LAYERS = ("Conv", "ConvTranspose", "Gemm")
_LIMITS = np.iinfo(np.int32)


class _Layer(NamedTuple):
    """A quantized layer with an integer bias.

    Attributes:
        node: Its name, the same in both graphs.
        output: Name of what it computes here. An activation that the quantizer put into the
            range of its output has given it its own name.
        bias: Name of its integer bias.
        scale: Scale of the bias, ``(1,)`` or ``(channels,)``.
    """

    node: str
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
    # The float graph's order is that of computation; a quantizer appends nodes where it likes.
    order = {name: position for position, name in enumerate(outputs)}
    layers = [layer for layer in _layers(onnx, model) if layer.node in outputs]
    layers.sort(key=lambda layer: order[layer.node])
    feeds = [samples.feeds(call) for call in range(min(calls, samples.calls))]
    if not layers:
        return 0
    wanted = _means(onnx, reference, [outputs[layer.node] for layer in layers], feeds)
    for layer in layers:
        found = _means(onnx, _before(onnx, model, layer), [layer.output], feeds)[layer.output]
        _shift(onnx, model, layer, wanted[outputs[layer.node]] - found)
    onnx.save(model, quantized)
    return len(layers)


def _before(onnx: Any, model: Any, layer: _Layer) -> Any:
    """The model without what the layer does not need, which halves the time."""
    producers = {name: k for k, node in enumerate(model.graph.node) for name in node.output}
    needed: set[int] = set()
    pending = [layer.output]
    while pending:
        k = producers.get(pending.pop())
        if k is not None and k not in needed:
            needed.add(k)
            pending.extend(model.graph.node[k].input)
    part = onnx.ModelProto()
    part.CopyFrom(model)
    kept = [node for k, node in enumerate(model.graph.node) if k in needed]
    del part.graph.node[:]
    part.graph.node.extend(kept)
    return part


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
        layers.append(_Layer(node.name, node.output[0], bias.name, scale.reshape(-1)))
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
    run = open_graph(onnx, model, names)
    totals: dict[str, NDArray[np.float64]] = {}
    for feed in feeds:
        for name, value in run(feed).items():
            axes = tuple(axis for axis in range(value.ndim) if axis != 1)
            mean = value.mean(axis=axes, dtype=np.float64)
            totals[name] = totals.get(name, 0.0) + mean
    return {name: total / len(feeds) for name, total in totals.items()}
