"""Inputs for engines of contrastive losses, and how near to the oracle results have to be."""

from __future__ import annotations

import torch
from torch import Tensor

from contracts.contrastive_oracle import ORACLE
from edgessl.kernels.engine import Engine
from edgessl.kernels.problem import Gradient, PairKind, Pairs, Rows, Statistics, Terms

__all__ = [
    "LIMITS",
    "check_gradient",
    "check_statistics",
    "close",
    "labels_for",
    "scalar",
    "terms_for",
    "unit",
]

LIMITS = {
    # Products and sums of up to 1000 terms in float32, exponentials of logits up to 20.
    torch.float32: 2e-5,
    torch.float64: 1e-12,
    # One rounding of the gradient, and (on tensor cores) one of the weights, to 11 or 8 bits.
    torch.float16: 3e-3,
    torch.bfloat16: 2e-2,
}
"""Largest error of a gradient by the dtype of its rows, as a part of its largest element."""


def unit(count: int, width: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """(count, width) rows of unit length, rounded to a dtype."""
    generator = torch.Generator().manual_seed(1000 * count + 10 * width + seed)
    rows = torch.randn(count, width, generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(rows, dim=1).to(dtype)


def scalar(value: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """0-dimensional, float64 for float64 rows, else float32."""
    return torch.tensor(value, dtype=torch.float64 if dtype == torch.float64 else torch.float32)


def labels_for(kind: PairKind, count: int) -> Tensor | None:
    """Labels in no order, one of which occurs once; None where pairs have none."""
    if kind != "labels":
        return None
    generator = torch.Generator().manual_seed(count)
    labels = torch.randint(0, max(2, count // 6), (count,), generator=generator)
    labels[0] = 2**40
    return labels


def close(found: Tensor, expected: Tensor, limit: float, what: str) -> None:
    """Assert: the largest error is at most ``limit`` times the largest expected magnitude."""
    assert found.shape == expected.shape, what
    expected, found = expected.double(), found.double()
    same = found == expected  # infinities
    error = torch.where(same, 0, (found - expected).abs()).max().item()
    size = expected[expected.isfinite()].abs().max().item() if expected.isfinite().any() else 0.0
    assert error <= limit * max(size, 1e-37), f"{what}: {error:.3g} of {size:.3g}"


def terms_for(rows: Tensor, columns: Tensor, scale: float, pairs: Pairs, seed: int = 0) -> Terms:
    """Terms of a loss with upstream gradients of any sign, from the oracle's statistics."""
    precision = scalar(1.0, rows.dtype)
    found = ORACLE.statistics(
        rows, columns, scalar(scale, torch.float64), pairs, bounded=True, peaks=False
    )
    generator = torch.Generator().manual_seed(seed)
    weight = torch.rand(rows.shape[0], generator=generator, dtype=torch.float64) * 2 - 1
    normalizer = torch.logaddexp(found.others, found.positive)
    pull = weight * torch.sigmoid(found.others - found.positive)
    if found.positives is not None:
        counts = found.positives > 0
        normalizer = torch.where(counts, found.others, torch.inf)
        pull = torch.where(counts, weight / found.positives.clamp(min=1), 0)
    return Terms(normalizer.to(precision), weight.to(precision), pull.to(precision))


def check_statistics(
    engine: Engine,
    rows: Tensor,
    columns: Tensor | None,
    scale: float,
    pairs: Pairs,
    *,
    bounded: bool,
    mutual: bool = False,
) -> None:
    """Assert: `statistics`, or `mutual_statistics` (for columns None or ``mutual``), is right."""
    number = scalar(scale, rows.dtype)
    if columns is None or mutual:
        both = (rows, columns, number, pairs)
        found = engine.mutual_statistics(*both, bounded=bounded, peaks=False)
        expected = ORACLE.mutual_statistics(*both, bounded=bounded, peaks=False)
        _same_statistics(found[0], expected[0], scale, rows.dtype)
        _same_statistics(found[1], expected[1], scale, rows.dtype)
        assert columns is not None or found[0] is found[1]
        return
    one = (rows, columns, number, pairs)
    _same_statistics(
        engine.statistics(*one, bounded=bounded, peaks=False),
        ORACLE.statistics(*one, bounded=bounded, peaks=False),
        scale,
        rows.dtype,
    )


def check_gradient(
    engine: Engine,
    rows: Tensor,
    columns: Tensor | None,
    scale: float,
    pairs: Pairs,
    row_terms: Terms,
    column_terms: Terms,
    *,
    bounded: bool,
    mutual: bool = False,
    scaled: bool = True,
) -> None:
    """Assert: `gradients`, or `mutual_gradients` (columns None or ``mutual``), is right."""
    number = scalar(scale, rows.dtype)
    own = Rows(rows, torch.rand_like(rows[:, 0], dtype=number.dtype) + 0.5 if scaled else None)
    terms, factor = (row_terms, column_terms), number * 0.37
    if columns is None or mutual:
        # The columns' rows are as they were given: that is part of the check.
        others = None if columns is None else Rows(columns, None)
        both = (own, others, number, pairs, *terms, factor)
        found = engine.mutual_gradients(*both, bounded=bounded, skip=None)
        expected = ORACLE.mutual_gradients(*both, bounded=bounded, skip=None)
        _same_gradient(found[0], expected[0], rows.dtype)
        _same_gradient(found[1], expected[1], rows.dtype)
        assert columns is not None or found[0] is found[1]
        return
    one = (own, columns, number, pairs, *terms, factor)
    _same_gradient(
        engine.gradients(*one, bounded=bounded, skip=None),
        ORACLE.gradients(*one, bounded=bounded, skip=None),
        rows.dtype,
    )


def _same_statistics(
    found: Statistics, expected: Statistics, scale: float, dtype: torch.dtype
) -> None:
    # A logit up to `scale` has an error of some eps of float32 times `scale`.
    limit = 1e-12 if dtype == torch.float64 else 1e-6
    close(found.positive, expected.positive, limit * 3, "positive")
    finite = expected.others.isfinite()
    assert torch.equal(found.others.isfinite(), finite)
    error = (found.others.double() - expected.others)[finite].abs()
    size = max(scale, float(expected.positive.abs().max()), 5.0)
    assert not len(error) or error.max() <= limit * size, f"others: {error.max():.3g}"
    assert (found.positives is None) == (expected.positives is None)
    if found.positives is not None and expected.positives is not None:
        assert torch.equal(found.positives.double(), expected.positives)


def _same_gradient(found: Gradient, expected: Gradient, dtype: torch.dtype) -> None:
    assert found.rows.dtype == dtype
    close(found.rows, expected.rows, LIMITS[dtype], "gradient")
    close(found.along, expected.along, LIMITS[dtype], "along")
