"""Weights and biases on their integer grids, from parameters in floating point.

The grid of a weight follows the least and greatest value of each channel. Quantizers differ in
how they get from values to a grid (levels, clipping, room for a bias), so the rule here is
relative: what the quantizer wrote, times how far the channel has grown since:

    symmetric:   s = s₀ · max|w| / max|w₀|,   z = z₀
    asymmetric:  l = l₀ · min w / min w₀,  h = h₀ · max w / max w₀,
                 s = s₀ · (h - l) / (h₀ - l₀),  z = round(q_min - l / s)

As w = w₀ at first, the first grid is the quantizer's, bit for bit. A bias has the scale of its
layer's input times that of its weights, likewise relative to what was written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgessl.distillation.integers.quantized_graph import Bias, Weight
from edgessl.distillation.integers.rounding import straight_through

__all__ = ["BiasGrid", "WeightGrid", "WeightGrids", "starting_bias", "starting_weight"]

_TINY = torch.finfo(torch.float32).tiny
_INT32 = (-(2.0**31), 2.0**31 - 1)


def starting_weight(weight: Weight) -> NDArray[np.float32]:
    """The float values nearest to the original ones that round to the quantizer's integers.

    They are the original ones, except where a quantizer did not round to the nearest.
    """
    floats = weight.floats.astype(np.float32)
    if weight.integers is None:
        return floats
    shape = [1] * floats.ndim
    if weight.axis is not None:
        shape[weight.axis] = -1
    scale, zero = weight.scale.reshape(shape), weight.zero_point.reshape(shape)
    info = np.iinfo(weight.dtype)
    wanted = weight.integers.astype(np.float32)

    def missed(values: NDArray[np.float32]) -> NDArray[np.bool_]:
        found: NDArray[np.float32] = np.clip(np.rint(values / scale) + zero, info.min, info.max)
        return np.not_equal(found, wanted)

    # A hundredth of a step inside the cell, so that no rounding error leaves it.
    centre = (wanted - zero) * scale
    inside = np.clip(floats, centre - 0.49 * scale, centre + 0.49 * scale).astype(np.float32)
    floats = np.where(missed(floats), inside, floats)
    return np.where(missed(floats), centre, floats).astype(np.float32)


def starting_bias(bias: Bias) -> NDArray[np.float32]:
    """Likewise of a bias."""
    scale = bias.scale.astype(np.float64)
    floats, wanted = bias.floats.astype(np.float64), bias.integers.astype(np.float64)
    inside = np.clip(floats, (wanted - 0.49) * scale, (wanted + 0.49) * scale)
    floats = np.where(np.rint(floats / scale) != wanted, inside, floats)
    return floats.astype(np.float32)


@dataclass(frozen=True)
class WeightGrid:
    """Today's grid of one weight: scale and zero point broadcast against it."""

    scale: Tensor
    zero_point: Tensor | None
    least: float
    most: float

    @torch.no_grad()
    def integers(self, weight: Tensor) -> Tensor:
        """Integers of a weight, as float32."""
        whole = torch.div(weight, self.scale).round_()
        if self.zero_point is not None:
            whole.add_(self.zero_point)
        return whole.clamp_(self.least, self.most)

    def on_grid(self, weight: Tensor) -> Tensor:
        """The weight on its grid, with the straight-through gradient."""
        whole = self.integers(weight)
        if self.zero_point is not None:
            whole.sub_(self.zero_point)
        return straight_through(weight, whole.mul_(self.scale))


