"""A data source as calibration input: samples as the device would feed them, read when needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgessl.data.source import open_source
from edgessl.preprocessing import ImageInput, fit, model_input

__all__ = ["ImageCalibration"]


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
