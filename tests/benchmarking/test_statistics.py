"""Statistics against published tables and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgessl.benchmarking.statistics import balanced_orders, paired_ratio, student_t_quantile


@pytest.mark.parametrize(
    ("probability", "degrees", "quantile"),
    [  # NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2
        (0.975, 1, 12.706),
        (0.975, 2, 4.303),
        (0.975, 3, 3.182),
        (0.975, 4, 2.776),
        (0.95, 5, 2.015),
        (0.99, 9, 2.821),
        (0.975, 10, 2.228),
        (0.975, 11, 2.201),
        (0.995, 29, 2.756),
        (0.975, 30, 2.042),
        (0.975, 100, 1.984),
    ],
)
def test_quantiles_of_students_t(probability: float, degrees: int, quantile: float) -> None:
    assert student_t_quantile(probability, degrees) == pytest.approx(quantile, abs=6e-4)


def test_the_interval_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    trials, hits = 2000, 0
    for _ in range(trials):
        drift = rng.normal(0, 0.2, 8)  # common to both arms, so it cancels
        a = np.exp(math.log(1.1) + drift + rng.normal(0, 0.03, 8))
        b = np.exp(drift + rng.normal(0, 0.03, 8))
        found = paired_ratio(a.tolist(), b.tolist())
        hits += found.low <= 1.1 <= found.high
        assert found.high / found.low < 1.3
    # 95 % of 2000 is 1900 with a deviation of 9.7.
    assert abs(hits - 0.95 * trials) < 40


def test_one_round_decides_nothing() -> None:
    assert paired_ratio([2.0], [1.0]) == (pytest.approx(2.0), 0.0, math.inf)


def test_equal_arms_have_ratio_one() -> None:
    assert paired_ratio([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(("arms", "rounds"), [(1, 3), (2, 6), (3, 9), (5, 20)])
def test_every_arm_stands_equally_often_at_every_place(arms: int, rounds: int) -> None:
    orders = balanced_orders(arms, rounds, seed=0)
    assert orders.shape == (rounds, arms)
    for row in orders:
        assert sorted(row) == list(range(arms))
    for place in range(arms):
        counts = np.bincount(orders[:, place], minlength=arms)
        assert counts.max() - counts.min() == (1 if rounds % arms else 0)


def test_orders_depend_on_the_seed_alone() -> None:
    a, b, c = (balanced_orders(4, 12, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()
