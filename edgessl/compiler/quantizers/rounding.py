"""Round weights so that their errors cancel in what the layer computes.

Nearest rounding treats every weight alone. Here a layer's weights are rounded one after another,
and what each rounding loses is made up for by those that are still to come, as the moments of the
layer's inputs say. The integer grid, its scales and zero points, stays as it was.

With a layer's inputs X, (K, samples), and H = X Xᵀ: the error tr(E H Eᵀ) of the weights' error E
is reduced column by column; U is the upper Cholesky factor of H⁻¹:
e_i = (w_i - round(w_i)) / U_ii, then w_j ← w_j - e_i U_ij for all j > i. Where the layer has a
bias, X is centred, and a shift of the mean is left to
`edgessl.compiler.quantizers.bias_correction`.

Source: arXiv:2210.17323 (GPTQ), algorithm 1; arXiv:2208.11580, section 4
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgessl.compiler.quantizers.layers import QuantizedLayer, columns, find_layers
from edgessl.compiler.quantizers.segments import open_graph
from edgessl.compiler.samples import Samples
from edgessl.optional import require

__all__ = ["round_weights", "rounded"]

Float = NDArray[np.float64]

_CALLS = 16
_POSITIONS = 512
_DAMPING = 0.01
_TINY = 1e-12
_BLOCK = 64
_MAX_INPUTS = 1536
"""Wider layers keep nearest rounding: work grows with the third power of K, memory with K²."""


@dataclass
class _Moments:
    """Sums over the samples of one layer's inputs, ``(groups, K)`` and ``(groups, K, K)``."""

    count: int
    first: Float
    second: Float

    def about(self, *, mean: bool) -> Float:
        """Second moments about the mean or about zero, ``(groups, K, K)``."""
        centre = self.first / self.count if mean else np.zeros_like(self.first)
        return self.second / self.count - centre[:, :, None] * centre[:, None, :]


def round_weights(
    quantized: Path, original: Path, samples: Samples, *, calls: int = _CALLS, seed: int = 0
) -> int:
    """Round the weights of a QDQ model anew, in its file.

    Args:
        quantized: The QDQ ``.onnx``, with integer weights behind DequantizeLinear.
        original: The float ``.onnx`` that it was made from; its nodes have the same names.
        samples: Calibration inputs.
        calls: Engine calls over which moments are taken.
        seed: Draws the places of an image that count.

    Returns:
        How many layers were rounded.
    """
    onnx = require("onnx", extra="compile")
    model, reference = onnx.load(quantized), onnx.load(original)
    layers = [layer for layer in find_layers(onnx, model, reference) if layer.inputs <= _MAX_INPUTS]
    moments = _moments(onnx, reference, layers, samples, calls, seed)
    integers = {tensor.name: tensor for tensor in model.graph.initializer}
    for layer in layers:
        result = rounded(
            layer.weights,
            layer.scales,
            layer.zero_points,
            moments[layer.name].about(mean=layer.biased),
            limits=layer.limits,
        )
        tensor = integers[layer.integers]
        values = layer.shaped(result).astype(layer.dtype)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, layer.integers))
    onnx.save(model, quantized)
    return len(layers)


def rounded(
    weights: Float, scales: Float, zero_points: Float, moments: Float, *, limits: tuple[int, int]
) -> Float:
    """Integers of one layer.

    Args:
        weights: ``(groups, outputs, K)``.
        scales: ``(groups, outputs)``.
        zero_points: The same shape.
        moments: Second moments of the inputs, ``(groups, K, K)``.
        limits: Least and largest integer.

    Returns:
        ``(groups, outputs, K)``.
    """
    inputs = weights.shape[2]
    spread = np.einsum("gii->gi", moments)
    order = np.argsort(-spread, axis=1, kind="stable")
    left = np.take_along_axis(weights, order[:, None, :], axis=2)
    factor = _factor(moments, spread, order)
    result = np.empty_like(left)
    for start in range(0, inputs, _BLOCK):
        end = min(start + _BLOCK, inputs)
        lost = np.empty((*left.shape[:2], end - start))
        for i in range(start, end):
            column = left[:, :, i]
            integer = np.clip(np.rint(column / scales) + zero_points, *limits)
            result[:, :, i] = integer
            loss = (column - (integer - zero_points) * scales) / factor[:, i, i][:, None]
            left[:, :, i + 1 : end] -= loss[:, :, None] * factor[:, None, i, i + 1 : end]
            lost[:, :, i - start] = loss
        # What the block lost, made up for by all that follow it, as one product.
        left[:, :, end:] -= lost @ factor[:, start:end, end:]
    back = np.argsort(order, axis=1, kind="stable")
    return np.take_along_axis(result, back[:, None, :], axis=2)


def _factor(moments: Float, spread: Float, order: NDArray[np.intp]) -> Float:
    """Upper Cholesky factor of the damped inverse, with the inputs in order."""
    damping = _DAMPING * spread.mean(axis=1) + _TINY
    damped = moments + np.eye(moments.shape[1]) * damping[:, None, None]
    damped = np.take_along_axis(damped, order[:, :, None], axis=1)
    damped = np.take_along_axis(damped, order[:, None, :], axis=2)
    inverse = np.linalg.inv(damped)
    # Rounding leaves the inverse a little asymmetric.
    lower = np.linalg.cholesky((inverse + inverse.transpose(0, 2, 1)) / 2)
    upper: Float = lower.transpose(0, 2, 1)
    return upper


def _moments(
    onnx: Any,
    reference: Any,
    layers: list[QuantizedLayer],
    samples: Samples,
    calls: int,
    seed: int,
) -> dict[str, _Moments]:
    names = sorted({layer.tensor for layer in layers})
    run = open_graph(onnx, reference, names)
    rng = np.random.default_rng(seed)
    moments: dict[str, _Moments] = {}
    for call in range(min(calls, samples.calls)):
        values = run(samples.feeds(call))
        for layer in layers:
            x = columns(values[layer.tensor], layer, rng, limit=_POSITIONS)
            known = moments.get(layer.name)
            first, second = x.sum(axis=1), x.transpose(0, 2, 1) @ x
            if known is None:
                moments[layer.name] = _Moments(x.shape[1], first, second)
            else:
                known.count += x.shape[1]
                known.first += first
                known.second += second
    return moments
