"""Arrays in an ``.npz``: ``x_train, y_train, x_test, y_test``, or ``x``/``images`` alone."""

from __future__ import annotations

import hashlib
import math
import zipfile
import zlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray

from edgessl.data.source import Source, Splits, stat_signature
from edgessl.data.sources.class_words import ClassWords, agree
from edgessl.errors import CorruptSampleError, DataError, nearest
from edgessl.preprocessing import RawImage

__all__ = ["ArraySource", "NpzFormat"]

_WHOLE_IMAGES = ("x", "images", "data")
_WHOLE_LABELS = {"x": "y", "images": "labels", "data": "target"}
_PARTS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


class ArraySource(Source):
    """Images in one array of an ``.npz``, loaded when the first is read.

    Shapes ``(N, H, W)``, ``(N, H, W, C)`` and ``(N, C, H, W)`` are understood; of three
    dimensions the smallest is the channels, the last one if there is a tie. uint8 and uint16 are
    taken as they are. Other numbers must be finite and lie in [0, 1] or [0, 255] (whole numbers:
    up to 65535); they become uint8 if that loses nothing, else uint16 over the full range.

    Args:
        path: The ``.npz``.
        images: Name of the image array.
        labels: Name of the label array; None if there is none.
    """

    def __init__(self, path: Path, images: str, labels: str | None) -> None:
        self.path = str(path)
        self._file = path
        self._images_key = images
        self._labels_key = labels
        self.words = ClassWords(self._written)
        self._shape, dtype = _header(path, images)
        if dtype.kind not in "uifb":
            raise DataError(f"{path}: '{images}' holds {dtype}; images are arrays of numbers")
        if len(self._shape) not in (3, 4) or 0 in self._shape[1:]:
            raise DataError(
                f"{path}: '{images}' has shape {self._shape}; images are (N, H, W), "
                "(N, H, W, C) or (N, C, H, W)"
            )
        if self._shape[0] == 0:
            raise DataError(f"{path}: '{images}' holds no samples; fill it")

    def __len__(self) -> int:
        return self._shape[0]

    def key(self, index: int) -> str:
        """``x_train[7]``."""
        return f"{self._images_key}[{index}]"

    def read(self, index: int) -> RawImage:
        """One image of the array."""
        image: RawImage = np.ascontiguousarray(self._images[index])
        if image.size == 0:
            raise CorruptSampleError(f"{self.key(index)}: has no pixels")
        return image

    def content_hash(self, index: int) -> str:
        """SHA-256 of the pixels, their type and shape."""
        image = self.read(index)
        digest = hashlib.sha256(f"{image.dtype.str}{image.shape}".encode())
        digest.update(image.data)
        return digest.hexdigest()

    def signature(self) -> str | None:
        """Hash of the file's size and time stamp."""
        return stat_signature([self._file], [self._images_key])

    def labels(self) -> NDArray[np.int64] | None:
        """From the label array."""
        if self._named is None:
            return self.words.indices
        values = self._written()
        if values is None or values.dtype.kind not in "iu":
            return self.words.indices
        if values.min() < 0 or values.max() >= len(self._named):
            raise DataError(
                f"{self.path}: '{self._labels_key}' goes from {values.min()} to {values.max()}, "
                f"class_names has {len(self._named)} names; correct one"
            )
        return values.astype(np.int64)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """From ``class_names`` if the file has it, else the distinct labels of all parts."""
        if self._labels_key is None:
            return None
        return self._named or self.words.names

    @cached_property
    def _named(self) -> tuple[str, ...] | None:
        if "class_names" not in _member_names(self._file):
            return None
        return tuple(str(name) for name in _load(self._file, "class_names").ravel())

    def _written(self) -> NDArray[np.generic] | None:
        """The label array as it is in the file, read now."""
        if self._labels_key is None:
            return None
        values = _load(self._file, self._labels_key)
        if values.shape != (len(self),):
            raise DataError(
                f"{self.path}: '{self._labels_key}' has shape {values.shape}, expected "
                f"({len(self)},) to match '{self._images_key}'"
            )
        if values.dtype.kind not in "iuU":
            raise DataError(
                f"{self.path}: '{self._labels_key}' holds {values.dtype}; labels are whole "
                "numbers or text"
            )
        return values

    @cached_property
    def _images(self) -> RawImage:
        images = _load(self._file, self._images_key)
        if images.ndim == 3:
            images = images[..., None]
        elif _channels_first(images.shape):
            images = images.transpose(0, 2, 3, 1)
        return _to_integers(images, self.path, self._images_key)


