"""Convolutions and matrix products of a QDQ graph, beside the float graph that it was made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["QuantizedLayer", "columns", "find_layers"]

Float = NDArray[np.float64]


@dataclass(frozen=True)
class QuantizedLayer:
    """A convolution or matrix product with constant integer weights.

    A product has one group and a kernel of one: K is the number of values that an output sums.

    Attributes:
        name: Of the node, the same in both graphs.
        tensor: Name of its data input in the float graph.
        weights: ``(groups, outputs, K)``, float.
        scales: ``(groups, outputs)``.
        zero_points: ``(groups, outputs)``.
        integers: Name of the initializer with the integers.
        shape: Its shape.
        dtype: Its dtype.
        transposed: True if its first axis is K.
        biased: True if the layer has a bias, which can take a shift of the mean.
        convolution: Kernel, strides, pads and dilations, two or four numbers each; None for a
            product.
    """

    name: str
    tensor: str
    weights: Float
    scales: Float
    zero_points: Float
    integers: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    transposed: bool
    biased: bool
    convolution: tuple[tuple[int, ...], ...] | None

    @property
    def inputs(self) -> int:
        """K."""
        return int(self.weights.shape[2])

    @property
    def limits(self) -> tuple[int, int]:
        """Least and largest integer of the dtype."""
        info = np.iinfo(self.dtype)
        return int(info.min), int(info.max)

    def shaped(self, integers: Float) -> Float:
        """``(groups, outputs, K)`` in the shape of the initializer."""
        flat = integers.reshape(-1, self.inputs)
        return (flat.T if self.transposed else flat).reshape(self.shape)


def find_layers(onnx: Any, quantized: Any, reference: Any) -> list[QuantizedLayer]:
    """The layers whose weights stand as integers in one graph and as floats in the other."""
    integers = {t.name: t for t in quantized.graph.initializer}
    floats = {t.name: t for t in reference.graph.initializer}
    sources = {
        node.output[0]: node
        for node in quantized.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in integers
    }
    originals = {node.name: node for node in reference.graph.node}
    uses: dict[str, int] = {}
    for node in quantized.graph.node:
        for name in node.input:
            uses[name] = uses.get(name, 0) + 1
    layers = []
    for node in quantized.graph.node:
        original = originals.get(node.name)
        if original is None or original.op_type != node.op_type or len(node.input) < 2:
            continue
        source, weight = sources.get(node.input[1]), floats.get(original.input[1])
        if source is None or weight is None:
            continue
        # Weights that two layers share would be rounded for one of them.
        if uses[node.input[1]] > 1 or uses[source.input[0]] > 1:
            continue
        arrays = [onnx.numpy_helper.to_array(integers[name]) for name in source.input]
        layer = _layer(onnx, original, onnx.numpy_helper.to_array(weight), source, arrays)
        if layer is not None:
            layers.append(layer)
    return layers


def _layer(
    onnx: Any, node: Any, weight: NDArray[Any], source: Any, arrays: list[NDArray[Any]]
) -> QuantizedLayer | None:
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    outputs_first = node.op_type == "Conv" or bool(attributes.get("transB", 0))
    groups, convolution = 1, None
    if node.op_type == "Conv":
        if weight.ndim != 4 or attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
            return None
        groups = int(attributes.get("group", 1))
        convolution = (
            tuple(weight.shape[2:]),
            tuple(attributes.get("strides", (1, 1))),
            tuple(attributes.get("pads", (0, 0, 0, 0))),
            tuple(attributes.get("dilations", (1, 1))),
        )
    elif node.op_type not in ("Gemm", "MatMul") or weight.ndim != 2 or attributes.get("transA"):
        return None
    integers = arrays[0]
    flat = weight.reshape(weight.shape[0], -1) if outputs_first else weight.T
    outputs = flat.shape[0]
    per_output = _per_output(onnx, source, arrays, outputs, axis=0 if outputs_first else 1)
    if per_output is None:
        return None
    scales, zero_points = per_output
    return QuantizedLayer(
        name=node.name,
        tensor=str(node.input[0]),
        weights=flat.astype(np.float64).reshape(groups, outputs // groups, -1),
        scales=scales.reshape(groups, -1),
        zero_points=zero_points.reshape(groups, -1),
        integers=str(source.input[0]),
        shape=tuple(integers.shape),
        dtype=integers.dtype,
        transposed=not outputs_first,
        biased=len(node.input) > 2 and node.input[2] != "",
        convolution=convolution,
    )


def _per_output(
    onnx: Any, source: Any, arrays: list[NDArray[Any]], outputs: int, *, axis: int
) -> tuple[Float, Float] | None:
    """Scale and zero point of each output; None where they follow another axis or blocks."""
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in source.attribute}
    scale = arrays[1].astype(np.float64).reshape(-1)
    if arrays[0].dtype.kind not in "iu" or attributes.get("block_size", 0):
        return None
    if scale.size not in (1, outputs) or (scale.size > 1 and attributes.get("axis", 1) != axis):
        return None
    zero = arrays[2].astype(np.float64).reshape(-1) if len(arrays) > 2 else np.zeros(1)
    # The least scale keeps channels without weights from dividing by zero.
    scale = np.maximum(scale, np.finfo(np.float32).tiny)
    return np.broadcast_to(scale, (outputs,)).copy(), np.broadcast_to(zero, (outputs,)).copy()


def columns(
    value: NDArray[Any], layer: QuantizedLayer, rng: np.random.Generator, *, limit: int
) -> Float:
    """What a layer's outputs sum, at a few places: ``(groups, places, K)``.

    Args:
        value: The layer's data input: ``(N, C, H, W)``, or ``(..., K)`` for a product.
        layer: The layer.
        rng: Draws the places.
        limit: Most places.
    """
    if layer.convolution is None:
        rows = value.reshape(-1, value.shape[-1])
        return rows[_draw(len(rows), limit, rng)][None].astype(np.float64)
    (high, wide), strides, pads, dilations = layer.convolution
    groups = layer.weights.shape[0]
    padded = np.pad(value, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])))
    extent = ((high - 1) * dilations[0] + 1, (wide - 1) * dilations[1] + 1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, extent, axis=(2, 3))
    windows = windows[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]
    samples, channels, rows, across = windows.shape[:4]
    places = _draw(samples * rows * across, limit, rng)
    sample, place = np.divmod(places, rows * across)
    row, column = np.divmod(place, across)
    # Advanced indices apart from one another put the places first.
    picked = windows[sample, :, row, column]
    picked = picked.reshape(len(places), groups, (channels // groups) * high * wide)
    result: Float = picked.transpose(1, 0, 2).astype(np.float64)
    return result


def _draw(count: int, limit: int, rng: np.random.Generator) -> NDArray[np.int64]:
    if count <= limit:
        return np.arange(count)
    return rng.choice(count, limit, replace=False)
