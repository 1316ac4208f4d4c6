"""Decode the samples of a source in order, several at a time, counting the corrupt ones."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np

from edgessl.data.source import Source
from edgessl.errors import CorruptSampleError, DataError
from edgessl.preprocessing import ImageInput, RawImage, fit
from edgessl.progress import Progress, ProgressEvent

__all__ = ["Decoded", "Glimpse", "PixelType", "as_dtype", "decode_all", "glimpse", "guess_channels"]

PixelType = np.dtype[np.uint8] | np.dtype[np.uint16]

_GLIMPSED = 64
_GLIMPSE_THREADS = 4
_NAMED = 3


@dataclass(frozen=True)
class Decoded:
    """One sample that could be read.

    Attributes:
        index: Its index in the source.
        image: Fitted to the wanted size, ``(H, W, C)``.
        aspect: Width over height before fitting.
    """

    index: int
    image: RawImage
    aspect: float


def decode_all(
    source: Source,
    spec: ImageInput,
    *,
    dtype: PixelType,
    num_workers: int,
    max_corrupt: float,
    corrupt: list[tuple[str, str]],
    progress: Progress,
) -> Iterator[Decoded]:
    """Decode and fit every sample, in order; corrupt ones are left out.

    Threads do the work, because Pillow lets go of the interpreter while it decodes and resizes.

    Args:
        source: The samples.
        spec: Size, channels and way of fitting.
        dtype: What the pixels are brought to.
        num_workers: Threads; 0 and 1 are one.
        max_corrupt: Share of corrupt samples that is tolerated.
        corrupt: Gets (key, reason) of each sample that is left out.
        progress: Told of each sample, and of the corrupt ones at the end.

    Raises:
        DataError: The source is empty, too many samples are corrupt, or all are.
    """
    total = len(source)
    if total == 0:
        raise DataError(f"{source.path}: holds no samples; check --data")
    allowed = int(max_corrupt * total + 1e-9)
    for index, result in _in_order(source, spec, dtype, num_workers):
        if isinstance(result, CorruptSampleError):
            corrupt.append((source.key(index), str(result)))
        else:
            yield result
        progress(ProgressEvent("decode", index + 1, total, "samples"))
    if corrupt:
        summary = _summary(source, corrupt)
        if len(corrupt) > allowed or len(corrupt) == total:
            raise DataError(
                f"{summary}, more than {max_corrupt:.1%} allowed; repair or remove them, or allow "
                f"more with max_corrupt={_enough(len(corrupt), total)}"
            )
        message = f"{summary}; they were skipped"
        progress(ProgressEvent("decode", total, total, "samples", message=message, warning=True))


@dataclass(frozen=True)
class Glimpse:
    """What some samples of a source look like.

    Attributes:
        channels: The numbers of channels that occur.
        grey: True if none shows colour, colour files with equal channels included.
        deep: True if any has 16 bits.
        largest_side: Greatest height or width in pixels.
    """

    channels: tuple[int, ...]
    grey: bool
    deep: bool
    largest_side: int

    @property
    def dtype(self) -> PixelType:
        """What holds all of them."""
        return np.dtype(np.uint16) if self.deep else np.dtype(np.uint8)


_glimpses: WeakKeyDictionary[Source, Glimpse] = WeakKeyDictionary()


def glimpse(source: Source) -> Glimpse:
    """Look at 64 samples spread over a source, once.

    Raises:
        DataError: None of them can be read.
    """
    known = _glimpses.get(source)
    if known is None:
        known = _glimpses[source] = _look(source)
    return known


def guess_channels(source: Source) -> int:
    """Channels that hold what the samples show, from 64 of them.

    1 if all are grey, 3 if any has colour (alpha is composited away), else the number they have.

    Raises:
        DataError: They have different numbers of channels beyond 4, or none can be read.
    """
    seen = glimpse(source)
    if max(seen.channels) <= 4:
        return 1 if seen.grey else 3
    if len(seen.channels) > 1:
        counts = ", ".join(map(str, seen.channels))
        raise DataError(
            f"{source.path}: holds images of {counts} channels; separate them, or set channels to "
            "one that all can become"
        )
    return seen.channels[0]


def _look(source: Source) -> Glimpse:
    def one(index: int) -> Glimpse | CorruptSampleError:
        try:
            image = source.read(index)
        except CorruptSampleError as error:
            return error
        deep = image.dtype == np.uint16
        return Glimpse((image.shape[2],), _is_grey(image), deep, max(image.shape[:2]))

    if len(source) == 0:
        raise DataError(f"{source.path}: holds no samples; check --data")
    chosen = np.unique(np.linspace(0, len(source) - 1, min(_GLIMPSED, len(source))).astype(int))
    with ThreadPoolExecutor(_GLIMPSE_THREADS) as pool:
        results = list(pool.map(one, chosen.tolist()))
    seen = [result for result in results if isinstance(result, Glimpse)]
    if not seen:
        raise DataError(
            f"{source.path}: none of {len(chosen)} samples could be read, first {results[0]}; "
            "check that they are images and not damaged"
        )
    return Glimpse(
        channels=tuple(sorted({channels for found in seen for channels in found.channels})),
        grey=all(found.grey for found in seen),
        deep=any(found.deep for found in seen),
        largest_side=max(found.largest_side for found in seen),
    )


def as_dtype(image: RawImage, dtype: PixelType) -> RawImage:
    """Bring pixels to 8 or 16 bit over the full range of the type."""
    if image.dtype == dtype:
        return image
    if dtype == np.uint16:
        return np.multiply(image, 257, dtype=np.uint16)
    return np.asarray((image.astype(np.uint32) + 128) // 257, dtype=np.uint8)


def _in_order(
    source: Source,
    spec: ImageInput,
    dtype: PixelType,
    num_workers: int,
) -> Iterator[tuple[int, Decoded | CorruptSampleError]]:
    def one(index: int) -> Decoded | CorruptSampleError:
        try:
            image = source.read(index)
            aspect = image.shape[1] / image.shape[0]
            return Decoded(index, as_dtype(fit(image, spec), dtype), aspect)
        except CorruptSampleError as error:
            return error
        except DataError as error:
            return CorruptSampleError(f"{source.key(index)}: {error}")

    workers = max(1, num_workers)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    waiting: deque[tuple[int, Future[Decoded | CorruptSampleError]]] = deque()
    try:
        for index in range(len(source)):
            waiting.append((index, pool.submit(one, index)))
            # A bounded queue: decoded samples do not pile up while the caller writes.
            if len(waiting) >= 8 * workers:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _summary(source: Source, corrupt: list[tuple[str, str]]) -> str:
    reasons = "; ".join(reason for _, reason in corrupt[:_NAMED])
    more = f" and {len(corrupt) - _NAMED} more" if len(corrupt) > _NAMED else ""
    share = len(corrupt) / len(source)
    return (
        f"{source.path}: {len(corrupt)} of {len(source)} samples ({share:.1%}) are corrupt: "
        f"{reasons}{more}"
    )


def _enough(count: int, total: int) -> float:
    """The least two-digit share that lets ``count`` of ``total`` pass."""
    return min(1.0, math.ceil(count / total * 100) / 100)


def _is_grey(image: RawImage) -> bool:
    """True for one channel, with or without alpha, and for colour with equal channels."""
    colour = image[:, :, : image.shape[2] - (image.shape[2] in (2, 4))]
    return bool(np.equal(colour, colour[:, :, :1]).all())
