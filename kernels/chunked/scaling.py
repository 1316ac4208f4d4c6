"""Rows scaled to unit length, and gradients brought back through that."""

from __future__ import annotations

import torch
from torch import Tensor

from edgessl.kernels.chunked.products import precision_of
from edgessl.kernels.chunked.tiling import spans
from edgessl.kernels.problem import Gradient, Rows

__all__ = ["empty_gradient", "finish", "unit_rows"]

_BLOCK_VALUES = 2**18
"""How many values are converted at once: temporaries stay small beside the rows."""


def unit_rows(z: Tensor) -> Rows:
    """Rows (A, D) scaled to unit length in float32 and rounded once to z's dtype.

    Division by the largest magnitude first keeps the squares of very small and very large rows in
    range. Rows of zeros stay zeros.
    """
    values = torch.empty_like(z, memory_format=torch.contiguous_format)
    inverse_norm = torch.empty(z.shape[0], dtype=precision_of(z.dtype), device=z.device)
    for own in spans(0, z.shape[0], _block(z)):
        rows = z[own].to(inverse_norm.dtype)
        largest = torch.linalg.vector_norm(rows, torch.inf, dim=1, keepdim=True)
        is_zero = largest == 0
        largest.masked_fill_(is_zero, 1)
        rows = rows / largest
        norm = torch.linalg.vector_norm(rows, dim=1, keepdim=True).masked_fill_(is_zero, 1)
        values[own] = rows.div_(norm)
        # Of the smallest numbers 1/x is infinite, and infinity times a gradient of 0 is NaN.
        inverse = (1 / norm).div_(largest).clamp_(max=torch.finfo(norm.dtype).max)
        inverse_norm[own] = inverse.masked_fill_(is_zero, 0)[:, 0]
    return Rows(values, inverse_norm)


def empty_gradient(rows: Rows) -> Gradient:
    """Room for the gradient of rows."""
    values = rows.values
    along = torch.empty(values.shape[0], dtype=precision_of(values.dtype), device=values.device)
    return Gradient(torch.empty_like(values), along)


def finish(sums: Tensor, rows: Rows, factor: Tensor, start: int, out: Gradient) -> None:
    """Fill ``out`` from row ``start`` on: dz = (dẑ − ẑ·⟨dẑ, ẑ⟩)·inverse_norm, dẑ = factor·sums.

    Args:
        sums: (C, D) float32 or float64, overwritten; may be the gradient's own rows.
        rows: All rows, as they were compared.
        factor: 0-dimensional.
        start: Which row the first of the sums belongs to.
        out: Of `empty_gradient`.
    """
    for part in spans(0, sums.shape[0], _block(sums)):
        own = slice(start + part.start, start + part.stop)
        gradient = sums[part].mul_(factor)
        unit = rows.values[own].to(sums.dtype)
        along = torch.mul(gradient, unit).sum(1)
        out.along[own] = along
        if rows.inverse_norm is not None:
            gradient.addcmul_(unit, along[:, None], value=-1)
            gradient.mul_(rows.inverse_norm[own, None])
        target = out.rows[own]
        if target.data_ptr() != gradient.data_ptr():
            target.copy_(gradient)


def _block(rows: Tensor) -> int:
    return max(1, _BLOCK_VALUES // rows.shape[1])
