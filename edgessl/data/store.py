"""Decode once: all samples of a source at one canvas size, in a file that is mapped into memory.

The file is ``samples.bin``, ``(N, C, S, S)`` in C order, beside ``index.json``; both are made
again when anything about them does not fit.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgessl.data.decoding import decode_all, glimpse
from edgessl.data.source import Source, content_hash, fingerprint
from edgessl.errors import OutputError
from edgessl.files import atomic_directory, output_errors, sha256_json
from edgessl.preprocessing import ImageInput
from edgessl.progress import Progress, ProgressEvent, silent

if TYPE_CHECKING:
    from edgessl.data.batch import RawBatch

__all__ = ["SampleStore", "channel_statistics", "choose_canvas", "decode_store"]

_DECODER_VERSION = 1
_CHECKED_ROWS = 2048


class SampleStore:
    """Decoded samples of one size.

    Args:
        samples: ``(N, C, S, S)`` uint8 or uint16; the aspect ratio is not kept in them.
        aspects: ``(N,)`` float32, width over height before decoding.
        keys: Names of the samples.
        content_hashes: SHA-256 of the encoded bytes of each.
        corrupt: (key, reason) of the samples that were left out.
        file: Where ``samples`` is mapped from; None if it is in memory.
    """

    def __init__(
        self,
        samples: NDArray[np.uint8] | NDArray[np.uint16],
        aspects: NDArray[np.float32],
        keys: list[str],
        content_hashes: list[str],
        corrupt: list[tuple[str, str]],
        *,
        file: Path | None = None,
    ) -> None:
        self.samples = samples
        self.aspects = aspects
        self.keys = keys
        self.content_hashes = content_hashes
        self.corrupt = corrupt
        self._file = file
        # 60 bits of the hash: what a sample looks like in a view does not depend on its place.
        self._identities = np.array([int(text[:15], 16) for text in content_hashes], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.keys)

    def __getstate__(self) -> dict[str, Any]:
        """Leave mapped samples out, so that a worker process maps them itself."""
        state = dict(self.__dict__)
        if self._file is not None:
            state["samples"] = (self.samples.dtype.str, self.samples.shape)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._file is not None:
            dtype, shape = state["samples"]
            self.samples = np.memmap(self._file, dtype=dtype, mode="r", shape=shape)

    def fetch(self, indices: NDArray[np.int64]) -> RawBatch:
        """Copy samples out, as views take them.

        Args:
            indices: Store indices ``(N,)``.
        """
        from edgessl.data.batch import RawBatch

        indices = np.asarray(indices, dtype=np.int64)
        identities = self._identities[indices]
        return RawBatch.from_arrays(
            self.samples[indices], self.aspects[indices], indices, identities
        )


def choose_canvas(source: Source, image_size: int) -> int:
    """Side of the canvas: 1.5 * image_size up to a multiple of 16, or what the samples have.

    A crop of 44 % of the area then still has image_size pixels per side.
    """
    wanted = math.ceil(image_size * 1.5 / 16) * 16
    return min(wanted, glimpse(source).largest_side)


def decode_store(
    source: Source,
    *,
    channels: int,
    canvas: int,
    cache_dir: Path | None,
    num_workers: int,
    max_corrupt: float = 0.01,
    progress: Progress = silent,
) -> SampleStore:
    """Decode all samples of a source, or map what an earlier call decoded.

    Args:
        source: The samples; labels are not read.
        channels: Channels of the store.
        canvas: Its side S in pixels.
        cache_dir: Folder for decoded stores; None keeps the samples in memory.
        num_workers: Threads that decode.
        max_corrupt: Share of corrupt samples that is tolerated.
        progress: Told of each sample, and of the corrupt ones at the end.

    Raises:
        DataError: Too many samples are corrupt, or there are none.
        OutputError: The cache folder cannot be written.
    """
    spec = ImageInput(
        channels=channels,
        height=canvas,
        width=canvas,
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
        resize="squash",
    )
    if cache_dir is None:
        return _decode_to_memory(source, spec, num_workers, max_corrupt, progress)
    name = sha256_json([_DECODER_VERSION, fingerprint(source), channels, canvas])
    path = Path(cache_dir) / f"{name[:40]}.store"
    with _cache_errors(path), _exclusive(path.with_suffix(".lock")):
        store = _open_store(path)
        if store is None:
            if path.exists():
                message = f"{path}: decoded samples are damaged and are made again"
                progress(ProgressEvent("decode", message=message, warning=True))
            _decode_to_file(path, source, spec, num_workers, max_corrupt, progress)
            store = _open_store(path)
        else:
            _report_cached(source, store, progress)
    if store is None:
        raise OutputError(
            f"{path}: does not hold what was just written to it; check the disk, or decode into "
            "memory with decode_cache=false"
        )
    return store


def channel_statistics(
    store: SampleStore, *, samples: int = 2000
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation per channel, of values scaled to [0, 1].

    Args:
        store: Decoded samples.
        samples: How many to look at, spread evenly.
    """
    chosen = np.unique(np.linspace(0, len(store) - 1, min(samples, len(store))).astype(np.int64))
    top = float(np.iinfo(store.samples.dtype).max)
    totals = np.zeros((2, store.samples.shape[1]))
    for start in range(0, len(chosen), 64):
        values = store.samples[chosen[start : start + 64]] / top
        totals += np.stack([values.sum(axis=(0, 2, 3)), (values**2).sum(axis=(0, 2, 3))])
    mean, square = totals / (len(chosen) * store.samples.shape[2] * store.samples.shape[3])
    # An empty channel must not divide by zero later.
    std = np.sqrt(np.maximum(square - mean**2, 1e-6))
    return tuple(map(float, mean)), tuple(map(float, std))


