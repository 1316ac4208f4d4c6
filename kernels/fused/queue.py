"""InfoNCE of queries against a queue (MoCo) in Triton: loss and gradient from one pass.

Source: He et al., "Momentum Contrast" (arXiv:1911.05722), eq. 1; the running maximum with sums that
follow it is arXiv:2205.14135, §3.1. The queue's sum S and the key's logit s stay apart until the
end: with t = log S − s the loss is softplus(t), and 1 − P_key = σ(t), so that nothing cancels.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from edgessl.kernels.engine import QueuePass
from edgessl.kernels.fused.finish import (
    block_width,
    finish_rows,
    finishing_block,
    load_splits,
    store_rows,
)
from edgessl.kernels.fused.launch import launch
from edgessl.kernels.fused.logits import architecture
from edgessl.kernels.fused.row_owned import (
    HALF_LIFT,
    column_splits,
    products_with_own,
    tiling,
)
from edgessl.kernels.fused.softplus import LN_2, softplus_and_slope
from edgessl.kernels.fused.tiles import LOG2_E, load_rows, weighted_rows
from edgessl.kernels.problem import Gradient, Rows

__all__ = ["queue"]

_LOWEST = tl.constexpr(-1e38)
"""The maximum of no logits; finite, because −∞ − −∞ is none."""


@triton.jit
def _queue_sums(
    query,
    queue,
    scale,
    highest,
    totals,
    sums,
    query_count,
    queue_count,
    split_columns,
    BOUNDED: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    STEP: tl.constexpr,
):
    """One block of queries against one part of the queue.

    With s in base 2: ``highest`` (S, A) max s, or 0 if BOUNDED; ``totals`` (S, A) Σ 2^(s − max);
    ``sums`` (S, A, D) Σ 2^(s − max)·queue, or None; all float32.
    """
    lift: tl.constexpr = HALF_LIFT if query.dtype.element_ty == tl.float16 else 1.0
    split = tl.program_id(1)
    first_row = tl.program_id(0) * BLOCK_M
    rows = first_row + tl.arange(0, BLOCK_M)
    own = load_rows(query, rows, query_count, D, BLOCK_D)
    exponent_scale = tl.load(scale) * LOG2_E

    high = tl.full((BLOCK_M,), 0.0 if BOUNDED else _LOWEST, tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    weighed = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    first = split * split_columns
    last = tl.minimum(first + split_columns, queue_count)
    for start in range(first, last, BLOCK_N):
        columns = start + tl.arange(0, BLOCK_N)
        other = load_rows(queue, columns, queue_count, D, BLOCK_D)
        dots = products_with_own(
            query,
            own,
            first_row,
            query_count,
            queue,
            other,
            start,
            queue_count,
            BLOCK_M,
            BLOCK_N,
            D,
            STEP,
        )
        s = dots * exponent_scale
        if start + BLOCK_N > queue_count:
            s = tl.where(columns[None, :] < queue_count, s, float("-inf"))
        if BOUNDED:
            weights = tl.exp2(s)
        else:
            higher = tl.maximum(high, tl.max(s, axis=1))
            weights = tl.exp2(s - higher[:, None])
            shrink = tl.exp2(high - higher)
            high = higher
            total *= shrink
            weighed *= shrink[:, None]
        total += tl.sum(weights, axis=1)
        if sums is not None:
            weighed = weighted_rows(weights * lift, other, weighed, "tf32x3")

    place = split.to(tl.int64) * query_count + rows
    tl.store(highest + place, high, mask=rows < query_count)
    tl.store(totals + place, total, mask=rows < query_count)
    if sums is not None:
        part = sums + split.to(tl.int64) * query_count * D
        store_rows(part, rows, query_count, weighed * (1.0 / lift), D)


@triton.jit
def _load_parts(vectors, rows, count, first, splits, other, PARTS: tl.constexpr):
    """(PARTS, ROWS) of (S, count), the splits from ``first`` on; ``other`` outside of it."""
    split = (first + tl.arange(0, PARTS))[:, None]
    inside = (split < splits) & (rows[None, :] < count)
    return tl.load(vectors + split.to(tl.int64) * count + rows[None, :], mask=inside, other=other)


@triton.jit
def _queue_finish(
    query,
    inverse_norm,
    key,
    scale,
    highest,
    totals,
    sums,
    losses,
    pull,
    out,
    along,
    query_count,
    splits,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    ROWS: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Some queries: puts the parts of the queue together, in order, and brings in the key."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = rows < query_count
    own = load_rows(query, rows, query_count, D, BLOCK_D).to(tl.float32)
    positive = load_rows(key, rows, query_count, D, BLOCK_D).to(tl.float32)
    logit_scale = tl.load(scale)
    key_logit = tl.sum(own * positive, axis=1) * (logit_scale * LOG2_E)

    high = tl.full((ROWS,), _LOWEST, tl.float32)
    for first in range(0, splits, PARTS):
        part = _load_parts(highest, rows, query_count, first, splits, _LOWEST, PARTS)
        high = tl.maximum(high, tl.max(part, axis=0))
    total = tl.zeros((ROWS,), tl.float32)
    weighed = tl.zeros((ROWS, BLOCK_D), tl.float32)
    for first in range(0, splits, PARTS):
        part = _load_parts(highest, rows, query_count, first, splits, _LOWEST, PARTS)
        shrink = tl.exp2(part - high[None, :])
        part = _load_parts(totals, rows, query_count, first, splits, 0.0, PARTS)
        total += tl.sum(shrink * part, axis=0)
        if sums is not None:
            part = load_splits(sums, rows, query_count, first, splits, D, BLOCK_D, PARTS)
            weighed += tl.sum(part * shrink[:, :, None], axis=0)

    any_total = tl.where(total > 0.0, total, 1.0)
    queue_logit = tl.where(total > 0.0, high + tl.log2(any_total), float("-inf"))
    loss, others = softplus_and_slope(queue_logit - key_logit)
    tl.store(losses + rows, loss * LN_2, mask=inside)
    tl.store(pull + rows, others, mask=inside)
    if sums is not None:
        mean = weighed / any_total[:, None]
        gradient = (mean - positive) * (logit_scale * others)[:, None]
        finish_rows(gradient, query, rows, query_count, inverse_norm, out, along, D)


def queue(
    query: Rows,
    key: Tensor,
    queue: Tensor,
    scale: Tensor,
    *,
    bounded: bool,
    gradients: bool,
) -> QueuePass:
    """As in `edgessl.kernels.engine.Engine`, for D ≤ 512.

    Sums over the queue go through memory in float32, one for each part that it is cut into: as
    many as it takes to fill the chip, which is one for many queries.
    """
    values = query.values.contiguous()
    count, width = values.shape
    tiles = tiling(width, values.dtype, architecture(values))
    blocks = triton.cdiv(count, tiles.rows)
    splits, split_columns = column_splits(values, blocks, len(queue), tiles)
    highest, totals = values.new_empty(2, splits, count, dtype=torch.float32)
    # Not parts of one tensor: operators must not return such.
    losses, pull, along = (values.new_empty(count, dtype=torch.float32) for _ in range(3))
    sums = out = None
    if gradients:
        sums = values.new_empty(splits, count, width, dtype=torch.float32)
        out = torch.empty_like(values)
    # 2^s up to 2^107 is beyond float16, which weights are rounded to.
    plain = bounded and not (gradients and values.dtype == torch.float16)
    block, parts = finishing_block(splits)
    launch(
        _queue_sums,
        (blocks, splits),
        values,
        values,
        queue.contiguous(),
        scale,
        highest,
        totals,
        sums,
        count,
        len(queue),
        split_columns,
        BOUNDED=plain,
        D=width,
        BLOCK_D=block_width(width),
        BLOCK_M=tiles.rows,
        BLOCK_N=tiles.columns,
        STEP=tiles.step,
        num_warps=tiles.warps,
        num_stages=tiles.stages,
    )
    launch(
        _queue_finish,
        (triton.cdiv(count, block),),
        values,
        values,
        query.inverse_norm,
        key.contiguous(),
        scale,
        highest,
        totals,
        sums,
        losses,
        pull,
        out,
        along,
        count,
        splits,
        D=width,
        BLOCK_D=block_width(width),
        ROWS=block,
        PARTS=parts,
        num_warps=4,
    )
    return QueuePass(losses, pull, None if out is None else Gradient(out, along))
