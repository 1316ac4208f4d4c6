"""Samples as the device sees them, for features and calibration; no torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgessl.data.decoding import decode_all, glimpse
from edgessl.data.source import Source
from edgessl.preprocessing import ImageInput, RawImage
from edgessl.progress import Progress, silent

__all__ = ["fit_images"]


def fit_images(
    source: Source,
    spec: ImageInput,
    *,
    num_workers: int = 1,
    max_corrupt: float = 0.01,
    progress: Progress = silent,
) -> tuple[RawImage, NDArray[np.int64]]:
    """Decode a source and bring every sample to a model's input size.

    Args:
        source: The samples; labels are not read.
        spec: The model's input.
        num_workers: Threads that decode.
        max_corrupt: Share of corrupt samples that is tolerated.
        progress: Told of each sample, and of the corrupt ones at the end.

    Returns:
        The images ``(N, H, W, C)`` uint8, or uint16 if any sample is, and the index ``(N,)`` of
        each in the source.

    Raises:
        DataError: Too many samples are corrupt, or there are none.
    """
    dtype = glimpse(source).dtype
    images = np.empty((len(source), spec.height, spec.width, spec.channels), dtype=dtype)
    kept: list[int] = []
    for sample in decode_all(
        source,
        spec,
        dtype=dtype,
        num_workers=num_workers,
        max_corrupt=max_corrupt,
        corrupt=[],
        progress=progress,
    ):
        images[len(kept)] = sample.image
        kept.append(sample.index)
    return images[: len(kept)], np.array(kept, dtype=np.int64)
