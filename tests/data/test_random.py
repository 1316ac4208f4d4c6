from __future__ import annotations

import numpy as np
import pytest

from edgessl.data.random import permutation, uniform


def test_a_draw_depends_on_its_own_sample_only() -> None:
    together = uniform(1, 2, 0, np.arange(100), 8)
    shuffled = np.random.default_rng(0).permutation(100)
    assert (uniform(1, 2, 0, shuffled, 8) == together[shuffled]).all()
    assert (uniform(1, 2, 0, np.array([42]), 8) == together[42]).all()
    assert (uniform(1, 2, 0, np.array([42]), 3) == together[42, :3]).all()


def test_known_values() -> None:
    """The stream is part of what makes a run repeatable: it must never change by accident."""
    draws = uniform(0, 0, 0, np.array([0, 1]), 2)
    assert draws.tolist() == [
        [0.47141042966848024, 0.7247520786262142],
        [0.17732475569272, 0.24491793717085653],
    ]


@pytest.mark.parametrize("word", range(3))
def test_every_word_matters(word: int) -> None:
    words = [5, 6, 7]
    first = uniform(words[0], words[1], words[2], np.arange(1000), 4).ravel()
    words[word] += 1
    second = uniform(words[0], words[1], words[2], np.arange(1000), 4).ravel()
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.07


def test_words_are_not_interchangeable() -> None:
    assert (uniform(1, 2, 3, np.arange(9), 1) != uniform(2, 1, 3, np.arange(9), 1)).all()
    assert (uniform(1, 2, 3, np.arange(9), 1) != uniform(1, 3, 2, np.arange(9), 1)).all()


def test_draws_are_uniform_and_independent() -> None:
    draws = uniform(0, 0, 0, np.arange(20_000), 6)
    assert draws.min() >= 0.0
    assert draws.max() < 1.0
    counts = np.stack([np.histogram(column, bins=20, range=(0, 1))[0] for column in draws.T])
    chi_squared = ((counts - 1000.0) ** 2 / 1000.0).sum(axis=1)
    # The 1e-6 quantile of chi-squared with 19 degrees of freedom is 62.
    assert (chi_squared < 62).all()
    correlation = np.corrcoef(draws.T) - np.eye(6)
    assert np.abs(correlation).max() < 0.04
    neighbours = np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1]
    assert abs(neighbours) < 0.04


def test_large_seeds_are_taken() -> None:
    assert uniform(2**70 + 1, 0, 0, np.arange(1), 1).shape == (1, 1)
    assert (uniform(-1, 0, 0, np.arange(3), 1) != uniform(1, 0, 0, np.arange(3), 1)).all()


def test_permutation_holds_each_once_and_changes_by_epoch() -> None:
    first, second = permutation(3, 0, 1000), permutation(3, 1, 1000)
    assert (np.sort(first) == np.arange(1000)).all()
    assert (first == second).sum() < 10
    assert (permutation(3, 0, 1000) == first).all()
