"""Probes on data whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from edgessl.evaluation.probes import fewshot_accuracy, linear_accuracy


def clusters(count: int, seed: int, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Three Gaussian clouds in eight dimensions."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    points = 4 * np.eye(8)[labels] + spread * generator.normal(size=(count, 8))
    return points.astype(np.float32), labels


def test_separable_classes_are_separated() -> None:
    train, test = clusters(90, 0, 0.3), clusters(60, 1, 0.3)
    assert linear_accuracy(*train, *test, seed=0).mean() == 1.0
    assert fewshot_accuracy(*train, *test, shots=2, draws=3, seed=0).tolist() == [1.0, 1.0, 1.0]


def test_noise_is_chance() -> None:
    train, test = clusters(300, 0, 1e4), clusters(300, 1, 1e4)
    assert linear_accuracy(*train, *test, seed=0).mean() == pytest.approx(1 / 3, abs=0.12)


def test_draws_differ_and_repeat() -> None:
    train, test = clusters(120, 0, 3.0), clusters(120, 1, 3.0)
    first = fewshot_accuracy(*train, *test, shots=1, draws=6, seed=0)
    assert len(set(first.tolist())) > 1
    assert (first == fewshot_accuracy(*train, *test, shots=1, draws=6, seed=0)).all()
    assert (first != fewshot_accuracy(*train, *test, shots=1, draws=6, seed=1)).any()


def test_more_shots_help() -> None:
    train, test = clusters(300, 0, 2.5), clusters(300, 1, 2.5)
    few, many = (fewshot_accuracy(*train, *test, shots=s, draws=10, seed=0).mean() for s in (1, 20))
    assert many > few + 0.05
