"""Find out what was given as calibration input."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from edgessl.compiler.calibration.arrays import (
    Array,
    ArrayCalibration,
    Calibration,
    FileCalibration,
    Fingerprinted,
)
from edgessl.compiler.graph_info import GraphInfo
from edgessl.errors import DataError
from edgessl.files import sha256_json
from edgessl.preprocessing import MediaInput

__all__ = ["CalibrationInput", "OpenData", "open_calibration"]

OpenData = Callable[[Path, MediaInput, str], Calibration]
CalibrationInput = Calibration | Mapping[str, Array] | Array | Path | str


class _BesideConstants:
    """Samples of some inputs, with the others filled by constants."""

    def __init__(self, calibration: Calibration, graph: GraphInfo, names: Sequence[str]) -> None:
        self._calibration = calibration
        self._filled: dict[str, Array] = {}
        for spec in graph.inputs:
            if spec.name in names:
                shape = [d for d in graph.sample_shape(spec) if isinstance(d, int)]
                value = graph.constants[spec.name]
                self._filled[spec.name] = np.full(shape, value, spec.dtype)

    def __len__(self) -> int:
        return len(self._calibration)

    def arrays(self, indices: Sequence[int]) -> dict[str, Array]:
        """See `Calibration`."""
        arrays = dict(self._calibration.arrays(indices))
        count = len(next(iter(arrays.values())))
        for name, value in self._filled.items():
            arrays[name] = np.broadcast_to(value, (count, *value.shape))
        return arrays


class _FingerprintedBesideConstants(_BesideConstants):
    """The same, of a calibration that knows its samples' contents without decoding them."""

    def __init__(self, calibration: Fingerprinted, graph: GraphInfo, names: Sequence[str]) -> None:
        super().__init__(calibration, graph, names)
        self._fingerprinted = calibration

    def fingerprint(self, indices: Sequence[int]) -> str:
        """A hash of the samples and of the constants beside them."""
        inner = self._fingerprinted.fingerprint(indices)
        values = {n: [a.dtype.name, a.shape, a.tolist()] for n, a in self._filled.items()}
        return sha256_json([inner, values])


def open_calibration(
    calibration: CalibrationInput, graph: GraphInfo, *, open_data: OpenData | None
) -> Calibration:
    """Find out what was given and make it a `Calibration`.

    Inputs that have a constant need no array.

    Args:
        calibration: A `Calibration`; arrays; a ``.npy`` or ``.npz`` of model inputs; or the path
            of a data source.
        graph: The prepared graph, with its preprocessing and its constants.
        open_data: Opens a data source, given the path, what the model takes and its input's name.
            The data room has one; the compiler itself knows arrays only.

    Raises:
        DataError: The path is no file of arrays, and there is no way to decode it; or the arrays
            are not those of the model's inputs.
    """
    names = [spec.name for spec in graph.inputs]
    wanted = [name for name in names if name not in graph.constants]
    if isinstance(calibration, np.ndarray):
        calibration = {wanted[0] if wanted else names[0]: calibration}
    if isinstance(calibration, Mapping):
        _refuse_both(calibration, graph, "calibration")
        return _complete(ArrayCalibration(calibration), graph)
    if not isinstance(calibration, str | Path):
        return _complete(calibration, graph)
    path = Path(calibration)
    members = _members(path)
    if members is not None and _are_model_inputs(members, names, wanted):
        _refuse_both(members, graph, str(path))
        return _complete(FileCalibration(path, wanted), graph)
    return _complete(_open_source(path, graph, wanted, open_data), graph)


def _open_source(
    path: Path, graph: GraphInfo, wanted: Sequence[str], open_data: OpenData | None
) -> Calibration:
    if len(wanted) != 1:
        raise DataError(
            f"{path}: the model has several inputs; give an .npz with an array for each of "
            f"{list(wanted)}, or fill all but one with constants, like --constant {wanted[-1]}=0"
        )
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; check the path")
    if graph.preprocessing is None:
        raise DataError(
            f"{path}: the model does not say how samples become its input; say it, like "
            "--preprocess size=224,mean=0.5,std=0.5 for images or rate=16000 for sounds, or give "
            f"an .npz with an array for '{wanted[0]}'"
        )
    if open_data is None:
        raise DataError(f"{path}: no .npy or .npz of model inputs; give arrays or open_data")
    return open_data(path, graph.preprocessing, wanted[0])


def _complete(calibration: Calibration, graph: GraphInfo) -> Calibration:
    """Add the constants, where there are any."""
    if not graph.constants:
        return calibration
    if isinstance(calibration, Fingerprinted):
        return _FingerprintedBesideConstants(calibration, graph, list(graph.constants))
    return _BesideConstants(calibration, graph, list(graph.constants))


def _refuse_both(names: Mapping[str, object] | Sequence[str], graph: GraphInfo, where: str) -> None:
    both = [name for name in names if name in graph.constants]
    if both:
        raise DataError(
            f"{where}: holds an array for '{both[0]}', which also has a constant; leave one out"
        )


def _members(path: Path) -> list[str] | None:
    """Names of the arrays in a file; None if it is no file of arrays."""
    if path.suffix == ".npy":
        return [""]
    if path.suffix != ".npz" or not path.is_file() or not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def _are_model_inputs(members: Sequence[str], names: Sequence[str], wanted: Sequence[str]) -> bool:
    """False where a file of arrays is a data source, like one with images in ``x_train``."""
    if len(members) == len(wanted) == 1:
        return members[0] != "x_train" or "x_train" in names
    # Of several inputs a file that has some is meant for the model: its error names the others.
    return len(names) > 1 and bool(set(members) & set(names))
