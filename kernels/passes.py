"""How a loss is passed over: what is known about it before a single logit is computed."""

from __future__ import annotations

import torch
from torch import Tensor

from edgessl.kernels.implementations import Chosen

__all__ = ["FUSED_DIM", "is_bounded", "skips_tiles"]

FUSED_DIM = 512
"""Widest rows of Triton's fused kernels, which keep a gradient in registers; wider ones are
multiplied tile by tile."""

_BOUNDED_SCALE = 74.0
"""exp(±74), summed over a million rows, stays a normal float32, whose range is exp(±87)."""


_SHARP_SCALE = 50.0
"""Scale from which on some of the blocks of pairs can vanish (benchmarks/kernels/skipping.py)."""


def is_bounded(scale: float | Tensor, normalize: bool) -> bool:
    """Whether no exponential of a logit can leave float32, known without waiting for a GPU."""
    return normalize and not isinstance(scale, Tensor) and scale <= _BOUNDED_SCALE


def skips_tiles(asked: bool | None, chosen: Chosen, rows: Tensor, scale: float | Tensor) -> bool:
    """Whether the backward may leave out blocks of pairs.

    None: in float16 and bfloat16 from a scale of 50 (τ = 0.02) on that is a number. Below, nothing
    vanishes, and looking for it costs the forward its overlap of products and exponentials.
    """
    if chosen != "triton" or rows.shape[1] > FUSED_DIM:
        return False
    if asked is not None:
        return asked
    sharp = not isinstance(scale, Tensor) and scale >= _SHARP_SCALE
    return sharp and rows.dtype != torch.float32