def _decode_to_memory(
    source: Source, spec: ImageInput, num_workers: int, max_corrupt: float, progress: Progress
) -> SampleStore:
    dtype = glimpse(source).dtype
    samples = np.empty((len(source), spec.channels, spec.height, spec.width), dtype=dtype)
    corrupt: list[tuple[str, str]] = []
    decoded: list[tuple[int, float]] = []
    for sample in decode_all(
        source,
        spec,
        dtype=dtype,
        num_workers=num_workers,
        max_corrupt=max_corrupt,
        corrupt=corrupt,
        progress=progress,
    ):
        samples[len(decoded)] = sample.image.transpose(2, 0, 1)
        decoded.append((sample.index, sample.aspect))
    aspects = np.array([aspect for _, aspect in decoded], dtype=np.float32)
    keys = [source.key(index) for index, _ in decoded]
    hashes = [content_hash(source, index) for index, _ in decoded]
    return SampleStore(samples[: len(decoded)], aspects, keys, hashes, corrupt)


def _decode_to_file(
    path: Path,
    source: Source,
    spec: ImageInput,
    num_workers: int,
    max_corrupt: float,
    progress: Progress,
) -> None:
    dtype = glimpse(source).dtype
    corrupt: list[tuple[str, str]] = []
    rows: list[int] = []
    aspects: list[float] = []
    checksums: list[int] = []
    with atomic_directory(path, overwrite=True) as folder:
        # Plain writes, not a mapped file: a full disk is then an error and not a dead process.
        with open(folder / "samples.bin", "wb") as file:
            for sample in decode_all(
                source,
                spec,
                dtype=dtype,
                num_workers=num_workers,
                max_corrupt=max_corrupt,
                corrupt=corrupt,
                progress=progress,
            ):
                data = np.ascontiguousarray(sample.image.transpose(2, 0, 1)).tobytes()
                file.write(data)
                checksums.append(zlib.crc32(data))
                rows.append(sample.index)
                aspects.append(sample.aspect)
        index = {
            "dtype": dtype.name,
            "shape": [len(rows), spec.channels, spec.height, spec.width],
            "aspects": aspects,
            "keys": [source.key(row) for row in rows],
            "content_hashes": [content_hash(source, row) for row in rows],
            "corrupt": corrupt,
            "checksums": checksums,
        }
        document = {"index": index, "sha256": sha256_json(index)}
        (folder / "index.json").write_text(json.dumps(document), encoding="utf-8")


def _open_store(path: Path) -> SampleStore | None:
    """Map a store; None if there is none or anything about it is wrong."""
    file = path / "samples.bin"
    try:
        document = json.loads((path / "index.json").read_text(encoding="utf-8"))
        index = document["index"]
        if document["sha256"] != sha256_json(index):
            return None
        dtype, shape = np.dtype(index["dtype"]), tuple(index["shape"])
        if file.stat().st_size != int(np.prod(shape)) * dtype.itemsize:
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    samples = np.memmap(file, dtype=dtype, mode="r", shape=shape)
    if not _checksums_fit(samples, index["checksums"]):
        return None
    return SampleStore(
        samples,
        np.array(index["aspects"], dtype=np.float32),
        index["keys"],
        index["content_hashes"],
        [(key, reason) for key, reason in index["corrupt"]],
        file=file,
    )


def _checksums_fit(samples: NDArray[Any], checksums: list[int]) -> bool:
    """Compare rows with their checksums: all of a small store, an even spread of a large one."""
    rows = np.unique(np.linspace(0, len(samples) - 1, min(_CHECKED_ROWS, len(samples))).astype(int))
    return all(zlib.crc32(samples[row].tobytes()) == checksums[row] for row in rows)


def _report_cached(source: Source, store: SampleStore, progress: Progress) -> None:
    total = len(source)
    progress(ProgressEvent("decode", total, total, "samples"))
    if store.corrupt:
        message = (
            f"{source.path}: {len(store.corrupt)} of {total} samples are corrupt and were skipped "
            f"when they were decoded, first {store.corrupt[0][0]}"
        )
        progress(ProgressEvent("decode", total, total, "samples", message=message, warning=True))


@contextmanager
def _cache_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OutputError as error:
        raise OutputError(
            f"{error}; the decode cache can be moved with EDGESSL_CACHE or left out with "
            "decode_cache=false"
        ) from error


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Let one process decode while the others wait for what it writes."""
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
