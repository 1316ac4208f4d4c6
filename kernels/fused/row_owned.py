"""How passes are cut whose programs own rows and keep (rows, D) sums over the columns they walk."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from edgessl.kernels.fused.logits import processors, tile_products
from edgessl.kernels.fused.tiles import products

__all__ = ["HALF_LIFT", "Tiling", "column_splits", "products_with_own", "tiling"]

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
        step: How much of D is multiplied at a time for the logits; 0 for all at once, with the
            program's rows kept on the chip.
    """

    rows: int
    columns: int
    warps: int = 8
    stages: int = 2
    step: int = 0


# By the largest D. The sums alone take rows·D/256 of a thread's 255 registers; large tiles read
# less, and these compile without spills within shared memory (test_compiled_sigmoid.py): 227 KiB on
# 90 and 100, 163 KiB on 80 and 87, 99 KiB elsewhere.
_HALF_90 = {128: Tiling(128, 64), 256: Tiling(128, 64), 512: Tiling(64, 64)}
_HALF_100 = {**_HALF_90, 512: Tiling(64, 32)}
_HALF_80 = {128: Tiling(128, 64), 256: Tiling(128, 32), 512: Tiling(64, 32)}
_HALF = {128: Tiling(128, 64), 256: Tiling(64, 64), 512: Tiling(32, 32)}
_SINGLE_90 = {
    128: Tiling(64, 64, step=16),
    256: Tiling(64, 32, step=16),
    512: Tiling(32, 16, step=16),
}
_SINGLE = {
    128: Tiling(64, 32, step=16),
    256: Tiling(64, 16, step=16),
    512: Tiling(32, 16, step=16),
}


def tiling(width: int, dtype: torch.dtype, arch: int) -> Tiling:
    """The tiles for rows of D ≤ 512 numbers; ``arch``: 90 for 9.0, 0 for the interpreter."""
    if arch == 0:
        return Tiling(64, 64, step=32 if dtype == torch.float32 else 0)
    large = arch in (90, 100, 103)
    if dtype == torch.float32:
        table = _SINGLE_90 if large else _SINGLE
    elif large:
        table = _HALF_90 if arch == 90 else _HALF_100
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


@triton.jit
def products_with_own(
    values,
    own,
    first_row,
    row_count,
    column_values,
    other,
    first_column,
    column_count,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    D: tl.constexpr,
    STEP: tl.constexpr,
):
    """(BLOCK_M, BLOCK_N) float32 inner products of a program's rows with a block of columns.

    ``own`` and ``other`` are those rows as `load_rows` has them in ``values`` (row_count, D) and
    ``column_values`` (column_count, D). Float32 is multiplied in three parts of TF32, which for
    whole rows would take more registers than there are; STEP > 0 reads them again, in steps.
    """
    if STEP == 0:
        return products(own, other, "tf32x3")
    else:
        return tile_products(
            values,
            first_row,
            row_count,
            column_values,
            first_column,
            column_count,
            None,
            "",
            BLOCK_M,
            BLOCK_N,
            D,
            STEP,
            "tf32x3",
        )
