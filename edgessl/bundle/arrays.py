"""Read and write ``.npz`` members: equal arrays give equal bytes, hostile headers are refused."""

from __future__ import annotations

import io
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgessl.errors import BundleError

__all__ = ["MAX_ARRAYS_BYTES", "load_arrays", "save_arrays"]

MAX_ARRAYS_BYTES = 512 * 1024**2
"""Default limit on the arrays of one member, in bytes after decompression."""

_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    ValueError,
    OverflowError,
    NotImplementedError,
    EOFError,
    KeyError,
    RuntimeError,
    SyntaxError,
    tokenize.TokenError,  # numpy tokenizes a header that it cannot parse
)


def save_arrays(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Write named arrays as an uncompressed ``.npz`` whose bytes depend on nothing else."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(arrays):
            member = io.BytesIO()
            np.lib.format.write_array(member, np.asarray(arrays[name], order="C"), version=(1, 0))
            info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            archive.writestr(info, member.getvalue())
    return stream.getvalue()


def load_arrays(
    data: bytes, *, where: str, max_bytes: int = MAX_ARRAYS_BYTES
) -> dict[str, NDArray[Any]]:
    """Read an ``.npz`` without ever unpickling, allocating only what its members hold.

    Args:
        data: The file's bytes.
        where: What errors call it.
        max_bytes: Limit on all arrays together, after decompression.

    Raises:
        BundleError: Not an ``.npz``, larger than the limit, or with objects inside.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
            total = sum(info.file_size for info in infos)
            if total > max_bytes:
                raise BundleError(f"{where}: declares {total} bytes of arrays, limit {max_bytes}")
            return {
                info.filename.removesuffix(".npy"): _read_array(archive.read(info), where)
                for info in infos
            }
    except _ERRORS as error:
        raise BundleError(f"{where}: not a readable .npz ({error}); write it again") from error


def _read_array(data: bytes, where: str) -> NDArray[Any]:
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    else:
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
    if dtype.hasobject:
        raise BundleError(f"{where}: holds Python objects; write numbers only")
    expected = math.prod(shape) * dtype.itemsize
    start = stream.tell()
    if expected != len(data) - start:
        raise BundleError(f"{where}: an array declares {expected} bytes, has {len(data) - start}")
    flat: NDArray[Any] = np.frombuffer(data, dtype=dtype, offset=start).copy()
    return flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)
