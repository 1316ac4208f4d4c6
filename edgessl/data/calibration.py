"""A data source as calibration input: samples as the device would feed them, read when needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgessl.data.source import open_source
from edgessl.data.sources.folder import split_folders
from edgessl.errors import CorruptSampleError, DataError
from edgessl.files import sha256_file, sha256_json
from edgessl.preprocessing import (
    ImageInput,
    MediaInput,
    SoundInput,
    fit,
    model_input,
    sound_input,
)
from edgessl.sounds import SOUND_SUFFIXES, Clip

__all__ = ["ImageCalibration", "SoundCalibration", "open_media"]


def open_media(
    path: Path, spec: MediaInput, input_name: str
) -> ImageCalibration | SoundCalibration:
    """Open a data source of images or of sounds, as the model takes them.

    Args:
        path: The data source.
        spec: The model's input.
        input_name: Name of the model's input.

    Raises:
        DataError: There is no such source, or nothing in it.
    """
    if isinstance(spec, SoundInput):
        return SoundCalibration(path, spec, input_name)
    return ImageCalibration(path, spec, input_name)


class ImageCalibration:
    """Images of a source's training part; labels are not read.

    Args:
        path: The data source.
        spec: The model's input.
        input_name: Name of the model's input.
    """

    def __init__(self, path: Path, spec: ImageInput, input_name: str) -> None:
        self._source = open_source(path).train
        self._spec = spec
        self._input_name = input_name

    def __len__(self) -> int:
        return len(self._source)

    def arrays(self, indices: Sequence[int]) -> dict[str, NDArray[np.uint8] | NDArray[np.float32]]:
        """The samples at these indices, decoded, fitted and brought to the model's input.

        Raises:
            CorruptSampleError: One of them cannot be decoded.
        """
        fitted = [fit(self._source.read(int(i)), self._spec) for i in indices]
        return {
            self._input_name: np.concatenate([model_input(f[None], self._spec) for f in fitted])
        }

    def fingerprint(self, indices: Sequence[int]) -> str:
        """Hash of the encoded samples at these indices and of how they become an input."""
        hashes = [self._content_hash(int(index)) for index in indices]
        return sha256_json([self._spec.model_dump(mode="json"), hashes])

    def _content_hash(self, index: int) -> str:
        try:
            return self._source.content_hash(index)
        except CorruptSampleError as error:  # left out when it is asked for
            return str(error)


class SoundCalibration:
    """Windows of all sounds of a folder, or of one file, clip after clip in the order of the paths.

    Of a folder that holds ``train`` and another part only the former is read.

    Args:
        path: The folder or file.
        spec: The model's input.
        input_name: Name of the model's input.

    Raises:
        DataError: There is no such folder, or no sound below it.
    """

    def __init__(self, path: Path, spec: SoundInput, input_name: str) -> None:
        self._files = _sound_files(Path(path))
        self._spec = spec
        self._input_name = input_name
        # A file that cannot be opened keeps one window, which is reported when it is asked for.
        counts = [_windows(file, spec) for file in self._files]
        self._first = np.concatenate([[0], np.cumsum(counts)])
        self._clip: tuple[int, Clip] | None = None

    def __len__(self) -> int:
        return int(self._first[-1])

    def arrays(self, indices: Sequence[int]) -> dict[str, NDArray[np.float32]]:
        """The windows at these indices, brought to the model's input.

        Raises:
            CorruptSampleError: One of them cannot be decoded.
        """
        windows = np.empty((len(indices), self._spec.samples), np.float32)
        for row, index in enumerate(indices):
            number, window = self._place(int(index))
            windows[row] = self._open(number).read(window)
        return {self._input_name: sound_input(windows, self._spec)}

    def fingerprint(self, indices: Sequence[int]) -> str:
        """Hash of the files that these windows are of, and of how they become an input."""
        places = [self._place(int(index)) for index in indices]
        hashes = {number: _file_hash(self._files[number]) for number in {n for n, _ in places}}
        windows = [[hashes[number], window] for number, window in places]
        return sha256_json([self._spec.model_dump(mode="json"), windows])

    def _place(self, index: int) -> tuple[int, int]:
        """Number of the file, and of the window in it."""
        number = int(np.searchsorted(self._first, index, side="right")) - 1
        return number, index - int(self._first[number])

    def _open(self, number: int) -> Clip:
        """The clip, open until another one is asked for: indices come in ascending order."""
        if self._clip is not None and self._clip[0] == number:
            return self._clip[1]
        if self._clip is not None:
            self._clip[1].close()
            self._clip = None
        file = self._files[number]
        clip = Clip(file, self._spec, name=str(file))
        self._clip = (number, clip)
        return clip


def _windows(file: Path, spec: SoundInput) -> int:
    try:
        with Clip(file, spec, name=str(file)) as clip:
            return clip.windows
    except CorruptSampleError:
        return 1


def _file_hash(file: Path) -> str:
    try:
        return sha256_file(file)
    except OSError as error:  # the window is left out when it is asked for
        return str(error)


def _sound_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder; check the path")
    root = split_folders(path).get("train", path)
    found = sorted(
        p
        for p in root.rglob("*")
        if p.suffix.lower() in SOUND_SUFFIXES
        and not any(part.startswith(".") for part in p.relative_to(root).parts)
    )
    if not found:
        raise DataError(
            f"{path}: no sounds below this folder; looked for {' '.join(sorted(SOUND_SUFFIXES))}"
        )
    return found
