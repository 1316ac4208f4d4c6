"""Where samples come from: one interface over folders, tar shards, arrays and datasets on disk.

Nothing here decodes ahead or imports torch: a source knows its keys, hands out one decoded sample
at a time, and reads labels only when `Source.labels` is called, which only `evaluate` does.
"""

from __future__ import annotations

import hashlib
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgessl.errors import CorruptSampleError, DataError
from edgessl.files import cache_directory, sha256_json, write_text
from edgessl.images import read_image
from edgessl.preprocessing import RawImage
from edgessl.registry import Registry

__all__ = [
    "SOURCES",
    "EncodedSource",
    "RawImage",
    "Source",
    "SourceFormat",
    "Splits",
    "Subset",
    "content_hash",
    "fingerprint",
    "open_source",
    "stat_signature",
    "stratified_split",
]

#: A file that changed this recently may change again without its time stamp moving.
_SETTLED_SECONDS = 2.0


class Source(ABC):
    """Samples, labelled or not; nothing is decoded before it is asked for.

    Attributes:
        path: Where the samples come from, for messages.
    """

    path: str

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples N."""

    @abstractmethod
    def key(self, index: int) -> str:
        """Stable name of a sample, unique in its source (``"cats/1.jpg"``, ``"x_train[7]"``)."""

    @abstractmethod
    def read(self, index: int) -> RawImage:
        """Decode one sample: ``(H, W, C)`` uint8 or uint16.

        Raises:
            CorruptSampleError: It cannot be decoded or is empty; the message names its key.
        """

    @abstractmethod
    def content_hash(self, index: int) -> str:
        """SHA-256 of the encoded bytes (or of the array), in hexadecimal.

        Raises:
            CorruptSampleError: The bytes cannot be read.
        """

    def labels(self) -> NDArray[np.int64] | None:
        """Class indices ``(N,)`` into `class_names`, read now; None if there are none.

        Raises:
            DataError: There are labels, but they do not fit the samples.
        """
        return None

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes, in the order of their indices; None if there are no labels."""
        return None

    def signature(self) -> str | None:
        """A cheap hash that changes whenever a sample does; None if there is no such hash."""
        return None

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> Source:
        """The samples at ``indices``, in that order."""
        return Subset(self, indices)


class EncodedSource(Source):
    """A source whose samples are encoded image files."""

    @abstractmethod
    def encoded(self, index: int) -> bytes:
        """The bytes of one file.

        Raises:
            CorruptSampleError: They cannot be read.
        """

    def read(self, index: int) -> RawImage:
        """Decode one file."""
        return read_image(self.encoded(index), name=self.key(index))

    def content_hash(self, index: int) -> str:
        """SHA-256 of the file."""
        return hashlib.sha256(self.encoded(index)).hexdigest()


