"""Ranges of activations while they train: moving averages, or learned scales."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from edgessl.distillation.integers.quantized_graph import Range
from edgessl.distillation.integers.rounding import fake_quantize, fake_quantize_learned

__all__ = ["ActivationRanges", "RangeRule"]

RangeRule = Literal["moving_average", "learned"]

# As in the compiler's headroom for 16-bit activations.
_HEADROOM = 2.0


class ActivationRanges(nn.Module):
    """The ranges of a graph, all in vectors of one element per range.

    Both rules start from the ranges that the quantizer calibrated, leave alone the ranges that
    an operator fixes, and keep within the limits of an activation function.

    ``moving_average``: low ← d·low + (1-d)·min x, high likewise, after each training batch;
    scale and zero point follow. A batch is rounded on the ranges of the batches before it.
    ``learned``: scale = s₀·exp(θ) with θ a parameter that starts at zero; zero points stay.

    Args:
        ranges: Of the graph.
        symmetric: True if every zero point is 0 and stays so.
        rule: How ranges move.
        decay: Of the moving average.

    Source: arXiv:1712.05877, section 3.1; arXiv:1902.08153
    """

    scale: Tensor
    zero_point: Tensor
    low: Tensor
    high: Tensor
    frozen: Tensor

    def __init__(
        self, ranges: Sequence[Range], *, symmetric: bool, rule: RangeRule, decay: float
    ) -> None:
        super().__init__()
        self._rule, self._decay, self._symmetric = rule, decay, symmetric
        info = [np.iinfo(r.dtype) for r in ranges]
        least = torch.tensor([float(i.min) for i in info])
        most = torch.tensor([float(i.max) for i in info])
        self.register_buffer("scale", torch.tensor([r.scale for r in ranges]))
        self.register_buffer("zero_point", torch.tensor([float(r.zero_point) for r in ranges]))
        self.register_buffer("low", (least - self.zero_point) * self.scale)
        self.register_buffer("high", (most - self.zero_point) * self.scale)
        self.register_buffer("frozen", torch.tensor(False))
        if symmetric:
            self.low = -self.high
        limits = torch.tensor([[r.low, r.high] for r in ranges]).reshape(-1, 2)
        limits[~torch.isfinite(limits)] = torch.inf
        limits[:, 0] = torch.where(torch.isinf(limits[:, 0]), -torch.inf, limits[:, 0])
        self.register_buffer("_least", least, persistent=False)
        self.register_buffer("_most", most, persistent=False)
        self.register_buffer("_lower", limits[:, 0].clone(), persistent=False)
        self.register_buffer("_upper", limits[:, 1].clone(), persistent=False)
        moves = torch.tensor([not r.fixed for r in ranges])
        self.register_buffer("_moves", moves, persistent=False)
        wide = [_HEADROOM if r.dtype.itemsize > 1 else 1.0 for r in ranges]
        self.register_buffer("_headroom", torch.tensor(wide), persistent=False)
        if rule == "learned":
            self.log_growth = nn.Parameter(torch.zeros(len(ranges)))
            room = torch.where(most > self.zero_point, self._upper / (most - self.zero_point), 1e30)
            self.register_buffer("_most_scale", torch.maximum(room, self.scale), persistent=False)

    _least: Tensor
    _most: Tensor
    _lower: Tensor
    _upper: Tensor
    _moves: Tensor
    _headroom: Tensor
    _most_scale: Tensor

    def scales(self) -> Tensor:
        """Today's scales, ``(ranges,)``; with a gradient where they are learned."""
        if self._rule != "learned":
            return self.scale
        growth = torch.where(self._moves, self.log_growth, 0.0)
        if self.frozen:
            growth = growth.detach()
        return torch.minimum(self.scale * torch.exp(growth), self._most_scale)

    @property
    def watches(self) -> bool:
        """True if a training batch moves the ranges by what it holds."""
        return self.training and self._rule == "moving_average" and not bool(self.frozen)

    def moving(self) -> list[bool]:
        """Which ranges a batch can move."""
        moves: list[bool] = self._moves.tolist()
        return moves

    def grids(self) -> Grids:
        """Today's grids, as numbers that the operators take."""
        return Grids(self.scales(), self._least - self.zero_point, self._most - self.zero_point)

    @torch.no_grad()
    def move(self, seen: Mapping[int, tuple[Tensor, Tensor]]) -> None:
        """Move the ranges.

        Args:
            seen: Index of a range → least and greatest value of the batch.
        """
        if not seen:
            return
        device = self.low.device
        where = torch.tensor(list(seen), device=device)
        room = self._headroom[where]
        low = torch.stack([pair[0] for pair in seen.values()]).to(device) * room
        high = torch.stack([pair[1] for pair in seen.values()]).to(device) * room
        low = torch.maximum(low, self._lower[where]).clamp_(max=0.0)
        high = torch.minimum(high, self._upper[where]).clamp_(min=0.0)
        if self._symmetric:
            high = torch.maximum(high, -low)
            low = -high
        low = torch.lerp(self.low[where], low, 1 - self._decay)
        high = torch.lerp(self.high[where], high, 1 - self._decay)
        least, most = self._least[where], self._most[where]
        tiny = torch.finfo(torch.float32).tiny
        if self._symmetric:
            scale, zero = (high / most).clamp_(min=tiny), torch.zeros_like(high)
        else:
            scale = ((high - low) / (most - least)).clamp_(min=tiny)
            zero = torch.round(least - low / scale).clamp_(least, most)
        # A batch with NaN or infinity leaves its ranges where they were.
        good = torch.isfinite(low) & torch.isfinite(high)
        for buffer, value in (
            (self.low, low),
            (self.high, high),
            (self.scale, scale),
            (self.zero_point, zero),
        ):
            buffer[where] = torch.where(good, value, buffer[where])


class Grids:
    """The grids of one pass through the graph.

    Args:
        scales: ``(ranges,)``.
        low: Least integers less the zero points.
        high: Greatest integers less the zero points.
    """

    def __init__(self, scales: Tensor, low: Tensor, high: Tensor) -> None:
        self._learned = list(scales.unbind()) if scales.requires_grad else None
        # One transfer from the device for all ranges.
        self._numbers = torch.stack([scales.detach(), low, high], dim=1).tolist()

    def apply(self, x: Tensor, number: int) -> Tensor:
        """Fake quantization of a tensor by a range."""
        scale, low, high = self._numbers[number]
        if self._learned is not None and torch.is_grad_enabled():
            return fake_quantize_learned(x, self._learned[number], low, high)
        return fake_quantize(x, scale, low, high)
