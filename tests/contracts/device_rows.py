"""Where Triton's kernels run in tests, and tensors in memory that they must not read beyond."""

from __future__ import annotations

import torch
from torch import Tensor

from edgessl.kernels.fused.tiles import INTERPRETED

__all__ = ["DEVICE", "followed_by_nan"]

DEVICE = "cpu" if INTERPRETED else "cuda"

_MARGIN = 4096


def followed_by_nan(tensor: Tensor) -> Tensor:
    """The same numbers on the device, with NaN before and after them in memory."""
    memory = torch.full(
        (_MARGIN + tensor.numel() + _MARGIN,), torch.nan, dtype=tensor.dtype, device=DEVICE
    )
    inside = memory[_MARGIN : _MARGIN + tensor.numel()].view(tensor.shape)
    return inside.copy_(tensor)
