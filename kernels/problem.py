"""What the implementations of the losses share: the words of one pass over the logits.

A pass compares A rows with B columns. The logit of row i and column j, s_ij = scale·⟨rᵢ, cⱼ⟩, is
never stored for all pairs. `Statistics` go out of a forward pass; `Terms` go into a backward pass:

    W_ij = [j counts, is no positive] (aᵢ·exp(s_ij − Lᵢ) + bⱼ·exp(s_ij − Lⱼ)) − [positive] (αᵢ + βⱼ)
    dr̂ᵢ = factor · Σⱼ W_ij·cⱼ

with (L, a, α) from the rows' terms and (L, b, β) from the columns'. In "labels" the exponentials of
positives are part of the sum too. A row with L = +∞ has no exponentials: exp(s − ∞) = 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

__all__ = [
    "PEAK_CELL",
    "SOFTPLUS_LIMIT",
    "Gradient",
    "PairKind",
    "Pairs",
    "Rows",
    "Skip",
    "Statistics",
    "Terms",
]

PairKind = Literal["views", "towers", "labels"]

PEAK_CELL = 128
"""Rows, and columns, of the cells whose largest logit a forward pass can leave for the backward."""

SOFTPLUS_LIMIT = 40.0
"""Above, softplus(x) = x to the last bit of float64; PyTorch's default of 20 is for float32."""


@dataclass(frozen=True)
class Rows:
    """Rows that are compared.

    Attributes:
        values: (A, D) float16, bfloat16, float32 or float64; of unit length, or as the caller
            gave them.
        inverse_norm: (A,) 1/‖z‖ of the rows before they were scaled, float32 (float64 for
            float64), 0 for rows of zeros; None if the caller gave ``values``.
    """

    values: Tensor
    inverse_norm: Tensor | None


@dataclass(frozen=True)
class Pairs:
    """Which columns are a row's positives, and which do not count for it.

    - ``"views"``: row i is column g = i + offset and does not count for itself; its positive is
      the other view, column offset + (i + A/2) mod A.
    - ``"towers"``: rows and columns are of two towers; the positive of row i is column i + offset.
    - ``"labels"``: row i is column i + offset and does not count for itself; positives are all
      other columns with its label.

    Attributes:
        kind: As above.
        offset: Column that belongs to the first row: 0, unless a group's rows are compared.
        row_labels: (A,) int64, for ``"labels"``.
        column_labels: (B,) int64, for ``"labels"``.
    """

    kind: PairKind
    offset: int = 0
    row_labels: Tensor | None = None
    column_labels: Tensor | None = None


@dataclass(frozen=True)
class Statistics:
    """What a forward pass leaves of each row; float32 (float64 for float64).

    Attributes:
        others: (A,) log Σⱼ exp(s_ij) over the columns that count and are no positive; −∞ if there
            are none. For ``"labels"`` over all columns that count.
        positive: (A,) logit of the positive; for ``"labels"`` the mean over positives, 0 if there
            are none.
        positives: (A,) how many positives, for ``"labels"``; else None.
        peaks: (⌈A/PEAK_CELL⌉, ⌈B/PEAK_CELL⌉) float32, the largest logit of each cell, +∞ in cells
            that hold a positive; None if not asked for, or if the implementation has no use.
    """

    others: Tensor
    positive: Tensor
    positives: Tensor | None = None
    peaks: Tensor | None = None


@dataclass(frozen=True)
class Terms:
    """What the rows, or the columns, bring into the weights of a backward pass; float32 vectors.

    Attributes:
        log_normalizer: L; +∞ for rows whose loss does not count.
        weight: a or b, in [−1, 1].
        pull: α or β.
    """

    log_normalizer: Tensor
    weight: Tensor
    pull: Tensor


@dataclass(frozen=True)
class Skip:
    """Leave out cells whose weights are all below a threshold.

    Attributes:
        peaks: As in `Statistics`.
        threshold: 0-dimensional float32; compared with |W|.
    """

    peaks: Tensor
    threshold: Tensor


@dataclass(frozen=True)
class Gradient:
    """Of rows as they were before they were scaled to unit length.

    Attributes:
        rows: (A, D) in the rows' dtype; 0 for rows of zeros, which have no direction.
        along: (A,) ⟨dr̂ᵢ, r̂ᵢ⟩ float32: the gradient along the unit row, from which the gradient of
            the scale follows: d/d scale = Σ ⟨dr̂ᵢ, r̂ᵢ⟩ / scale, each pair of rows counted once.
    """

    rows: Tensor
    along: Tensor
