"""kNN and spectrum figures against brute force and closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from edgessl.evaluation.neighbours import knn_accuracy, retrieval_accuracy, unit_rows
from edgessl.evaluation.spectrum import effective_rank, uniformity


def test_knn_matches_brute_force() -> None:
    generator = np.random.default_rng(0)
    train = generator.normal(size=(60, 5)).astype(np.float32)
    test = generator.normal(size=(700, 5)).astype(np.float32)
    labels = generator.integers(0, 3, 60)
    wanted = generator.integers(0, 3, 700)
    given = knn_accuracy(train, labels, test, wanted, k=7, temperature=0.5)
    for row in range(len(test)):
        cosine = unit_rows(train) @ unit_rows(test)[row]
        voters = np.argsort(-cosine)[:7]
        votes = [np.exp(cosine[voters][labels[voters] == c] / 0.5).sum() for c in range(3)]
        assert given[row] == (int(np.argmax(votes)) == wanted[row])


def test_knn_with_more_voters_than_rows() -> None:
    train = np.eye(2, dtype=np.float32)
    labels = np.array([0, 1])
    assert knn_accuracy(train, labels, train, labels, k=50).all()


def test_retrieval_finds_its_own_view() -> None:
    first = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    assert retrieval_accuracy(first, 3 * first + 0.001) == 1.0
    assert retrieval_accuracy(first, np.roll(first, 1, axis=0)) == 0.0


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_effective_rank_counts_equal_directions(rank: int) -> None:
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(50, rank)))[0]
    embeddings = (basis @ np.eye(rank, 8)).astype(np.float32)
    assert effective_rank(embeddings) == pytest.approx(rank, rel=1e-4)


def test_effective_rank_of_nothing_is_collapse() -> None:
    assert effective_rank(np.zeros((5, 3), dtype=np.float32)) == 1.0


def test_uniformity_of_two_opposite_points() -> None:
    points = np.array([[1.0, 0.0], [-1.0, 0.0]], dtype=np.float32)
    assert uniformity(points) == pytest.approx(-8.0)
    assert uniformity(np.ones((4, 2), dtype=np.float32)) == pytest.approx(0.0, abs=1e-6)
