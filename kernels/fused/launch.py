"""How every kernel is started."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["launch"]


def launch(kernel: Any, grid: tuple[int, ...], on: Tensor, *arguments: Any, **options: Any) -> None:
    """Start a kernel on the device of a tensor, which need not be the current one.

    Multiplications and additions are fused, which Triton 3.10 will do only where it is told to.

    Args:
        kernel: A function of Triton.
        grid: Programs along each axis.
        on: Any of the tensors.
        arguments: Of the kernel, in its order.
        options: Its constants, ``num_warps`` and ``num_stages``.
    """
    with torch.cuda.device_of(on):
        kernel[grid](*arguments, enable_fp_fusion=True, **options)
