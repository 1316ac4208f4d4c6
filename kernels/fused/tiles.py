"""Device functions that every kernel uses: loading rows, products in float32, rounding."""

from __future__ import annotations

import triton
import triton.language as tl
from triton import knobs

__all__ = ["INTERPRETED", "LOG2_E", "load_rows", "products", "rounded", "weighted_rows"]

INTERPRETED: bool = knobs.runtime.interpret
"""Whether Triton's interpreter runs the kernels, on a CPU (TRITON_INTERPRET=1 at import)."""

LOG2_E = tl.constexpr(1.4426950408889634)
"""Kernels count in base 2, whose exponential is one instruction: exp(x) = 2^(x·log₂ e)."""

# bfloat16 products are silently wrong in the interpreter (triton issue 11584).
_UPCAST = tl.constexpr(INTERPRETED)


@triton.jit
def load_rows(matrix, rows, count, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """(BLOCK, BLOCK_D) of a contiguous (count, D) matrix, 0 outside of it; ``rows``: (BLOCK,)."""
    columns = tl.arange(0, BLOCK_D)
    inside = rows[:, None] < count
    if BLOCK_D != D:
        inside = inside & (columns[None, :] < D)
    place = rows.to(tl.int64)[:, None] * D + columns[None, :]
    return tl.load(matrix + place, mask=inside, other=0.0)


@triton.jit
def rounded(values, dtype: tl.constexpr):
    """float32 values rounded to the nearest of another type, which the interpreter's cast cuts."""
    if _UPCAST and dtype == tl.bfloat16:
        bits = values.to(tl.int32, bitcast=True)
        bits += 0x7FFF + ((bits >> 16) & 1)
        values = (bits & -0x10000).to(tl.float32, bitcast=True)
    return values.to(dtype)


@triton.jit
def products(x, y, PRECISION: tl.constexpr):
    """(A, B) float32 inner products of (A, K) and (B, K)."""
    if _UPCAST:
        x = x.to(tl.float32)
        y = y.to(tl.float32)
    return tl.dot(x, tl.trans(y), input_precision=PRECISION)


@triton.jit
def weighted_rows(weights, y, sums, PRECISION: tl.constexpr):
    """``sums`` (A, K) float32 plus (A, B) float32 weights, rounded to y's dtype, times y (B, K)."""
    weights = rounded(weights, y.dtype)
    if _UPCAST:
        weights = weights.to(tl.float32)
        y = y.to(tl.float32)
    return tl.dot(weights, y, sums, input_precision=PRECISION)
