"""The ranges of all tensors of a graph, as one object and as one file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgessl.bundle.arrays import load_arrays, save_arrays
from edgessl.compiler.ranges.histogram import Histogram
from edgessl.compiler.ranges.selection import Method, choose_range
from edgessl.errors import BundleError
from edgessl.files import atomic_path

__all__ = ["Ranges"]

_SCALARS = ("low", "high")
_INTEGERS = ("zeros", "nonfinite", "exponent", "first")


@dataclass(frozen=True)
class Ranges:
    """What every tensor of a graph was seen to hold.

    Attributes:
        histograms: Tensor name → its values.
    """

    histograms: Mapping[str, Histogram]

    def __contains__(self, tensor: object) -> bool:
        return tensor in self.histograms

    def range_of(
        self, tensor: str, method: Method, *, levels: int, symmetric: bool
    ) -> tuple[float, float]:
        """Low and high of one tensor, see `choose_range`."""
        return choose_range(self.histograms[tensor], method, levels=levels, symmetric=symmetric)

    def save(self, path: Path) -> None:
        """Write an ``.npz``; equal ranges give equal bytes."""
        names = sorted(self.histograms)
        histograms = [self.histograms[name] for name in names]
        lengths = [len(h.counts) for h in histograms]
        counts = [h.counts for h in histograms]
        arrays: dict[str, NDArray[Any]] = {
            "names": np.frombuffer(json.dumps(names).encode(), np.uint8),
            "lengths": np.array(lengths, np.int64),
            "counts": np.concatenate([np.zeros(0, np.int64), *counts]),
            **{key: np.array([getattr(h, key) for h in histograms], float) for key in _SCALARS},
            **{key: np.array([getattr(h, key) for h in histograms], int) for key in _INTEGERS},
        }
        with atomic_path(path) as temporary:
            temporary.write_bytes(save_arrays(arrays))

    @classmethod
    def load(cls, path: Path) -> Ranges:
        """Read what `save` wrote.

        Raises:
            BundleError: Not such a file, or damaged.
        """
        arrays = load_arrays(path.read_bytes(), where=str(path))
        try:
            names = json.loads(arrays["names"].tobytes())
            pieces = np.split(arrays["counts"], arrays["lengths"].cumsum()[:-1])
            histograms = {
                name: Histogram(
                    low=float(arrays["low"][k]),
                    high=float(arrays["high"][k]),
                    zeros=int(arrays["zeros"][k]),
                    nonfinite=int(arrays["nonfinite"][k]),
                    exponent=int(arrays["exponent"][k]),
                    first=int(arrays["first"][k]),
                    counts=pieces[k],
                )
                for k, name in enumerate(names)
            }
        except (KeyError, ValueError, IndexError) as error:
            raise BundleError(f"{path}: holds no ranges ({error}); delete it") from error
        return cls(histograms)