class NpzFormat:
    """An ``.npz`` file."""

    @staticmethod
    def recognises(path: Path) -> bool:
        """The suffix."""
        return path.suffix.lower() == ".npz"

    @staticmethod
    def open(path: Path) -> Splits:
        """Look at the names and shapes of the arrays; none is loaded yet."""
        names = _member_names(path)
        parts: dict[str, ArraySource] = {}
        for word, part in _PARTS.items():
            if f"x_{word}" in names and part not in parts:
                label = f"y_{word}" if f"y_{word}" in names else None
                parts[part] = ArraySource(path, f"x_{word}", label)
        agree([part.words for part in parts.values()])
        if "train" in parts:
            return Splits(
                parts["train"], parts.get("val"), parts.get("test"), declared=len(parts) > 1
            )
        for name in _WHOLE_IMAGES:
            if name in names:
                label = next((k for k in (_WHOLE_LABELS[name], "y", "labels") if k in names), None)
                return Splits(ArraySource(path, name, label))
        raise DataError(
            f"{path}: no array 'x_train', 'x' or 'images', found "
            f"{', '.join(sorted(names)) or 'nothing'}; {nearest('x_train', names)}".rstrip("; ")
        )


def _member_names(path: Path) -> set[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return {n.removesuffix(".npy") for n in archive.namelist() if n.endswith(".npy")}
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; check --data") from None
    except zipfile.BadZipFile as error:
        raise DataError(f"{path}: not a readable .npz ({error}); write it again") from error


def _header(path: Path, name: str) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    """Shape and type that an array declares, if it can be had here at all."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
            version = np.lib.format.read_magic(file)
            if version == (1, 0):
                shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            else:
                shape, _, dtype = np.lib.format.read_array_header_2_0(file)
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError) as error:
        raise DataError(f"{path}: '{name}' cannot be read ({error}); write it again") from error
    if dtype.hasobject:
        raise DataError(
            f"{path}: '{name}' holds Python objects, which are not read; store numbers or text"
        )
    needed = math.prod(shape) * dtype.itemsize
    available = psutil.virtual_memory().available
    if needed > available:
        raise DataError(
            f"{path}: '{name}' needs {needed / 1e9:.1f} GB of memory and {available / 1e9:.1f} GB "
            "are free; store the images as files or tar shards"
        )
    return tuple(int(n) for n in shape), dtype


def _load(path: Path, name: str) -> NDArray[np.generic]:
    _header(path, name)
    try:
        with np.load(path, allow_pickle=False) as archive:
            array: NDArray[np.generic] = archive[name]
            return array
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError, KeyError) as error:
        raise DataError(f"{path}: '{name}' cannot be read ({error}); write it again") from error


def _channels_first(shape: Sequence[int]) -> bool:
    _, first, middle, last = shape
    return first < min(middle, last)


def _to_integers(values: NDArray[np.generic], path: str, name: str) -> RawImage:
    if values.dtype == np.uint8:
        return np.asarray(values, dtype=np.uint8)
    if values.dtype == np.uint16:
        return np.asarray(values, dtype=np.uint16)
    if values.dtype.kind == "b":
        grey: NDArray[np.uint8] = np.asarray(values, dtype=np.uint8) * np.uint8(255)
        return grey
    _refuse_not_finite(values, path, name)
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > (255 if values.dtype.kind == "f" else 65535):
        raise DataError(
            f"{path}: '{name}' goes from {low:g} to {high:g}; scale it to [0, 1] or [0, 255]"
        )
    if values.dtype.kind in "iu":
        return values.astype(np.uint8) if high <= 255 else values.astype(np.uint16)
    scaled: NDArray[np.floating] = values.astype(
        np.float32 if values.dtype.itemsize <= 4 else np.float64
    )
    scaled = scaled * (255 if high <= 1.0 else 1)
    whole = np.rint(scaled)
    if float(np.abs(scaled - whole).max()) < 1e-3:
        return np.asarray(whole, dtype=np.uint8)
    return np.asarray(np.rint(scaled * 257), dtype=np.uint16)


def _refuse_not_finite(values: NDArray[np.generic], path: str, name: str) -> None:
    if values.dtype.kind != "f":
        return
    for start in range(0, len(values), 1024):
        finite = np.isfinite(values[start : start + 1024].astype(np.float64))
        if not finite.all():
            first = start + int(np.argmin(finite.reshape(len(finite), -1).all(axis=1)))
            raise DataError(f"{path}: {name}[{first}] holds NaN or infinity; remove such samples")
