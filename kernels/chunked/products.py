"""Matrix products that are accumulated, and given, in float32 (float64 for float64)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["HALF_SCALE", "Products", "precision_of"]

HALF_SCALE = 2.0**13
"""Weights of pairs are near 1/M, where float16 has few bits left: they are rounded as multiples.

|W| ≤ 4 makes at most 2¹⁵, and float16 ends at 2¹⁶.
"""


def precision_of(dtype: torch.dtype) -> torch.dtype:
    """In which logits and sums of rows of a dtype are kept."""
    return torch.float64 if dtype == torch.float64 else torch.float32


@dataclass
class Products:
    """Products of blocks of rows of one dtype.

    Attributes:
        dtype: Of the rows.
        device: Of the rows.
        rounded: Rows are multiplied in their own dtype, and weights are rounded to it, as tensor
            cores do; else rows are first converted to float32.
    """

    dtype: torch.dtype
    device: torch.device
    rounded: bool
    _buffers: dict[str, Tensor] = field(default_factory=dict)

    @property
    def precision(self) -> torch.dtype:
        """Of sums."""
        return precision_of(self.dtype)

    @property
    def weights_dtype(self) -> torch.dtype:
        """In which weights enter `accumulate`."""
        return self.dtype if self.rounded else self.precision

    @property
    def weights_scale(self) -> float:
        """With which weights are multiplied before they are rounded."""
        return HALF_SCALE if self.weights_dtype == torch.float16 else 1.0

    def block(self, rows: Tensor, own: slice, place: str) -> Tensor:
        """Rows as they are multiplied; converted into the buffer of their place."""
        values = rows[own]
        if self.rounded or rows.dtype == self.precision:
            return values
        return self._buffer(place, values).copy_(values)

    def scaled(self, block: Tensor, scale: Tensor) -> Tensor:
        """A block times a number, in a buffer of its own."""
        return torch.mul(block, scale, out=self._buffer("scaled", block))

    def logits(self, rows: Tensor, columns: Tensor, out: Tensor) -> Tensor:
        """``out`` (A, B) = rows (A, D) · columns (B, D)ᵀ."""
        return self._multiply(rows, columns.T, out)

    def accumulate(self, sums: Tensor, weights: Tensor, columns: Tensor) -> None:
        """``sums`` (A, D) += weights (A, B) · columns (B, D)."""
        if self.rounded:
            sums.add_(self._multiply(weights, columns, self._buffer("sums", sums)))
        else:
            sums.addmm_(weights, columns)

    def _multiply(self, left: Tensor, right: Tensor, out: Tensor) -> Tensor:
        if left.dtype == out.dtype:
            return torch.mm(left, right, out=out)
        if left.is_cuda:
            return torch.mm(left, right, out_dtype=out.dtype, out=out)
        # Other devices have no such product: exact in float32 too, for the same rounded values.
        return torch.mm(left.to(out.dtype), right.to(out.dtype), out=out)

    def _buffer(self, name: str, like: Tensor) -> Tensor:
        found = self._buffers.get(name)
        if found is None or found.numel() < like.numel():
            found = torch.empty(like.numel(), dtype=self.precision, device=self.device)
            self._buffers[name] = found
        return found[: like.numel()].view(like.shape)