class WeightGrids(nn.Module):
    """The grids of all weights of a graph, in vectors over all channels.

    Args:
        weights: Of the graph.
        starts: Values to start from, of each.
    """

    _scale: Tensor
    _symmetric: Tensor
    _zero: Tensor
    _low: Tensor
    _high: Tensor

    def __init__(self, weights: Sequence[Weight], starts: Sequence[Tensor]) -> None:
        super().__init__()
        self._least = [float(np.iinfo(w.dtype).min) for w in weights]
        self._most = [float(np.iinfo(w.dtype).max) for w in weights]
        self._counts = [w.scale.size for w in weights]
        self._shapes = [_shape(w) for w in weights]
        self._dims = [
            [k for k in range(w.floats.ndim) if k != w.axis] or list(range(w.floats.ndim))
            for w in weights
        ]
        self._kept = [w.axis is not None for w in weights]
        symmetric = [_is_symmetric(w) for w in weights]
        self._offset = [
            bool(np.any(w.zero_point)) or not s for w, s in zip(weights, symmetric, strict=True)
        ]
        self._all_symmetric = all(symmetric)

        def flat(values: Sequence[float | bool]) -> Tensor:
            each = [torch.full((n,), float(v)) for n, v in zip(self._counts, values, strict=True)]
            return torch.cat(each) if each else torch.zeros(0)

        scale = [torch.from_numpy(w.scale.copy()) for w in weights]
        zero = [torch.from_numpy(w.zero_point.copy()) for w in weights]
        hold = {
            "_scale": torch.cat(scale) if scale else torch.zeros(0),
            "_zero": torch.cat(zero) if zero else torch.zeros(0),
            "_symmetric": flat(symmetric).bool(),
            "_levels_least": flat(self._least),
            "_levels_most": flat(self._most),
        }
        for name, value in hold.items():
            self.register_buffer(name, value, persistent=False)
        low, high = self._extremes(starts)
        self.register_buffer("_low", low, persistent=False)
        self.register_buffer("_high", high, persistent=False)

    _levels_least: Tensor
    _levels_most: Tensor

    def _extremes(self, weights: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Least and greatest value per channel, zero among them."""
        if not weights:
            return self._scale, self._scale
        with torch.no_grad():
            lows, highs = [], []
            for weight, dims in zip(weights, self._dims, strict=True):
                lows.append(weight.amin(dims).reshape(-1))
                highs.append(weight.amax(dims).reshape(-1))
            return torch.cat(lows).clamp_(max=0.0), torch.cat(highs).clamp_(min=0.0)

    @torch.no_grad()
    def flat(self, weights: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Today's scales and zero points of all channels of all weights."""
        low, high = self._extremes(weights)
        greatest, first = torch.maximum(high, -low), torch.maximum(self._high, -self._low)
        scale = self._scale * torch.where(first > 0, greatest / first, 1.0)
        # A channel that began with zeros has no scale to grow from.
        scale = torch.where((first > 0) | (greatest == 0), scale, greatest / self._levels_most)
        zero = self._zero
        if not self._all_symmetric:
            begin = (self._levels_least - self._zero) * self._scale
            end = (self._levels_most - self._zero) * self._scale
            low = torch.where(self._low < 0, begin * (low / self._low), low)
            high = torch.where(self._high > 0, end * (high / self._high), high)
            span, before = high - low, end - begin
            grown = (self._scale * (span / before)).clamp_(min=_TINY)
            moved = torch.round(self._levels_least - low / grown)
            moved = torch.maximum(moved, self._levels_least).minimum(self._levels_most)
            empty = self._symmetric | (span <= 0)
            scale = torch.where(empty, scale, grown)
            zero = torch.where(empty, self._zero, moved)
        return scale.clamp_(min=_TINY), zero

    def grids(self, scale: Tensor, zero: Tensor) -> list[WeightGrid]:
        """`flat`'s vectors as one grid per weight."""
        scales, zeros = scale.split(self._counts), zero.split(self._counts)
        return [
            WeightGrid(s.reshape(shape), z.reshape(shape) if offset else None, least, most)
            for s, z, shape, offset, least, most in zip(
                scales, zeros, self._shapes, self._offset, self._least, self._most, strict=True
            )
        ]


class BiasGrid(nn.Module):
    """The grids of all biases of a graph, in one vector over all channels.

    Args:
        biases: Of the graph.
        weights: Of the graph.
        range_scales: Scales of the ranges at first.
        weight_scales: Scales of all channels of all weights at first.
    """

    _written: Tensor
    _range: Tensor
    _channel: Tensor
    _first: Tensor

    def __init__(
        self,
        biases: Sequence[Bias],
        weights: Sequence[Weight],
        range_scales: Tensor,
        weight_scales: Tensor,
    ) -> None:
        super().__init__()
        begins = np.cumsum([0, *(w.scale.size for w in weights)])
        ranges, channels, written = [], [], []
        for bias in biases:
            count, size = bias.floats.size, weights[bias.weight].scale.size
            at = np.arange(count) if size == count else np.zeros(count, int)
            ranges.append(np.full(count, bias.range))
            channels.append(begins[bias.weight] + at)
            written.append(np.broadcast_to(bias.scale, (count,)))
        self._counts = [bias.floats.size for bias in biases]
        self.register_buffer("_range", _joined(ranges, torch.int64), persistent=False)
        self.register_buffer("_channel", _joined(channels, torch.int64), persistent=False)
        self.register_buffer("_written", _joined(written, torch.float32), persistent=False)
        first = range_scales[self._range] * weight_scales[self._channel]
        self.register_buffer("_first", first.clamp(min=_TINY), persistent=False)

    def scales(self, range_scales: Tensor, weight_scales: Tensor) -> Tensor:
        """Today's scales of all biases."""
        now = range_scales[self._range] * weight_scales[self._channel]
        return (self._written * (now.clamp_(min=_TINY) / self._first)).clamp_(min=_TINY)

    def integers(self, flat: Tensor, scales: Tensor) -> Tensor:
        """Integers of all biases as float64, which holds every int32."""
        return torch.div(flat.double(), scales.double()).round_().clamp_(*_INT32)

    def on_grid(self, biases: Sequence[Tensor], scales: Tensor) -> Sequence[Tensor]:
        """All biases on their grids."""
        if not biases:
            return []
        flat = torch.cat(list(biases))
        with torch.no_grad():
            rounded = self.integers(flat, scales).float().mul_(scales)
        return self.split(straight_through(flat, rounded))

    def split(self, flat: Tensor) -> Sequence[Tensor]:
        """A vector over all channels as one vector per bias."""
        parts: Sequence[Tensor] = torch.split(flat, self._counts)
        return parts


def _joined(parts: Sequence[NDArray[np.generic]], dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(np.concatenate([np.zeros(0), *parts])).to(dtype)


def _shape(weight: Weight) -> list[int]:
    shape = [1] * weight.floats.ndim
    if weight.axis is not None:
        shape[weight.axis] = weight.scale.size
    return shape


def _is_symmetric(weight: Weight) -> bool:
    """Zero in the middle of the integers: 0 of signed ones, half of unsigned ones."""
    info = np.iinfo(weight.dtype)
    middle = 0 if info.min < 0 else (info.max + 1) // 2
    return bool(np.all(weight.zero_point == middle))
