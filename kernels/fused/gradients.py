"""Backward passes over logits that are computed anew, each row's gradient by one program."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from edgessl.kernels.fused.finish import finish_splits
from edgessl.kernels.fused.gradient_blocks import column_splits, gradient_blocks
from edgessl.kernels.fused.gradient_kernel import gradient_kernel, prepare_terms
from edgessl.kernels.fused.launch import launch
from edgessl.kernels.fused.logits import architecture, processors
from edgessl.kernels.fused.skipping import keep_cells
from edgessl.kernels.problem import PEAK_CELL, Gradient, Pairs, Rows, Skip, Terms

__all__ = ["gradients", "mutual_gradients", "row_gradient"]


@dataclass(frozen=True)
class _Prepared:
    """Terms as the kernel reads them; shifts are None if logits are bounded."""

    terms: Terms
    factors: Tensor
    shifts: Tensor | None


def _prepare(terms: Terms, *, bounded: bool, dtype: torch.dtype) -> _Prepared:
    weight = terms.weight.contiguous()
    log_normalizer = terms.log_normalizer.contiguous()
    made = torch.empty_like(log_normalizer)
    prepared = _Prepared(
        Terms(log_normalizer, weight, terms.pull.contiguous()),
        made if bounded else weight,
        None if bounded else made,
    )
    block = 1024
    launch(
        prepare_terms,
        (triton.cdiv(len(weight), block),),
        log_normalizer,
        log_normalizer,
        weight,
        prepared.factors,
        prepared.shifts,
        len(weight),
        HALF=dtype == torch.float16,
        BLOCK=block,
        num_warps=4,
    )
    return prepared


def row_gradient(
    rows: Rows,
    columns: Tensor,
    scale: Tensor,
    pairs: Pairs,
    row_terms: _Prepared,
    column_terms: _Prepared,
    factor: Tensor,
    *,
    skip: Skip | None,
    splits: int | None = None,
) -> Gradient:
    """One launch of `gradient_kernel`, and of the sum over parts of the columns if there are.

    ``splits`` None: as many parts as fill the chip.
    """
    values = rows.values.contiguous()
    columns = columns.contiguous()
    count, width = values.shape
    available = processors(values)
    blocks = gradient_blocks(
        width,
        values.dtype,
        architecture(values),
        bounded=row_terms.shifts is None,
        few=triton.cdiv(count, PEAK_CELL) < available,
    )
    row_blocks = triton.cdiv(count, blocks.rows)
    if splits is None:
        splits = column_splits(row_blocks, triton.cdiv(len(columns), blocks.columns), available)
    split = splits > 1
    if split:
        out = torch.empty(splits, count, width, dtype=torch.float32, device=values.device)
        along = None
    else:
        out = torch.empty_like(values)
        along = torch.empty(count, dtype=torch.float32, device=values.device)
    kept, numbers = (None, None)
    if skip is not None:
        kept, numbers = keep_cells(skip, row_terms.terms, column_terms.terms)
    labels = pairs.kind == "labels"
    launch(
        gradient_kernel,
        (row_blocks, splits),
        values,
        values,
        columns,
        pairs.row_labels.contiguous() if labels and pairs.row_labels is not None else None,
        pairs.column_labels.contiguous() if labels and pairs.column_labels is not None else None,
        row_terms.factors,
        row_terms.shifts,
        row_terms.terms.pull,
        column_terms.factors,
        column_terms.shifts,
        column_terms.terms.pull,
        scale,
        factor,
        None if split else rows.inverse_norm,
        kept,
        numbers,
        out,
        along,
        count,
        len(columns),
        triton.cdiv(len(columns), PEAK_CELL),
        pairs.offset,
        KIND=pairs.kind,
        BOUNDED=row_terms.shifts is None,
        SKIPPING=skip is not None,
        SPLIT=split,
        CELL=PEAK_CELL,
        D=width,
        BLOCK_M=blocks.rows,
        BLOCK_N=blocks.columns,
        BLOCK_D=max(16, triton.next_power_of_2(width)),
        STEP=blocks.step,
        PRECISION="tf32x3",
        num_warps=blocks.warps,
        num_stages=blocks.stages,
    )
    if along is None:
        return finish_splits(out, Rows(values, rows.inverse_norm))
    return Gradient(out, along)


def gradients(
    rows: Rows,
    columns: Tensor,
    scale: Tensor,
    pairs: Pairs,
    row_terms: Terms,
    column_terms: Terms,
    factor: Tensor,
    *,
    bounded: bool,
    skip: Skip | None,
) -> Gradient:
    """Gradient of the rows, as `Engine` says; D ≤ 512, not float64."""
    dtype = rows.values.dtype
    own = _prepare(row_terms, bounded=bounded, dtype=dtype)
    other = own
    if column_terms is not row_terms:
        other = _prepare(column_terms, bounded=bounded, dtype=dtype)
    return row_gradient(rows, columns, scale, pairs, own, other, factor, skip=skip)


def mutual_gradients(
    rows: Rows,
    columns: Rows | None,
    scale: Tensor,
    pairs: Pairs,
    row_terms: Terms,
    column_terms: Terms,
    factor: Tensor,
    *,
    bounded: bool,
    skip: Skip | None,
) -> tuple[Gradient, Gradient]:
    """Gradients of the rows and of the columns, as `Engine` says: a pass over each."""
    dtype = rows.values.dtype
    own = _prepare(row_terms, bounded=bounded, dtype=dtype)
    if columns is None:
        gradient = row_gradient(rows, rows.values, scale, pairs, own, own, factor, skip=skip)
        return gradient, gradient
    other = _prepare(column_terms, bounded=bounded, dtype=dtype)
    flipped = Pairs(pairs.kind, -pairs.offset, pairs.column_labels, pairs.row_labels)
    transposed = None if skip is None else Skip(skip.peaks.T, skip.threshold)
    return (
        row_gradient(rows, columns.values, scale, pairs, own, other, factor, skip=skip),
        row_gradient(columns, rows.values, scale, flipped, other, own, factor, skip=transposed),
    )
