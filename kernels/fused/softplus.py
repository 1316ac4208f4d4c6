"""softplus(y) = log(1 + exp(y)) and its slope σ(y), for y counted in base 2."""

from __future__ import annotations

import triton
import triton.language as tl

from edgessl.kernels.fused.tiles import INTERPRETED

__all__ = ["LN_2", "softplus_and_slope"]

LN_2 = tl.constexpr(0.6931471805599453)
"""What base 2 counts times this is the natural logarithm."""

_WHOLE = tl.constexpr(INTERPRETED)


@triton.jit
def _log2_1p(x):
    """log₂(1 + x) for x in [0, 1] with a relative error below 2e-7, which 1 + x would lose.

    x times a polynomial: log₂(1 + x)/x interpolated at the nine Chebyshev points of [0, 1].
    """
    p = 0.0073954021 * x - 0.0419450089
    p = p * x + 0.1118320738
    p = p * x - 0.1962389518
    p = p * x + 0.2752212123
    p = p * x - 0.3582990696
    p = p * x + 0.4806788896
    p = p * x - 0.7213395131
    p = p * x + 1.4426949917
    return p * x


@triton.jit
def _softplus_and_slope(y):
    rest = _log2_1p(tl.exp2(-tl.abs(y)))
    return tl.maximum(y, 0.0) + rest, tl.exp2(tl.minimum(y, 0.0) - rest)


@triton.jit
def softplus_and_slope(y):
    """log₂(1 + 2^y) and 2^y/(1 + 2^y), both to a few units in the last place; (0, 0) for −∞.

    With r = log₂(1 + 2^−|y|) they are max(y, 0) + r and 2^(min(y, 0) − r): two exponentials and
    no division. One element after the other: step by step over a tile, registers would spill.
    """
    if _WHOLE:  # the interpreter has no map_elementwise
        return _softplus_and_slope(y)
    else:
        return tl.map_elementwise(_softplus_and_slope, y)
