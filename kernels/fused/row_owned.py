"""How passes are cut whose programs own rows and keep (rows, D) sums over the columns they walk."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from edgessl.kernels.fused.logits import processors

__all__ = ["HALF_LIFT", "Tiling", "column_splits", "tiling"]

HALF_LIFT = tl.constexpr(2.0**13)
"""Weights of at most 1 times this are rounded to float16, whose numbers end at 2^-24."""


@dataclass(frozen=True)
class Tiling:
    """The launch of a kernel that keeps sums in registers.

    Attributes:
        rows: BLOCK_M, rows of a program.
        columns: BLOCK_N, columns of a step.
        warps: Of a program.
        stages: How many steps the loads are ahead, and one.
        precision: Of products of float32; "tf32x3" is float32 but for the last bits.
    """

    rows: int
    columns: int
    warps: int = 8
    stages: int = 2
    precision: str = "ieee"


# Each is the largest that tests/kernels/test_compiled_sigmoid.py finds to compile without spills:
# the sums alone take rows·D/256 of 255 registers.
_HALF_90 = {128: Tiling(128, 64), 256: Tiling(128, 64), 512: Tiling(64, 64)}
_HALF_80 = {128: Tiling(128, 64), 256: Tiling(128, 32), 512: Tiling(64, 32)}
_HALF = {128: Tiling(128, 64), 256: Tiling(64, 64), 512: Tiling(32, 32)}
_SINGLE_90 = {128: Tiling(64, 32, precision="tf32x3"), 256: Tiling(64, 32), 512: Tiling(32, 32)}
_SINGLE = {128: Tiling(64, 32), 256: Tiling(64, 32), 512: Tiling(32, 16)}


def tiling(width: int, dtype: torch.dtype, arch: int) -> Tiling:
    """The tiles for rows of D ≤ 512 numbers; ``arch``: 90 for 9.0, 0 for the interpreter."""
    if arch == 0:
        return Tiling(64, 64)
    large = arch in (90, 100, 103)
    if dtype == torch.float32:
        table = _SINGLE_90 if large else _SINGLE
    elif large:
        table = _HALF_90
    else:
        table = _HALF_80 if arch in (80, 87) else _HALF
    return next(tiles for most, tiles in table.items() if width <= most)


def column_splits(tensor: Tensor, row_blocks: int, columns: int, tiles: Tiling) -> tuple[int, int]:
    """In how many parts the columns are cut so that few rows fill the chip, and a part's columns.

    Args:
        tensor: On the device.
        row_blocks: Programs along the rows.
        columns: All of them.
        tiles: Whose blocks of columns are not cut.
    """
    blocks = triton.cdiv(columns, tiles.columns)
    wanted = max(1, processors(tensor) // row_blocks)
    each = max(1, triton.cdiv(blocks, wanted))
    return max(1, triton.cdiv(blocks, each)), each * tiles.columns
