"""Samples on disk, read one engine call at a time.

Calibration and held-out inputs, and the outputs of every candidate, can be larger than the memory
that compiling may use; they live in the work folder as raw arrays and are read with plain file
reads, because the pages of a memory map count as memory of the process.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from edgessl.config import Options
from edgessl.files import sha256_file, sha256_json, write_text

__all__ = ["SampleWriter", "Samples", "Stream"]

Array = NDArray[Any]


class Stream(Options):
    """One array of samples.

    Attributes:
        name: Input or output name.
        dtype: Numpy dtype name.
        shape: Shape of one sample.
        batched: True if a call takes its samples along the first dimension; else a call takes one
            sample as it is.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    batched: bool

    @property
    def sample_bytes(self) -> int:
        """Size of one sample."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


class _Index(Options):
    streams: tuple[Stream, ...]
    count: int
    batch_size: int


class SampleWriter:
    """Append samples to a folder; leaving the context without an error completes it."""

    def __init__(self, folder: Path, streams: tuple[Stream, ...], *, batch_size: int) -> None:
        self._folder = folder
        self._streams = streams
        self._batch_size = batch_size
        self._files: list[BinaryIO] = []
        self._count = 0

    def append(self, arrays: Mapping[str, Array]) -> None:
        """Append samples: one array per stream, ``(n, *shape)``, of the stream's dtype."""
        counts = set()
        for stream, file in zip(self._streams, self._files, strict=True):
            array = np.ascontiguousarray(arrays[stream.name], dtype=stream.dtype)
            file.write(array.reshape(-1).view(np.uint8).data)
            counts.add(len(array))
        (count,) = counts
        self._count += count

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True)
        self._files = [
            open(self._folder / f"{k}.bin", "wb")  # noqa: SIM115 - closed in __exit__
            for k in range(len(self._streams))
        ]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for file in self._files:
            file.close()
        if kind is None:
            index = _Index(streams=self._streams, count=self._count, batch_size=self._batch_size)
            write_text(self._folder / "index.json", index.model_dump_json())


class Samples:
    """Samples that a `SampleWriter` wrote.

    Attributes:
        streams: What is stored.
        count: Samples N.
        batch_size: Samples per engine call.
        calls: Engine calls that cover all samples; the last one repeats its last sample.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        index = _Index.model_validate_json((self.folder / "index.json").read_text("utf-8"))
        self.streams = index.streams
        self.count = index.count
        self.batch_size = index.batch_size
        self.calls = -(-self.count // self.batch_size)

    def sha256(self) -> str:
        """Hash of all values, with their names, dtypes and shapes."""
        described = [stream.model_dump(mode="json") for stream in self.streams]
        contents = [sha256_file(self.folder / f"{k}.bin") for k in range(len(self.streams))]
        return sha256_json([described, contents])

    def read(self, start: int, stop: int) -> dict[str, Array]:
        """Samples ``start`` to ``stop``: one ``(stop - start, *shape)`` array per stream."""
        stop = min(stop, self.count)
        result = {}
        for k, stream in enumerate(self.streams):
            values = np.fromfile(
                self.folder / f"{k}.bin",
                dtype=np.uint8,
                count=(stop - start) * stream.sample_bytes,
                offset=start * stream.sample_bytes,
            )
            result[stream.name] = values.view(stream.dtype).reshape(stop - start, *stream.shape)
        return result

    def feeds(self, call: int) -> dict[str, Array]:
        """What one engine call takes: a batch of samples, or one sample of unbatched inputs."""
        start = call * self.batch_size
        arrays = self.read(start, start + self.batch_size)
        result = {}
        for stream in self.streams:
            array = arrays[stream.name]
            if not stream.batched:
                result[stream.name] = array.reshape(stream.shape)
                continue
            missing = self.batch_size - len(array)
            result[stream.name] = np.concatenate([array, array[-1:].repeat(missing, axis=0)])
        return result

    def rows(self, name: str) -> Iterator[NDArray[np.float64]]:
        """Each sample of one stream, flattened to float64."""
        for start in range(0, self.count, 16):
            block = self.read(start, start + 16)[name]
            yield from block.reshape(len(block), -1).astype(np.float64)
