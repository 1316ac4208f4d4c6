"""Counter-based random numbers: a draw is a function of what it is for, not of what came before.

A stateful generator would make a view depend on the worker, the rank and the batch that a sample
happens to fall in. Here the four words (seed, epoch, view, sample) are hashed, so any process
gets the same view of a sample, and a resumed run repeats what an uninterrupted one would do.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["permutation", "uniform"]

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_ORDER_VIEW = 0x6F72646572  # "order": apart from every view number


def uniform(
    seed: int, epoch: int, view: int, indices: NDArray[np.int64], slots: int
) -> NDArray[np.float64]:
    """Uniform numbers for each sample.

    Args:
        seed: Seed of the run.
        epoch: Epoch, from 0.
        view: Number of the view, from 0.
        indices: Store indices of the samples, ``(N,)``.
        slots: Draws per sample.

    Returns:
        ``(N, slots)`` in [0, 1) with 53 random bits.

    Source: SplitMix64, Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
        OOPSLA 2014, used here as a keyed hash.
    """
    with np.errstate(over="ignore"):
        key = np.zeros((), dtype=np.uint64)
        for word in (seed, epoch, view):
            key = _mix((key ^ np.uint64(word & 0xFFFFFFFFFFFFFFFF)) + _GAMMA)
        sample = _mix((indices.astype(np.uint64) ^ key) + _GAMMA)
        counters = np.arange(1, slots + 1, dtype=np.uint64) * _GAMMA
        bits = _mix(sample[:, None] + counters)
    draws: NDArray[np.float64] = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return draws


def permutation(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """The order of the samples in an epoch: a permutation of ``range(count)``, ``(count,)``."""
    draws = uniform(seed, epoch, _ORDER_VIEW, np.arange(count, dtype=np.int64), 1)[:, 0]
    return np.argsort(draws, kind="stable").astype(np.int64)


def _mix(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    words = (words ^ (words >> np.uint64(30))) * _FIRST
    words = (words ^ (words >> np.uint64(27))) * _SECOND
    mixed: NDArray[np.uint64] = words ^ (words >> np.uint64(31))
    return mixed
