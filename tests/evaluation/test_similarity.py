"""CKA and neighbour agreement against their definitions, and on embeddings alike and unlike."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edgessl.errors import DataError
from edgessl.evaluation.neighbours import unit_rows
from edgessl.evaluation.similarity import geometry, linear_cka, neighbour_agreement

Rows = NDArray[np.float32]


def rows(count: int, dim: int, seed: int) -> Rows:
    return np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)


def unbiased_hsic(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Song et al., JMLR 13 (2012), eq. 5, as printed there."""
    n = len(a)
    k, m = a - np.diag(np.diag(a)), b - np.diag(np.diag(b))
    ones = np.ones(n)
    trace = np.trace(k @ m)
    sums = (ones @ k @ ones) * (ones @ m @ ones) / ((n - 1) * (n - 2))
    cross = 2 / (n - 2) * (ones @ k @ m @ ones)
    return float((trace + sums - cross) / (n * (n - 3)))


@pytest.mark.parametrize(("count", "dims"), [(5, (3, 4)), (40, (7, 3)), (30, (64, 50))])
def test_cka_is_the_ratio_of_unbiased_hsic(count: int, dims: tuple[int, int]) -> None:
    first = rows(count, dims[0], 0)
    mixed = first @ rows(dims[0], dims[1], 1) + rows(count, dims[1], 2)
    a, b = (unit_rows(x).astype(np.float64) for x in (first, mixed))
    k, m = a @ a.T, b @ b.T
    wanted = unbiased_hsic(k, m) / np.sqrt(unbiased_hsic(k, k) * unbiased_hsic(m, m))
    given = linear_cka(geometry(first), geometry(mixed))
    assert given == pytest.approx(max(0.0, wanted), abs=1e-5)


def test_unrelated_embeddings_of_many_dimensions_are_not_alike() -> None:
    """The plain estimate gives above 0.9 here."""
    first, second = rows(60, 900, 0), rows(60, 900, 1)
    assert linear_cka(geometry(first), geometry(second)) < 0.1
    shares = neighbour_agreement(geometry(first), geometry(second), k=10)
    assert abs(shares.mean()) < 0.06


def test_rotation_and_scale_change_nothing() -> None:
    first = rows(50, 8, 0)
    turned = 3 * first @ np.linalg.qr(rows(8, 8, 1))[0].astype(np.float32)
    wide = np.pad(turned, ((0, 0), (0, 5)))
    for second in (first, turned, wide):
        assert linear_cka(geometry(first), geometry(second)) == pytest.approx(1.0, abs=1e-6)
        shares = neighbour_agreement(geometry(first), geometry(second), k=7)
        assert shares == pytest.approx(1.0)


def test_what_has_collapsed_is_like_nothing() -> None:
    first, flat = rows(20, 4, 0), np.ones((20, 3), dtype=np.float32)
    assert linear_cka(geometry(first), geometry(flat)) == 0.0
    assert linear_cka(geometry(flat), geometry(flat)) == 0.0


def test_neighbour_agreement_matches_brute_force() -> None:
    first, second = rows(30, 3, 0), rows(30, 3, 0) + 0.4 * rows(30, 3, 1)
    shares = neighbour_agreement(geometry(first), geometry(second), k=5)
    for i in range(30):
        near = []
        for x in (first, second):
            cosine = unit_rows(x) @ unit_rows(x)[i]
            near.append(set([j for j in np.argsort(-cosine) if j != i][:5]))
        chance = 5 / 29
        assert shares[i] == pytest.approx((len(near[0] & near[1]) / 5 - chance) / (1 - chance))


def test_a_draw_that_holds_each_sample_once_is_the_figure_itself() -> None:
    first, second = geometry(rows(40, 6, 0)), geometry(rows(40, 6, 0) + rows(40, 6, 1))
    whole = linear_cka(first, second)
    assert linear_cka(first, second, np.ones((2, 40))) == pytest.approx([whole, whole])


def test_bootstrap_draws_spread_like_new_samples() -> None:
    """The deviation over draws is that over data sets, within the error of both."""
    mixing = rows(5, 5, 9)

    def pair(seed: int) -> tuple[Rows, Rows]:
        x = rows(80, 5, seed)
        return x, x @ mixing + rows(80, 5, seed + 10_000)

    fresh = [linear_cka(*(geometry(x) for x in pair(seed))) for seed in range(100)]
    generator = np.random.default_rng(0)
    spreads = []
    for seed in range(10):
        weights = generator.multinomial(80, np.full(80, 1 / 80), size=100).astype(float)
        spreads.append(np.std(linear_cka(*(geometry(x) for x in pair(seed)), weights)))
    assert np.mean(spreads) == pytest.approx(np.std(fresh), rel=0.35)


def test_too_few_samples_are_one_error() -> None:
    with pytest.raises(DataError, match="found 3"):
        geometry(rows(3, 2, 0))
