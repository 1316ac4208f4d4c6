"""Tiles of logits in the forward passes: their sizes and their products."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from edgessl.kernels.fused.tiles import INTERPRETED, products
from edgessl.kernels.problem import PEAK_CELL

__all__ = [
    "INFINITY",
    "LN_2",
    "Blocks",
    "architecture",
    "cells",
    "forward_blocks",
    "load_block",
    "logarithm",
    "processors",
    "tile_products",
]

LN_2 = tl.constexpr(0.6931471805599453)
"""Logits count in base 2; their natural values are these times as large."""

INFINITY = tl.constexpr(float("inf"))


@dataclass(frozen=True)
class Blocks:
    """How a forward kernel is cut into tiles.

    Attributes:
        rows: Rows of a tile; divides `PEAK_CELL`, as ``columns`` does.
        columns: Columns of a tile.
        part: How much of D one step multiplies. From D on, a program keeps whole rows of its
            own side and reads only the other side; below, it reads both sides in parts.
        warps: Of a program.
        stages: How many steps the loads are ahead, and one.
        ahead: Whether strips multiply the next tile while they take this one's exponentials.
    """

    rows: int
    columns: int
    part: int
    warps: int
    stages: int
    ahead: bool = False


def forward_blocks(
    width: int, dtype: torch.dtype, arch: int, *, mutual: bool, peaks: bool = True
) -> Blocks:
    """The tiles of `statistics`, or of the strips of `mutual_statistics`.

    What compiles without spills within shared memory; where that leaves a choice, large tiles,
    which read less.

    Args:
        width: D.
        dtype: Of the rows.
        arch: Compute capability, 90 for 9.0; 0 for Triton's interpreter.
        mutual: Whether for the strips, which need registers for the sums over rows too.
        peaks: Whether the largest logits are left, which takes registers too.
    """
    whole = max(16, triton.next_power_of_2(width))
    # Asynchronous products (wgmma), and shared memory for large tiles.
    hopper = arch == 90
    if dtype == torch.float32:
        # Three products for one; mma.sync has the operands' halves of TF32 in registers.
        part = 32 if hopper or arch == 0 else 16
        return Blocks(64, 64, min(part, whole), 8, 3 if part == 32 else 4)
    ahead = hopper and mutual and not peaks
    if whole <= 128:
        if hopper and mutual:
            # Two programs on one multiprocessor.
            return Blocks(64, 128, whole, 4, 3, ahead)
        return Blocks(128, 64 if hopper else 128, whole, 8, 3)
    if whole == 256:
        # Tiles of 32 KiB, so that the loads of two and more are under way.
        if hopper and mutual:
            return Blocks(64, 128, whole, 4, 4, ahead)
        return Blocks(128, 64, whole, 8, 3 if arch in (80, 87, 90) else 2)
    if hopper:
        return Blocks(128, 128, 64, 8, 4)
    return Blocks(128, 64, 32 if mutual else 64, 8, 4 if mutual else 3)


@triton.jit
def load_block(
    matrix,
    first,
    count,
    BLOCK: tl.constexpr,
    start,
    D: tl.constexpr,
    PART: tl.constexpr,
):
    """(BLOCK, PART) of a contiguous (count, D) matrix from (first, start) on, 0 outside of it."""
    rows = first + tl.arange(0, BLOCK)
    columns = start + tl.arange(0, PART)
    inside = rows[:, None] < count
    if D % PART != 0:
        inside = inside & (columns[None, :] < D)
    place = rows.to(tl.int64)[:, None] * D + columns[None, :]
    return tl.load(matrix + place, mask=inside, other=0.0)


@triton.jit
def tile_products(
    x,
    x_first,
    x_count,
    y,
    y_first,
    y_count,
    kept,
    KEPT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    D: tl.constexpr,
    PART: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """(ROWS, COLUMNS) float32 ⟨xᵢ, yⱼ⟩ of the rows from ``x_first`` and ``y_first`` on.

    KEPT says whose block ``kept`` is: "x", "y", or "" if both are to be read in parts of D.
    """
    if KEPT == "x":
        return products(kept, load_block(y, y_first, y_count, COLUMNS, 0, D, PART), PRECISION)
    elif KEPT == "y":
        return products(load_block(x, x_first, x_count, ROWS, 0, D, PART), kept, PRECISION)
    else:
        sums = tl.zeros((ROWS, COLUMNS), tl.float32)
        for start in range(0, D, PART):
            sums += products(
                load_block(x, x_first, x_count, ROWS, start, D, PART),
                load_block(y, y_first, y_count, COLUMNS, start, D, PART),
                PRECISION,
            )
        return sums


@triton.jit
def logarithm(sums):
    """Natural logarithm; −∞ of 0 without the warning that a division by zero is."""
    empty = sums == 0.0
    return tl.where(empty, -INFINITY, tl.log2(tl.where(empty, 1.0, sums)) * LN_2)


def architecture(tensor: Tensor) -> int:
    """Compute capability of a tensor's device, 90 for 9.0; 0 for the interpreter."""
    if INTERPRETED:
        return 0
    major, minor = torch.cuda.get_device_capability(tensor.device)
    return 10 * major + minor


def processors(tensor: Tensor) -> int:
    """Multiprocessors of a tensor's device; 1 for the interpreter."""
    if INTERPRETED:
        return 1
    return torch.cuda.get_device_properties(tensor.device).multi_processor_count


def cells(peaks: Tensor, blocks: Blocks) -> Tensor:
    """Largest of each cell from the largest of each tile.

    Args:
        peaks: (⌈A/blocks.rows⌉, ⌈B/blocks.columns⌉) float32.
        blocks: Whose tiles divide cells evenly.

    Returns:
        (⌈A/PEAK_CELL⌉, ⌈B/PEAK_CELL⌉) float32.
    """
    for axis, size in enumerate((blocks.rows, blocks.columns)):
        of_one = PEAK_CELL // size
        if of_one > 1:
            missing = -peaks.shape[axis] % of_one
            padding = (0, 0, 0, missing) if axis == 0 else (0, missing)
            padded = torch.nn.functional.pad(peaks, padding, value=-torch.inf)
            peaks = padded.unflatten(axis, (-1, of_one)).amax(axis + 1)
    return peaks
