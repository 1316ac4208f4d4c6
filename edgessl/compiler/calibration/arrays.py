"""Arrays as calibration input: in memory, or streamed from ``.npy`` and ``.npz`` files."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edgessl.errors import DataError
from edgessl.files import sha256_file, sha256_json

__all__ = ["Array", "ArrayCalibration", "Calibration", "FileCalibration", "Fingerprinted"]

Array = NDArray[Any]


class Calibration(Protocol):
    """Samples that are read when needed; the data room and callers provide others."""

    def __len__(self) -> int:
        """Number of samples N."""
        ...

    def arrays(self, indices: Sequence[int]) -> Mapping[str, Array]:
        """The samples at ascending indices: one array per input name, samples first.

        Raises:
            CorruptSampleError: One of them cannot be decoded.
        """
        ...


@runtime_checkable
class Fingerprinted(Calibration, Protocol):
    """A calibration that knows its samples' contents without decoding them."""

    def fingerprint(self, indices: Sequence[int]) -> str:
        """A hash that changes with the contents of any of these samples."""
        ...


class ArrayCalibration:
    """Arrays in memory, one per input, samples first."""

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self._arrays = dict(arrays)
        self._count = _common_count({n: a.shape for n, a in arrays.items()}, "calibration")

    def __len__(self) -> int:
        return self._count

    def arrays(self, indices: Sequence[int]) -> dict[str, Array]:
        """See `Calibration`."""
        return {name: array[list(indices)] for name, array in self._arrays.items()}

    def fingerprint(self, indices: Sequence[int]) -> str:
        """Hash of the samples."""
        described = []
        for name, array in sorted(self.arrays(indices).items()):
            digest = hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
            described.append([name, array.dtype.str, array.shape, digest.hexdigest()])
        return sha256_json(described)


class FileCalibration:
    """A ``.npz`` with one array per input, or a ``.npy`` for a model with one input.

    A file with a single array serves a model with a single input whatever the array's name. The
    arrays are streamed: no more than the samples asked for is in memory.

    Raises:
        DataError: The file is missing, damaged, or names other arrays than the model's inputs.
    """

    def __init__(self, path: Path, inputs: Sequence[str]) -> None:
        self._path = Path(path)
        self._members = self._name_members(list(inputs))
        shapes = {}
        for name in self._members:
            file, dtype, shape = self._open(name)
            file.close()
            if dtype.hasobject:
                raise DataError(f"{path}: array '{name}' holds Python objects; store numbers")
            shapes[name] = shape
        self._count = _common_count(shapes, str(path))

    def _name_members(self, inputs: list[str]) -> dict[str, str]:
        if self._path.suffix == ".npy":
            names = {"": ""}
        else:
            try:
                with zipfile.ZipFile(self._path) as archive:
                    names = {n.removesuffix(".npy"): n for n in archive.namelist()}
            except (OSError, zipfile.BadZipFile) as error:
                raise DataError(
                    f"{self._path}: not a readable .npz ({error}); rebuild it"
                ) from error
        if len(names) == len(inputs) == 1:
            return {inputs[0]: next(iter(names.values()))}
        if set(names) != set(inputs):
            raise DataError(
                f"{self._path}: holds arrays {sorted(names)}, the model takes {sorted(inputs)}; "
                "store one array per input, named alike"
            )
        return names

    def _open(self, name: str) -> tuple[IO[bytes], np.dtype[Any], tuple[int, ...]]:
        """Open a member at its first value."""
        damaged = "store it with np.save or np.savez"
        try:
            file = _open_member(self._path, self._members[name])
        except (OSError, zipfile.BadZipFile) as error:
            raise DataError(f"{self._path}: cannot be read ({error}); {damaged}") from error
        try:
            shape, fortran, dtype = _read_header(file)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            file.close()
            raise DataError(
                f"{self._path}: not a readable numpy file ({error}); {damaged}"
            ) from error
        if fortran and len(shape) > 1:
            file.close()
            raise DataError(
                f"{self._path}: array is in Fortran order; store np.ascontiguousarray(…)"
            )
        return file, dtype, shape

    def __len__(self) -> int:
        return self._count

    def arrays(self, indices: Sequence[int]) -> dict[str, Array]:
        """See `Calibration`."""
        result: dict[str, Array] = {}
        for name in self._members:
            file, dtype, shape = self._open(name)
            with file:
                size = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
                rows = [self._row(file, size, k) for k in _gaps(indices)]
            result[name] = np.frombuffer(b"".join(rows), dtype).reshape(-1, *shape[1:])
        return result

    def fingerprint(self, indices: Sequence[int]) -> str:
        """Hash of the file, and which samples of it."""
        return sha256_json([self._digest, sorted(self._members.items()), list(indices)])

    @cached_property
    def _digest(self) -> str:
        return sha256_file(self._path)

    def _row(self, file: IO[bytes], size: int, skip: int) -> bytes:
        try:
            file.seek(skip * size, 1)
            data = file.read(size)
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(f"{self._path}: is damaged ({error}); copy it again") from error
        if len(data) != size:
            raise DataError(f"{self._path}: ends before its last sample; copy it again")
        return data


def _open_member(path: Path, member: str) -> IO[bytes]:
    if not member:
        return open(path, "rb")
    with zipfile.ZipFile(path) as archive:
        return archive.open(member)  # keeps the archive's file open until it is closed itself


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    return readers[version](file)


def _gaps(indices: Sequence[int]) -> list[int]:
    """How many samples to pass over before each one."""
    return [b - a - 1 for a, b in zip([-1, *indices], indices, strict=False)]


def _common_count(shapes: Mapping[str, tuple[int, ...]], where: str) -> int:
    counts = {name: (shape[0] if shape else 0) for name, shape in shapes.items()}
    if not counts:
        raise DataError(f"{where}: holds no arrays; store one array per input, samples first")
    if len(set(counts.values())) > 1:
        fewest = min(counts, key=lambda name: counts[name])
        raise DataError(
            f"{where}: arrays differ in samples {counts}; store as many of each, or fill an input "
            f"that never changes with a constant, like --constant {fewest}=0"
        )
    return next(iter(counts.values()))
