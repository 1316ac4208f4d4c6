"""Calibration input: check it, split it into a calibration part and a held-out part.

The first part sets the integer ranges; the second, which no quantizer sees, is what the fidelity
gate judges by.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgessl.bundle.manifest import TensorSpec
from edgessl.compiler.graph_info import GraphInfo
from edgessl.compiler.samples import Samples, SampleWriter, Stream
from edgessl.errors import CorruptSampleError, DataError
from edgessl.preprocessing import ImageInput
from edgessl.progress import Progress, ProgressEvent

__all__ = [
    "MIN_SAMPLES",
    "ArrayCalibration",
    "Calibration",
    "CalibrationInput",
    "FileCalibration",
    "OpenData",
    "open_calibration",
    "split_indices",
    "store",
]

Array = NDArray[Any]
MIN_SAMPLES = 16
_CHUNK_BYTES = 8 << 20


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


OpenData = Callable[[Path, ImageInput, str], Calibration]
CalibrationInput = Calibration | Mapping[str, Array] | Array | Path | str


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

    def _row(self, file: IO[bytes], size: int, skip: int) -> bytes:
        try:
            file.seek(skip * size, 1)
            data = file.read(size)
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(f"{self._path}: is damaged ({error}); copy it again") from error
        if len(data) != size:
            raise DataError(f"{self._path}: ends before its last sample; copy it again")
        return data


def open_calibration(
    calibration: CalibrationInput, graph: GraphInfo, *, open_data: OpenData | None
) -> Calibration:
    """Find out what was given and make it a `Calibration`.

    Args:
        calibration: A `Calibration`; arrays; a ``.npy`` or ``.npz`` of model inputs; or the path
            of a data source.
        graph: The prepared graph.
        open_data: Opens a data source, given the path, what the model takes and its input's name.
            The data room has one; the compiler itself knows arrays only.

    Raises:
        DataError: The path is no file of arrays, and there is no way to decode it.
    """
    inputs = [spec.name for spec in graph.inputs]
    if isinstance(calibration, np.ndarray):
        calibration = {inputs[0]: calibration}
    if isinstance(calibration, Mapping):
        return ArrayCalibration(calibration)
    if not isinstance(calibration, str | Path):
        return calibration
    path = Path(calibration)
    if _holds_model_inputs(path, inputs):
        return FileCalibration(path, inputs)
    if graph.preprocessing is None or len(inputs) != 1:
        raise DataError(
            f"{path}: the model does not say how samples become its input; give an .npz with an "
            f"array for each of {inputs}"
        )
    if open_data is None:
        raise DataError(f"{path}: no .npy or .npz of model inputs; give arrays or open_data")
    return open_data(path, graph.preprocessing, inputs[0])


def _holds_model_inputs(path: Path, inputs: Sequence[str]) -> bool:
    if path.suffix == ".npy":
        return True
    if path.suffix != ".npz" or not path.is_file() or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        names = {name.removesuffix(".npy") for name in archive.namelist()}
    return names == set(inputs) or (len(names) == len(inputs) == 1 and "x_train" not in names)


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
            f"calibration has inputs {sorted(first)}, the model takes {names}; name them alike"
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


def _stream(spec: TensorSpec, array: Array, graph: GraphInfo) -> Stream:
    want = graph.sample_shape(spec)
    have = tuple(np.asarray(array).shape[1:])
    fits = len(want) == len(have) and all(
        isinstance(w, str) or w == h for w, h in zip(want, have, strict=True)
    )
    dtype = np.dtype(spec.dtype)
    same_kind = np.asarray(array).dtype.kind in ("iu" if dtype.kind in "iu" else dtype.kind)
    if not fits or not same_kind:
        raise DataError(
            f"calibration for '{spec.name}' is {np.asarray(array).dtype} {_dims(have)} per "
            f"sample, the model takes {spec.dtype} {_dims(want)}; convert it"
        )
    return Stream(
        name=spec.name, dtype=spec.dtype, shape=have, batched=spec.name in graph.batched_inputs
    )


def _checked(array: Array, stream: Stream, indices: Sequence[int]) -> Array:
    if array.shape[1:] != stream.shape:
        raise DataError(
            f"calibration for '{stream.name}': sample {indices[0]} is "
            f"{_dims(array.shape[1:])}, others are {_dims(stream.shape)}; make them alike"
        )
    values = array.astype(stream.dtype, copy=False)
    if array.dtype.kind in "iu" and not np.array_equal(values, array):
        raise DataError(f"calibration for '{stream.name}' does not fit into {stream.dtype}")
    if values.dtype.kind == "f":
        finite = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
        if not finite.all():
            sample = indices[int(np.argmin(finite))]
            raise DataError(
                f"calibration for '{stream.name}': sample {sample} holds NaN or infinite values; "
                "remove it"
            )
    return values


def _common_count(shapes: Mapping[str, tuple[int, ...]], where: str) -> int:
    counts = {name: (shape[0] if shape else 0) for name, shape in shapes.items()}
    if not counts:
        raise DataError(f"{where}: holds no arrays; store one array per input, samples first")
    if len(set(counts.values())) > 1:
        raise DataError(f"{where}: arrays differ in samples {counts}; store as many of each")
    return next(iter(counts.values()))


def _dims(shape: Sequence[int | str]) -> str:
    return "[" + "x".join(str(d) for d in shape) + "]"
