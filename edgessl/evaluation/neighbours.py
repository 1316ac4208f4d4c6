"""What nearest neighbours say of an embedding."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["knn_accuracy", "retrieval_accuracy", "unit_rows"]

Embeddings = NDArray[np.float32]
Labels = NDArray[np.int64]


def unit_rows(embeddings: Embeddings) -> Embeddings:
    """Scale rows of (N, D) to unit length; zero rows stay zero."""
    values = embeddings.astype(np.float32)
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    unit: Embeddings = values / np.maximum(norms, np.finfo(np.float32).tiny)
    return unit


def knn_accuracy(
    train: Embeddings,
    train_labels: Labels,
    test: Embeddings,
    test_labels: Labels,
    *,
    k: int = 20,
    temperature: float = 0.07,
) -> NDArray[np.bool_]:
    """Weighted k-nearest-neighbour classification by cosine.

    Each of the k nearest training rows votes for its class with weight exp(cosine / τ).

    Args:
        train: (N, D) embeddings that vote.
        train_labels: (N,) class numbers.
        test: (M, D) embeddings that are classified.
        test_labels: (M,) class numbers.
        k: Voters; at most N.
        temperature: τ.

    Returns:
        (M,) whether each test row was classified rightly.

    Source: arXiv:1805.01978, section 3.4.
    """
    train, test = unit_rows(train), unit_rows(test)
    k = min(k, len(train))
    classes = int(max(train_labels.max(), test_labels.max())) + 1
    correct = np.empty(len(test), dtype=np.bool_)
    for start in range(0, len(test), 512):
        cosine = test[start : start + 512] @ train.T
        nearest = np.argpartition(-cosine, k - 1, axis=1)[:, :k]
        rows = np.arange(len(cosine))[:, None]
        weights = np.exp((cosine[rows, nearest].astype(np.float64) - 1) / temperature)
        votes = np.zeros((len(cosine), classes))
        np.add.at(votes, (rows, train_labels[nearest]), weights)
        correct[start : start + 512] = votes.argmax(axis=1) == test_labels[start : start + 512]
    return correct


def retrieval_accuracy(first: Embeddings, second: Embeddings) -> float:
    """Share of rows of ``first`` whose nearest row of ``second``, by cosine, is the same number.

    Args:
        first: (N, D) embeddings.
        second: (N, D) embeddings of the same samples.
    """
    cosine = unit_rows(first) @ unit_rows(second).T
    return float((cosine.argmax(axis=1) == np.arange(len(cosine))).mean())
