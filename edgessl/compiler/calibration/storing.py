"""Split calibration samples into two parts, check them against the graph and store them.

The first part sets the integer ranges; the second, which no quantizer sees, is what the fidelity
gate judges by.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgessl.bundle.manifest import TensorSpec
from edgessl.compiler.calibration.arrays import Array, Calibration
from edgessl.compiler.graph_info import GraphInfo
from edgessl.compiler.samples import Samples, SampleWriter, Stream
from edgessl.errors import CorruptSampleError, DataError
from edgessl.progress import Progress, ProgressEvent

__all__ = ["MIN_SAMPLES", "split_indices", "store"]

MIN_SAMPLES = 16
_CHUNK_BYTES = 8 << 20


def split_indices(
    count: int, *, samples: int, held_out: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw the two parts, disjoint and each in ascending order.

    With fewer than ``samples + held_out`` samples two fifths are held out, 8 at least.

    Raises:
        DataError: Fewer than 16 samples.
    """
    if count < MIN_SAMPLES:
        raise DataError(
            f"calibration holds {count} samples, at least {MIN_SAMPLES} are needed "
            "(300 to calibrate and 200 to check are a good number)"
        )
    if count < samples + held_out:
        held_out = max(8, min(held_out, count * 2 // 5))
        samples = min(samples, count - held_out)
    order = np.random.default_rng(seed).permutation(count)
    return np.sort(order[:samples]), np.sort(order[samples : samples + held_out])


def store(
    calibration: Calibration,
    indices: NDArray[np.int64],
    graph: GraphInfo,
    folder: Path,
    *,
    max_corrupt: float = 0.01,
    progress: Progress,
) -> Samples:
    """Check the chosen samples against the graph and write them to the work folder.

    Corrupt samples are left out and reported.

    Raises:
        DataError: A missing input, a wrong dtype or shape, a NaN or an infinite value, or a
            larger share of corrupt samples than ``max_corrupt``; the message names the input and
            the sample.
    """
    chosen = [int(i) for i in indices]
    first = _first_readable(calibration, chosen)
    names = sorted(spec.name for spec in graph.inputs)
    if sorted(first) != names:
        raise DataError(
            f"calibration has inputs {sorted(first)}, the model takes {names}; name them alike, or "
            "fill an input that never changes with --constant NAME=VALUE"
        )
    streams = tuple(_stream(spec, first[spec.name], graph) for spec in graph.inputs)
    chunk = max(1, _CHUNK_BYTES // max(1, sum(s.sample_bytes for s in streams)))
    corrupt: list[str] = []
    with SampleWriter(folder, streams, batch_size=graph.batch_size) as writer:
        for start in range(0, len(chosen), chunk):
            for part, arrays in _readable(calibration, chosen[start : start + chunk], corrupt):
                checked = {s.name: _checked(np.asarray(arrays[s.name]), s, part) for s in streams}
                writer.append(checked)
    if len(corrupt) > max(1.0, max_corrupt * len(chosen)):
        raise DataError(
            f"calibration: {len(corrupt)} of {len(chosen)} samples are corrupt, first: "
            f"{corrupt[0]}; repair or remove them, or allow it with max_corrupt=0.05"
        )
    if corrupt:
        message = f"{len(corrupt)} corrupt samples are left out, first: {corrupt[0]}"
        progress(ProgressEvent("calibration", message=message, warning=True))
    return Samples(folder)


def _first_readable(calibration: Calibration, chosen: Sequence[int]) -> Mapping[str, Array]:
    corrupt: list[str] = []
    for index in chosen:
        for _, arrays in _readable(calibration, [index], corrupt):
            return arrays
    raise DataError(f"calibration: no sample is readable, first: {corrupt[0]}")


def _readable(
    calibration: Calibration, indices: Sequence[int], corrupt: list[str]
) -> Iterator[tuple[Sequence[int], Mapping[str, Array]]]:
    """Read samples at once; one at a time if one of them is corrupt."""
    try:
        yield indices, calibration.arrays(indices)
    except CorruptSampleError as error:
        if len(indices) == 1:
            corrupt.append(str(error))
            return
        for index in indices:
            yield from _readable(calibration, [index], corrupt)


def _stream(spec: TensorSpec, array: Array, graph: GraphInfo) -> Stream:
    want = graph.sample_shape(spec)
    have = tuple(np.asarray(array).shape[1:])
    fits = len(want) == len(have) and all(
        isinstance(w, str) or w == h for w, h in zip(want, have, strict=True)
    )
    dtype = np.dtype(spec.dtype)
    same_kind = np.asarray(array).dtype.kind in ("iu" if dtype.kind in "iu" else dtype.kind)
    if not fits or not same_kind:
        found = np.asarray(array).dtype
        raise DataError(
            f"calibration for '{spec.name}' is {found} {_dims(have)} per "
            f"sample, the model takes {spec.dtype} {_dims(want)}; {_repair(want, have, found)}"
        )
    return Stream(
        name=spec.name, dtype=spec.dtype, shape=have, batched=spec.name in graph.batched_inputs
    )


def _repair(want: Sequence[int | str], have: Sequence[int], found: np.dtype[Any]) -> str:
    """What to do about samples of a wrong shape or dtype."""
    if len(have) == len(want) + 1 and have[0] == 1:
        return "store one row per sample, without the batch of 1"
    if (
        len(have) == len(want) == 3
        and have != want
        and sorted(map(str, have)) == sorted(map(str, want))
    ):
        return "transpose it to the model's layout"
    if found == np.uint8:
        return "scale and normalise it as in training, or give the images with --preprocess"
    return "convert it"


def _checked(array: Array, stream: Stream, indices: Sequence[int]) -> Array:
    if array.shape[1:] != stream.shape:
        raise DataError(
            f"calibration for '{stream.name}': sample {indices[0]} is "
            f"{_dims(array.shape[1:])}, others are {_dims(stream.shape)}; make them alike"
        )
    values = array.astype(stream.dtype, copy=False)
    if array.dtype.kind in "iu" and not np.array_equal(values, array):
        fits = (values == array).reshape(len(array), -1).all(axis=1)
        sample = indices[int(np.argmin(fits))]
        raise DataError(
            f"calibration for '{stream.name}': sample {sample} holds a number that {stream.dtype} "
            "cannot; store numbers in the model's range"
        )
    if values.dtype.kind == "f":
        finite = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
        if not finite.all():
            sample = indices[int(np.argmin(finite))]
            raise DataError(
                f"calibration for '{stream.name}': sample {sample} holds NaN or infinite values; "
                "remove it"
            )
    return values


def _dims(shape: Sequence[int | str]) -> str:
    return "[" + "x".join(str(d) for d in shape) + "]"
