"""Classifiers on frozen embeddings: a linear probe, and few-shot draws."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgessl.evaluation.neighbours import unit_rows
from edgessl.optional import require

__all__ = ["fewshot_accuracy", "linear_accuracy"]

Embeddings = NDArray[np.float32]
Labels = NDArray[np.int64]

_STRENGTHS = (0.01, 0.1, 1.0, 10.0)


def linear_accuracy(
    train: Embeddings, train_labels: Labels, test: Embeddings, test_labels: Labels, *, seed: int
) -> NDArray[np.bool_]:
    """Multinomial logistic regression on standardised embeddings.

    The inverse regularisation C is chosen among 0.01, 0.1, 1 and 10 on a stratified fifth of the
    training rows; the classifier is then fitted on all of them.

    Args:
        train: (N, D) embeddings.
        train_labels: (N,) class numbers.
        test: (M, D) embeddings.
        test_labels: (M,) class numbers.
        seed: Of the validation fifth.

    Returns:
        (M,) whether each test row was classified rightly.
    """
    selection = require("sklearn.model_selection", extra="train")
    standard = require("sklearn.preprocessing", extra="train").StandardScaler().fit(train)
    train, test = standard.transform(train), standard.transform(test)
    counts = np.bincount(train_labels)
    stratify = train_labels if counts[counts > 0].min() >= 2 else None
    fit_rows, held_rows = selection.train_test_split(
        np.arange(len(train)), test_size=0.2, random_state=seed, stratify=stratify
    )
    best = max(
        _STRENGTHS,
        key=lambda c: _correct(
            _fit(train[fit_rows], train_labels[fit_rows], c),
            train[held_rows],
            train_labels[held_rows],
        ).mean(),
    )
    return _correct(_fit(train, train_labels, best), test, test_labels)


def fewshot_accuracy(
    train: Embeddings,
    train_labels: Labels,
    test: Embeddings,
    test_labels: Labels,
    *,
    shots: int,
    draws: int,
    seed: int,
) -> NDArray[np.float64]:
    """Logistic regression on unit-length embeddings of a few labelled rows per class.

    Args:
        train: (N, D) embeddings to draw from.
        train_labels: (N,) class numbers.
        test: (M, D) embeddings.
        test_labels: (M,) class numbers.
        shots: Labelled rows per class; classes with fewer give all they have.
        draws: Independent draws.
        seed: Of the draws.

    Returns:
        (draws,) accuracy of each draw.
    """
    centre = unit_rows(train).mean(axis=0)
    train, test = unit_rows(unit_rows(train) - centre), unit_rows(unit_rows(test) - centre)
    accuracies = []
    for draw in range(draws):
        generator = np.random.default_rng([seed, draw])
        rows = np.concatenate(
            [
                generator.permutation(np.flatnonzero(train_labels == label))[:shots]
                for label in np.unique(train_labels)
            ]
        )
        classifier = _fit(train[rows], train_labels[rows], 10.0)
        accuracies.append(_correct(classifier, test, test_labels).mean())
    return np.asarray(accuracies, dtype=np.float64)


def _fit(rows: Embeddings, labels: Labels, strength: float) -> Any:
    linear = require("sklearn.linear_model", extra="train")
    exceptions = require("sklearn.exceptions", extra="train")
    # Newton's method to a tight tolerance: embeddings that differ by rounding then get the same
    # score, and it is faster here than the default solver at a loose one.
    classifier = linear.LogisticRegression(C=strength, solver="newton-cg", tol=1e-6, max_iter=500)
    with warnings.catch_warnings():
        # A probe that has not fully converged still ranks embeddings alike.
        warnings.simplefilter("ignore", exceptions.ConvergenceWarning)
        classifier.fit(rows.astype(np.float64), labels)
    return classifier


def _correct(classifier: Any, rows: Embeddings, labels: Labels) -> NDArray[np.bool_]:
    correct: NDArray[np.bool_] = classifier.predict(rows.astype(np.float64)) == labels
    return correct
