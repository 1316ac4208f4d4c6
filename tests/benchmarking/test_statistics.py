"""Statistics against published tables and simulation."""

from __future__ import annotations

import numpy as np
import pytest

from edgessl.benchmarking.statistics import (
    balanced_orders,
    student_t_quantile,
    trimmed_t_interval,
)


@pytest.mark.parametrize(
    ("probability", "degrees", "quantile"),
    [  # NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2
        (0.975, 1, 12.706),
        (0.975, 2, 4.303),
        (0.975, 3, 3.182),
        (0.975, 4, 2.776),
        (0.95, 5, 2.015),
        (0.99, 9, 2.821),
        (0.999, 5, 5.893),
        (0.999, 23, 3.485),
        (0.975, 10, 2.228),
        (0.975, 11, 2.201),
        (0.995, 29, 2.756),
        (0.975, 30, 2.042),
        (0.975, 100, 1.984),
    ],
)
def test_quantiles_of_students_t(probability: float, degrees: int, quantile: float) -> None:
    assert student_t_quantile(probability, degrees) == pytest.approx(quantile, abs=6e-4)


@pytest.mark.parametrize("trimmed", [0, 2])
@pytest.mark.parametrize("confidence", [0.9, 0.98])
def test_each_limit_is_missed_as_often_as_it_says(confidence: float, trimmed: int) -> None:
    trials = 20_000
    values = np.random.default_rng(0).normal(0.3, 2.0, (trials, 12))
    found = trimmed_t_interval(values, confidence=confidence, trimmed=trimmed)
    tail = (1 - confidence) / 2
    deviation = (tail * (1 - tail) / trials) ** 0.5
    for misses in (found.low > 0.3, found.high < 0.3):
        assert abs(misses.mean() - tail) < 4 * deviation


def test_an_interval_by_hand() -> None:
    # Mean 2, deviation 1, t(0.975, 2) = 4.303.
    found = trimmed_t_interval(np.array([1.0, 2.0, 3.0]), confidence=0.95)
    assert found == pytest.approx((2.0, 2 - 4.303 / 3**0.5, 2 + 4.303 / 3**0.5), abs=1e-3)


def test_a_trimmed_interval_by_hand() -> None:
    values = np.array([-9e9, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 9e9])
    found = trimmed_t_interval(values[::-1], confidence=0.95, trimmed=2)
    # Of 3 to 10; squares of 3.5 six times, of 2.5, 1.5 and 0.5 twice; t(0.975, 7) = 2.365.
    reach = 2.365 * (91 / (8 * 7)) ** 0.5
    assert found == pytest.approx((6.5, 6.5 - reach, 6.5 + reach), abs=1e-3)


def test_one_value_says_nothing_and_equal_values_everything() -> None:
    one = trimmed_t_interval(np.array([2.0]), confidence=0.99)
    assert one == (2.0, -np.inf, np.inf)
    equal = trimmed_t_interval(np.array([2.0, 2.0, 2.0]), confidence=0.99)
    assert equal == (2.0, 2.0, 2.0)


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
