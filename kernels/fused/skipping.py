"""Which cells of the logits a backward pass has to visit."""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from edgessl.kernels.fused.launch import launch
from edgessl.kernels.problem import PEAK_CELL, Skip, Terms

__all__ = ["keep_cells"]


@triton.jit
def _keep_cells(
    peaks,
    row_least,
    row_most,
    column_least,
    column_most,
    threshold,
    kept,
    numbers,
    cells,
    row_stride,
    column_stride,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    row_shift = tl.load(row_least + row)
    row_weight = tl.load(row_most + row)
    limit = tl.load(threshold)
    number = 0
    for start in range(0, cells, BLOCK):
        cell = start + tl.arange(0, BLOCK)
        inside = cell < cells
        place = peaks + row * row_stride + cell.to(tl.int64) * column_stride
        peak = tl.load(place, mask=inside, other=float("-inf"))
        column_shift = tl.load(column_least + cell, mask=inside, other=float("inf"))
        column_weight = tl.load(column_most + cell, mask=inside, other=0.0)
        # A peak of ∞ is a positive's, one of −∞ of a cell in which nothing counts. No logit that
        # counts is above its L, but for rounding: the minimum bounds only what is not to overflow.
        finite = tl.where((peak > float("-inf")) & (peak < float("inf")), peak, 0.0)
        largest = row_weight * tl.exp(tl.minimum(finite - row_shift, 80.0))
        largest += column_weight * tl.exp(tl.minimum(finite - column_shift, 80.0))
        keep = (peak == float("inf")) | ((peak > float("-inf")) & (largest >= limit))
        keep = (inside & keep).to(tl.int32)
        order = number + tl.cumsum(keep, axis=0) - keep
        tl.store(kept + row * cells + order, cell, mask=keep == 1)
        number += tl.sum(keep, axis=0)
    tl.store(numbers + row, number)


def _extremes(terms: Terms) -> tuple[Tensor, Tensor]:
    """Smallest L and largest |a| of each cell: two (⌈A/PEAK_CELL⌉,) float32."""
    missing = -len(terms.weight) % PEAK_CELL
    least = F.pad(terms.log_normalizer, (0, missing), value=torch.inf)
    most = F.pad(terms.weight.abs(), (0, missing))
    return least.view(-1, PEAK_CELL).amin(1), most.view(-1, PEAK_CELL).amax(1)


def keep_cells(skip: Skip, rows: Terms, columns: Terms) -> tuple[Tensor, Tensor]:
    """The cells whose weights are not certainly below the threshold, row by row.

    No weight of a cell is above exp(peak − min L)·max|a| of its rows plus the same of its columns,
    as exp grows; a cell with a positive has a peak of +∞.

    Returns:
        (R, C) int32, of which the first kept[r] in row r are columns of cells, in order; (R,)
        int32 kept.
    """
    height, width = skip.peaks.shape
    kept = torch.empty(height, width, dtype=torch.int32, device=skip.peaks.device)
    numbers = torch.empty(height, dtype=torch.int32, device=skip.peaks.device)
    row_least, row_most = _extremes(rows)
    column_least, column_most = (row_least, row_most) if rows is columns else _extremes(columns)
    launch(
        _keep_cells,
        (height,),
        skip.peaks,
        skip.peaks,
        row_least,
        row_most,
        column_least,
        column_most,
        skip.threshold,
        kept,
        numbers,
        width,
        skip.peaks.stride(0),
        skip.peaks.stride(1),
        BLOCK=min(1024, triton.next_power_of_2(width)),
        num_warps=4,
    )
    return kept, numbers
