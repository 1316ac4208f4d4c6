"""Labelled samples, brought to a model's input; the only place that reads labels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgessl.data.modality import Modality
from edgessl.data.source import Source, Splits, stratified_split
from edgessl.errors import DataError
from edgessl.preprocessing import ImageInput, normalize
from edgessl.progress import Progress, silent

__all__ = ["Labelled", "labelled_samples", "normalized_batches"]


class Labelled(NamedTuple):
    """Samples with their classes.

    Attributes:
        samples: (N, …) as the modality's ``fitted`` gives them.
        labels: (N,) class numbers.
    """

    samples: NDArray[Any]
    labels: NDArray[np.int64]


def labelled_samples(
    splits: Splits,
    modality: Modality,
    spec: ImageInput,
    *,
    seed: int,
    test_fraction: float = 0.3,
    max_corrupt: float = 0.01,
    progress: Progress = silent,
) -> tuple[Labelled, Labelled]:
    """Decode the part that teaches and the part that is tested.

    Args:
        splits: The data; a declared test split is used, else one is drawn, stratified.
        modality: How to decode.
        spec: The model's input.
        seed: Of the drawn split.
        test_fraction: Share of the drawn test split.
        max_corrupt: Share of unreadable samples that is tolerated.
        progress: Told how far decoding is.

    Raises:
        DataError: No labels, or fewer than two classes to tell apart.
    """
    test = splits.test or splits.val
    if test is None:
        train, test = stratified_split(splits.train, test_fraction=test_fraction, seed=seed)
    else:
        train = splits.train
    parts = [_labelled(s, modality, spec, max_corrupt, progress) for s in (train, test)]
    if len(np.unique(parts[0].labels)) < 2:
        raise DataError(f"{splits.train.path}: evaluation needs two classes or more")
    return parts[0], parts[1]


def _labelled(
    source: Source, modality: Modality, spec: ImageInput, max_corrupt: float, progress: Progress
) -> Labelled:
    labels = source.labels()
    if labels is None:
        raise DataError(
            f"{source.path}: has no labels; evaluate needs one folder per class, a labels.csv or "
            "a y array"
        )
    samples, kept = modality.fitted(
        source, spec, num_workers=0, max_corrupt=max_corrupt, progress=progress
    )
    return Labelled(samples, labels[kept])


def normalized_batches(
    samples: NDArray[Any], spec: ImageInput, size: int
) -> Iterator[NDArray[np.float32]]:
    """Cut fitted samples (N, …) into normalised float batches of at most ``size``."""
    for start in range(0, len(samples), size):
        yield normalize(samples[start : start + size], spec)
