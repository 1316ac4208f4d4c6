"""What arms are fed: seeded inputs, whether inputs fit, and how they become queries."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgessl.bundle.manifest import TensorSpec
from edgessl.runtime.session import Array

__all__ = ["Queries", "fits", "queries", "synthetic_samples"]


def synthetic_samples(inputs: tuple[TensorSpec, ...], *, seed: int, count: int) -> dict[str, Array]:
    """Seeded standard-normal floats, small integers; every free dimension is 1.

    Returns:
        One array per input: ``count`` samples if the first axis is free or 1, else as declared.
    """
    rng = np.random.default_rng(seed)
    result: dict[str, Array] = {}
    for spec in inputs:
        shape = [d if isinstance(d, int) else 1 for d in spec.shape]
        if shape and shape[0] == 1:
            shape[0] = count
        result[spec.name] = _fill(rng, np.dtype(spec.dtype), shape)
    return result


def _fill(rng: np.random.Generator, dtype: np.dtype[Any], shape: list[int]) -> Array:
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    if dtype.kind == "u" and dtype.itemsize == 1:
        return rng.integers(0, 256, shape).astype(dtype)
    return rng.integers(0, 2, shape).astype(dtype)


def fits(array: Array, spec: TensorSpec) -> bool:
    """Right dtype and sizes; the first axis holds samples, a whole number of runs of them."""
    if array.dtype != np.dtype(spec.dtype) or array.ndim != len(spec.shape) or not array.size:
        return False
    first, rest = spec.shape[:1], spec.shape[1:]
    if any(isinstance(w, int) and w != h for w, h in zip(rest, array.shape[1:], strict=True)):
        return False
    return not first or not isinstance(first[0], int) or len(array) >= first[0]


@dataclass(frozen=True)
class Queries:
    """Inputs, cut into what one query runs.

    Attributes:
        feeds: Query → run → input name → array.
        samples_per_run: Of one engine call.
        samples_per_query: Of one query, at least what was asked for.
        input_bytes: Of one query.
    """

    feeds: list[list[dict[str, Array]]]
    samples_per_run: int
    samples_per_query: int
    input_bytes: int


def queries(
    samples: Mapping[str, Array], inputs: tuple[TensorSpec, ...], *, query_size: int
) -> Queries:
    """Cut samples into queries; they are used again where there are too few.

    A graph that leaves its batch open runs once per query; one with a fixed batch as often as
    the query's samples take.
    """
    free = all(spec.shape and isinstance(spec.shape[0], str) for spec in inputs)
    size = query_size if free else _fixed_batch(inputs)
    runs = _runs(samples, inputs, size)
    per_query = math.ceil(query_size / size)
    count = math.ceil(len(runs) / per_query)
    feeds = [
        [runs[(q * per_query + k) % len(runs)] for k in range(per_query)] for q in range(count)
    ]
    return Queries(
        feeds=feeds,
        samples_per_run=size,
        samples_per_query=size * per_query,
        input_bytes=sum(array.nbytes for run in feeds[0] for array in run.values()),
    )


def _fixed_batch(inputs: tuple[TensorSpec, ...]) -> int:
    """Of the first input with a fixed batch; side inputs, like a state, may have other sizes."""
    return next((s.shape[0] for s in inputs if s.shape and isinstance(s.shape[0], int)), 1)


def _runs(
    samples: Mapping[str, Array], inputs: tuple[TensorSpec, ...], size: int
) -> list[dict[str, Array]]:
    pieces: dict[str, list[Array]] = {}
    for spec in inputs:
        array = samples[spec.name]
        wanted = spec.shape[0] if spec.shape and isinstance(spec.shape[0], int) else size
        if array.ndim and len(array) < wanted:
            array = np.take(array, np.arange(wanted) % len(array), axis=0)
        starts = range(0, len(array) - wanted + 1, wanted) if array.ndim else []
        pieces[spec.name] = [np.ascontiguousarray(array[s : s + wanted]) for s in starts] or [array]
    count = max(len(p) for p in pieces.values())
    return [{name: p[i % len(p)] for name, p in pieces.items()} for i in range(count)]