class Subset(Source):
    """Some samples of a source."""

    def __init__(self, source: Source, indices: Sequence[int] | NDArray[np.int64]) -> None:
        self.path = source.path
        self._source = source
        self._indices = np.asarray(indices, dtype=np.int64)
        outside = self._indices[(self._indices < 0) | (self._indices >= len(source))]
        if len(outside):
            raise DataError(
                f"{source.path}: a subset asks for sample {outside[0]} of {len(source)}; indices "
                f"go from 0 to {len(source) - 1}"
            )

    def __len__(self) -> int:
        return len(self._indices)

    def key(self, index: int) -> str:
        """Name of a sample."""
        return self._source.key(int(self._indices[index]))

    def read(self, index: int) -> RawImage:
        """Decode one sample."""
        return self._source.read(int(self._indices[index]))

    def content_hash(self, index: int) -> str:
        """SHA-256 of one sample."""
        return self._source.content_hash(int(self._indices[index]))

    def labels(self) -> NDArray[np.int64] | None:
        """Labels of these samples."""
        labels = self._source.labels()
        return None if labels is None else labels[self._indices]

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Class names of the whole source."""
        return self._source.class_names

    def signature(self) -> str | None:
        """Signature of the whole source and of the choice."""
        whole = self._source.signature()
        if whole is None:
            return None
        chosen = hashlib.sha256(self._indices.tobytes()).hexdigest()
        return sha256_json([whole, chosen])


@dataclass(frozen=True)
class Splits:
    """The parts of a source.

    Attributes:
        train: Samples to learn from.
        val: Samples to choose by, if the source declares them.
        test: Samples to judge by, if the source declares them.
        declared: False if the source declares no parts; then every sample is in ``train``.
    """

    train: Source
    val: Source | None = None
    test: Source | None = None
    declared: bool = False

    @property
    def path(self) -> str:
        """Where the samples come from."""
        return self.train.path


class SourceFormat(Protocol):
    """One way to store samples: says whether a path looks like it, and opens it."""

    @staticmethod
    def recognises(path: Path) -> bool:
        """Tell from the path and a glance at the disk."""

    @staticmethod
    def open(path: Path) -> Splits:
        """Index the samples.

        Raises:
            DataError: The path cannot be read as this format or holds no samples.
        """


SOURCES: Registry[SourceFormat] = Registry(
    "data source",
    {
        "folder": "edgessl.data.sources.folder:FolderFormat",
        "huggingface": "edgessl.data.sources.huggingface:HuggingFaceFormat",
        "npz": "edgessl.data.sources.npz:NpzFormat",
        "webdataset": "edgessl.data.sources.webdataset:WebDatasetFormat",
    },
    group="edgessl.sources",
)


def open_source(path: str | Path) -> Splits:
    """Open whatever ``path`` names: a folder, tar shards, an ``.npz``, a Hugging Face dataset.

    Raises:
        DataError: It does not exist, cannot be read, is no known format or holds no samples.
    """
    path = Path(path).expanduser()
    try:
        for name in (n for n in SOURCES.names() if n != "folder"):
            if SOURCES.get(name).recognises(path):
                return SOURCES.get(name).open(path)
        if not path.exists():
            raise DataError(f"{path}: no such file or folder; check --data")
        # A folder is what remains when nothing more particular recognises it.
        if SOURCES.get("folder").recognises(path):
            return SOURCES.get("folder").open(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(f"{path}: cannot be read ({reason}); check the path and its rights") from (
            error
        )
    raise DataError(
        f"{path}: not a data source; give a folder of images, tar shards "
        "(shard-{000..009}.tar), an .npz of arrays or a Hugging Face dataset saved to disk"
    )


def stratified_split(
    source: Source, *, test_fraction: float = 0.3, seed: int
) -> tuple[Source, Source]:
    """Split labelled samples into two parts with the same share of each class.

    A class with one sample stays in the first part; any other has a sample in both.

    Args:
        source: A source with labels.
        test_fraction: Share of each class that goes to the second part, in (0, 1).
        seed: Chooses the samples.

    Raises:
        DataError: The source has no labels, or no class has two samples.
    """
    if not 0.0 < test_fraction < 1.0:
        raise DataError(f"test_fraction must be between 0 and 1, found {test_fraction}")
    labels = source.labels()
    if labels is None:
        raise DataError(
            f"{source.path}: has no labels to split by; sort the images into one folder per "
            "class, or add a labels.csv"
        )
    generator = np.random.default_rng(seed)
    in_test = np.zeros(len(source), dtype=np.bool_)
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        if len(members) > 1:
            count = round(len(members) * test_fraction)
            in_test[members[: min(max(count, 1), len(members) - 1)]] = True
    if not in_test.any():
        raise DataError(f"{source.path}: no class has two samples; a split needs at least two")
    return source.subset(np.flatnonzero(~in_test)), source.subset(np.flatnonzero(in_test))


def fingerprint(source: Source) -> str:
    """SHA-256 over the keys and contents of all samples, in order.

    The contents are read once; while no file's size or time stamp changes, the answer is
    remembered in the cache folder.

    Raises:
        OutputError: The cache folder cannot be written.
    """
    signature = source.signature()
    memo = cache_directory("fingerprints", f"{signature}.txt") if signature else None
    if memo is not None and memo.is_file():
        known = memo.read_text(encoding="utf-8").strip()
        if len(known) == 64:
            return known
    digest = hashlib.sha256()
    for index in range(len(source)):
        digest.update(f"{source.key(index)}\0{content_hash(source, index)}\n".encode())
    if memo is not None:
        write_text(memo, digest.hexdigest() + "\n")
    return digest.hexdigest()


def content_hash(source: Source, index: int) -> str:
    """Hash of a sample; of its name and no content if it cannot be read."""
    try:
        return source.content_hash(index)
    except CorruptSampleError:
        return hashlib.sha256(f"unreadable {source.key(index)}".encode()).hexdigest()


def stat_signature(paths: Sequence[Path], keys: Sequence[str]) -> str | None:
    """Hash of names, sizes and time stamps; None while a file is too fresh to trust them."""
    digest = hashlib.sha256()
    newest = 0.0
    for path in paths:
        stat = os.stat(path)
        newest = max(newest, stat.st_mtime)
        digest.update(f"{os.path.abspath(path)}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    if time.time() - newest < _SETTLED_SECONDS:
        return None
    for key in keys:
        digest.update(f"{key}\n".encode())
    return digest.hexdigest()
