"""How the backward kernel is cut: what compiles without spills within shared memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton

__all__ = ["GradientBlocks", "column_splits", "gradient_blocks"]


@dataclass(frozen=True)
class GradientBlocks:
    """One way to cut `gradient_kernel`; rows and columns divide `PEAK_CELL`.

    Attributes:
        rows: Of a program.
        columns: Of a tile.
        warps: Of a program.
        stages: How many tiles of columns are on the chip.
        step: Columns of D that are multiplied at a time; 0 for all, rows then stay on the chip.
    """

    rows: int
    columns: int
    warps: int
    stages: int
    step: int = 0


def gradient_blocks(
    width: int, dtype: torch.dtype, arch: int, *, bounded: bool, few: bool
) -> GradientBlocks:
    """The cut for rows of ``width`` ≤ `FUSED_DIM` numbers.

    The gradient alone takes rows·D/(32·warps) of a thread's 255 registers, the logits
    rows·columns/(32·warps); tests/kernels/test_compiled_gradients.py compiles every choice.

    Args:
        width: D.
        dtype: Of rows and columns.
        arch: Compute capability, 90 for 9.0; 0 for Triton's interpreter.
        bounded: Whether one exponential per pair is enough.
        few: Whether there are too few rows to give every multiprocessor 128 of them.
    """
    if arch == 0:  # the interpreter, whose time goes by the number of tiles
        return GradientBlocks(64, 64, 8, 2, step=128 if dtype == torch.float32 else 0)
    large = arch in (90, 100, 103)  # 227 KiB of shared memory, products of four warps
    if dtype == torch.float32:
        if width > 256:
            return GradientBlocks(32, 16, 8, 2, step=16)
        if large:
            return GradientBlocks(64, 64 if width <= 128 else 32, 8, 2, step=16)
        return GradientBlocks(32 if width <= 64 else 64, 32, 8, 2, step=16)
    if large:
        if width <= 128:
            return GradientBlocks(64 if few else 128, 128 if bounded or few else 64, 8, 3)
        if width <= 256:
            return GradientBlocks(64 if few else 128, 64, 8, 3)
        return GradientBlocks(64, 64, 8, 2)
    if width <= 128:
        return GradientBlocks(64 if few else 128, 64, 8, 3)
    if width <= 256:
        return GradientBlocks(64, 64, 8, 2) if few else GradientBlocks(128, 32, 8, 2)
    if arch in (80, 87):
        return GradientBlocks(64, 32, 8, 2)
    return GradientBlocks(32, 32, 8, 2)  # 99 KiB of shared memory


def column_splits(row_blocks: int, column_blocks: int, processors: int) -> int:
    """Into how many parts columns are split, so that few rows fill the chip.

    Every part costs (A, D) float32 sums, so that columns are split only where rows leave half of
    the chip idle, and not into parts of fewer than four blocks.
    """
    wanted = min(processors // row_blocks, column_blocks // 4)
    if wanted < 2:
        return 1
    return int(triton.cdiv(column_blocks, triton.cdiv(column_blocks, wanted)))
